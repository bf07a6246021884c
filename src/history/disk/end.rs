//! The mark of a process that has ended after it had written all of its changes.
//!
//! Without it, nobody knows whether the last change in the file is the last one that there was. The
//! next process takes the mark away before it reads the file, so that a mark never speaks for a
//! process that was killed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use rulec_sources::{is_replaceable, replace_file};
use serde::{Deserialize, Serialize};

use super::super::change::API_VERSION;
use super::super::states::After;
use super::MODE;

/// The name of the file.
pub(super) const NAME: &str = "history-end.json";

const KIND: &str = "HistoryEnd";

/// The longest file that is read.
const LONGEST: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    api_version: String,
    kind: String,
    /// The last change.
    last: After,
}

/// Writes the mark.
pub(super) fn write(directory: &Path, last: After) -> io::Result<()> {
    let (api_version, kind) = (API_VERSION.to_owned(), KIND.to_owned());
    let text = serde_json::to_vec(&Mark { api_version, kind, last })?;
    replace_file(&directory.join(NAME), MODE, |file| file.write_all(&text))
}

/// Takes the mark away; returns the last change, if the mark is there and of a known version.
pub(super) fn take(directory: &Path) -> io::Result<Option<After>> {
    let path = directory.join(NAME);
    if !is_replaceable(&path)? {
        return Ok(None);
    }
    let mut text = Vec::new();
    File::open(&path)?.take(LONGEST).read_to_end(&mut text)?;
    fs::remove_file(&path)?;
    // It must not come back with a loss of power.
    File::open(directory)?.sync_all()?;
    let mark: Option<Mark> = serde_json::from_slice(&text).ok();
    let known = mark.filter(|it| it.api_version == API_VERSION && it.kind == KIND);
    Ok(known.map(|mark| mark.last))
}
