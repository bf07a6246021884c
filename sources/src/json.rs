//! JSON texts: one document, or several one after the other as `kubectl` prints them.

use crate::decode::line_of;
use crate::field::Field;
use crate::manifest::Document;
use crate::yaml::{Documents, Fault, Parsed};

/// The documents of a JSON file. Nothing can be read after a fault, so it is the last.
pub(crate) fn documents(text: &str) -> Documents<'_> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Field<Box<Document>>>();
    let mut line = 1;
    let mut failed = false;
    Box::new(std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let before = stream.byte_offset();
        let next = stream.next()?;
        let piece = text.get(before..stream.byte_offset()).unwrap_or_default();
        let first = line;
        line += line_of(piece.as_bytes()) - 1;
        Some(match next {
            Ok(field) => Ok(Parsed { text: piece, line: first, field }),
            Err(error) => {
                failed = true;
                Err(fault(&error))
            }
        })
    }))
}

fn fault(error: &serde_json::Error) -> Fault {
    let text = error.to_string();
    // The place is said in front, once, and in the same way for both formats.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = text.strip_suffix(&place).unwrap_or(&text);
    Fault {
        line: Some(error.line() as u64),
        column: Some(error.column() as u64),
        message: format!("not JSON: {message}"),
    }
}
