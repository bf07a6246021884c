//! Checks that `rulec trace` sees real packets go the way that `rulec explain` expects.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rulec_testkit::{Namespace, Options, Protocol, ask};
use serde_json::Value;

use super::oracle::Question;
use super::packets::To;
use super::place::Place;
use crate::daemon::command;
use crate::schemas;

/// A packet that is traced, and who sends it.
pub(super) struct Traced<'p> {
    pub(super) namespace: &'p Namespace,
    pub(super) options: Options,
    pub(super) question: Question,
}

/// Traces a packet for each question, all at once.
///
/// # Panics
///
/// When a trace differs from the row or from the explanation; the message contains all of them.
pub(super) fn check(place: &Place, packets: Vec<Traced<'_>>) {
    let wrong: Vec<String> = thread::scope(|scope| {
        let traces: Vec<_> =
            packets.iter().map(|packet| scope.spawn(|| follow(place, packet))).collect();
        let failures = traces.into_iter().filter_map(|trace| match trace.join() {
            Ok(outcome) => outcome.err(),
            Err(_) => Some("a trace panicked".to_owned()),
        });
        failures.collect()
    });
    assert!(wrong.is_empty(), "traces:\n  {}", wrong.join("\n  "));
}

fn follow(place: &Place, packet: &Traced<'_>) -> Result<(), String> {
    let To::Port(protocol, at) = packet.question.to() else { return Ok(()) };
    if protocol == Protocol::Sctp {
        return Ok(());
    }
    let (frontend, from) = (packet.question.frontend(), packet.question.from().to_string());
    let mut args = vec!["trace", &frontend, "--from", &from, "--wait", "-o", "json"];
    let settings = place.settings();
    args.extend(settings.iter().map(String::as_str));
    let mut trace = command(&place.world.node, &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rulec starts");
    let mut said = BufReader::new(trace.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while said.read_line(&mut line).expect("a pipe is read") > 0
        && !line.starts_with("waiting for a packet")
    {
        line.clear();
    }
    if !line.is_empty() {
        // Whatever comes of it.
        let _ = ask(packet.namespace, protocol, at, packet.options);
    }
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("a pipe is read");
    let output = trace.wait_with_output().expect("rulec ends");
    let what = || format!("rulec {}\n    {line}{rest}{output:?}", args.join(" "));
    let trace: Value = serde_json::from_slice(&output.stdout).map_err(|_| what())?;
    schemas::check_output(&String::from_utf8_lossy(&output.stdout));
    // Only what others send arrives on an interface.
    let is_own = std::ptr::eq(packet.namespace, &place.world.node);
    let is_so = output.status.success()
        && trace["expected"] == Value::Bool(true)
        && trace["interface"].is_string() != is_own;
    if is_so && packet.question.allows(&trace)? { Ok(()) } else { Err(what()) }
}

/// How long the answer to a packet is waited for: the trace is what matters.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
