//! When to look, and sending what was found.
//!
//! ```text
//!  inotify thread ─▶ Signal ─▶ manifest thread ─▶ channel ─▶ engine
//!  (names only)      (merged)  (reads, decodes)   (bounded)
//! ```
//!
//! inotify watches the inode that a path led to when the watch was made, not the path. So the
//! parent is watched as well, and the watch is renewed whenever the path may lead elsewhere.
//! Watches are made before reading: a change in between is seen twice rather than never.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::file::is_missing;
use super::outlet::{Gone, Outlet};
use super::scan::{BLANK, Manifests, Memory, Scan};
use super::signal::{Signal, Touched, Woken};
use super::tell::Teller;
use super::text::STACK_BYTES;
use super::writers::MAX_WRITE_TIME;
use crate::error::SourceError;
use crate::state::StateDir;
use crate::update::Update;

/// How often to check whether a path that does not exist exists again. Its parent may be missing
/// too, and then there is nothing to watch.
const MISSING: Duration = Duration::from_millis(250);

/// How often files are checked while there are no events.
const BLIND: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to get events; pauses begin with `BLIND`.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The longest wait while events keep coming, in multiples of `settle`.
const MAX_SETTLE_FACTOR: u32 = 10;

/// The shortest interval of rescans: a shorter one leaves no time for anything else.
const SHORTEST_RESCAN: Duration = Duration::from_millis(10);

/// How a [`ManifestSource`] behaves.
#[derive(Clone, Copy, Debug)]
pub struct ManifestOptions {
    /// How often every file is read, regardless of events.
    pub rescan: Duration,
    /// How long there must be no event before files are read; the wait is at most ten times this.
    pub settle: Duration,
    /// Whether an error anywhere in a file refuses all of it, so that its last good content stays.
    pub is_whole: bool,
}

impl Default for ManifestOptions {
    fn default() -> Self {
        Self { rescan: Duration::from_secs(20), settle: Duration::from_millis(10), is_whole: false }
    }
}

/// Watches a directory of manifests, or a single one.
#[derive(Debug)]
pub struct ManifestSource {
    path: PathBuf,
    options: ManifestOptions,
    signal: Arc<Signal>,
    watcher: MakeWatcher,
    state: Option<StateDir>,
    /// Which of the roots it is.
    position: usize,
    /// Whether files are named with the path of the root.
    in_full: bool,
    /// All roots, as absolute paths.
    roots: Arc<[PathBuf]>,
}

/// Makes the watcher that reports changes below a path.
pub(crate) type MakeWatcher = fn(&Path, &Arc<Signal>) -> notify::Result<RecommendedWatcher>;

impl ManifestSource {
    /// Reads nothing yet. The path need not exist; a path that does not exist is not taken for
    /// empty.
    pub fn new(path: PathBuf, options: ManifestOptions) -> Self {
        Self::root(path, options, 0, false)
    }

    /// Creates one of several roots. `in_full` says whether its files are named with its path.
    pub(crate) fn root(
        path: PathBuf,
        options: ManifestOptions,
        position: usize,
        in_full: bool,
    ) -> Self {
        let (signal, roots) = (Arc::default(), Arc::default());
        Self { path, options, signal, watcher, state: None, position, in_full, roots }
    }

    /// Knows all roots.
    pub(crate) fn among(self, roots: Arc<[PathBuf]>) -> Self {
        Self { roots, ..self }
    }

    /// Saves the last good content of files for the next start, and takes over what the last run
    /// has saved.
    pub fn with_state(self, state: Option<StateDir>) -> Self {
        Self { state, ..self }
    }

    /// Names files with its path.
    pub(crate) fn named_in_full(self) -> Self {
        Self { in_full: true, ..self }
    }

    /// Returns the signal that wakes it.
    pub(crate) fn signal(&self) -> Arc<Signal> {
        self.signal.clone()
    }

    /// Replaces the watcher.
    #[cfg(test)]
    pub(crate) fn with_watcher(self, watcher: MakeWatcher) -> Self {
        Self { watcher, ..self }
    }

    /// Sends the content of the path and then its changes, until the receiver is dropped.
    ///
    /// Empty updates are not sent: an update has changes, another list of problems, or suppressed
    /// objects, or is the first.
    ///
    /// # Errors
    ///
    /// [`SourceError::Thread`] if no thread can be started, [`SourceError::Ended`] if it ends on
    /// its own, [`SourceError::Deaf`] if the thread that receives events ends. Missing, broken and
    /// unreadable files are no errors. If inotify cannot be used, that is no error either: files
    /// are then checked every second, and inotify is retried.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        self.run_to(Outlet::plain(out)).await
    }

    /// Runs with another outlet.
    pub(crate) async fn run_to(self, out: Outlet) -> Result<(), SourceError> {
        let signal = self.signal.clone();
        self.run_with(signal, out).await
    }

    /// Runs with a signal that the caller may share.
    pub(crate) async fn run_with(
        self,
        signal: Arc<Signal>,
        out: Outlet,
    ) -> Result<(), SourceError> {
        let (ended, end) = oneshot::channel::<()>();
        let thread = Watching::new(self, signal.clone(), out.share());
        // The thread must end as well if this future is dropped.
        let stop = StopOnDrop(signal.clone());
        std::thread::Builder::new()
            .name("rulec-manifests".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                thread.run();
                let _ = ended.send(());
            })
            .map_err(SourceError::Thread)?;
        tokio::select! {
            () = out.closed() => {
                drop(stop);
                Ok(())
            }
            end = end => match end {
                Ok(()) if out.is_closed() => Ok(()),
                Ok(()) if signal.has_failed() => Err(SourceError::Deaf),
                Ok(()) | Err(_) => Err(SourceError::Ended),
            },
        }
    }
}

/// Ends the thread that waits for a signal.
pub(crate) struct StopOnDrop(pub(crate) Arc<Signal>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Held by the thread that receives events, to report its end: while the source runs, that thread
/// ends only by a panic.
pub(crate) struct Hearing(pub(crate) Arc<Signal>);

impl Drop for Hearing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

/// The thread that reads files.
struct Watching {
    path: PathBuf,
    options: ManifestOptions,
    signal: Arc<Signal>,
    manifests: Manifests,
    teller: Teller,
    make_watcher: MakeWatcher,
    watcher: Option<RecommendedWatcher>,
    /// Set while there are no events.
    blind: Option<Blind>,
    watched: Watched,
    /// Whether to try soon again to watch the path, because it did not exist.
    adrift: bool,
}

/// There are no events: files are checked often instead.
struct Blind {
    reason: String,
    retry_at: Instant,
    pause: Duration,
}

impl Watching {
    fn new(source: ManifestSource, signal: Arc<Signal>, out: Outlet) -> Self {
        // Events have absolute paths, and the current directory may change.
        let path = std::path::absolute(&source.path).unwrap_or(source.path);
        let manifests = Manifests::beside(path.clone(), signal.writers.clone()).among(source.roots);
        let manifests = if source.in_full { manifests.named_in_full() } else { manifests };
        let options = source.options;
        let manifests = if options.is_whole { manifests.whole() } else { manifests };
        let name = Memory::name("manifests", source.position);
        let memory = source.state.map(|state| Memory::load(&state, &name, &path));
        Self {
            path,
            options,
            signal,
            manifests,
            teller: Teller::new(out, memory),
            make_watcher: source.watcher,
            watcher: None,
            blind: None,
            watched: BTreeMap::new(),
            adrift: true,
        }
    }

    fn run(mut self) {
        info!(path = %self.path.display(), "watching manifests");
        if let Some(left) = self.teller.left() {
            self.manifests.take_over(left);
        }
        let mut touched = Touched { lost: true, ..Touched::default() };
        let mut count = 0;
        let mut rescan = Instant::now();
        loop {
            let now = Instant::now();
            if touched.moved || touched.lost || self.blind_until().is_some_and(|at| at <= now) {
                self.watch(now);
            }
            self.give_up(now, &mut touched);
            let time = SystemTime::now();
            let scan = if touched.lost || now >= rescan {
                rescan = later(now, self.options.rescan.max(SHORTEST_RESCAN));
                self.manifests.rescan(time)
            } else {
                let listing = touched.listing || touched.moved;
                self.manifests.refresh(&touched.names, listing, time)
            };
            let unsettled = scan.unsettled;
            // A mount causes no event.
            self.adrift |= scan.held;
            if self.tell(scan).is_err() {
                return;
            }
            // The path may have come into existence after watching it failed. So the result of the
            // watch counts, and not whether the path exists by now.
            let adrift = self.adrift;
            let mut until = rescan;
            if unsettled {
                until = until.min(Instant::now() + BLANK);
            }
            if let Some(end) = self.signal.writers.next_end() {
                until = until.min(end);
            }
            if adrift {
                until = until.min(Instant::now() + MISSING);
            }
            let is_blind = self.blind.is_some();
            if is_blind {
                until = until.min(Instant::now() + BLIND);
            }
            match self.signal.wait(count, until) {
                Woken::Stop => return,
                Woken::Event => self.settle(),
                Woken::Time => {}
            }
            (touched, count) = self.signal.take();
            touched.moved |= adrift;
            touched.listing |= is_blind;
            // Events may have been lost without notice, so a rescan renews the watches too.
            touched.lost |= Instant::now() >= rescan;
        }
    }

    /// Adds the files whose writers have taken too long, so that they are read.
    fn give_up(&self, now: Instant, touched: &mut Touched) {
        for name in self.signal.writers.give_up(now) {
            let (file, seconds) = (name.display(), MAX_WRITE_TIME.as_secs());
            warn!(%file, seconds, "still being written to, reading it as it is");
            touched.add(name);
        }
    }

    /// Waits until there has been no event for a while, so that a file written in pieces and a
    /// directory replaced file by file are one change; but no longer than [`MAX_SETTLE_FACTOR`]
    /// allows.
    fn settle(&self) {
        let patience = later(Instant::now(), self.options.settle.saturating_mul(MAX_SETTLE_FACTOR));
        loop {
            let count = self.signal.count();
            let until = patience.min(later(Instant::now(), self.options.settle));
            if self.signal.wait(count, until) != Woken::Event {
                return;
            }
        }
    }

    fn tell(&mut self, scan: Scan) -> Result<(), Gone> {
        let problems = self.manifests.problems().clone();
        self.teller.tell(scan, problems, |memory| {
            let (saved, is_news) = self.manifests.saved();
            memory.save(saved, is_news);
        })
    }

    /// Returns when to retry to get events, if there are none.
    fn blind_until(&self) -> Option<Instant> {
        self.blind.as_ref().map(|blind| blind.retry_at)
    }

    /// Renews the watches.
    fn watch(&mut self, now: Instant) {
        let outcome = self.try_to_watch();
        self.adrift = outcome.as_ref().copied().unwrap_or_else(|_| !self.path.exists());
        let reason = outcome.err();
        self.manifests.set_unwatched(reason.as_ref().map(|reason| {
            format!("cannot be watched, checked every {} s instead: {reason}", BLIND.as_secs())
        }));
        let is_over = |blind: &Blind| blind.retry_at <= now;
        self.blind = match (reason, self.blind.take()) {
            (None, None) => None,
            (None, Some(_)) => {
                info!(path = %self.path.display(), "watching manifests again");
                None
            }
            (Some(reason), Some(blind)) if blind.reason == reason && !is_over(&blind) => {
                Some(blind)
            }
            (Some(reason), Some(blind)) => {
                let pause = blind.pause.saturating_mul(2).min(LONGEST_RETRY);
                Some(Blind { reason, retry_at: now + pause, pause })
            }
            (Some(reason), None) => Some(Blind { reason, retry_at: now + BLIND, pause: BLIND }),
        };
    }

    /// Watches the path as it is now, and its parent; returns whether the path does not exist.
    fn try_to_watch(&mut self) -> Result<bool, String> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => {
                let made = (self.make_watcher)(&self.path, &self.signal);
                none.insert(made.map_err(|error| error.to_string())?)
            }
        };
        if let Some(parent) = self.path.parent() {
            watch_anew(watcher, &mut self.watched, parent)?;
        }
        watch_anew(watcher, &mut self.watched, &self.path)
    }
}

/// The inode that was watched last at a path: its device and number.
pub(crate) type Watched = BTreeMap<PathBuf, (u64, u64)>;

/// Watches a path as it is now; returns whether it does not exist.
pub(crate) fn watch_anew(
    watcher: &mut RecommendedWatcher,
    watched: &mut Watched,
    path: &Path,
) -> Result<bool, String> {
    let found = std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    if watched.get(path).copied() != found {
        // The watch may be gone already, or never have existed.
        let _ = watcher.unwatch(path);
    }
    match found {
        Some(found) => watched.insert(path.to_owned(), found),
        None => watched.remove(path),
    };
    // Watching the same inode again keeps its watch. If that were removed before, events in between
    // would be lost, such as the close of a file that is being written to.
    let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) else { return Ok(false) };
    let nothing = match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => is_missing(error),
        notify::ErrorKind::Generic(_)
        | notify::ErrorKind::WatchNotFound
        | notify::ErrorKind::InvalidConfig(_)
        | notify::ErrorKind::MaxFilesWatch => false,
    };
    if nothing {
        debug!(path = %path.display(), "not watched: the path does not exist");
        return Ok(true);
    }
    watched.remove(path);
    Err(format!("{}: {error}", path.display()))
}

/// Returns the time this far ahead, with a limit that is as good as never.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    now + wait.min(NEVER)
}

pub(crate) fn watcher(path: &Path, signal: &Arc<Signal>) -> notify::Result<RecommendedWatcher> {
    let root = path.to_owned();
    let hearing = Hearing(signal.clone());
    let handler = move |event: notify::Result<Event>| {
        let signal = &hearing.0;
        let mut touched = Touched::default();
        match event {
            Ok(event) => {
                signal.writers.learn(&root, &event, Instant::now());
                sort_event(&root, event, &mut touched);
            }
            Err(_) => touched.lost = true,
        }
        if !touched.is_empty() {
            signal.touch(|all| {
                touched.names.into_iter().for_each(|name| all.add(name));
                all.listing |= touched.listing;
                all.moved |= touched.moved;
                all.lost |= touched.lost;
            });
        }
    };
    notify::recommended_watcher(handler)
}

/// Sorts an event by what it is about.
pub(crate) fn sort_event(root: &Path, event: Event, touched: &mut Touched) {
    if event.need_rescan() {
        touched.lost = true;
    }
    let moves = match event.kind {
        // Reading causes access events as well: reacting to them would never end.
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => return,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    };
    for path in event.paths {
        if path == root {
            touched.listing = true;
            touched.moved |= moves;
        } else if path.parent() == Some(root)
            && let Some(name) = path.file_name()
        {
            touched.add(name.to_owned());
        }
    }
}
