//! Waits that are not broken off.

use std::io::{self, ErrorKind};

/// Waits again after an interruption. The kernel does not restart a read with a time limit, even if
/// no signal was handled (signal(7)).
///
/// # Errors
///
/// Those of the wait.
pub fn unbroken<T>(mut wait: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
