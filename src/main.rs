//! `rulec`: parses the command line, sets up logging, runs one command, and turns its outcome into
//! an exit status.

use std::process::ExitCode;

use clap::Parser;
use rulec::cleanup;
use rulec::cli::{Cli, Command, completions};
use rulec::daemon::run;
use rulec::observe::telemetry;
use rulec::tool::{diff, explain};

fn main() -> ExitCode {
    let Cli { command, log } = Cli::parse();
    let _flushed = telemetry::Flushed;
    let outcome = match command {
        // The configuration file can set how to log, so `run` sets up logging itself.
        Command::Run(args) => run::run(args, &log),
        Command::Diff(args) => telemetry::init(&log.log()).and_then(|()| diff::run(args)),
        Command::Explain(args) => telemetry::init(&log.log()).and_then(|()| explain::run(args)),
        Command::Cleanup(args) => telemetry::init(&log.log()).and_then(|()| cleanup::run(&args)),
        Command::Completions(args) => completions::run(&args),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => fail(&error),
    }
}

/// Reports an error with status 2, as `diff(1)` does: 1 means a difference.
fn fail(error: &anyhow::Error) -> ExitCode {
    telemetry::last_words(&format!("rulec: {error:#}"));
    ExitCode::from(2)
}
