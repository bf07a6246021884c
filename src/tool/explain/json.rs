//! An explanation as JSON. docs/explain-json.md documents the format.

use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU16;

use rulec_compiler::net::{Backend, Protocol};
use rulec_compiler::oracle::{AppliedRule, Masquerade, Verdict};
use serde::Serialize;

use super::Explanation;

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
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FrontendDocument {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_seconds: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fate<'a> {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Backend>,
    #[serde(skip_serializing_if = "Option::is_none")]
    masquerade: Option<Masquerade>,
    reasons: &'a [String],
    path: &'a [AppliedRule],
}

pub(super) fn print(explanation: &Explanation) -> io::Result<()> {
    let Explanation { packet, frontend, outcomes, left_out, warnings, remarks } = explanation;
    let document = ExplainDocument {
        api_version: "rulec.io/v1alpha1",
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
        }),
        outcomes: outcomes
            .iter()
            .map(|explained| {
                let (verdict, backend) = match explained.outcome.verdict {
                    Verdict::Pass => ("pass", None),
                    Verdict::Backend(backend) => ("backend", Some(backend)),
                    Verdict::Reject => ("reject", None),
                    Verdict::Drop => ("drop", None),
                };
                Fate {
                    verdict,
                    backend,
                    masquerade: explained.outcome.masquerade,
                    reasons: &explained.reasons,
                    path: &explained.outcome.path,
                }
            })
            .collect(),
        left_out,
        warnings,
        remarks,
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    out.flush()
}
