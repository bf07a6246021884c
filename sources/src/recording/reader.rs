//! Reads a recording: the older file first, if it belongs to the newer one.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::entry::{Entry, Header, What};
use super::frame::{self, FORMAT, Found, HEAD, MAGIC, RecordingError};

/// Reads the entries of a recording in order. The first one is a whole state.
pub struct Reader {
    header: Header,
    parts: VecDeque<Part>,
    ready: VecDeque<Entry>,
    left_out: Vec<LeftOut>,
}

/// One file.
struct Part {
    path: PathBuf,
    file: Box<dyn Read + Send>,
    /// Where the next frame begins.
    at: u64,
    /// Whether a whole state was read. What comes before cannot be understood.
    has_begun: bool,
}

/// A part of a recording that cannot be read. What comes after it in the same file is left out, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub at: u64,
    /// Why it cannot be read.
    pub reason: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, at, reason } = self;
        let path = path.display();
        match at {
            0 => write!(f, "{path}: it is left out: {reason}"),
            at => write!(f, "{path}: from byte {at} on, it is torn and left out: {reason}"),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Returns the name of the file before.
pub(super) fn old(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

/// Returns whether two files are one.
pub(super) fn is_same(one: io::Result<Metadata>, other: io::Result<Metadata>) -> bool {
    let place = |data: io::Result<Metadata>| data.ok().map(|data| (data.dev(), data.ino()));
    let one = place(one);
    one.is_some() && one == place(other)
}

/// Returns whether two recordings have a file in common.
#[must_use]
pub fn overlap(one: &Path, other: &Path) -> bool {
    let of_other = [other.to_owned(), old(other)];
    [one.to_owned(), old(one)]
        .iter()
        .any(|one| of_other.iter().any(|other| is_same(one.metadata(), other.metadata())))
}

impl Reader {
    /// Opens a recording. Of the two files that a daemon leaves, the newer one is to be named.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let older = old(path);
        let (newer_header, newer) = match Part::open(path) {
            // A writer that was killed between two renames leaves only this one.
            Err(RecordingError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && older.exists() =>
            {
                Part::open(&older)?
            }
            other => other?,
        };
        let is_of = |(header, _): &(Header, Part)| {
            header.id == newer_header.id && header.generation + 1 == newer_header.generation
        };
        let mut parts = VecDeque::from([newer]);
        let mut left_out = Vec::new();
        let mut header = newer_header.clone();
        // Before the first file, there is none, whatever has its name.
        if newer_header.generation > 1 {
            match Part::open(&older).map(|found| Some(found).filter(is_of)) {
                Ok(Some((before, part))) => {
                    header = before;
                    parts.push_front(part);
                }
                Ok(None) => {}
                Err(RecordingError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    left_out.push(LeftOut { path: older, at: 0, reason: error.reason() });
                }
            }
        }
        Ok(Self { header, parts, ready: VecDeque::new(), left_out })
    }

    /// Reads a recording that is in memory.
    ///
    /// # Errors
    ///
    /// If it is none.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Self, RecordingError> {
        let file = Box::new(io::Cursor::new(bytes.to_vec()));
        let (header, part) = Part::of(Path::new("fuzz"), file)?;
        let parts = VecDeque::from([part]);
        Ok(Self { header, parts, ready: VecDeque::new(), left_out: Vec::new() })
    }

    /// Returns whether a file begins like a recording, of whatever format.
    pub fn is_one(path: &Path) -> bool {
        let mut start = [0; 8];
        let is_file = path.metadata().is_ok_and(|data| data.is_file());
        is_file
            && File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok())
            && start == MAGIC
    }

    /// Returns what holds for all of it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns what could not be read so far.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Returns the next entry; `None` at the end.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has a content that this version does not know.
    pub fn read(&mut self) -> Result<Option<Entry>, RecordingError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Ok(Some(entry));
            }
            let Some(part) = self.parts.front_mut() else { return Ok(None) };
            match part.next()? {
                Next::Entries(entries) => self.ready.extend(entries),
                Next::End => drop(self.parts.pop_front()),
                Next::Torn(left_out) => {
                    self.left_out.push(left_out);
                    self.parts.pop_front();
                }
            }
        }
    }
}

/// What comes next in a file.
enum Next {
    Entries(Vec<Entry>),
    End,
    Torn(LeftOut),
}

impl Part {
    fn open(path: &Path) -> Result<(Header, Self), RecordingError> {
        let io = |source| RecordingError::Io { path: path.to_owned(), source };
        // Opening a pipe would otherwise wait for a writer.
        let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
        let file = file.map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(RecordingError::Foreign { path: path.to_owned() });
        }
        Self::of_file(path, file)
    }

    fn of_file(path: &Path, file: File) -> Result<(Header, Self), RecordingError> {
        Self::of(path, Box::new(BufReader::with_capacity(64 << 10, file)))
    }

    fn of(path: &Path, mut file: Box<dyn Read + Send>) -> Result<(Header, Self), RecordingError> {
        let io = |source| RecordingError::Io { path: path.to_owned(), source };
        let mut head = Vec::with_capacity(HEAD);
        (&mut file).take(HEAD as u64).read_to_end(&mut head).map_err(io)?;
        let format = match head.split_first_chunk::<8>() {
            Some((magic, rest)) if *magic == MAGIC => rest.first_chunk().copied(),
            _ => return Err(RecordingError::Foreign { path: path.to_owned() }),
        };
        let empty = |reason: String| RecordingError::Empty { path: path.to_owned(), reason };
        let format = format.map(u32::from_le_bytes);
        let format = format.ok_or_else(|| empty(format!("it ends at byte {}", head.len())))?;
        if format != FORMAT {
            return Err(RecordingError::Format { path: path.to_owned(), format });
        }
        let at = HEAD as u64;
        let header = match frame::next(&mut file).map_err(io)? {
            Found::Frame(content) => {
                let after = at + (frame::FRAME + content.len()) as u64;
                let header = frame::decode(&content).map_err(|reason| {
                    RecordingError::Unreadable { path: path.to_owned(), at, reason }
                })?;
                let path = path.to_owned();
                return Ok((header, Self { path, file, at: after, has_begun: false }));
            }
            Found::End => empty(format!("it ends at byte {at}")),
            Found::Torn(reason) => empty(reason),
        };
        Err(header)
    }

    fn next(&mut self) -> Result<Next, RecordingError> {
        let Self { path, file, at, has_begun } = self;
        let found = frame::next(file);
        let found = found.map_err(|source| RecordingError::Io { path: path.clone(), source })?;
        let content = match found {
            Found::Frame(content) => content,
            Found::End => return Ok(Next::End),
            Found::Torn(reason) => {
                return Ok(Next::Torn(LeftOut { path: path.clone(), at: *at, reason }));
            }
        };
        let unreadable =
            |reason| RecordingError::Unreadable { path: path.clone(), at: *at, reason };
        let mut entries: Vec<Entry> = frame::decode(&content).map_err(unreadable)?;
        *at += (frame::FRAME + content.len()) as u64;
        // What comes before a whole state changes something that is not known.
        entries.retain(|entry| {
            *has_begun |= matches!(entry.what, What::Whole(_));
            *has_begun
        });
        Ok(Next::Entries(entries))
    }

    /// Reads to the end without decoding; returns how long it is, or why it is not whole.
    fn verify(&mut self) -> io::Result<Result<u64, String>> {
        loop {
            match frame::next(&mut self.file)? {
                Found::Frame(content) => self.at += (frame::FRAME + content.len()) as u64,
                Found::End => return Ok(Ok(self.at)),
                Found::Torn(reason) => {
                    return Ok(Err(format!("from byte {} on, it is torn: {reason}", self.at)));
                }
            }
        }
    }
}

/// Returns the header of a file, and its length or why it is not whole.
pub(super) fn verify(
    path: &Path,
    file: File,
) -> Result<(Header, Result<u64, String>), RecordingError> {
    let (header, mut part) = Part::of_file(path, file)?;
    let whole = part.verify();
    let whole = whole.map_err(|source| RecordingError::Io { path: path.to_owned(), source })?;
    Ok((header, whole))
}
