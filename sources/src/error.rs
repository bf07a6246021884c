//! Why a source stopped, or could not start.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// The error that ends a source. Input that cannot be used is a [`Problem`](crate::Problem), never
/// this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The path of a one-shot read cannot be read at all.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// The path as it was given.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot report the addresses of its interfaces.
    #[error("the addresses of the interfaces cannot be read")]
    Interfaces(#[source] io::Error),
    /// The thread of the source could not be started.
    #[error("the thread of the source cannot be started")]
    Thread(#[source] io::Error),
    /// The thread of the source ended although it was not asked to. This is a bug.
    #[error("the thread of the source ended unexpectedly")]
    Ended,
    /// A recording that is replayed cannot be read.
    #[error("the recording cannot be read")]
    Recording(#[source] Box<dyn Error + Send + Sync>),
    /// The thread that receives file events ended although it was not asked to.
    #[error("the thread that receives file events ended unexpectedly")]
    Deaf,
}

/// Formats an error with its causes, each only once: libraries differ in whether they repeat the
/// cause.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            let _ = write!(text, ": {more}");
        }
        cause = error.source();
    }
    printable(&text)
}

/// Shortens a text and replaces its control characters, so that it cannot break out of a log line.
pub(crate) fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 500;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CHARS).collect()
}
