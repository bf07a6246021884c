//! `rulec top`: which Services get new connections, and which endpoints.
//!
//! `rates` makes rates of two readings. They are printed, or drawn again and again: `live` is the
//! terminal, and `screen` what it shows.

mod live;
mod rates;
mod screen;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::cli::top::{TopArgs, TopOutput};
use crate::observe::traffic::{TRAFFIC, TrafficReport};
use crate::tool::daemon::{Unanswered, ask};
use crate::tool::show::table::Table;

use rates::{PortRate, Rates};

/// Shows them, once or until it is told to end.
///
/// # Errors
///
/// If the daemon cannot be asked, or does not count.
pub fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    let socket = args.socket.path().context("--socket is empty: name the daemon's socket")?;
    let first = read(socket)?;
    let shown = match args.output {
        TopOutput::Text if args.once || !io::stdout().is_terminal() => {
            let rates = next(socket, args.interval, &first)?.1;
            text(&mut anstream::stdout().lock(), &rates)
        }
        TopOutput::Text => live::show(socket, args.interval, first),
        TopOutput::Json => json(socket, args, first)?,
    };
    match shown {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS).context("writing to the terminal"),
    }
}

/// Asks the daemon.
fn read(socket: &Path) -> anyhow::Result<TrafficReport> {
    ask(socket, TRAFFIC).map_err(|error| match error {
        error @ Unanswered::NoDaemon { .. } => error.into(),
        Unanswered::Failed(error) => error,
    })
}

/// Waits for the next reading, and returns it with the rates since the one before.
fn next(
    socket: &Path,
    interval: Duration,
    last: &TrafficReport,
) -> anyhow::Result<(TrafficReport, Rates)> {
    thread::sleep(interval);
    let report = read(socket)?;
    let rates = Rates::between(last, &report);
    Ok((report, rates))
}

fn json(socket: &Path, args: &TopArgs, mut last: TrafficReport) -> anyhow::Result<io::Result<()>> {
    loop {
        let (report, rates) = next(socket, args.interval, &last)?;
        last = report;
        let mut out = io::stdout().lock();
        let written = serde_json::to_writer(&mut out, &rates).map_err(io::Error::from);
        let written = written.and_then(|()| writeln!(out)).and_then(|()| out.flush());
        if args.once || written.is_err() {
            return Ok(written);
        }
    }
}

/// Writes a table of all Service ports, each with its endpoints.
fn text(out: &mut impl Write, rates: &Rates) -> io::Result<()> {
    let mut table = Table::new(&["SERVICE", "CONN/S", "TOTAL", "ENDPOINTS"]);
    for port in &rates.services {
        let PortRate { rate, connections, endpoints, .. } = port;
        let endpoints = rates.has_endpoints().then(|| endpoints.len().to_string());
        let endpoints = endpoints.unwrap_or_else(|| "-".to_owned());
        table.push([port.name(), rates::shown(*rate), connections.to_string(), endpoints]);
        for endpoint in &port.endpoints {
            let rate = rates::shown(endpoint.rate);
            let name = format!("  {}", endpoint.endpoint);
            table.push([name, rate, endpoint.connections.to_string(), "-".to_owned()]);
        }
    }
    table.write(out, "")?;
    out.flush()
}
