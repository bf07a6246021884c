//! A file of states: a header, a whole state, and a step to each of the next ones.

use std::fs::{self, File};
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

/// A state by the change that it is after. Numbers may begin again; times tell which it is. They tell
/// nothing of the order, because clocks are set back.
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

/// What a header of every version has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyHeader {
    api_version: String,
    kind: String,
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
    pub(super) bytes: u64,
    pub(super) known: Known,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Its first state.
    First(After),
    /// Nothing: it could not be read, which may pass, or another version has written it.
    Nothing,
    /// That it has no header: no state in it can be found.
    Damage,
}

impl Segment {
    /// Returns the number in the name of a file, if it is called like one.
    pub(super) fn number_of(name: &str) -> Option<u64> {
        // None has as many that there would be no next one.
        let number: u32 = name.strip_prefix(NAME[0])?.strip_suffix(NAME[1])?.parse().ok()?;
        Some(number.into())
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

    /// Looks at a file; returns also what is wrong with it. It is nothing if it is no file, and so
    /// somebody else's.
    pub(super) fn look(path: PathBuf, number: u64) -> (Option<Self>, Option<String>) {
        match is_replaceable(&path) {
            Ok(true) => {}
            Ok(false) => return (None, None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return (None, Some(error.to_string()));
            }
            Err(error) => {
                let segment = Self { number, path, bytes: 0, known: Known::Nothing };
                return (Some(segment), Some(error.to_string()));
            }
        }
        // It counts, also if it cannot be read.
        let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
        let (known, complaint) =
            match File::open(&path).and_then(|file| read_header(&mut BufReader::new(file))) {
                Ok(text) => match first_of(&text) {
                    Ok(first) => (Known::First(first), None),
                    Err((known, complaint)) => (known, Some(complaint)),
                },
                Err(error) => (Known::Nothing, Some(error.to_string())),
            };
        (Some(Self { number, path, bytes, known }), complaint)
    }

    /// Returns the first state, if it is known.
    pub(super) fn first(&self) -> Option<After> {
        match self.known {
            Known::First(first) => Some(first),
            Known::Nothing | Known::Damage => None,
        }
    }
}

/// Reads a state from a file; `None` if it is not in it.
///
/// # Errors
///
/// If the file cannot be read up to it.
pub(super) fn read(path: &Path, after: After) -> anyhow::Result<Option<Snapshot>> {
    let Some(lines) = lines_to(path, after)? else { return Ok(None) };
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

/// Returns the lines after the header up to that of a state, if it is there. Numbers ascend in a file.
fn lines_to(path: &Path, after: After) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
    // It may have been removed meanwhile, since it is too old.
    if !is_replaceable(path)? {
        return Ok(None);
    }
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut file = BufReader::new(file.take(LARGEST));
    let first = first_of(&read_header(&mut file)?).map_err(|(_, why)| anyhow::anyhow!(why))?;
    if first.id > after.id {
        return Ok(None);
    }
    let mut lines = Vec::new();
    loop {
        let mut text = Vec::new();
        file.read_until(b'\n', &mut text)?;
        let is_cut = text.pop_if(|byte| *byte == b'\n').is_none();
        let found: After = match serde_json::from_slice(&text) {
            Ok(found) => found,
            // The last line may be cut, or just being written: what is asked for is not in it.
            Err(error) if error.is_eof() && is_cut => return Ok(None),
            Err(error) => Err(error).with_context(|| format!("line {}", lines.len() + 2))?,
        };
        if found.id > after.id {
            return Ok(None);
        }
        lines.push(text);
        if found == after {
            return Ok(Some(lines));
        }
    }
}

/// Reads the first line.
fn read_header(file: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(HEADER).read_until(b'\n', &mut text)?;
    Ok(text)
}

/// Returns the first state that a header names; otherwise what is known of the file, and what is wrong
/// with it.
fn first_of(text: &[u8]) -> Result<After, (Known, String)> {
    let wrong = |known| {
        let text = String::from_utf8_lossy(text.get(..80).unwrap_or(text));
        let text = text.trim_end();
        (known, format!("it is not of version {API_VERSION}: it begins with {text}"))
    };
    // Of another version, it may be longer.
    if text.len() as u64 >= HEADER {
        return Err(wrong(Known::Nothing));
    }
    let AnyHeader { api_version, kind } =
        serde_json::from_slice(text).map_err(|_| wrong(Known::Damage))?;
    if api_version != API_VERSION || kind != KIND {
        return Err(wrong(Known::Nothing));
    }
    let header: Header = serde_json::from_slice(text).map_err(|_| wrong(Known::Damage))?;
    Ok(header.first)
}

/// Returns a document as a line. JSON has no line breaks.
pub(super) fn line(document: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(document)?;
    text.push(b'\n');
    Ok(text)
}
