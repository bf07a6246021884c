//! When to look at the cache.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use notify::RecommendedWatcher;
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::{Cache, CniCache};
use crate::error::SourceError;
use crate::manifests::fill::Found;
use crate::manifests::outlet::Outlet;
use crate::manifests::signal::{Signal, Woken};
use crate::manifests::watch::{StopOnDrop, Watched, later, watch_anew, watcher};

/// How often to look while there are no events, or a file is being written to.
const SOON: Duration = Duration::from_secs(1);

/// How long to wait for more events, since each Pod has several files.
const SETTLE: Duration = Duration::from_millis(10);

/// Follows the cache.
#[derive(Debug)]
pub(crate) struct CniSource {
    cache: Cache,
    options: CniCache,
    rescan: Duration,
    signal: Arc<Signal>,
}

impl CniSource {
    /// Reads nothing yet. The directory need not exist.
    pub(crate) fn new(options: CniCache, rescan: Duration) -> Self {
        let cache = Cache::new(options.directory.clone());
        Self { cache, options, rescan, signal: Arc::default() }
    }

    /// Returns the signal that wakes it.
    pub(crate) fn signal(&self) -> Arc<Signal> {
        self.signal.clone()
    }

    pub(crate) fn options(&self) -> &CniCache {
        &self.options
    }

    /// Looks once.
    pub(super) fn look(options: &CniCache) -> Found {
        Self::new(options.clone(), Duration::ZERO).first()
    }

    /// Looks for the first time: the first list of Pods must have their addresses.
    pub(crate) fn first(&mut self) -> Found {
        self.cache.look(SystemTime::now(), boot()).found
    }

    /// Tells what changes, until the receiver is dropped.
    pub(crate) async fn run_to(self, out: Outlet) -> Result<(), SourceError> {
        let (ended, end) = oneshot::channel::<()>();
        let signal = self.signal();
        let stop = StopOnDrop(signal.clone());
        let shared = out.share();
        std::thread::Builder::new()
            .name("rulec-cni".to_owned())
            .spawn(move || {
                self.follow(&shared);
                let _ = ended.send(());
            })
            .map_err(SourceError::Thread)?;
        tokio::select! {
            () = out.closed() => {
                drop(stop);
                Ok(())
            }
            _ = end => match signal.has_failed() {
                _ if out.is_closed() => Ok(()),
                true => Err(SourceError::Deaf),
                false => Err(SourceError::Ended),
            },
        }
    }

    fn follow(mut self, out: &Outlet) {
        let directory = &self.options.directory;
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
        info!(path = %directory.display(), "following the cache of CNI");
        let mut watch = Watch::default();
        loop {
            let (_, count) = self.signal.take();
            // Before looking: what changes in between is seen twice rather than never.
            let is_watched = watch.renew(&directory, &self.signal);
            let look = self.cache.look(SystemTime::now(), boot());
            if out.learn(look.found).is_err() {
                return;
            }
            let is_soon = look.unsettled || !is_watched;
            let pause = if is_soon { SOON.min(self.rescan) } else { self.rescan };
            match self.signal.wait(count, later(Instant::now(), pause)) {
                Woken::Stop => return,
                Woken::Event => std::thread::sleep(SETTLE),
                Woken::Time => {}
            }
        }
    }
}

/// The watch of the directory.
#[derive(Default)]
struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: Watched,
}

impl Watch {
    /// Watches the directory as it is now; returns whether its changes cause events.
    fn renew(&mut self, directory: &Path, signal: &Arc<Signal>) -> bool {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => match watcher(directory, signal) {
                Ok(made) => none.insert(made),
                Err(error) => {
                    debug!(%error, "the cache of CNI cannot be watched, looking every second");
                    return false;
                }
            },
        };
        match watch_anew(watcher, &mut self.watched, directory) {
            Ok(is_missing) => !is_missing,
            Err(error) => {
                debug!(error, "the cache of CNI cannot be watched, looking every second");
                false
            }
        }
    }
}

/// Returns when the machine was started, by its clock of now.
fn boot() -> SystemTime {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = text.split(' ').next().and_then(|seconds| seconds.parse().ok());
    let uptime = uptime.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    SystemTime::now() - uptime.unwrap_or_default()
}
