//! A trace as text.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::way::Step;
use super::{Expected, Trace, write_out};
use crate::tool::explain::verdict;

const HEAD: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const WARN: Style = AnsiColor::Yellow.on_default();

pub(super) fn print(trace: &Trace) -> io::Result<()> {
    let mut out = Vec::new();
    write(&mut out, trace)?;
    write_out(&out)
}

fn write(out: &mut impl Write, trace: &Trace) -> io::Result<()> {
    let Trace { flow, interface, is_sent, way, about, expected } = trace;
    let note = match interface {
        Some(name) => format!(", on {name}"),
        None if *is_sent => ", sent by this command".to_owned(),
        None => String::new(),
    };
    writeln!(out, "{HEAD}{}{HEAD:#}{note}", title(flow))?;
    let masqueraded = if way.is_masqueraded { ", masqueraded" } else { "" };
    writeln!(out, "  {HEAD}{}{masqueraded}{HEAD:#}", verdict(way.verdict))?;
    match expected {
        Expected::Same(reasons) => {
            reasons.iter().try_for_each(|reason| writeln!(out, "    {reason}"))?;
        }
        Expected::Other(verdicts) => {
            let stopped = way.stopped.and_then(|at| way.steps.get(at));
            if let Some(step) = stopped {
                let (table, chain) = (&step.table, &step.chain);
                writeln!(out, "    {WARN}{} of another program drops it{WARN:#}", place(step))?;
                writeln!(out, "    {WARN}nft -a list chain {table} {chain}{WARN:#}")?;
            }
            if way.is_lost {
                let why = "translated, and then no hook has seen it: no route to the endpoint, or this \
                           node does not forward";
                writeln!(out, "    {WARN}{why}{WARN:#}")?;
            }
            let all: Vec<String> = verdicts.iter().map(|it| verdict(*it)).collect();
            let all = all.join(", or ");
            writeln!(out, "    {WARN}not what rulec explain expects: it {all}{WARN:#}")?;
        }
    }
    writeln!(out, "  {HEAD}its way{HEAD:#}")?;
    for (step, about) in way.steps.iter().zip(about) {
        match &step.rule {
            Some((_, rule)) => writeln!(out, "    {FAINT}{}: {rule}{FAINT:#}", step.chain)?,
            None => writeln!(out, "    {FAINT}{}: {}{FAINT:#}", place(step), step.verdict)?,
        }
        if let Some(about) = about {
            writeln!(out, "      {about}")?;
        }
    }
    Ok(())
}

fn title(flow: &rulec_sinks::nft::trace::Flow) -> String {
    use std::net::SocketAddr;
    match flow.transport {
        Some((protocol, from, to)) => {
            let from = SocketAddr::new(flow.source, from);
            let to = SocketAddr::new(flow.destination, to);
            format!("{from} -> {to}/{protocol}")
        }
        None => format!("{} -> {}", flow.source, flow.destination),
    }
}

/// Names a place in another program's table.
fn place(step: &Step) -> String {
    let Step { table, chain, handle, .. } = step;
    match handle {
        Some(handle) => format!("table {table}, chain {chain}, rule with handle {handle}"),
        None => format!("table {table}, the policy of chain {chain}"),
    }
}
