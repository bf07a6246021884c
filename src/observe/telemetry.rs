//! Logging: to stderr, as text or JSON.
//!
//! The commands write directly, and wait for the reader. The daemon must not: it leaves its lines
//! to a thread (`queue`), and limits repetition (`limited`). At its end it waits for the remaining
//! lines, but not for ever.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write, stderr};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::LogFormat;
use crate::config::Log;
use crate::threads::Vital;

mod limited;
mod queue;

use limited::{Limited, Style};
use queue::Queue;

/// The maximum of bytes of lines that wait to be read.
const QUEUE_BYTES: usize = 1 << 20;

/// How long the process waits at its end for its lines to be read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The lines of this process, if it is a daemon.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Sets up logging for a command.
///
/// # Errors
///
/// If the filter cannot be parsed.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(log)?).with_writer(stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(has_colour()).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Sets up logging for a daemon, which never waits for it. The writing thread is vital.
///
/// # Errors
///
/// If the filter cannot be parsed, or the thread cannot be started.
pub fn init_daemon(log: &Log) -> anyhow::Result<Vital> {
    let queue = Arc::clone(QUEUE.get_or_init(|| Arc::new(Queue::new(QUEUE_BYTES))));
    let filter = filter(log)?;
    let colour = has_colour();
    let style = match log.format {
        LogFormat::Text => Style::Text,
        LogFormat::Json => Style::Json,
    };
    let limits = limited::limits();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines(queue.clone()));
    let limited = (Arc::clone(&limits), Arc::clone(&queue));
    match log.format {
        LogFormat::Text => {
            // Lines are formatted apart from where they are written, so the formatter has to be
            // told of the colour.
            let builder = builder.with_ansi(colour).with_target(false);
            let with_colour = move |format: tracing_subscriber::fmt::format::Format| {
                Limited::new(format.with_ansi(colour).with_target(false), style, limited)
            };
            builder.map_event_format(with_colour).init();
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true);
            builder.map_event_format(move |format| Limited::new(format, style, limited)).init();
        }
    }
    say_panics();
    // A separate descriptor: other code that writes to stderr must not wait for this thread.
    let mut out = File::from(stderr().as_fd().try_clone_to_owned().context("stderr")?);
    Vital::start("rulec-log", move || {
        let tell = |lines: u64| {
            tracing::warn!(lines, "log lines were lost: the reader was too slow");
        };
        let idly = || limited::say_what_is_due(&limits, &queue, style);
        queue.write_to(&mut out, tell, idly);
    })
}

/// Returns how many lines were lost because the reader was too slow.
pub fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lost())
}

/// Waits for a limited time until all lines are written.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH_TIMEOUT);
    }
}

/// Flushes when it is dropped.
#[derive(Debug)]
pub struct Flushed;

impl Drop for Flushed {
    fn drop(&mut self) {
        flush();
    }
}

/// Writes a line of a tool to stderr. Nothing can be said if that is gone or full, and what the tool
/// has found counts all the same.
pub fn complain(line: impl fmt::Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Writes a last line to stderr. In a daemon, it waits no longer than for the other lines.
pub fn last_words(line: &str) {
    let Some(queue) = QUEUE.get() else {
        complain(line);
        return;
    };
    if queue.flush(FLUSH_TIMEOUT) {
        // The queue's thread may be what has died. The reader was there just now, but may go away.
        let line = format!("{line}\n");
        let said = Vital::start("rulec-last-words", move || {
            let _ = stderr().write_all(line.as_bytes());
        });
        if let Ok(mut said) = said {
            said.wait(FLUSH_TIMEOUT);
        }
    }
}

fn filter(log: &Log) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&log.level).with_context(|| format!("--log-level {:?}", log.level))
}

fn has_colour() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Logs a panic as an ordinary line: the default hook would wait for the reader of stderr.
fn say_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let message = panic.payload_as_str().unwrap_or("no message");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!(thread, at, "panicked: {message}\n{backtrace}");
        } else {
            tracing::error!(thread, at, "panicked: {message}");
        }
    }));
}

/// Where formatted lines are written to.
#[derive(Clone, Debug)]
struct Lines(Arc<Queue>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
