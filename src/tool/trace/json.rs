//! A trace as JSON. docs/trace.md documents the format.

use std::io;
use std::net::IpAddr;

use rulec_compiler::net::{Backend, Protocol};
use serde::Serialize;

use super::{Expected, Trace, write_out};
use crate::observe::status::API_VERSION;
use crate::tool::explain::word;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TraceDocument<'a> {
    api_version: &'static str,
    kind: &'static str,
    from: IpAddr,
    to: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    sent: bool,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<Backend>,
    masqueraded: bool,
    /// Whether `rulec explain` says the same.
    expected: bool,
    reasons: &'a [String],
    steps: Vec<StepDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepDocument<'a> {
    table: &'a str,
    chain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<u64>,
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<&'a str>,
}

pub(super) fn print(trace: &Trace) -> io::Result<()> {
    let Trace { flow, interface, is_sent, way, about, expected } = trace;
    let (verdict, backend) = word(way.verdict);
    let steps = way.steps.iter().zip(about).map(|(step, about)| StepDocument {
        table: &step.table,
        chain: &step.chain,
        rule: step.rule.as_ref().map(|(_, text)| &**text),
        handle: step.handle,
        verdict: step.verdict.to_string(),
        about: about.as_deref(),
    });
    let document = TraceDocument {
        api_version: API_VERSION,
        kind: "Trace",
        from: flow.source,
        to: flow.destination,
        protocol: flow.transport.map(|(protocol, ..)| protocol),
        source_port: flow.transport.map(|(_, port, _)| port),
        port: flow.transport.map(|(_, _, port)| port),
        interface: interface.as_deref(),
        sent: *is_sent,
        verdict,
        backend,
        masqueraded: way.is_masqueraded,
        expected: matches!(expected, Expected::Same(_)),
        reasons: if let Expected::Same(reasons) = expected { reasons } else { &[] },
        steps: steps.collect(),
    };
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    write_out(&text)
}
