//! Where objects come from.

use std::io::{self, Write};

use anyhow::Context;
use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::object::Kind;

use super::known::Known;
use super::table::{Table, line};
use crate::observe::status::{Condition, SourceState, age};

/// Returns the sources: the daemon's or, of a state that was read once, those of its objects.
pub(super) fn all(known: &Known) -> Vec<SourceState> {
    if let Some(status) = &known.status {
        return status.sources.clone();
    }
    let Some(model) = &known.side.model else { return Vec::new() };
    let count = |kind, origin| model.origins(kind).get(&origin).copied().unwrap_or_default();
    let of = |origin| SourceState {
        source: origin,
        state: Condition::Read,
        since: None,
        last_heard: None,
        as_of: None,
        services: count(Kind::Service, origin),
        objects: Kind::ALL.into_iter().map(|kind| count(kind, origin)).sum(),
        errors: 0,
        warnings: 0,
        problems: Vec::new(),
        last_error: None,
    };
    Origin::ALL.into_iter().map(of).filter(|source| source.objects > 0).collect()
}

/// Returns the source of a name: as it is printed, in lower case or not, or in JSON.
///
/// # Errors
///
/// If there is no such source.
pub(super) fn named(sources: Vec<SourceState>, name: &str) -> anyhow::Result<SourceState> {
    let names: Vec<String> = sources.iter().map(|it| it.source.to_string()).collect();
    let is_it = |source: &SourceState| {
        let text = source.source.to_string();
        let word = text.split(' ').next().unwrap_or_default();
        [text.as_str(), word].iter().any(|it| it.eq_ignore_ascii_case(name))
    };
    let found = sources.into_iter().find(is_it);
    found.with_context(|| format!("there is no source {name:?}. Sources: {}", names.join(", ")))
}

/// Writes a table.
pub(crate) fn table(
    out: &mut impl Write,
    sources: &[SourceState],
    now: Timestamp,
    indent: &str,
    is_wide: bool,
) -> io::Result<()> {
    let columns =
        ["SOURCE", "STATE", "SINCE", "HEARD", "SERVICES", "OBJECTS", "ERRORS", "WARNINGS"];
    let header: Vec<&str> =
        columns.into_iter().chain(["LAST ERROR"].into_iter().filter(|_| is_wide)).collect();
    let mut table = Table::new(&header);
    for source in sources {
        let row = [
            source.source.to_string(),
            source.state.text().to_owned(),
            ago(source.since, now),
            ago(source.as_of.or(source.last_heard), now),
            source.services.to_string(),
            source.objects.to_string(),
            source.errors.to_string(),
            source.warnings.to_string(),
        ];
        let error = source.last_error.as_ref().map(|error| error.message.clone());
        let error = error.or_else(|| source.problems.first().cloned()).unwrap_or_default();
        table.push(row.into_iter().chain([error].into_iter().filter(|_| is_wide)));
    }
    table.write(out, indent)
}

/// Describes a source.
pub(super) fn describe(
    out: &mut impl Write,
    source: &SourceState,
    now: Timestamp,
) -> io::Result<()> {
    let mut line = |name: &str, value: String| line(out, name, &value);
    line("Name", source.source.to_string())?;
    line("State", source.state.text().to_owned())?;
    line("Since", ago(source.since, now))?;
    line("Heard", ago(source.last_heard, now))?;
    line("As of", source.as_of.map_or(String::new(), |at| format!("{at:.0}")))?;
    line("Services", source.services.to_string())?;
    line("Objects", source.objects.to_string())?;
    if let Some(error) = &source.last_error {
        let since = if error.lasts { "" } else { ", and it has answered since" };
        let (when, what) = (ago(Some(error.time), now), &error.message);
        line("Last error", format!("{when} ago{since}: {what}"))?;
    }
    line("Errors", source.errors.to_string())?;
    line("Warnings", source.warnings.to_string())?;
    for problem in &source.problems {
        line("Problem", problem.clone())?;
    }
    let more = (source.errors + source.warnings).saturating_sub(source.problems.len());
    if more > 0 {
        line("Problem", format!("and {more} more"))?;
    }
    Ok(())
}

/// Returns how long ago a time was.
pub(crate) fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else { return String::new() };
    age(now.duration_since(at).try_into().unwrap_or_default())
}
