//! `rulec completions`: a script for a shell.
//!
//! Those for bash, zsh and fish ask `rulec complete` at each press of the key, so that they also know
//! names and never disagree with the program. For other shells there are lists of the options.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, CompletionsArgs};

/// The scripts that ask.
const ASKING: [(Shell, &str); 3] = [
    (Shell::Bash, include_str!("completions/rulec.bash")),
    (Shell::Zsh, include_str!("completions/_rulec")),
    (Shell::Fish, include_str!("completions/rulec.fish")),
];

/// Prints the script.
///
/// # Errors
///
/// If it cannot be printed.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let asking = ASKING.into_iter().find(|(shell, _)| *shell == args.shell);
    let script = asking.map_or_else(|| listed(args.shell), |(_, text)| text.as_bytes().to_vec());
    io::stdout().write_all(&script).context("printing the script")?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the script of clap.
fn listed(shell: Shell) -> Vec<u8> {
    // Into memory first: the generator panics if writing fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rulec", &mut script);
    script
}
