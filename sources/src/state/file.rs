//! One file: a header, and JSON compressed by zstd.
//!
//! ```text
//!  magic 8 │ format 4 │ length 8 │ blake3 32 │ zstd(JSON)
//! ```
//!
//! Numbers are little-endian. `length` and the checksum are those of the bytes after the header.
//! The format is JSON because the saved data consists of enums and optional fields that grow from
//! version to version, and because a person can read it: `tail -c +53 api.state | zstd -d`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::make;

const MAGIC: [u8; 8] = *b"rulecst\n";

/// Raised when files of the format before can no longer be read with their meaning.
const FORMAT: u32 = 1;

const HEADER: usize = 8 + 4 + 8 + 32;

/// Higher levels save a tenth of the size for several times the work.
const LEVEL: i32 = 1;

/// Why a state file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file exists and cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is not a state file.
    #[error("{}: is not a state file of rulec", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another version of the program has written it, in a format that this version does not know.
    #[error("{}: has format {format}, but this program reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that it has.
        format: u32,
    },
    /// It was not written completely, or has changed since.
    #[error("{}: is damaged: {reason}", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// How that was detected.
        reason: String,
    },
    /// It is undamaged, but does not have the expected content.
    #[error("{}: cannot be decoded: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the decoder.
        reason: String,
    },
}

/// Reads a file; `None` if it does not exist.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let torn = |reason: String| StateError::Torn { path: path.to_owned(), reason };
    let foreign = || StateError::Foreign { path: path.to_owned() };
    // Opening a pipe would otherwise wait for a writer.
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(foreign());
    }
    let mut header = Vec::with_capacity(HEADER);
    (&mut file).take(HEADER as u64).read_to_end(&mut header).map_err(io)?;
    if header.is_empty() {
        return Err(torn("it is empty".to_owned()));
    }
    if !MAGIC.starts_with(&header) && !header.starts_with(&MAGIC) {
        return Err(foreign());
    }
    let Some(header) = Header::parse(&header) else {
        return Err(torn(format!("it ends at byte {}", header.len())));
    };
    if header.format != FORMAT {
        return Err(StateError::Format { path: path.to_owned(), format: header.format });
    }
    let held = metadata.len().saturating_sub(HEADER as u64);
    if held != header.length {
        let length = header.length;
        return Err(torn(format!("its length is {held}, but the header says {length}")));
    }
    let mut payload = Vec::new();
    file.read_to_end(&mut payload).map_err(io)?;
    if *blake3::hash(&payload).as_bytes() != header.checksum {
        return Err(torn("the checksum does not match".to_owned()));
    }
    let unreadable = |reason: String| StateError::Unreadable { path: path.to_owned(), reason };
    let decoder = zstd::Decoder::with_buffer(&*payload);
    let decoder = decoder.map_err(|error| unreadable(error.to_string()))?;
    // It is decoded as a stream: the text of a large cluster is 20 times the size of the file.
    let value = serde_json::from_reader(BufReader::with_capacity(64 << 10, decoder));
    value.map(Some).map_err(|error| unreadable(error.to_string()))
}

/// Writes a file so that a reader sees the old one or the new one, also after a crash. Returns its
/// length.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<u64> {
    let directory = path.parent().unwrap_or(Path::new("."));
    make(directory)?;
    let new = temporary(path);
    // A file left by a crash may have another owner or mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = write_new(&new, value).and_then(|length| {
        fs::rename(&new, path)?;
        // The rename is durable only after the directory is synced.
        File::open(directory)?.sync_all()?;
        Ok(length)
    });
    if written.is_err() {
        // Do not help to keep a full disk full.
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new<T: Serialize>(path: &Path, value: &T) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut file = BufWriter::with_capacity(64 << 10, file);
    // Until the header is written, this is not a valid state file.
    file.write_all(&[0; HEADER])?;
    let hashing = Hashing { file, hasher: blake3::Hasher::new(), length: 0 };
    let encoder = zstd::Encoder::new(hashing, LEVEL)?;
    let mut text = BufWriter::with_capacity(64 << 10, encoder);
    serde_json::to_writer(&mut text, value)?;
    let encoder = text.into_inner().map_err(io::IntoInnerError::into_error)?;
    let Hashing { mut file, hasher, length } = encoder.finish()?;
    let header = Header { format: FORMAT, length, checksum: *hasher.finalize().as_bytes() };
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header.bytes())?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(length + HEADER as u64)
}

/// Returns the path under which a file is written before it is renamed.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

struct Header {
    format: u32,
    length: u64,
    checksum: [u8; 32],
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (format, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (checksum, _) = rest.split_first_chunk()?;
        let (format, length) = (u32::from_le_bytes(*format), u64::from_le_bytes(*length));
        (*magic == MAGIC).then_some(Self { format, length, checksum: *checksum })
    }

    fn bytes(&self) -> Vec<u8> {
        let (format, length) = (self.format.to_le_bytes(), self.length.to_le_bytes());
        [&MAGIC[..], &format, &length, &self.checksum].concat()
    }
}

/// Passes bytes on, and computes their hash and length.
struct Hashing<W> {
    file: W,
    hasher: blake3::Hasher,
    length: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
