//! Writes a recording.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use rulec_compiler::{Origin, Settings};

use super::entry::{Entry, Header, What};
use super::frame::{self, MAGIC, RecordingError};
use super::mask::{Mask, MaskKey};
use super::random::random;
use super::reader::{self, is_same, old};
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
    /// The file, if it can be appended to. It is locked.
    file: Option<File>,
    /// Its length up to the last whole frame.
    length: u64,
    /// The length that it has begun with: that of a whole state. Zero if it is not known.
    first: u64,
}

impl Recorder {
    /// Prepares to write. Nothing is written yet.
    ///
    /// # Errors
    ///
    /// If the kernel gives no random numbers.
    pub fn new(begin: Begin) -> Result<Self, RecordingError> {
        let Begin { path, most, is_masked, program, settings, sources } = begin;
        let io = |source| RecordingError::Io { path: path.clone(), source };
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
        Ok(Self { path, most, header, mask, file: None, length: 0, first: 0 })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Goes on with the files of an earlier run. Returns what is to be said about them.
    ///
    /// # Errors
    ///
    /// If they cannot be read, are no recording, or if another program writes to them.
    pub fn go_on(&mut self) -> Result<Option<String>, RecordingError> {
        let found = match Found::of(&self.path) {
            // A writer that was killed between two renames leaves only the one before.
            Ok(None) => match Found::of(&old(&self.path)) {
                Ok(Some(found)) => Found { whole: Err("it is missing".to_owned()), ..found },
                Ok(None) | Err(_) => return Ok(None),
            },
            Ok(Some(found)) => found,
            Err(error) => return Err(error),
        };
        let Found { file, header, whole, is_ours } = found;
        let kept = |why: &str| {
            Ok(Some(format!("a new recording is begun, and the one before kept: {why}")))
        };
        if !is_ours {
            return kept("another user owns it or can read it");
        }
        if self.header.masked && !header.masked {
            return kept("it has names and addresses: remove FILE.old before others read it");
        }
        let is_same = header.settings == self.header.settings
            && header.sources == self.header.sources
            && !header.masked;
        if !is_same {
            return kept("it was made with other settings or sources, or is masked");
        }
        self.header.id.clone_from(&header.id);
        self.header.generation = header.generation;
        match whole {
            Ok(length) if header.program == self.header.program => {
                self.file = file;
                self.length = length;
                Ok(None)
            }
            Ok(_) => Ok(None),
            Err(reason) => Ok(Some(format!("the recording goes on in a new file: {reason}"))),
        }
    }

    /// Returns whether the next entry should be a whole state, with which the next file begins.
    /// It never is if a file could not hold more than the whole state: there would be nothing else in
    /// the files.
    pub fn is_full(&self) -> bool {
        self.length >= (self.most / 2).max(self.first.saturating_mul(2))
    }

    /// Returns how large the two files become if that is more than they may have.
    pub fn excess(&self) -> Option<u64> {
        let least = self.first.saturating_mul(4);
        (least > self.most).then_some(least)
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
        if !is_at(file, &self.path) {
            self.file = None;
            let message = "it was removed or renamed: a new file begins with the next change";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        if let Err(error) = file.write_all_at(&frame, self.length) {
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
        let is_next = self.is_next()?;
        let generation = self.header.generation + 1;
        let created = Timestamp::now();
        let header = Header { generation, created, ..self.header.clone() };
        let text = [&frame::head()[..], &frame::frame(&header)?, first].concat();
        // From here on, its name may be that of another file.
        self.file = None;
        if is_next {
            keep(&self.path)?;
        }
        let mut new = None;
        let replaced = replace_file(&self.path, MODE, |file| {
            lock(file, &self.path)?;
            file.write_all(&text)?;
            new = Some(file.try_clone()?);
            Ok(())
        });
        // If only its directory could not be synced, it has begun.
        let Some(file) = new.filter(|file| is_at(file, &self.path)) else {
            replaced?;
            return Err(io::Error::other("another program has replaced it"));
        };
        self.header = header;
        self.length = text.len() as u64;
        self.first = self.length;
        self.file = Some(file);
        Ok(self.length)
    }

    /// Returns whether there is a file that is to be kept.
    fn is_next(&self) -> io::Result<bool> {
        let Some(file) = recording(&self.path)? else { return Ok(false) };
        if self.file.as_ref().is_none_or(|ours| !is_same(ours.metadata(), file.metadata())) {
            lock(&file, &self.path)?;
        }
        recording(&old(&self.path))?;
        Ok(true)
    }
}

/// The file of an earlier run.
struct Found {
    /// The file, locked; none if it cannot be written.
    file: Option<File>,
    header: Header,
    /// Its length, or why it is not whole.
    whole: Result<u64, String>,
    /// Whether nobody else can read or change it.
    is_ours: bool,
}

impl Found {
    /// Looks at a file; `None` if there is none, or nothing in it.
    fn of(path: &Path) -> Result<Option<Self>, RecordingError> {
        let io = |source| RecordingError::Io { path: path.to_owned(), source };
        if !is_replaceable(path).map_err(io)? {
            return Ok(None);
        }
        let (file, is_writable) = match open(path, true) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (open(path, false).map_err(io)?, false)
            }
            file => (file.map_err(io)?, true),
        };
        let data = file.metadata().map_err(io)?;
        if data.len() == 0 {
            return Ok(None);
        }
        lock(&file, path).map_err(io)?;
        let copy = file.try_clone().map_err(io)?;
        let (header, whole) = reader::verify(path, copy)?;
        let is_ours = data.uid() == geteuid().as_raw() && data.mode() & 0o077 == 0;
        Ok(Some(Self { file: is_writable.then_some(file), header, whole, is_ours }))
    }
}

/// Opens a file that exists, and nothing that a link leads to.
fn open(path: &Path, to_write: bool) -> io::Result<File> {
    // Opening a pipe would otherwise wait for a writer.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).write(to_write).custom_flags(flags.bits()).open(path)
}

/// Opens a recording of whatever format, or an empty file; `None` if there is nothing.
///
/// # Errors
///
/// If it is something else, which must not be replaced.
fn recording(path: &Path) -> io::Result<Option<File>> {
    if !is_replaceable(path)? {
        return Ok(None);
    }
    let mut file = open(path, false)?;
    let mut start = Vec::new();
    (&mut file).take(MAGIC.len() as u64).read_to_end(&mut start)?;
    if start.is_empty() || start == MAGIC {
        return Ok(Some(file));
    }
    let message = format!("{}: is not a recording of rulec, and is not replaced", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Locks a file until it is closed. Not every file system has locks.
///
/// # Errors
///
/// If another program has locked it.
fn lock(file: &File, path: &Path) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{}: another program records to it", path.display());
            Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
        }
    }
}

/// Returns whether a file still has its name.
fn is_at(file: &File, path: &Path) -> bool {
    is_same(file.metadata(), fs::symlink_metadata(path))
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
