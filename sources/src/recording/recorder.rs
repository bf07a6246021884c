//! Writes a recording.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rulec_compiler::{Origin, Settings};

use super::entry::{Entry, Header, What};
use super::frame::{self, RecordingError};
use super::mask::{Mask, MaskKey};
use super::random::random;
use super::reader::{self, Reader, old};
use crate::replace::{is_replaceable, replace_file};

/// Only we can read it: it says which Services a cluster has.
const MODE: u32 = 0o600;

/// How a recording begins.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The file.
    pub path: PathBuf,
    /// How many bytes the two files may have together, about.
    pub most: u64,
    /// Whether names and addresses are replaced.
    pub is_masked: bool,
    /// The version of the program.
    pub program: String,
    /// The settings of the daemon.
    pub settings: Settings,
    /// The sources of the daemon.
    pub sources: Vec<Origin>,
}

/// Writes entries to a file, and goes on in another one when that is full: see [`Recorder::write`].
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    most: u64,
    header: Header,
    mask: Option<Mask>,
    /// The file, if it can be appended to.
    file: Option<File>,
    /// Its length up to the last whole frame.
    length: u64,
}

impl Recorder {
    /// Prepares to write. Nothing is written yet.
    ///
    /// # Errors
    ///
    /// If the name belongs to something else than a recording.
    pub fn new(begin: Begin) -> Result<Self, RecordingError> {
        let Begin { path, most, is_masked, program, settings, sources } = begin;
        let io = |source| RecordingError::Io { path: path.clone(), source };
        if is_replaceable(&path).map_err(io)? && !Reader::is_one(&path) {
            let is_blank = fs::metadata(&path).is_ok_and(|data| data.len() == 0);
            if !is_blank {
                return Err(RecordingError::Foreign { path });
            }
        }
        let mask = is_masked.then(|| MaskKey::random().map(Mask::new)).transpose().map_err(io)?;
        let mut mask = mask;
        let settings = match &mut mask {
            Some(mask) => mask.settings(&settings),
            None => settings,
        };
        let header = Header {
            id: random_id().map_err(io)?,
            generation: 0,
            program,
            created: Timestamp::now(),
            masked: is_masked,
            settings,
            sources,
        };
        Ok(Self { path, most, header, mask, file: None, length: 0 })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Goes on with the files of an earlier run. Returns what is to be said about them.
    ///
    /// # Errors
    ///
    /// If they cannot be read. What is written then begins a new file.
    pub fn go_on(&mut self) -> Result<Option<String>, RecordingError> {
        let found = match reader::verify(&self.path) {
            // A writer that was killed between two renames leaves only the one before.
            Err(RecordingError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                match reader::verify(&old(&self.path)) {
                    Ok((header, _)) => Ok((header, Err("it is missing".to_owned()))),
                    Err(_) => return Ok(None),
                }
            }
            other => other,
        };
        let (header, whole) = found?;
        let is_same = header.settings == self.header.settings
            && header.sources == self.header.sources
            && !header.masked
            && !self.header.masked;
        if !is_same {
            let why = "it was made with other settings or sources, or is masked";
            return Ok(Some(format!("a new recording is begun, and the one before kept: {why}")));
        }
        self.header.id.clone_from(&header.id);
        self.header.generation = header.generation;
        match whole {
            Ok(length) if header.program == self.header.program => {
                let file = OpenOptions::new().append(true).open(&self.path);
                let io = |source| RecordingError::Io { path: self.path.clone(), source };
                self.file = Some(file.map_err(io)?);
                self.length = length;
                Ok(None)
            }
            Ok(_) => Ok(None),
            Err(reason) => Ok(Some(format!("the recording goes on in a new file: {reason}"))),
        }
    }

    /// Returns whether the next entry should be a whole state, with which the next file begins.
    pub fn is_full(&self) -> bool {
        self.length >= self.most / 2
    }

    /// Writes entries, and returns how many bytes were written. If the first is a whole state, it may
    /// begin a new file; the file before is kept, and the one before that goes.
    ///
    /// # Errors
    ///
    /// If they cannot be written. The file has what it had.
    pub fn write(&mut self, entries: &[Entry]) -> io::Result<u64> {
        let begins = match entries.first() {
            Some(Entry { what: What::Whole(_), .. }) => self.file.is_none() || self.is_full(),
            Some(_) => false,
            None => return Ok(0),
        };
        let frame = match &mut self.mask {
            Some(mask) => {
                let masked: Vec<Entry> = entries.iter().map(|entry| mask.entry(entry)).collect();
                frame::frame(&masked)?
            }
            None => frame::frame(&entries)?,
        };
        if begins {
            return self.begin(&frame);
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the file does not begin with a whole state"));
        };
        if let Err(error) = file.write_all(&frame) {
            // Half a frame would hide all that follow. If it stays, the next file begins.
            if file.set_len(self.length).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        self.length += frame.len() as u64;
        Ok(frame.len() as u64)
    }

    /// Returns whether entries can be appended, so that the first one need not be a whole state.
    pub fn has_begun(&self) -> bool {
        self.file.is_some()
    }

    /// Begins a file with a frame.
    fn begin(&mut self, first: &[u8]) -> io::Result<u64> {
        let is_next = is_replaceable(&self.path)?;
        let generation = self.header.generation + 1;
        let created = Timestamp::now();
        let header = Header { generation, created, ..self.header.clone() };
        let text = [&frame::head()[..], &frame::frame(&header)?, first].concat();
        if is_next {
            keep(&self.path)?;
        }
        replace_file(&self.path, MODE, |file| file.write_all(&text))?;
        self.header = header;
        self.length = text.len() as u64;
        self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
        Ok(self.length)
    }
}

/// Keeps a file under the name of the older one. It also has its own name until it is replaced, so
/// that there is a newest file at any time.
fn keep(path: &Path) -> io::Result<()> {
    let (old, mut new) = (old(path), path.as_os_str().to_owned());
    new.push(".old.new");
    // It may be left by a crash, or by a rename of one file to itself.
    let _ = fs::remove_file(&new);
    if fs::hard_link(path, &new).is_err() {
        // Not every file system has links.
        return fs::rename(path, old);
    }
    let renamed = fs::rename(&new, old);
    let _ = fs::remove_file(&new);
    renamed
}

/// Writes a recording at once, in place of a file of this name.
///
/// # Errors
///
/// If it cannot be written.
pub fn write_whole(
    path: &Path,
    header: &Header,
    entries: impl Iterator<Item = Result<Entry, RecordingError>>,
) -> Result<(), RecordingError> {
    let io = |source| RecordingError::Io { path: path.to_owned(), source };
    let mut header = header.clone();
    header.id = random_id().map_err(io)?;
    header.generation = 0;
    let mut failure = None;
    let written = replace_file(path, MODE, |file| {
        let mut file = io::BufWriter::new(file);
        file.write_all(&frame::head())?;
        file.write_all(&frame::frame(&header)?)?;
        let mut entries = entries.peekable();
        while entries.peek().is_some() {
            // Larger frames are smaller in total.
            let some: Result<Vec<Entry>, _> = entries.by_ref().take(64).collect();
            match some {
                Ok(some) => file.write_all(&frame::frame(&some)?)?,
                Err(error) => {
                    failure = Some(error);
                    return Err(io::Error::other("what is to be written cannot be read"));
                }
            }
        }
        file.flush()
    });
    match failure {
        Some(error) => Err(error),
        None => written.map_err(io),
    }
}

/// Returns an identifier that nothing else has.
fn random_id() -> io::Result<String> {
    let bytes: [u8; 16] = random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
