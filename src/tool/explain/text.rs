//! An explanation as text.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use rulec_compiler::oracle::{Fate, Packet, Verdict};

use super::Explanation;
use crate::tool::balancing;

const HEAD: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const WARN: Style = AnsiColor::Yellow.on_default();

pub(super) fn print(explanations: &[Explanation]) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    explanations.iter().try_for_each(|explanation| write(&mut out, explanation))?;
    out.flush()
}

fn write(out: &mut impl Write, explanation: &Explanation) -> io::Result<()> {
    let Explanation { packet, frontend, outcomes, left_out, warnings, remarks, node } = explanation;
    writeln!(out, "{HEAD}{}{HEAD:#}", title(packet))?;
    for warning in warnings.iter().chain(remarks).chain(node) {
        writeln!(out, "  {WARN}{warning}{WARN:#}")?;
    }
    let choice = frontend.as_ref().map(|frontend| frontend.balancing.choice);
    if let (Some(how), true) = (choice.and_then(balancing::description), outcomes.len() > 1) {
        writeln!(out, "  {how}")?;
    }
    let limit = frontend.as_ref().and_then(|frontend| frontend.balancing.limit);
    if let Some(limit) = limit {
        writeln!(out, "  an endpoint with {limit} connections gets no new ones")?;
    }
    let affinity = frontend.as_ref().and_then(|frontend| frontend.affinity);
    if let (Some(seconds), true) = (affinity, outcomes.len() > 1) {
        let what = "a client keeps its endpoint until it has been idle for";
        writeln!(out, "  {what} {seconds} s")?;
    }
    let mut last: Option<&Fate> = None;
    for explained in outcomes {
        let outcome = &explained.outcome;
        let masqueraded = if outcome.masquerade.is_some() { ", masqueraded" } else { "" };
        writeln!(out, "  {HEAD}{}{masqueraded}{HEAD:#}", verdict(outcome.verdict))?;
        for reason in &explained.reasons {
            writeln!(out, "    {reason}")?;
        }
        if last.is_none_or(|last| last.path != outcome.path) {
            for step in &outcome.path {
                writeln!(out, "    {FAINT}{}: {}{FAINT:#}", step.chain, step.rule)?;
            }
        }
        last = Some(outcome);
    }
    if !left_out.is_empty() {
        writeln!(out, "  {HEAD}not used{HEAD:#}")?;
        for endpoint in left_out {
            writeln!(out, "    {endpoint}")?;
        }
    }
    Ok(())
}

fn title(packet: &Packet) -> String {
    let from = packet.source;
    let to = packet.destination;
    match packet.transport {
        Some((protocol, port)) => {
            format!("{from} -> {}/{protocol}", std::net::SocketAddr::new(to, port.get()))
        }
        None => format!("{from} -> {to}, no port"),
    }
}

/// Returns what becomes of a packet, for people.
pub(crate) fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Pass => "passes unchanged".to_owned(),
        Verdict::Backend(backend) => format!("goes to {backend}"),
        Verdict::Reject => "is refused (ICMP port unreachable)".to_owned(),
        Verdict::Drop => "is dropped silently".to_owned(),
    }
}
