//! `rulec watch`: changes as they happen.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;

use crate::cli::watch::{PastOutput, WatchArgs};
use crate::history::change::Line;
use crate::observe::changes::{HEARTBEAT, WATCH};
use crate::observe::telemetry::complain;
use crate::tool::daemon::{Unanswered, follow};
use crate::tool::past;

/// How long a daemon that has ended is waited for: a restart takes less.
const RESTART: Duration = Duration::from_secs(60);

/// The pause between two attempts.
const RETRY: Duration = Duration::from_millis(200);

/// After how many missing heartbeats the daemon counts as one that hangs.
const MISSING: u32 = 4;

/// Prints them until the daemon has ended and does not come back, or the reader is gone.
///
/// # Errors
///
/// If the daemon cannot be asked.
pub fn run(args: &WatchArgs) -> anyhow::Result<ExitCode> {
    args.how.color.apply();
    let socket = args.how.socket.path().context("--socket is empty: name the daemon's socket")?;
    let mut seen: Option<Seen> = None;
    let mut gone: Option<Instant> = None;
    loop {
        let path = match &seen {
            Some(Seen { id, since }) => format!("{WATCH}/{id}/{since}"),
            None => WATCH.to_owned(),
        };
        let followed = follow(socket, &path, HEARTBEAT * MISSING, |line| {
            if gone.take().is_some() {
                complain("the daemon is back");
            }
            tell(args, line, &mut seen)
        });
        match followed {
            Ok(()) => {}
            Err(Unanswered::NoDaemon { .. }) if gone.is_some_and(|at| at.elapsed() < RESTART) => {}
            Err(Unanswered::Failed(error)) if is_closed(&error) => return Ok(ExitCode::SUCCESS),
            // It ended, or was just beginning, while it was asked.
            Err(Unanswered::Failed(error)) if error.downcast_ref::<hyper::Error>().is_some() => {}
            Err(error @ Unanswered::NoDaemon { .. }) => anyhow::bail!("{error}"),
            Err(Unanswered::Failed(error)) => return Err(error),
        }
        let since = *gone.get_or_insert_with(|| {
            complain("the daemon has ended; waiting for the next");
            Instant::now()
        });
        anyhow::ensure!(since.elapsed() < RESTART * 2, "the daemon does not come back");
        thread::sleep(RETRY);
    }
}

/// The last change that was seen, and when the numbers of its history began.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    id: u64,
    since: Timestamp,
}

/// Returns whether the reader has closed the pipe.
fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Prints a line of the daemon, and notes the number of the last change.
fn tell(args: &WatchArgs, line: &[u8], seen: &mut Option<Seen>) -> anyhow::Result<()> {
    let mut line: Line = serde_json::from_slice(line).context("what it says")?;
    match &mut line {
        Line::Heartbeat { newest, since, .. } => {
            let now = Seen { id: *newest, since: *since };
            let before = seen.replace(now);
            if before.is_some_and(|before| before.since != *since) {
                complain("it has another history: its changes have numbers from 1 again");
            }
            return Ok(());
        }
        Line::Lost { .. } => {}
        Line::Change(change) => {
            // A heartbeat comes first.
            if let Some(seen) = seen {
                seen.id = change.id;
            }
            if !past::narrow(change, &args.names) {
                return Ok(());
            }
        }
    }
    let mut out = anstream::stdout().lock();
    match args.how.output {
        PastOutput::Text => text(&mut out, &line)?,
        PastOutput::Json => {
            serde_json::to_writer(&mut out, &line).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}

fn text(out: &mut impl Write, line: &Line) -> io::Result<()> {
    match line {
        Line::Change(change) => past::follow(out, change),
        Line::Lost { changes } => {
            writeln!(out, "{changes} changes are not shown: this reader was too slow")
        }
        Line::Heartbeat { .. } => Ok(()),
    }
}
