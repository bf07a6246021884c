//! How entries are in a file.
//!
//! ```text
//!  file:   magic 8 │ format 4 │ frame (Header) │ frame (entries) │ frame (entries) …
//!  frame:  length 4 │ blake3 16 │ zstd(JSON)
//! ```
//!
//! Numbers are little-endian; length and checksum are those of the compressed bytes. Each frame
//! stands for itself, so that a writer that was killed leaves all frames but its last whole. The
//! content is JSON for the reason that it is in the state files: it consists of enums and optional
//! fields that grow from version to version.

use std::io::{self, BufReader, BufWriter, Read};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) const MAGIC: [u8; 8] = *b"rulecrec";

/// Raised when files of the format before can no longer be read with their meaning.
pub(super) const FORMAT: u32 = 1;

/// The length of what comes before the first frame.
pub(super) const HEAD: usize = 8 + 4;

/// The length of what comes before the content of a frame.
pub(super) const FRAME: usize = 4 + CHECKSUM;

/// Half of the checksum of a state file: it detects accidents, not forgery.
const CHECKSUM: usize = 16;

/// Higher levels save a tenth of the size for several times the work.
const LEVEL: i32 = 1;

/// How many times as long as its bytes the text of a frame may be. Compressed blanks are 30,000 times
/// as long, and would be read for minutes.
const MOST_TIMES: u64 = 1000;

/// The length that the text of a frame may always have. A file may have many frames.
const LONGEST_TEXT: u64 = 64 << 10;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is no recording.
    #[error("{}: is not a recording of rulec", path.display())]
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
    /// It ends before its first whole state.
    #[error("{}: has nothing that can be used: {reason}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// How that was detected.
        reason: String,
    },
    /// A frame is undamaged, but does not have the expected content.
    #[error("{}: the part at byte {at} cannot be decoded: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        at: u64,
        /// The error of the decoder.
        reason: String,
    },
}

impl RecordingError {
    /// Returns what is wrong, without the name of the file.
    pub(super) fn reason(&self) -> String {
        let (Self::Io { path, .. }
        | Self::Foreign { path }
        | Self::Format { path, .. }
        | Self::Empty { path, .. }
        | Self::Unreadable { path, .. }) = self;
        let text = self.to_string();
        let start = format!("{}: ", path.display());
        text.strip_prefix(&start).map(ToOwned::to_owned).unwrap_or(text)
    }
}

/// Returns what comes before the first frame.
pub(super) fn head() -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..].copy_from_slice(&FORMAT.to_le_bytes());
    head
}

/// Returns a frame with this content.
pub(super) fn frame(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let encoder = zstd::Encoder::new(vec![0; FRAME], LEVEL)?;
    let mut text = BufWriter::with_capacity(64 << 10, encoder);
    serde_json::to_writer(&mut text, value)?;
    let encoder = text.into_inner().map_err(io::IntoInnerError::into_error)?;
    let mut frame = encoder.finish()?;
    let content = frame.get(FRAME..).unwrap_or_default();
    let length = u32::try_from(content.len())
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "the state is too large"))?;
    let checksum = checksum(content);
    if let Some((head, _)) = frame.split_first_chunk_mut::<FRAME>() {
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&checksum);
    }
    Ok(frame)
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    let mut half = [0; CHECKSUM];
    half.copy_from_slice(&blake3::hash(content).as_bytes()[..CHECKSUM]);
    half
}

/// What was found where a frame begins.
pub(super) enum Found {
    /// The compressed content of a frame.
    Frame(Vec<u8>),
    /// Nothing: the file ends.
    End,
    /// No whole frame, with the reason.
    Torn(String),
}

/// Reads the next frame.
///
/// # Errors
///
/// If the file cannot be read.
pub(super) fn next(file: &mut impl Read) -> io::Result<Found> {
    let mut head = Vec::with_capacity(FRAME);
    file.take(FRAME as u64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(Found::End);
    }
    let Some((length, expected)) = head.split_first_chunk::<4>() else {
        return Ok(Found::Torn(format!("only {} bytes of it are there", head.len())));
    };
    let length = u64::from(u32::from_le_bytes(*length));
    let mut content = Vec::new();
    file.take(length).read_to_end(&mut content)?;
    if expected.len() < CHECKSUM || (content.len() as u64) < length {
        let there = head.len() + content.len();
        return Ok(Found::Torn(format!("only {there} bytes of it are there")));
    }
    if checksum(&content) != *expected {
        return Ok(Found::Torn("the checksum does not match".to_owned()));
    }
    Ok(Found::Frame(content))
}

/// Decodes the content of a frame.
///
/// # Errors
///
/// Why it cannot be.
pub(super) fn decode<T: DeserializeOwned>(content: &[u8]) -> Result<T, String> {
    let decoder = zstd::Decoder::with_buffer(content).map_err(|error| error.to_string())?;
    let most = LONGEST_TEXT.saturating_add(MOST_TIMES.saturating_mul(content.len() as u64));
    let mut text = decoder.take(most);
    let value = serde_json::from_reader(BufReader::with_capacity(8 << 10, &mut text));
    value.map_err(|error| match text.limit() {
        0 => format!("its content is longer than {most} bytes"),
        _ => error.to_string(),
    })
}
