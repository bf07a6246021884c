//! A commit, as the daemon logs it.

use rulec_compiler::Program;

/// A commit that the kernel has acknowledged.
#[derive(Debug)]
pub struct Committed {
    /// The program that the kernel held before; `None` if it was not known from an earlier commit.
    pub before: Option<Program>,
    /// The program that the kernel holds now.
    pub after: Program,
    /// How many operations it took.
    pub operations: usize,
}
