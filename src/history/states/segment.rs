//! A file of states: a header, a whole state, and a step to each of the next ones.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use rulec_sources::is_replaceable;
use serde::{Deserialize, Serialize};

use crate::history::change::API_VERSION;
use crate::snapshot::{Replay, Snapshot, Step};

/// The kind of the header.
const KIND: &str = "States";

/// What a file is called, with its number between these.
const NAME: [&str; 2] = ["states-", ".jsonl"];

/// The longest header that is read.
const HEADER: u64 = 4096;

/// The largest whole state.
pub(super) const WHOLE: usize = 16 << 20;

/// How many bytes of steps follow a whole state in any case.
pub(super) const STEPS: u64 = 1 << 20;

/// A file cannot become larger by what is written to it.
const LARGEST: u64 = 3 * WHOLE as u64;

/// A state by the change that it is after. Numbers may begin again; times tell which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::history) struct After {
    /// The number of the change.
    pub(in crate::history) id: u64,
    /// Its time.
    pub(in crate::history) time: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
    /// The first state.
    first: After,
}

/// A line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    id: u64,
    time: Timestamp,
    content: Content,
}

impl Record {
    pub(super) fn new(After { id, time }: After, content: Content) -> Self {
        Self { id, time, content }
    }
}

/// What a line says of its state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Content {
    /// All of it.
    Whole(Box<Snapshot>),
    /// How it differs from that of the line before.
    Step(Step),
}

/// A file, as far as it has to be known without its states.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// The first state.
    pub(super) first: After,
    pub(super) bytes: u64,
}

impl Segment {
    /// Returns the number in the name of a file, if it is called like one.
    pub(super) fn number_of(name: &str) -> Option<u64> {
        name.strip_prefix(NAME[0])?.strip_suffix(NAME[1])?.parse().ok()
    }

    /// Returns whether a write of such a file that was not completed has left a file of this name.
    pub(super) fn is_half(name: &str) -> bool {
        let name = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new"));
        name.and_then(Self::number_of).is_some()
    }

    /// Returns the path of the file with this number.
    pub(super) fn path_of(directory: &Path, number: u64) -> PathBuf {
        let [before, after] = NAME;
        directory.join(format!("{before}{number}{after}"))
    }

    /// Returns the line of a header.
    pub(super) fn header(first: After) -> io::Result<Vec<u8>> {
        let (api_version, kind) = (API_VERSION.to_owned(), KIND.to_owned());
        line(&Header { api_version, kind, first })
    }

    /// Reads the header of a file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is of an unknown version.
    pub(super) fn open(path: PathBuf, number: u64) -> anyhow::Result<Self> {
        is_replaceable(&path)?;
        let file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        let mut text = Vec::new();
        BufReader::new(file.take(HEADER)).read_until(b'\n', &mut text)?;
        let header: Option<Header> = serde_json::from_slice(&text).ok();
        let known = header.filter(|it| it.api_version == API_VERSION && it.kind == KIND);
        let first = known.map(|header| header.first).with_context(|| {
            let text = String::from_utf8_lossy(text.get(..80).unwrap_or(&text));
            format!("it is not of version {API_VERSION}: it begins with {}", text.trim_end())
        })?;
        Ok(Self { number, path, first, bytes })
    }

    /// Reads a state; `None` if it is not in the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read up to it.
    pub(super) fn read(&self, after: After) -> anyhow::Result<Option<Snapshot>> {
        let Some(lines) = self.lines_to(after)? else { return Ok(None) };
        let mut replay = None;
        // The header is line 1.
        for (number, text) in (2..).zip(lines) {
            let here = || format!("line {number}");
            let record: Record = serde_json::from_slice(&text).with_context(here)?;
            match (record.content, &mut replay) {
                (Content::Whole(snapshot), replay) => {
                    *replay = Some(Replay::begin(*snapshot).with_context(here)?);
                }
                (Content::Step(step), Some(replay)) => replay.take(step).with_context(here)?,
                (Content::Step(_), None) => anyhow::bail!("line {number}: no state is before it"),
            }
        }
        Ok(replay.map(Replay::end))
    }

    /// Returns the lines after the header up to that of a state, if it is there.
    fn lines_to(&self, after: After) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
        is_replaceable(&self.path)?;
        let file = BufReader::new(File::open(&self.path)?.take(LARGEST));
        let mut lines = Vec::new();
        for (index, text) in file.split(b'\n').enumerate().skip(1) {
            let text = text?;
            let found: After = match serde_json::from_slice(&text) {
                Ok(found) => found,
                // The last line may be cut, or just being written: what is asked for is not in it.
                Err(error) if error.is_eof() => return Ok(None),
                Err(error) => Err(error).with_context(|| format!("line {}", index + 1))?,
            };
            lines.push(text);
            if found == after {
                return Ok(Some(lines));
            }
        }
        Ok(None)
    }
}

/// Returns a document as a line. JSON has no line breaks.
pub(super) fn line(document: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(document)?;
    text.push(b'\n');
    Ok(text)
}
