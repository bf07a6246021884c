//! A difference as text: by Service, the changes with their reasons, then the element operations.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use rulec_compiler::ipvs::{self, Verb};
use rulec_compiler::nft::text as nft_text;
use rulec_compiler::plural::counted;
use rulec_compiler::{Delta, Op};

use super::{Comparison, changes};

const ADD: Style = AnsiColor::Green.on_default();
const DELETE: Style = AnsiColor::Red.on_default();
const CHANGE: Style = AnsiColor::Yellow.on_default();
const HEAD: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// Prints to standard output; in colour on a terminal, unless NO_COLOR is set.
pub(super) fn print(comparison: &Comparison) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    write(&mut out, comparison)?;
    out.flush()
}

fn write(out: &mut impl Write, comparison: &Comparison) -> io::Result<()> {
    let delta = &comparison.delta;
    if delta.is_empty() {
        return writeln!(out, "No difference.");
    }
    let base: Vec<&Op> = delta.shared.iter().collect();
    if !base.is_empty() {
        writeln!(out, "{HEAD}Base{HEAD:#}")?;
        base_lines(out, &base, comparison.mark())?;
        writeln!(out)?;
    }
    for group in &delta.groups {
        writeln!(out, "{HEAD}Service {}{HEAD:#}", group.service)?;
        for change in changes::of(comparison, group) {
            let sign = change.what.sign();
            let style = style(sign);
            let what = change.what.text();
            let subject = match change.backend {
                Some(backend) => format!("{backend} at {}", change.frontends.join(", ")),
                None => change.frontends.join(", "),
            };
            let subject = if subject.is_empty() { subject } else { format!(" {subject}") };
            writeln!(out, "  {style}{sign} {what}{subject}{style:#}")?;
            writeln!(out, "      {FAINT}{}{FAINT:#}", change.reason)?;
        }
        writeln!(out, "    {}", count(&group.ops.iter().collect::<Vec<_>>()))?;
        for op in group.ops.iter() {
            op_line(out, op)?;
        }
        writeln!(out)?;
    }
    summary(out, delta)
}

fn base_lines(out: &mut impl Write, ops: &[&Op], mark: u32) -> io::Result<()> {
    writeln!(out, "    {}", count(ops))?;
    for op in ops {
        if op.element().is_some() || op.as_ipvs().is_some() {
            op_line(out, op)?;
        } else {
            for line in op.commands(mark).lines() {
                writeln!(out, "      {line}")?;
            }
        }
    }
    Ok(())
}

/// Prints an added or deleted element, or an operation on IPVS. Other operations belong to no
/// Service.
fn op_line(out: &mut impl Write, op: &Op) -> io::Result<()> {
    if let Some(op) = op.as_ipvs() {
        let sign = match op.verb() {
            Verb::Add => '+',
            Verb::Set => '~',
            Verb::Delete => '-',
        };
        let style = style(sign);
        return writeln!(out, "      {style}{sign} {}{style:#}", ipvs::text::describe(op));
    }
    let added = op.added().map(|element| ('+', element));
    let changed = added.or_else(|| op.deleted().map(|element| ('-', element)));
    let Some((sign, element)) = changed else { return Ok(()) };
    let style = style(sign);
    let set = element.key.set();
    let family = element.key.family();
    let text = nft_text::element(element);
    writeln!(out, "      {style}{sign} {family} {set}: {text}{style:#}")
}

fn style(sign: char) -> Style {
    match sign {
        '+' => ADD,
        '-' => DELETE,
        _ => CHANGE,
    }
}

fn count(ops: &[&Op]) -> String {
    let added = ops.iter().filter(|op| op.added().is_some()).count();
    let deleted = ops.iter().filter(|op| op.deleted().is_some()).count();
    let on_ipvs = ops.iter().filter(|op| op.as_ipvs().is_some()).count();
    let rest = [
        (ops.len() - added - deleted - on_ipvs, "tables, sets and chains"),
        (on_ipvs, "IPVS and addresses"),
    ];
    let rest = rest.map(|(number, what)| match number {
        0 => String::new(),
        some => format!(", {} on {what}", counted(some, "operation")),
    });
    let rest = rest.concat();
    let total = counted(added + deleted, "element operation");
    format!("{total}: {added} added, {deleted} deleted{rest}")
}

fn summary(out: &mut impl Write, delta: &Delta) -> io::Result<()> {
    let services = counted(delta.groups.len(), "Service");
    let ops: Vec<&Op> = delta.ops().collect();
    writeln!(out, "{services} changed. {}", count(&ops))
}
