//! `rulec`: parse, set up logging, run one command, turn its outcome into an exit status.

use std::process::ExitCode;

use clap::Parser;
use rulec::cli::{Cli, Command};
use rulec::{cleanup, diff, run, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::init(&cli.log.log()) {
        return fail(&error);
    }
    let outcome = match cli.command {
        Command::Run(args) => run::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Cleanup => cleanup::run(),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => fail(&error),
    }
}

/// Trouble is status 2, as with `diff(1)`: 1 means a difference.
fn fail(error: &anyhow::Error) -> ExitCode {
    anstream::eprintln!("rulec: {error:#}");
    ExitCode::from(2)
}
