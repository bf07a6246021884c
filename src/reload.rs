//! Noticing that the configuration file says something else, and starting over with it.
//!
//! The process replaces itself by itself, under the same process id. A start reads what the kernel
//! holds and writes the difference, so starting over *is* how a changed setting is applied; there is
//! no second way that could differ from it.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::cli::{LogArgs, RunArgs};
use crate::config::Config;
use crate::setup;

/// How often the file is read. It is small, and a mounted ConfigMap changes by a swap of links far
/// from it, so reading is both cheap and certain.
const PERIOD: Duration = Duration::from_secs(2);

/// Waits until the file means another configuration than the one in force. One that cannot be used is
/// reported once, and changes nothing.
pub async fn changed(run: &RunArgs, log: &LogArgs, config: &Config) {
    let Some(path) = &run.config else { return std::future::pending().await };
    // The first look compares, too: the file may have changed since it was loaded.
    let mut seen: Option<Vec<u8>> = None;
    let mut pause = tokio::time::interval(PERIOD);
    loop {
        pause.tick().await;
        // A file that is away for a moment is being replaced.
        let Ok(bytes) = setup::read(path) else { continue };
        if seen.as_ref() == Some(&bytes) {
            continue;
        }
        let is_first = seen.replace(bytes).is_none();
        let loaded = setup::load(run, log).and_then(|loaded| {
            setup::check(&loaded.config)?;
            Ok(loaded)
        });
        match loaded {
            Ok(loaded) if loaded.config == *config => {
                if !is_first {
                    tracing::info!("the configuration file changed, and means the same");
                }
            }
            Ok(_) => return,
            Err(error) => {
                tracing::error!("the configuration in force stays: {error:#}");
            }
        }
    }
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
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("starting {} over", program.display()))
}
