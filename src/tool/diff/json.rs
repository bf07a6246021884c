//! A difference as JSON. docs/diff-json.md documents the format.

use std::io::{self, Write};

use rulec_compiler::Op;
use rulec_compiler::ipvs;
use rulec_compiler::net::Family;
use rulec_compiler::nft::{self, text as nft_text};
use serde::Serialize;

use super::Comparison;
use super::changes::{self, FrontendChange};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffDocument<'a> {
    api_version: &'static str,
    kind: &'static str,
    from: &'a str,
    to: &'a str,
    equal: bool,
    summary: Summary,
    base: Vec<Operation>,
    services: Vec<ServiceDiff<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    services: usize,
    elements_added: usize,
    elements_deleted: usize,
    other_operations: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceDiff<'a> {
    namespace: &'a str,
    name: &'a str,
    changes: Vec<FrontendChange>,
    operations: Vec<Operation>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    op: &'static str,
    family: Family,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    element: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

/// Prints to standard output.
pub(super) fn print(comparison: &Comparison) -> io::Result<()> {
    let delta = &comparison.delta;
    let added = delta.ops().filter(|op| op.added().is_some()).count();
    let deleted = delta.ops().filter(|op| op.deleted().is_some()).count();
    let document = DiffDocument {
        api_version: "rulec.io/v1alpha1",
        kind: "Diff",
        from: &comparison.from.name,
        to: &comparison.to.name,
        equal: delta.is_empty(),
        summary: Summary {
            services: delta.groups.len(),
            elements_added: added,
            elements_deleted: deleted,
            other_operations: delta.len() - added - deleted,
        },
        base: delta.shared.iter().map(operation).collect(),
        services: delta
            .groups
            .iter()
            .map(|group| ServiceDiff {
                namespace: group.service.namespace.as_str(),
                name: group.service.name.as_str(),
                changes: changes::of(comparison, group),
                operations: group.ops.iter().map(operation).collect(),
            })
            .collect(),
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    out.flush()
}

fn operation(op: &Op) -> Operation {
    let plain = |op, family: &Family, name: Option<String>| Operation {
        op,
        family: *family,
        set: None,
        element: None,
        name,
        command: None,
    };
    let element = |op, element: &rulec_compiler::nft::Element| Operation {
        op,
        family: element.key.family(),
        set: Some(element.key.set().name()),
        element: Some(nft_text::element(element)),
        name: None,
        command: None,
    };
    let op = match op {
        Op::Nft(op) => op,
        Op::Ipvs(op) => {
            let command = Some(ipvs::text::describe(op));
            return Operation { command, ..plain(ipvs_name(op), &op.family(), None) };
        }
    };
    match op {
        nft::Op::Add(added) => element("addElement", added),
        nft::Op::Delete(deleted) => element("deleteElement", deleted),
        nft::Op::AddTable(family) => plain("addTable", family, None),
        nft::Op::DeleteTable(family) => plain("deleteTable", family, None),
        nft::Op::AddSet(family, set) => plain("addSet", family, Some(set.to_string())),
        nft::Op::AddChain(family, chain) => plain("addChain", family, Some(chain.to_string())),
        nft::Op::FlushChain(family, chain) => plain("flushChain", family, Some(chain.to_string())),
        nft::Op::FillChain(family, chain) => plain("fillChain", family, Some(chain.to_string())),
        nft::Op::DeleteChain(family, chain) => {
            plain("deleteChain", family, Some(chain.to_string()))
        }
    }
}

fn ipvs_name(op: &ipvs::Op) -> &'static str {
    match op {
        ipvs::Op::AddServer(..) => "addVirtualServer",
        ipvs::Op::SetServer(..) => "setVirtualServer",
        ipvs::Op::DeleteServer(_) => "deleteVirtualServer",
        ipvs::Op::AddReal(..) => "addRealServer",
        ipvs::Op::SetReal(..) => "setRealServer",
        ipvs::Op::DeleteReal(..) => "deleteRealServer",
        ipvs::Op::Bind(_) => "bindAddress",
        ipvs::Op::Unbind(_) => "unbindAddress",
    }
}
