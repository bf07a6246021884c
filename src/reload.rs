//! Noticing that the configuration file says something else, and starting over with it: by itself, and at
//! once when asked (SIGHUP).
//!
//! The process replaces itself by itself, under the same process id. A start reads what the kernel
//! holds and writes the difference, so starting over *is* how a changed setting is applied; there is
//! no second way that could differ from it.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix;
use tokio::sync::mpsc;

use crate::cli::{LogArgs, RunArgs};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::{setup, telemetry};

/// How often the file is read. It is small, and a mounted ConfigMap changes by a swap of links far
/// from it, so reading is both cheap and certain.
const PERIOD: Duration = Duration::from_secs(2);

/// Waits until the file means another configuration than the one in force. One that cannot be used is
/// reported once, and changes nothing.
///
/// Whoever asks with a signal is always answered, and `asked` hears of it unless that is the end.
pub async fn changed(
    run: &RunArgs,
    log: &LogArgs,
    config: &Config,
    metrics: &Metrics,
    mut hangups: unix::Signal,
    asked: mpsc::UnboundedSender<()>,
) {
    // The first look compares, too: the file may have changed since it was loaded.
    let mut seen: Option<Vec<u8>> = None;
    let mut pause = tokio::time::interval(PERIOD);
    loop {
        let is_asked = tokio::select! {
            biased;
            _ = hangups.recv() => true,
            _ = pause.tick(), if run.config.is_some() => false,
        };
        let is_new = match compare(run, log, config, &mut seen, is_asked) {
            Ok(Comparison::Other) => return,
            Ok(Comparison::Unread) => false,
            Ok(Comparison::Same { is_new }) => {
                metrics.own.config_refused(false);
                is_new
            }
            Err(error) => {
                metrics.own.config_refused(true);
                tracing::error!("the configuration in force stays: {error:#}");
                false
            }
        };
        if is_asked {
            tracing::info!(
                "asked to reload: the configuration stays, and the manifests are read anew"
            );
            // Who has asked for the last time may be ending.
            let _ = asked.send(());
        } else if is_new {
            tracing::info!("the configuration file changed, and means the same");
        }
    }
}

/// What the file says, compared with what is in force.
enum Comparison {
    /// Nothing that has not been looked at before.
    Unread,
    Same {
        /// Whether the file was another one before.
        is_new: bool,
    },
    Other,
}

fn compare(
    run: &RunArgs,
    log: &LogArgs,
    config: &Config,
    seen: &mut Option<Vec<u8>>,
    is_asked: bool,
) -> anyhow::Result<Comparison> {
    let Some(path) = &run.config else { return Ok(Comparison::Unread) };
    let bytes = match setup::read(path) {
        Ok(bytes) => bytes,
        Err(error) if is_asked => return Err(error),
        // A file that is away for a moment is being replaced.
        Err(_) => return Ok(Comparison::Unread),
    };
    if seen.as_ref() == Some(&bytes) && !is_asked {
        return Ok(Comparison::Unread);
    }
    let is_new = seen.replace(bytes).is_some();
    let loaded = setup::load(run, log)?;
    setup::check(&loaded.config)?;
    if loaded.config == *config { Ok(Comparison::Same { is_new }) } else { Ok(Comparison::Other) }
}

/// The signals that would end a process which has not begun to listen to them.
fn deadly() -> SigSet {
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1])
}

/// Lets signals come that have waited for this process to listen to them.
///
/// # Errors
///
/// None that is known of.
pub fn listen_to_signals() -> anyhow::Result<()> {
    deadly().thread_unblock().context("unblocking signals")
}

/// Becomes a new process of the same program with the same arguments.
///
/// # Errors
///
/// If there is no such program any more; otherwise it does not return.
pub fn start_over() -> anyhow::Result<Infallible> {
    let path = std::env::current_exe().context("finding this program")?;
    // An upgrade has taken its name away: the kernel still has the file.
    let program = if path.exists() { path } else { "/proc/self/exe".into() };
    tracing::info!("the configuration has changed: starting over");
    let mut args = std::env::args_os();
    let mut command = Command::new(&program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    // They wait until the new process listens: the old one's handlers go with it.
    deadly().thread_block().context("blocking signals")?;
    telemetry::flush();
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("starting {} over", program.display()))
}
