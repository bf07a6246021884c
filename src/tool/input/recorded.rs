//! The state that a recording has at its end, or at a time: `FILE` or `FILE@TIME`.

use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;
use rulec_sources::recording::{Header, Moment, Reader};

use crate::history::moment::SIGN;
use crate::observe::telemetry::complain;

/// Returns whether a state is that of a recording.
pub(crate) fn names_one(state: &str) -> bool {
    Reader::is_one(Path::new(split(state).0))
}

/// Splits a time from the name of a file. A file may have the sign in its name.
fn split(state: &str) -> (&str, Option<&str>) {
    match state.rsplit_once(SIGN) {
        Some((path, time)) if !path.is_empty() && !Path::new(state).exists() => (path, Some(time)),
        Some(_) | None => (state, None),
    }
}

/// Reads the state.
///
/// # Errors
///
/// If the recording cannot be read, or does not go back to the time.
pub(crate) fn read(state: &str) -> anyhow::Result<(Header, Moment)> {
    let (path, time) = split(state);
    let until = time.map(|text| {
        let time: Result<Timestamp, _> = text.parse();
        time.map_err(|_| anyhow::anyhow!("{text:?} is not a time such as 2026-11-30T22:10:00Z"))
    });
    let until = until.transpose()?;
    let mut reader = Reader::open(Path::new(path))?;
    let mut moment = Moment::default();
    let mut first = None;
    while let Some(entry) = reader.read()? {
        first = first.or(Some(entry.time));
        if until.is_some_and(|until| entry.time > until) {
            break;
        }
        moment.add(&entry);
    }
    for left_out in reader.left_out() {
        complain(left_out);
    }
    let first = first.with_context(|| format!("{path}: there is nothing in it"))?;
    if moment.time().is_none() {
        anyhow::bail!("the recording begins at {first}");
    }
    Ok((reader.header().clone(), moment))
}
