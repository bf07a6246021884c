//! A difference as JSON. docs/diff-json.md documents the format.

use std::borrow::Cow;
use std::io::{self, Write};

use rulec_compiler::Op;
use rulec_compiler::ipvs;
use rulec_compiler::net::Family;
use rulec_compiler::nft::{self, text as nft_text};
use serde::Serialize;

use super::change::Change;
use super::comparison::Comparison;
use super::flows::{Flows, FlowsDocument};
use super::report::{Counts, Refusal, Report, ServiceReport};
use crate::history::change::Presence;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffDocument<'a> {
    api_version: &'static str,
    kind: &'static str,
    from: &'a str,
    to: &'a str,
    equal: bool,
    incomplete: &'a [String],
    refused: &'a [Refusal],
    summary: Summary,
    dangers: Vec<Danger<'a>>,
    base: Vec<Operation>,
    services: Vec<ServiceDiff<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<FlowsDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    services: usize,
    services_added: usize,
    services_removed: usize,
    dangers: usize,
    elements_added: usize,
    elements_deleted: usize,
    other_operations: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Danger<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(flatten)]
    change: &'a Change,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceDiff<'a> {
    namespace: &'a str,
    name: &'a str,
    presence: Presence,
    changes: &'a [Change],
    operations: Vec<Operation>,
}

impl<'a> ServiceDiff<'a> {
    fn of(report: &'a ServiceReport<'_>) -> Self {
        Self {
            namespace: report.service.namespace.as_str(),
            name: report.service.name.as_str(),
            presence: report.presence,
            changes: &report.changes,
            operations: report.ops.iter().copied().map(operation).collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    op: &'static str,
    family: Family,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    element: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

/// Writes a difference.
pub(super) fn write(
    out: &mut impl Write,
    comparison: &Comparison,
    report: &Report<'_>,
    flows: Option<&Flows>,
) -> io::Result<()> {
    let counts = Counts::of(report.ops());
    let dangers = report.dangers().map(|(service, change)| Danger {
        namespace: service.namespace.as_str(),
        name: service.name.as_str(),
        change,
    });
    let dangers: Vec<Danger<'_>> = dangers.collect();
    let document = DiffDocument {
        api_version: "rulec.io/v1alpha1",
        kind: "Diff",
        from: &comparison.from.name,
        to: &comparison.to.name,
        equal: report.is_equal(),
        incomplete: &report.incomplete,
        refused: &report.refused,
        summary: Summary {
            services: report.services.len(),
            services_added: report.count(Presence::Added),
            services_removed: report.count(Presence::Removed),
            dangers: dangers.len(),
            elements_added: counts.added,
            elements_deleted: counts.deleted,
            other_operations: counts.others(),
        },
        dangers,
        base: report.base.iter().copied().map(operation).collect(),
        services: report.services.iter().map(ServiceDiff::of).collect(),
        flows: flows.map(FlowsDocument::from),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
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
        nft::Op::DeleteSet(family, set) => plain("deleteSet", family, Some(set.to_string())),
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
