//! Writes the man pages, one for `rulec` and one for each of its commands, into a directory.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use rulec::cli::Cli;

mod page;
mod sections;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: man DIRECTORY")?;
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("making {}", directory.display()))?;
    for (name, text) in page::pages(Cli::command())? {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
