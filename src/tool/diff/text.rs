//! A difference as text: a summary, then what is dangerous, then flows if asked for, then each
//! Service.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use rulec_compiler::Op;
use rulec_compiler::ipvs::{self, Verb};
use rulec_compiler::nft::text as nft_text;
use rulec_compiler::plural::counted;

use super::flows::{self, Flows};
use super::lines::{CHANGE, DANGER, HEAD, NAMED, indented, wrapped};
use super::report::{Counts, Refusal, Report, ServiceReport};
use super::words::{effect, sign, subject};
use crate::history::change::Presence;

const ADD: Style = AnsiColor::Green.on_default();
const DELETE: Style = AnsiColor::Red.on_default();
const FAINT: Style = Style::new().dimmed();

/// How many dangerous changes are listed before the Services. All of them are listed there.
const LISTED: usize = 50;

/// Writes a difference. With a `mark`, all operations are written, too, for rules that use it.
pub(super) fn write(
    out: &mut impl Write,
    report: &Report<'_>,
    flows: Option<&Flows>,
    mark: Option<u32>,
) -> io::Result<()> {
    writeln!(out, "{HEAD}{}{HEAD:#}", summary(report))?;
    dangers(out, report)?;
    if let Some(flows) = flows {
        flows::write(out, flows, mark.is_some())?;
    }
    if let (false, Some(mark)) = (report.base.is_empty(), mark) {
        writeln!(out, "\n{HEAD}Base{HEAD:#}")?;
        base(out, &report.base, mark)?;
    }
    for it in &report.services {
        service(out, it, mark.is_some())?;
    }
    if !report.refused.is_empty() {
        writeln!(out, "\n{HEAD}Refused, whether or not it was so before{HEAD:#}")?;
        for Refusal { namespace, name, holder, frontends } in &report.refused {
            write!(out, "  ")?;
            let frontends = frontends.join(", ");
            wrapped(out, 2, Style::new(), &format!("Service {namespace}/{name}: {frontends}"))?;
            indented(out, FAINT, &format!("Service {holder} has it"))?;
        }
    }
    if !report.incomplete.is_empty() {
        writeln!(out, "\n{DANGER}Not compared, so that there may be more differences{DANGER:#}")?;
        for missing in &report.incomplete {
            writeln!(out, "  {missing}")?;
        }
    }
    Ok(())
}

/// Returns the first line.
fn summary(report: &Report<'_>) -> String {
    let services = report.services.len();
    if services == 0 {
        return match (report.base.is_empty(), report.incomplete.is_empty()) {
            (true, true) => "No difference.".to_owned(),
            (true, false) => "No difference in what could be compared.".to_owned(),
            (false, _) => {
                let operations = counted(report.base.len(), "operation");
                format!("No Service changes, but the tables do: {operations} (--verbose).")
            }
        };
    }
    let kinds = [
        (Presence::Added, "added"),
        (Presence::Removed, "removed"),
        (Presence::Changed, "changed"),
    ];
    let kinds = kinds.map(|(presence, what)| (report.count(presence), what));
    let mut kinds = kinds.into_iter().filter(|(count, _)| *count > 0);
    let mut text = kinds
        .next()
        .map_or_else(String::new, |(count, what)| format!("{} {what}", counted(count, "Service")));
    for (count, what) in kinds {
        text += &format!(", {count} {what}");
    }
    match report.dangers().count() {
        0 => {}
        dangers => text += &format!("; {}", counted(dangers, "dangerous change")),
    }
    text + "."
}

fn dangers(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    let mut dangers = report.dangers().peekable();
    if dangers.peek().is_none() {
        return Ok(());
    }
    writeln!(out, "\n{HEAD}Dangerous{HEAD:#}")?;
    for (service, change) in dangers.by_ref().take(LISTED) {
        let named = change.frontends.iter().take(NAMED).map(String::as_str);
        let mut named = named.collect::<Vec<_>>().join(", ");
        if let Some(more) = change.frontends.len().checked_sub(NAMED).filter(|more| *more > 0) {
            named += &format!(" and {more} more");
        }
        write!(out, "  ")?;
        wrapped(out, 2, DANGER, &format!("! Service {service}: {named}"))?;
        let effect = effect(&change.kind, service);
        indented(out, Style::new(), effect.as_deref().unwrap_or("not served any more"))?;
    }
    match dangers.count() {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more, marked with ! below"),
    }
}

fn service(out: &mut impl Write, report: &ServiceReport<'_>, is_verbose: bool) -> io::Result<()> {
    let ServiceReport { service, presence, changes, ops } = report;
    let note = presence.note();
    writeln!(out, "\n{HEAD}Service {service}{note}{HEAD:#}")?;
    for change in changes {
        let sign = sign(&change.kind, service);
        let style = style(sign);
        let is_dangerous = change.kind.what.is_dangerous();
        let (mark, of_mark) = if is_dangerous { ('!', DANGER) } else { (' ', Style::new()) };
        write!(out, " {of_mark}{mark}{of_mark:#}{style}{sign}{style:#} ")?;
        wrapped(out, 4, style, &subject(change))?;
        if let Some(effect) = effect(&change.kind, service) {
            indented(out, style, &effect)?;
        }
        indented(out, FAINT, &change.reason)?;
    }
    if is_verbose {
        writeln!(out, "    {}", Counts::of(ops.iter().copied()))?;
        ops.iter().try_for_each(|op| op_line(out, op))?;
    }
    Ok(())
}

fn base(out: &mut impl Write, ops: &[&Op], mark: u32) -> io::Result<()> {
    writeln!(out, "    {}", Counts::of(ops.iter().copied()))?;
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
