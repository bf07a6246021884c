//! A difference as JSON. docs/diff-json.md documents the format.

use std::io::{self, Write};

use rulec_compiler::ipvs;
use rulec_compiler::net::Family;
use rulec_compiler::nft::{Op, text as nft_text};
use serde::Serialize;

use super::Comparison;
use super::changes::{self, Change};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
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
    changes: Vec<Change>,
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
    let added = delta.ops().filter(|op| matches!(op, Op::Add(_))).count();
    let deleted = delta.ops().filter(|op| matches!(op, Op::Delete(_))).count();
    let document = Document {
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
        base: delta.prelude.iter().chain(&delta.epilogue).map(operation).collect(),
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
    match op {
        Op::Add(added) => element("addElement", added),
        Op::Delete(deleted) => element("deleteElement", deleted),
        Op::Ipvs(op) => Operation {
            command: Some(ipvs::text::describe(op)),
            ..plain(ipvs_name(op), &op.family(), None)
        },
        Op::AddTable(family) => plain("addTable", family, None),
        Op::DeleteTable(family) => plain("deleteTable", family, None),
        Op::AddSet(family, set) => plain("addSet", family, Some(set.to_string())),
        Op::AddChain(family, chain) => plain("addChain", family, Some(chain.to_string())),
        Op::FlushChain(family, chain) => plain("flushChain", family, Some(chain.to_string())),
        Op::FillChain(family, chain) => plain("fillChain", family, Some(chain.to_string())),
        Op::DeleteChain(family, chain) => plain("deleteChain", family, Some(chain.to_string())),
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
