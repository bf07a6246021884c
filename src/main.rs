//! `rulec`: parses the command line, sets up logging, runs one command, and turns its outcome into
//! an exit status.

use std::process::ExitCode;

use rulec::cleanup;
use rulec::cli::{Cli, Command, completions};
use rulec::daemon::run;
use rulec::observe::telemetry;
use rulec::relay;
use rulec::tool::{
    check, complete, diff, explain, history, replay, show, status, top, trace, watch,
};

fn main() -> ExitCode {
    let Cli { command, log, .. } = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(usage) => return refuse(&usage),
    };
    let _flushed = telemetry::Flushed;
    let outcome = match command {
        // The configuration file can set how to log, so `run` sets up logging itself.
        Command::Run(args) => run::run(*args, &log),
        Command::Diff(args) => telemetry::init(&log.log()).and_then(|()| diff::run(args)),
        Command::Explain(args) => telemetry::init(&log.log()).and_then(|()| explain::run(args)),
        Command::Check(args) => telemetry::init(&log.log()).and_then(|()| check::run(&args)),
        Command::Show(args) => telemetry::init(&log.log()).and_then(|()| show::run(&args)),
        Command::Status(args) => telemetry::init(&log.log()).and_then(|()| status::run(&args)),
        Command::Trace(args) => telemetry::init(&log.log()).and_then(|()| trace::run(&args)),
        Command::Top(args) => telemetry::init(&log.log()).and_then(|()| top::run(&args)),
        Command::Watch(args) => telemetry::init(&log.log()).and_then(|()| watch::run(&args)),
        Command::History(args) => telemetry::init(&log.log()).and_then(|()| history::run(&args)),
        Command::Replay(args) => telemetry::init(&log.log()).and_then(|()| replay::run(&args)),
        Command::Relay(args) => telemetry::init(&log.log()).and_then(|()| relay::run(&args)),
        Command::Cleanup(args) => telemetry::init(&log.log()).and_then(|()| cleanup::run(&args)),
        Command::Completions(args) => completions::run(&args),
        Command::Complete(args) => complete::run(&args),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => fail(&error),
    }
}

/// Cannot run. To `diff`, as to `diff(1)`, 1 means a difference, and 2 that something could not be
/// compared.
const CANNOT_RUN: u8 = 3;

/// Reports a wrong command line, or prints the help that was asked for.
fn refuse(usage: &clap::Error) -> ExitCode {
    // Nothing can be said if the terminal is gone.
    let _ = usage.print();
    if usage.use_stderr() { ExitCode::from(CANNOT_RUN) } else { ExitCode::SUCCESS }
}

/// Reports an error.
fn fail(error: &anyhow::Error) -> ExitCode {
    telemetry::last_words(&format!("rulec: {error:#}"));
    ExitCode::from(CANNOT_RUN)
}
