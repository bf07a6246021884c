//! Recordings: what the sources have sent, with times, in a file that can be replayed.
//!
//! ```text
//!  Update ─▶ Entry ─▶ Recorder ─▶ FILE.old, FILE ─▶ Reader ─▶ Entry ─▶ ReplaySource ─▶ Update
//!                       └ Mask                        └─────▶ Moment (the state at a time)
//! ```
//!
//! - `entry` is what a recording says, `frame` how it is in the file, and `reader` reads it.
//! - `recorder` writes it, within a limit: a full file is followed by one that begins with the whole
//!   state, and only the last two of them stay.
//! - `moment` adds entries up to the state at a time, and `replay` is the source that sends them.
//! - `strange` checks the names of a recording that anybody may have written.
//! - `mask` replaces names and addresses by pseudonyms.
//!
//! No file is trusted: what is torn or damaged is left out up to the next whole state, and named.

mod entry;
mod frame;
mod mask;
mod moment;
mod random;
mod reader;
mod recorder;
mod replay;
mod strange;

#[cfg(test)]
mod tests;

pub use entry::{
    Entry, Header, Held, Recorded, RecordedChange, Said, Status, What, Whole, WholeReason,
};
pub use frame::RecordingError;
pub use mask::{Mask, MaskKey};
pub use moment::Moment;
pub use reader::{LeftOut, Reader, overlap};
pub use recorder::{Begin, Recorder, write_whole};
pub use replay::{ReplayOptions, ReplaySource, Speed};

/// Reads the entries of a recording as far as possible, for `fuzzing`: of a file, or as JSON, since no
/// mutation of a file has the right checksum.
#[cfg(feature = "fuzzing")]
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(rulec_compiler::Settings, Vec<Entry>)> {
    if let Ok(entries) = serde_json::from_slice(bytes) {
        return Some((rulec_compiler::Settings::new("na".into()), entries));
    }
    let mut reader = Reader::of_bytes(bytes).ok()?;
    let mut entries = Vec::new();
    while let Ok(Some(entry)) = reader.read() {
        entries.push(entry);
    }
    Some((reader.header().settings.clone(), entries))
}
