//! What is said to a shell.

use clap::builder::StyledStr;

/// A word, and what it means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) meaning: String,
}

impl Word {
    pub(super) fn new(text: String, meaning: Option<&StyledStr>) -> Self {
        Self { text, meaning: meaning.map(ToString::to_string).unwrap_or_default() }
    }

    pub(super) fn plain(text: impl ToString) -> Self {
        Self { text: text.to_string(), meaning: String::new() }
    }
}

/// Which paths the shell adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paths {
    /// None.
    None,
    /// Files and directories.
    Files,
    /// Directories.
    Directories,
}

impl Paths {
    /// Returns the name in the output.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "words",
            Self::Files => "files",
            Self::Directories => "directories",
        }
    }
}
