//! The commands that only look: `diff` and `explain`. `input` is a state as the command line names
//! it.

pub mod diff;
pub mod explain;
mod input;
