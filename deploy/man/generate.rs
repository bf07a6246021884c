//! Writes the man pages, one for `rulec` and one for each of its commands, into a directory.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use rulec::cli::Cli;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: man DIRECTORY")?;
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("making {}", directory.display()))?;
    // Without a page for the subcommand `help`.
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, &directory)
        .with_context(|| format!("writing into {}", directory.display()))
}
