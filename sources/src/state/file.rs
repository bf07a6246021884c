//! One file: a header, and JSON compressed by zstd.
//!
//! ```text
//!  magic 8 │ format 4 │ length 8 │ blake3 32 │ zstd(JSON)
//! ```
//!
//! Numbers are little-endian. `length` and the checksum are those of the bytes after the header.
//! The format is JSON because the saved data consists of enums and optional fields that grow from
//! version to version, and because a person can read it: `tail -c +53 api.state | zstd -d`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::make;
use crate::replace::replace_file;

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
    decode(path, &payload).map(Some)
}

/// Decodes the bytes after the header.
pub(super) fn decode<T: DeserializeOwned>(path: &Path, payload: &[u8]) -> Result<T, StateError> {
    let unreadable = |reason: String| StateError::Unreadable { path: path.to_owned(), reason };
    let decoder = zstd::Decoder::with_buffer(payload);
    let decoder = decoder.map_err(|error| unreadable(error.to_string()))?;
    let most = LONGEST_TEXT.saturating_add(MOST_TIMES.saturating_mul(payload.len() as u64));
    let mut text = decoder.take(most);
    // It is decoded as a stream: the text of a large cluster is 20 times the size of the file.
    let value = serde_json::from_reader(BufReader::with_capacity(64 << 10, &mut text));
    value.map_err(|error| match text.limit() {
        0 => unreadable(format!("its content is longer than {most} bytes")),
        _ => unreadable(error.to_string()),
    })
}

/// Writes a file so that a reader sees the old one or the new one, also after a crash. Returns its
/// length.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<u64> {
    make(path.parent().unwrap_or(Path::new(".")))?;
    replace_file(path, 0o600, |file| write_new(file, value))
}

fn write_new<T: Serialize>(file: &mut File, value: &T) -> io::Result<u64> {
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
    file.flush()?;
    Ok(length + HEADER as u64)
}

/// The most that a text may be longer than its file: our own are 20 times as long. Compressed
/// blanks are 30,000 times as long, and would be read for minutes.
const MOST_TIMES: u64 = 1000;

/// The length that a text may always have.
const LONGEST_TEXT: u64 = 1 << 20;

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
