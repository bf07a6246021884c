//! `rulec completions`: a script for a shell.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};

/// Prints the script.
///
/// # Errors
///
/// If it cannot be printed.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics if writing fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rulec", &mut script);
    io::stdout().write_all(&script).context("printing the script")?;
    Ok(ExitCode::SUCCESS)
}
