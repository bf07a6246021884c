//! Why a source stopped, or could not start.

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
    /// The thread that receives file events ended although it was not asked to.
    #[error("the thread that receives file events ended unexpectedly")]
    Deaf,
}
