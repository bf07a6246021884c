//! Whether a state fits, found without a copy of it.

use std::io::{self, Write};

use rulec_compiler::Model;
use rulec_compiler::object::Kind;

/// Returns how many objects there are.
pub(super) fn count(model: &Model) -> usize {
    Kind::ALL.into_iter().map(|kind| model.count(kind)).sum()
}

/// Returns whether the objects alone have this many bytes at the most. Of a state that is too large,
/// no copy is made.
pub(super) fn has_room(model: &Model, bytes: usize) -> bool {
    let mut room = Room(bytes);
    model.objects().all(|sourced| serde_json::to_writer(&mut room, &sourced).is_ok())
}

/// Takes no more bytes than this.
struct Room(usize);

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.0 = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
