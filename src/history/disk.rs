//! What changes meant, in a file of the state directory: a header, then a change on each line.
//!
//! Changes are appended. When the file has grown to several times what is kept, it is replaced by
//! one with the newest of them: those that are kept in memory, and of older ones as many as have room.
//! A line that cannot be read, such as one that a crash has cut, is said and passed over. A file that
//! could not be read, or of which another version has written a part, is never replaced: it is put
//! aside (`aside`). A second file (`end`) says whether the last change is the last one that there was.

mod aside;
mod end;

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rulec_sources::{is_replaceable, replace_file};
use serde::{Deserialize, Serialize};

use super::change::{API_VERSION, Change, KIND};
use super::states::After;

/// The name of the file.
const NAME: &str = "history.jsonl";

/// The kind of the header.
const HEADER: &str = "History";

/// How often the file has what is kept before it is replaced.
const SURPLUS: usize = 2;

/// The largest file: half of it is kept.
const BYTES: u64 = 16 << 20;

const MODE: u32 = 0o600;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
    /// When the numbers began.
    #[serde(default)]
    since: Option<Timestamp>,
}

impl Header {
    fn new(since: Timestamp) -> Self {
        let (api_version, kind) = (API_VERSION.to_owned(), HEADER.to_owned());
        Self { api_version, kind, since: Some(since) }
    }

    fn is_known(&self) -> bool {
        self.api_version == API_VERSION && self.kind == HEADER
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    /// How many changes are kept.
    changes: usize,
    /// The file, if it can be appended to.
    file: Option<File>,
    lines: usize,
    bytes: u64,
    /// Whether all that is in the file is known, except for lines that are damaged.
    is_known: bool,
    /// Where the file was put that could not be read, until that is said.
    aside: Option<PathBuf>,
}

/// What a write has done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrote {
    /// How many bytes were written.
    pub(super) bytes: u64,
    /// Where the file is that was there before, if it could not be read.
    pub(super) aside: Option<PathBuf>,
}

/// A change, as far as it has to be known to be kept.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbered {
    api_version: String,
    kind: String,
    id: u64,
}

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The changes, the oldest first, with the lengths of their lines.
    pub(super) changes: Vec<(Change, usize)>,
    /// When their numbers began, if the file says so.
    pub(super) since: Option<Timestamp>,
    /// The last change of a process that has written all of them.
    pub(super) end: Option<After>,
    /// What could not be used.
    pub(super) complaints: Vec<String>,
}

impl Found {
    /// Returns whether the last change here is the last one that there was.
    pub(super) fn is_whole(&self) -> bool {
        let last =
            self.changes.last().map(|(change, _)| After { id: change.id, time: change.time });
        last.is_none() || last == self.end
    }
}

impl Disk {
    /// Names the file in a directory. Until it was read, it is not known what is in it.
    pub(super) fn new(directory: &Path, changes: usize) -> Self {
        let path = directory.join(NAME);
        Self { path, changes, file: None, lines: 0, bytes: 0, is_known: false, aside: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is there. If all of it can be used, changes are appended to it.
    pub(super) fn read(&mut self) -> Found {
        let mut found = Found::default();
        match self.path.parent().map_or(Ok(None), end::take) {
            Ok(end) => found.end = end,
            Err(error) => found.complaints.push(format!("{}: {error}", end::NAME)),
        }
        let before = found.complaints.len();
        match is_replaceable(&self.path) {
            Ok(false) => {
                self.is_known = true;
                return found;
            }
            Ok(true) => {}
            Err(error) => {
                found.complaints.push(error.to_string());
                return found;
            }
        }
        match self.read_lines(&mut found) {
            Ok(Extent::Whole { bytes }) => {
                self.is_known = true;
                if found.complaints.len() == before {
                    self.go_on(found.changes.len(), bytes);
                }
            }
            // The last line may be one of those.
            Ok(Extent::OfOthers) => found.end = None,
            // What follows may have any number: those of this process must not be the same.
            Err(error) => {
                found = Found { complaints: found.complaints, ..Found::default() };
                found.complaints.push(error.to_string());
            }
        }
        let surplus = found.changes.len().saturating_sub(self.changes);
        found.changes.drain(..surplus);
        found
    }

    fn read_lines(&self, found: &mut Found) -> io::Result<Extent> {
        let mut bytes = 0;
        let mut is_ours = true;
        // It cannot become larger by what is written here.
        let file = BufReader::new(File::open(&self.path)?.take(2 * BYTES));
        for (number, line) in file.split(b'\n').enumerate() {
            let line = line?;
            bytes += line.len() as u64 + 1;
            if number == 0 {
                let header: Option<Header> = serde_json::from_slice(&line).ok();
                let header = header.filter(Header::is_known);
                found.since = header.as_ref().and_then(|header| header.since);
                if header.is_none() {
                    let text = String::from_utf8_lossy(line.get(..80).unwrap_or(&line));
                    let why = format!("it is not of version {API_VERSION}: it begins with {text}");
                    found.complaints.push(why);
                    return Ok(Extent::OfOthers);
                }
                continue;
            }
            match serde_json::from_slice::<Change>(&line) {
                Ok(change) if change.api_version == API_VERSION && change.kind == KIND => {
                    // A header of before did not say it. Later, the oldest are not taken over.
                    found.since = found.since.or(Some(change.time));
                    found.changes.push((change, line.len()));
                }
                Ok(change) => {
                    is_ours = false;
                    let Change { api_version, kind, .. } = change;
                    let what = format!("line {}: it is a {api_version} {kind}", number + 1);
                    found.complaints.push(what);
                }
                Err(error) => found.complaints.push(format!("line {}: {error}", number + 1)),
            }
        }
        Ok(if is_ours { Extent::Whole { bytes } } else { Extent::OfOthers })
    }

    /// Appends to the file that is there, if it has this length: otherwise, its last line has no end,
    /// or somebody else writes it. It is replaced then, and so is one without a header.
    fn go_on(&mut self, lines: usize, bytes: u64) {
        let file = OpenOptions::new().append(true).open(&self.path).ok();
        let is_whole = |file: &File| file.metadata().is_ok_and(|it| it.len() == bytes);
        self.file = file.filter(|file| bytes > 0 && is_whole(file));
        (self.lines, self.bytes) = (lines, bytes);
    }

    /// Adds changes. `kept` are all that are kept, these included, for a new file, whose numbers began
    /// at `since`.
    ///
    /// # Errors
    ///
    /// If they cannot be written. The next write replaces the file.
    pub(super) fn write(
        &mut self,
        changes: &[Arc<Change>],
        since: Timestamp,
        kept: impl FnOnce() -> Vec<Arc<Change>>,
    ) -> io::Result<Wrote> {
        let text = lines(changes)?;
        let is_full = self.lines + changes.len() > SURPLUS * self.changes
            || self.bytes + text.len() as u64 > BYTES;
        if let Some(file) = self.file.as_mut().filter(|_| !is_full) {
            if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
                self.file = None;
                return Err(error);
            }
            self.lines += changes.len();
            self.bytes += text.len() as u64;
            return Ok(Wrote { bytes: text.len() as u64, aside: None });
        }
        self.replace(&kept(), since)?;
        Ok(Wrote { bytes: self.bytes, aside: self.aside.take() })
    }

    /// Notes that this change is the last one, and that all of them are written.
    ///
    /// # Errors
    ///
    /// If that cannot be written.
    pub(super) fn end(&self, last: After) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |directory| end::write(directory, last))
    }

    /// Replaces the file by one with the newest changes, or puts it aside before, if it is not known
    /// what is in it.
    fn replace(&mut self, kept: &[Arc<Change>], since: Timestamp) -> io::Result<()> {
        self.file = None;
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        if !self.is_known {
            self.aside = aside::put(&self.path)?;
            self.is_known = true;
        }
        let (mut newest, mut bytes) = (VecDeque::new(), 0);
        let mut add = |line: Vec<u8>| {
            bytes += line.len() as u64;
            let has_room = newest.len() < self.changes && bytes <= BYTES / 2;
            if has_room {
                newest.push_front(line);
            }
            has_room
        };
        let mut has_room = true;
        for change in kept.iter().rev() {
            has_room = has_room && add(lines(std::slice::from_ref(change))?);
        }
        if let Some(first) = kept.first().filter(|_| has_room) {
            let older = self.older(first.id)?;
            let _ = older.into_iter().rev().all(add);
        }
        let mut header = serde_json::to_vec(&Header::new(since))?;
        header.push(b'\n');
        let text: Vec<u8> = newest.iter().flatten().copied().collect();
        replace_file(&self.path, MODE, |file| {
            file.write_all(&header)?;
            file.write_all(&text)
        })?;
        self.lines = newest.len();
        self.bytes = (header.len() + text.len()) as u64;
        let open = OpenOptions::new().append(true).mode(MODE).open(&self.path);
        self.file = Some(open?);
        debug_assert!(fs::metadata(&self.path).is_ok(), "it was just written");
        Ok(())
    }

    /// Returns the lines of changes before this one that are in the file. They need not be in memory
    /// any more, which has other bounds.
    fn older(&self, first: u64) -> io::Result<VecDeque<Vec<u8>>> {
        let (mut older, mut bytes) = (VecDeque::<Vec<u8>>::new(), 0);
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(older),
            opened => BufReader::new(opened?.take(2 * BYTES)),
        };
        for line in file.split(b'\n') {
            let mut line = line?;
            let Ok(Numbered { api_version, kind, id }) = serde_json::from_slice(&line) else {
                continue;
            };
            if api_version == API_VERSION && kind == KIND && id < first {
                line.push(b'\n');
                bytes += line.len() as u64;
                older.push_back(line);
            }
            while older.len() > self.changes || bytes > BYTES / 2 {
                bytes -= older.pop_front().map_or(bytes, |line| line.len() as u64);
            }
        }
        Ok(older)
    }
}

/// What was read of a file.
enum Extent {
    /// All of it, except for lines that are damaged.
    Whole {
        /// Its length, with an end of each line.
        bytes: u64,
    },
    /// Another version has written it, or a part of it.
    OfOthers,
}

/// Returns changes as lines. JSON has no line breaks.
fn lines(changes: &[Arc<Change>]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for change in changes {
        serde_json::to_writer(&mut text, change)?;
        text.push(b'\n');
    }
    Ok(text)
}
