//! A change of the daemon's history as text: one paragraph for each Service, a row of a table, or all
//! of it.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::plural::counted;

use crate::cli::name::Asked;
use crate::history::change::{
    Accepted, Cause, Change, Cost, Event, FieldChange, Presence, Refused, ServiceChange, Told,
};
use crate::tool::diff::wrapped;

const ADD: Style = AnsiColor::Green.on_default();
const DELETE: Style = AnsiColor::Red.on_default();
const CHANGE: Style = AnsiColor::Yellow.on_default();
const DANGER: Style = AnsiColor::Red.on_default().bold();
const HEAD: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// What is said of a Service that the kernel has refused, and of one that it has taken since.
const REFUSED: &str = "the kernel refuses it, and keeps what it had of it";
const ACCEPTED: &str = "the kernel holds it now, which it had refused";

/// How many changes of a Service, and how many of its causes, a paragraph names.
const NAMED: usize = 3;

/// How many Services a row names.
const ROW: usize = 2;

/// Leaves only these Services in a change, if any are asked for; returns whether one is there.
pub(crate) fn narrow(change: &mut Change, names: &[Asked]) -> bool {
    if names.is_empty() {
        return true;
    }
    let is_asked = |namespace: &str, name: &str| {
        let key = NamespacedName::new(namespace, name);
        names.iter().any(|asked| asked.names(&key))
    };
    change.services.retain(|it| is_asked(&it.namespace, &it.name));
    change.refused.retain(|it| is_asked(&it.namespace, &it.name));
    change.accepted.retain(|it| is_asked(&it.namespace, &it.name));
    // They may be among those that a large change does not name.
    !change.concerns_no_service()
}

/// Writes a paragraph for each Service that has changed, with its cause and the cost of the change.
pub(crate) fn follow(out: &mut impl Write, change: &Change) -> io::Result<()> {
    let head = format!("{} @{}", clock(change.time), change.id);
    let cost = cost(&change.cost);
    for service in &change.services {
        let is_dangerous = service.changes.iter().any(|it| it.dangerous);
        let style = if is_dangerous { DANGER } else { HEAD };
        let text = format!("{head} {}: {}", service.key(), what(service));
        wrapped(out, 0, style, &text)?;
        let own = change.causes.iter().filter(|it| service.causes.contains(&it.object));
        let why = reasons(service, own);
        indented(out, &format!("{why}; {cost}"))?;
    }
    if change.more_services > 0 {
        let more = counted(change.more_services as u64, "more Service");
        wrapped(out, 0, HEAD, &format!("{head} {more}: rulec history {} names some", change.id))?;
    }
    for Refused { namespace, name, error } in &change.refused {
        wrapped(out, 0, DANGER, &format!("{head} {namespace}/{name}: {REFUSED}: {error}"))?;
        let of_it = |it: &&Cause| it.object == format!("Service {namespace}/{name}");
        let own: Vec<&Cause> = change.causes.iter().filter(of_it).collect();
        let named = if own.is_empty() { change.causes.iter().collect() } else { own };
        let mut why: Vec<String> = named.into_iter().take(NAMED).map(cause).collect();
        why.push(cost.clone());
        indented(out, &why.join("; "))?;
    }
    if change.more_refused > 0 {
        let more = counted(change.more_refused as u64, "more Service");
        wrapped(out, 0, DANGER, &format!("{head} {more}: {REFUSED}"))?;
    }
    for Accepted { namespace, name } in &change.accepted {
        wrapped(out, 0, HEAD, &format!("{head} {namespace}/{name}: {ACCEPTED}"))?;
    }
    if change.more_accepted > 0 {
        let more = counted(change.more_accepted as u64, "more Service");
        wrapped(out, 0, HEAD, &format!("{head} {more}: {ACCEPTED}"))?;
    }
    if change.concerns_no_service() {
        wrapped(out, 0, HEAD, &format!("{head} {}", event(change)))?;
        let causes: Vec<String> = change.causes.iter().take(NAMED).map(cause).collect();
        let causes = if causes.is_empty() { Vec::new() } else { vec![causes.join("; ")] };
        indented(out, &[causes, vec![cost]].concat().join("; "))?;
    }
    Ok(())
}

/// Returns what has changed of a Service.
fn what(service: &ServiceChange) -> String {
    let note = match service.presence {
        Presence::Added => "added, ",
        Presence::Removed => "removed, ",
        Presence::Changed => "",
    };
    let named = service.changes.iter().take(NAMED);
    let named: Vec<String> = named.map(of_told).collect();
    let more = match service.changes.len() + service.more_changes - named.len() {
        0 => String::new(),
        more => format!("; {}", counted(more as u64, "more change")),
    };
    format!("{note}{}{more}", named.join("; "))
}

fn of_told(Told { sign, subject, effect, .. }: &Told) -> String {
    let effect = effect.as_ref().map(|effect| format!(": {effect}")).unwrap_or_default();
    format!("{sign} {subject}{effect}")
}

/// Returns why a Service has changed: the objects that have, or the reasons if none is known to.
fn reasons<'a>(service: &ServiceChange, causes: impl Iterator<Item = &'a Cause>) -> String {
    let all: Vec<String> = causes.map(cause).collect();
    let mut all = if all.is_empty() {
        service.changes.iter().map(|it| it.reason.clone()).collect()
    } else {
        all
    };
    all.dedup();
    let more = match all.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; {}", counted(more as u64, "more cause")),
    };
    all.truncate(NAMED);
    format!("{}{more}", all.join("; "))
}

/// Returns an object that has changed, with its place and its fields.
pub(crate) fn cause(cause: &Cause) -> String {
    let Cause { object, from, presence, fields, more_fields, .. } = cause;
    let head = format!("{object} ({from})");
    match presence {
        Presence::Added => format!("{head} added"),
        Presence::Removed => format!("{head} removed"),
        Presence::Changed => {
            let named = fields.iter().take(NAMED).map(of_field).collect::<Vec<_>>().join(", ");
            match (fields.len() + more_fields).saturating_sub(NAMED) {
                0 => format!("{head} {named}"),
                more => format!("{head} {named} and {}", counted(more as u64, "more field")),
            }
        }
    }
}

/// In the words of `rulec diff`.
fn of_field(FieldChange { field, from, to }: &FieldChange) -> String {
    format!("{field}: {to} instead of {from}")
}

fn event(change: &Change) -> &'static str {
    match change.event {
        Event::Started if change.settings.is_some() && !change.causes.is_empty() => {
            "the daemon has started with other settings"
        }
        Event::Started => "the daemon has started",
        Event::Changed => "no Service has changed",
        Event::Reconciled => "the kernel was read after a failure, and brought up to date",
        Event::Repaired => "what somebody else had changed in the kernel was repaired",
    }
}

fn cost(cost: &Cost) -> String {
    let took = cost.latency_microseconds.unwrap_or(cost.commit_microseconds);
    let operations = counted(cost.operations as u64, "operation");
    format!("{}, {operations}", duration(took))
}

/// Returns a duration in the largest unit with digits before the point.
fn duration(microseconds: u64) -> String {
    match microseconds {
        0..1_000 => format!("{microseconds} µs"),
        1_000..1_000_000 => format!("{}.{} ms", microseconds / 1_000, microseconds / 100 % 10),
        _ => format!("{}.{} s", microseconds / 1_000_000, microseconds / 100_000 % 10),
    }
}

/// Returns the time of day.
fn clock(time: Timestamp) -> String {
    let text = format!("{time:.0}");
    text.split_once('T').map_or(text.clone(), |(_, clock)| clock.to_owned())
}

/// Returns a row of the table of changes.
pub(crate) fn row(change: &Change) -> [String; 5] {
    let took = change.cost.latency_microseconds.unwrap_or(change.cost.commit_microseconds);
    // One that was refused comes first; one that is accepted has changed, too, or is as it was.
    let refused = change.refused.iter();
    let refused = refused.map(|it| format!("{}/{} refused", it.namespace, it.name));
    let services = change.services.iter().map(ServiceChange::key);
    let changed = |it: &&Accepted| {
        !change.services.iter().any(|of| of.namespace == it.namespace && of.name == it.name)
    };
    let accepted = change.accepted.iter().filter(changed);
    let accepted = accepted.map(|it| format!("{}/{} accepted", it.namespace, it.name));
    let all: Vec<String> = refused.chain(services).chain(accepted).collect();
    let named = all.iter().take(ROW).cloned().collect::<Vec<_>>().join(", ");
    let more = change.more_refused + change.more_services + change.more_accepted;
    let more = (all.len() + more).saturating_sub(ROW);
    let what = match (named.is_empty(), more) {
        (true, _) => match change.event {
            Event::Started => "started".to_owned(),
            Event::Reconciled => "reconciled".to_owned(),
            Event::Repaired => "repaired".to_owned(),
            Event::Changed => {
                let all = change.causes.iter().take(1).map(|it| it.object.clone());
                let more = (change.causes.len() + change.more_causes).saturating_sub(1);
                let all = all.collect::<Vec<_>>().join(", ");
                if more > 0 { format!("{all} and {more} more") } else { all }
            }
        },
        (false, 0) => named,
        (false, more) => format!("{named} and {more} more"),
    };
    let time = format!("{:.0}", change.time);
    let operations = change.cost.operations.to_string();
    [format!("@{}", change.id), time, duration(took), operations, what]
}

/// Writes all of a change.
pub(crate) fn describe(out: &mut impl Write, change: &Change) -> io::Result<()> {
    let Change { id, time, cost, causes, more_causes, services, more_services, .. } = change;
    let what = match (change.event, change.concerns_no_service()) {
        (Event::Changed, false) => "objects have changed",
        _ => event(change),
    };
    writeln!(out, "{HEAD}Change @{id} of {time:.3}: {what}{HEAD:#}")?;
    let commit = duration(cost.commit_microseconds);
    let Cost { operations, transactions, bytes, .. } = *cost;
    let kernel = format!(
        "{} in {}, {}",
        counted(operations as u64, "operation"),
        counted(transactions as u64, "transaction"),
        counted(bytes as u64, "byte")
    );
    match cost.latency_microseconds {
        Some(latency) => {
            writeln!(out, "  {} from update to kernel, commit {commit}", duration(latency))?
        }
        None => writeln!(out, "  commit {commit}")?,
    }
    writeln!(out, "  {kernel}")?;
    if !causes.is_empty() {
        writeln!(out, "\n{HEAD}Causes{HEAD:#}")?;
    }
    for it in causes {
        let note = it.presence.note();
        write!(out, "  ")?;
        wrapped(out, 2, Style::new(), &format!("{} ({}){note}", it.object, it.from))?;
        for field in &it.fields {
            indented(out, &of_field(field))?;
        }
        if it.more_fields > 0 {
            indented(out, &format!("and {}", counted(it.more_fields as u64, "more field")))?;
        }
    }
    if *more_causes > 0 {
        writeln!(out, "  and {}", counted(*more_causes as u64, "more object"))?;
    }
    services.iter().try_for_each(|service| of_service(out, service))?;
    if *more_services > 0 {
        writeln!(out, "\n{HEAD}And {}{HEAD:#}", counted(*more_services as u64, "more Service"))?;
    }
    for Refused { namespace, name, error } in &change.refused {
        writeln!(out, "\n{DANGER}Service {namespace}/{name}: {REFUSED}{DANGER:#}")?;
        indented(out, error)?;
    }
    if change.more_refused > 0 {
        let more = counted(change.more_refused as u64, "more Service");
        writeln!(out, "\n{DANGER}{more}: {REFUSED}{DANGER:#}")?;
    }
    for Accepted { namespace, name } in &change.accepted {
        writeln!(out, "\n{HEAD}Service {namespace}/{name}: {ACCEPTED}{HEAD:#}")?;
    }
    if change.more_accepted > 0 {
        let more = counted(change.more_accepted as u64, "more Service");
        writeln!(out, "\n{HEAD}{more}: {ACCEPTED}{HEAD:#}")?;
    }
    Ok(())
}

fn of_service(out: &mut impl Write, service: &ServiceChange) -> io::Result<()> {
    let note = service.presence.note();
    writeln!(out, "\n{HEAD}Service {}{note}{HEAD:#}", service.key())?;
    for Told { sign, subject, effect, dangerous, reason, .. } in &service.changes {
        let style = match sign {
            '+' => ADD,
            '-' => DELETE,
            _ => CHANGE,
        };
        let (mark, of_mark) = if *dangerous { ('!', DANGER) } else { (' ', Style::new()) };
        write!(out, " {of_mark}{mark}{of_mark:#}{style}{sign}{style:#} ")?;
        wrapped(out, 4, style, subject)?;
        if let Some(effect) = effect {
            write!(out, "      ")?;
            wrapped(out, 6, style, effect)?;
        }
        indented(out, reason)?;
    }
    if service.more_changes > 0 {
        writeln!(out, "    and {}", counted(service.more_changes as u64, "more change"))?;
    }
    Ok(())
}

fn indented(out: &mut impl Write, text: &str) -> io::Result<()> {
    write!(out, "      ")?;
    wrapped(out, 6, FAINT, text)
}
