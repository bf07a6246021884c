//! `rulec complete`, which the scripts of `rulec completions` run at each press of the key: what can
//! stand at the end of a command line.
//!
//! ```text
//!  words ──▶ line: what is wanted there ──▶ values: what there is ◀── names: of the daemon
//! ```
//!
//! The first line of the output says whether the shell adds `files`, `directories` or nothing
//! (`words`). Each other line is a word and, after a tab, what it means. Whatever fails, there are
//! fewer words, and no message: it would be written into the command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::{Cli, CompleteArgs};
use line::{Line, Wanted};
use word::{Paths, Word};

mod line;
mod names;
mod values;
mod word;

/// Prints what can stand in the place of the last word.
///
/// # Errors
///
/// If it cannot be printed.
pub fn run(args: &CompleteArgs) -> anyhow::Result<ExitCode> {
    // Nothing is known that begins with something else than text.
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    let words: Vec<String> = args.words.iter().map(text).collect();
    let mut out = Vec::new();
    let (paths, found) = complete(&words);
    writeln!(out, "{}", paths.name())?;
    for Word { text, meaning } in found {
        // Both end at the end of their line.
        let meaning = meaning.lines().next().unwrap_or_default().replace('\t', " ");
        writeln!(out, "{text}\t{meaning}")?;
    }
    io::stdout().write_all(&out).context("printing what can follow")?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the words that can stand in the place of the last one, and which paths can. Of
/// `--option=value`, they stand in the place of the value.
fn complete(words: &[String]) -> (Paths, Vec<Word>) {
    let mut command = Cli::command();
    command.build();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(it, rest)| (it.as_str(), rest));
    let line = Line::read(&command, before);
    match line.wanted(last) {
        Wanted::Option => (Paths::None, line.options(last)),
        Wanted::Command => (Paths::None, line.commands(last)),
        Wanted::Value(arg, typed) => values::of(arg, typed, &line),
        Wanted::Nothing => (Paths::None, Vec::new()),
    }
}

#[cfg(test)]
mod tests;
