//! An explanation as JSON. docs/explain-json.md documents the format.

use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU16;

use rulec_compiler::net::{Backend, Protocol};
use rulec_compiler::oracle::{AppliedRule, Masquerade, Verdict};
use serde::Serialize;

use super::{Explanation, Served};
use crate::tool::balancing;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainDocument<'a> {
    api_version: &'static str,
    kind: &'static str,
    from: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    to: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<NonZeroU16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frontend: Option<FrontendDocument>,
    outcomes: Vec<Fate<'a>>,
    left_out: &'a [String],
    warnings: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    remarks: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    node: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FrontendDocument {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancing: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fate<'a> {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Backend>,
    #[serde(skip_serializing_if = "Option::is_none")]
    masquerade: Option<Masquerade>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<[u32; 2]>,
    reasons: &'a [String],
    path: &'a [AppliedRule],
}

/// Several explanations, of the ports of a Service.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplanationList<'a> {
    api_version: &'static str,
    kind: &'static str,
    items: Vec<ExplainDocument<'a>>,
}

pub(super) fn print(explanations: &[Explanation]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match explanations {
        [one] => serde_json::to_writer_pretty(&mut out, &document(one))?,
        all => {
            let items = all.iter().map(document).collect();
            let list = ExplanationList { api_version: API_VERSION, kind: "ExplanationList", items };
            serde_json::to_writer_pretty(&mut out, &list)?;
        }
    }
    writeln!(out)?;
    out.flush()
}

const API_VERSION: &str = "rulec.io/v1alpha1";

/// Returns the word for a verdict, and the backend.
pub(crate) fn word(verdict: Verdict) -> (&'static str, Option<Backend>) {
    match verdict {
        Verdict::Pass => ("pass", None),
        Verdict::Backend(backend) => ("backend", Some(backend)),
        Verdict::Reject => ("reject", None),
        Verdict::Drop => ("drop", None),
    }
}

fn document(explanation: &Explanation) -> ExplainDocument<'_> {
    let Explanation { packet, frontend, outcomes, left_out, warnings, remarks, node } = explanation;
    ExplainDocument {
        api_version: API_VERSION,
        kind: "Explanation",
        from: packet.source,
        interface: packet.interface.as_deref(),
        to: packet.destination,
        protocol: packet.transport.map(|(protocol, _)| protocol),
        port: packet.transport.map(|(_, port)| port),
        frontend: frontend.as_ref().map(|served| FrontendDocument {
            name: served.frontend.to_string(),
            port: served.owner.as_ref().map(ToString::to_string),
            affinity_seconds: served.affinity,
            load_balancing: balancing::name(served.balancing.choice),
            max_connections: served.balancing.limit,
        }),
        outcomes: outcomes
            .iter()
            .map(|explained| {
                let (verdict, backend) = word(explained.outcome.verdict);
                let of = |served: &Served| served.balancing.share(backend?);
                Fate {
                    verdict,
                    backend,
                    masquerade: explained.outcome.masquerade,
                    share: frontend.as_ref().and_then(of).map(|(share, all)| [share, all]),
                    reasons: &explained.reasons,
                    path: &explained.outcome.path,
                }
            })
            .collect(),
        left_out,
        warnings,
        remarks,
        node,
    }
}
