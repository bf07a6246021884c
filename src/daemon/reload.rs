//! Notices that the meaning of the configuration file has changed, and restarts the daemon with it:
//! on its own, and at once on SIGHUP.
//!
//! The process replaces itself, under the same process id. A start reads what the kernel holds and
//! writes the difference, so a restart *is* how a changed setting is applied; there is no second
//! way that could behave differently.

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
use crate::observe::metrics::Metrics;
use crate::observe::telemetry;
use crate::setup;

/// How often the file is read. It is small, and a mounted ConfigMap changes when a link far from it
/// is swapped, so reading is both cheap and reliable.
const PERIOD: Duration = Duration::from_secs(2);

/// Waits until the file means another configuration than the current one. A file that cannot be
/// used is reported once, and changes nothing.
///
/// Every SIGHUP is answered with a log line, and `asked` receives a message unless the daemon
/// restarts.
pub async fn changed(
    run: &RunArgs,
    log: &LogArgs,
    config: &Config,
    metrics: &Metrics,
    mut hangups: unix::Signal,
    asked: mpsc::UnboundedSender<()>,
) {
    // The first comparison is needed, too: the file may have changed since it was loaded.
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
                tracing::error!("keeping the current configuration: {error:#}");
                false
            }
        };
        if is_asked {
            tracing::info!(
                "reload requested: keeping the configuration, reading the manifests again"
            );
            // The receiver may be gone, if the process is ending.
            let _ = asked.send(());
        } else if is_new {
            tracing::info!("the configuration file changed, but its meaning did not");
        }
    }
}

/// The result of comparing the file with the current configuration.
enum Comparison {
    /// The file cannot be read, or has not changed since the last comparison.
    Unread,
    Same {
        /// Whether the content of the file has changed.
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
        // A missing file is about to be replaced.
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

/// The signals that would end a process that does not handle them yet.
fn deadly() -> SigSet {
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1])
}

/// Delivers signals that have waited for this process to handle them.
///
/// # Errors
///
/// None are known.
pub fn listen_to_signals() -> anyhow::Result<()> {
    deadly().thread_unblock().context("unblocking signals")
}

/// Replaces this process by a new one of the same program with the same arguments.
///
/// # Errors
///
/// If the program does not exist any more; otherwise it does not return.
pub fn start_over() -> anyhow::Result<Infallible> {
    let path = std::env::current_exe().context("finding this program")?;
    // After an upgrade the path may be gone, but the kernel still has the file.
    let program = if path.exists() { path } else { "/proc/self/exe".into() };
    tracing::info!("the configuration has changed: restarting");
    let mut args = std::env::args_os();
    let mut command = Command::new(&program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    // The old handlers end with the old program, so signals wait until the new one handles them.
    deadly().thread_block().context("blocking signals")?;
    telemetry::flush();
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("restarting {}", program.display()))
}
