//! What becomes of flows, as text: the numbers, then each Service to whose flows something happens.

use std::io::{self, Write};

use anstyle::Style;
use rulec_compiler::plural::counted;

use super::found::{Counts, FlowGroup, Flows, ServiceFlows};
use super::outlook::{Class, Outlook};
use crate::tool::diff::lines::{CHANGE, DANGER, HEAD, NAMED, indented, wrapped};

/// How many Services, how many groups of flows of each, and how many flows are listed.
const SERVICES: usize = 50;
const GROUPS: usize = 10;
const FLOWS: usize = 100;

/// Writes them; one by one and with all Services if `is_verbose`.
pub(in crate::tool::diff) fn write(
    out: &mut impl Write,
    flows: &Flows,
    is_verbose: bool,
) -> io::Result<()> {
    let total = flows.counts.total();
    if total == 0 {
        return writeln!(out, "\n{HEAD}No flow to these Services exists now.{HEAD:#}");
    }
    let title = format!("{} to Services: {}", counted(total, "flow"), numbers(flows.counts));
    writeln!(out)?;
    wrapped(out, 0, HEAD, &title)?;
    let is_listed = |it: &&ServiceFlows| is_verbose || !it.counts.all_stay();
    let mut listed = flows.services.iter().filter(is_listed);
    for it in listed.by_ref().take(SERVICES) {
        service(out, it)?;
    }
    match listed.count() {
        0 => {}
        more => writeln!(out, "  and {}", counted(more, "more Service"))?,
    }
    if is_verbose {
        writeln!(out, "  Each of them, the worst first")?;
        for (line, _) in flows.listed.iter().take(FLOWS) {
            let on = line.backend.map_or_else(String::new, |backend| format!(" on {backend}"));
            let (from, to) = (line.client, line.destination);
            let text = format!("{} {from} to {to}{on}: {}", line.protocol, line.outlook.text());
            write!(out, "    ")?;
            wrapped(out, 4, style(line.outlook), &text)?;
        }
        match total.saturating_sub(FLOWS) {
            0 => {}
            more => writeln!(out, "    and {more} more")?,
        }
    }
    Ok(())
}

fn service(out: &mut impl Write, flows: &ServiceFlows) -> io::Result<()> {
    let ServiceFlows { service, counts, groups } = flows;
    write!(out, "  ")?;
    wrapped(out, 2, Style::new(), &format!("Service {service}: {}", numbers(*counts)))?;
    for FlowGroup { outlook, backend, frontends, flows } in groups.iter().take(GROUPS) {
        let on = backend.map_or_else(|| "untranslated".to_owned(), |it| format!("on {it}"));
        let named = frontends.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
        let mut at = named.join(", ");
        if let Some(more) = frontends.len().checked_sub(NAMED).filter(|more| *more > 0) {
            at += &format!(" and {more} more");
        }
        let style = style(*outlook);
        let mark = if outlook.class() == Class::Breaks { '!' } else { ' ' };
        write!(out, "  {style}{mark}{style:#} ")?;
        wrapped(out, 4, style, &format!("{flows} {on} at {at}"))?;
        indented(out, Style::new(), outlook.text())?;
    }
    match groups.len().saturating_sub(GROUPS) {
        0 => Ok(()),
        more => writeln!(out, "      and to {}", counted(more, "more backend")),
    }
}

/// Returns what becomes of how many.
fn numbers(counts: Counts) -> String {
    let Counts { breaks, moves, lingers, served, stays } = counts;
    let all = [
        (breaks, ["breaks", "break"]),
        (moves, ["moves", "move"]),
        (lingers, ["keeps an unused backend", "keep an unused backend"]),
        (served, ["is served from now on", "are served from now on"]),
        (stays, ["stays", "stay"]),
    ];
    let some = all.into_iter().filter(|(count, _)| *count > 0);
    let text =
        some.map(|(count, [one, many])| format!("{count} {}", if count == 1 { one } else { many }));
    text.collect::<Vec<_>>().join(", ")
}

fn style(outlook: Outlook) -> Style {
    match outlook.class() {
        Class::Breaks => DANGER,
        Class::Moves | Class::Lingers | Class::Served => CHANGE,
        Class::Stays => Style::new(),
    }
}
