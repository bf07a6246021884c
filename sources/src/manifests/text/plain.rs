//! Plain YAML: what people and `kubectl` nearly always write, read several times faster than all of
//! YAML is.
//!
//! That is ASCII without tabs: maps and lists by indentation, flow collections that begin and end in
//! one line, scalars of one line, and literal blocks. Everything else is refused, and so is whatever
//! may be wrong, such as a key that is there twice: the parser of all of YAML reads such a document,
//! and makes every message. What is read here, it would read with the same result: `yaml` is the
//! specification, and tests compare both.
//!
//! ```text
//!  cursor ─▶ block ─▶ flow ─▶ scalar
//!              └─▶ literal
//! ```

mod block;
mod cursor;
mod flow;
mod literal;
mod scalar;

use std::fmt;

use serde::de::DeserializeOwned;

use cursor::Cursor;

/// How deep collections may be nested here: less than what `yaml` allows.
const DEEPEST: usize = 32;

/// How many values and keys a document may have here: less than what `yaml` allows.
const MOST_NODES: usize = 1 << 21;

/// The document is not plain. Nobody is told why: another parser reads it.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not plain YAML")
    }
}

impl std::error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Reads a document; `None` if it is refused.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    let is_plain = |byte: u8| byte == b'\n' || (b' '..=b'~').contains(&byte);
    if !text.bytes().all(is_plain) {
        return None;
    }
    let mut cursor = Cursor::new(text);
    let value = T::deserialize(block::Block(&mut cursor)).ok()?;
    cursor.is_at_end().then_some(value)
}

#[cfg(test)]
mod tests;
