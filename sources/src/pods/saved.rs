//! The Pods that a runner had, for the next start.
//!
//! They stand in for one that does not answer in time, and stay for a while if it has just
//! begun anew and does not know them yet; as long as the machine has not been started anew: a new
//! start gives each Pod another address.

use std::fs;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Runner;
use super::told::{Told, ToldPod};
use crate::state::{Saver, StateDir};

/// The kernel's number of this start of the machine.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    /// Where the runner was found.
    from: String,
    boot: String,
    /// When it was last known to be current.
    at: Timestamp,
    pods: Vec<ToldPod>,
}

/// The state for the next start, and the state that an earlier run has left.
pub(super) struct Memory {
    from: String,
    boot: String,
    saver: Option<Saver<Saved>>,
    left: Option<Saved>,
}

impl Memory {
    /// Reads what an earlier run has left. State that cannot be used is reported and ignored.
    pub(super) fn load(state: &StateDir, runner: Runner, from: &str) -> Self {
        let boot = fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned();
        let name = format!("{}.state", runner.name);
        let file = state.path().join(&name);
        let ignored = |why: &str| info!(file = %file.display(), "ignored: state of {why}");
        let left = match state.load::<Saved>(&name) {
            Ok(Some(saved)) if saved.from != from => {
                ignored("another place");
                None
            }
            Ok(Some(saved)) if saved.boot != boot => {
                ignored("before the last start of this machine");
                None
            }
            Ok(saved) => saved,
            Err(error) => {
                warn!("starting without the state of the last run: {error}");
                None
            }
        };
        let saver = state.saver(&name);
        let saver = saver.inspect_err(|error| warn!(%error, "no state saved for the next start"));
        Self { from: from.to_owned(), boot, saver: saver.ok(), left }
    }

    /// Takes what an earlier run has left, and when that was current.
    pub(super) fn take(&mut self) -> Option<(Told, Timestamp)> {
        let Saved { at, pods, .. } = self.left.take()?;
        Some((pods.into_iter().map(|told| (told.pod.key.clone(), told)).collect(), at))
    }

    /// Saves the Pods: soon if they have changed, and otherwise at the end.
    pub(super) fn save(&self, pods: &Told, is_news: bool) {
        let Some(saver) = &self.saver else { return };
        let (from, boot) = (self.from.clone(), self.boot.clone());
        let pods = pods.values().cloned().collect();
        let saved = Saved { from, boot, at: Timestamp::now(), pods };
        if is_news { saver.save(saved) } else { saver.keep(saved) }
    }
}
