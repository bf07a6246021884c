//! When to look, and telling what was seen.
//!
//! ```text
//!  inotify thread ─▶ Signal ─▶ manifest thread ─▶ channel ─▶ engine
//!  (names only)      (merged)  (reads, decodes)   (bounded)
//! ```
//!
//! inotify watches what a path led to when the watch was made, not the path. So the parent is
//! watched as well, and a watch is made anew whenever the path may lead elsewhere. Watches are made
//! before reading: what changes in between is seen twice rather than never.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rulec_compiler::{Change, Origin};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::error::SourceError;
use crate::file::is_missing;
use crate::scan::{BLANK, Manifests, Memory, Scan};
use crate::signal::{Signal, Touched, Woken};
use crate::state::StateDir;
use crate::update::Update;
use crate::writers::LONGEST;

/// How often to look whether a path that leads nowhere leads somewhere again. Its parent may be
/// missing too, and then there is nothing to watch.
const MISSING: Duration = Duration::from_millis(250);

/// How often files are looked at while nobody tells of changes.
const BLIND: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to be told of changes; they begin with `BLIND`.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How many times `settle` to wait at most while events keep coming.
const PATIENCE: u32 = 10;

/// Reading everything more often than this leaves no time for anything else.
const SHORTEST_RESCAN: Duration = Duration::from_millis(10);

/// How a [`ManifestSource`] behaves.
#[derive(Clone, Copy, Debug)]
pub struct ManifestOptions {
    /// How often every file is read, whatever events there were.
    pub rescan: Duration,
    /// How long it must be quiet after an event before files are read; ten times this at most.
    pub settle: Duration,
}

impl Default for ManifestOptions {
    fn default() -> Self {
        Self { rescan: Duration::from_secs(20), settle: Duration::from_millis(10) }
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
}

/// Has a source look at all its files at once, without waiting for a reason.
#[derive(Clone, Debug)]
pub struct Nudge(Arc<Signal>);

impl Nudge {
    /// Every file is read, as soon as the source is done with what it is at.
    pub fn look(&self) {
        self.0.touch(|touched| touched.lost = true);
    }
}

/// What tells of changes below a path, or why there is nothing that does.
pub(crate) type MakeWatcher = fn(&Path, &Arc<Signal>) -> notify::Result<RecommendedWatcher>;

impl ManifestSource {
    /// Touches nothing yet. The path need not exist; it is not empty for that.
    pub fn new(path: PathBuf, options: ManifestOptions) -> Self {
        Self { path, options, signal: Arc::default(), watcher, state: None }
    }

    /// Keeps what files gave when they were last good for the next start, and takes over what the last run
    /// has left.
    pub fn with_state(self, state: Option<StateDir>) -> Self {
        Self { state, ..self }
    }

    /// For whoever knows better when to look.
    pub fn nudge(&self) -> Nudge {
        Nudge(self.signal.clone())
    }

    /// One that another watcher tells of changes.
    #[cfg(test)]
    pub(crate) fn with_watcher(self, watcher: MakeWatcher) -> Self {
        Self { watcher, ..self }
    }

    /// Sends what the path holds, and from then on what changes, until the receiver is dropped.
    ///
    /// Nothing is sent that says nothing: an update has changes, another list of problems, or
    /// suppressed objects, or is the first.
    ///
    /// # Errors
    ///
    /// [`SourceError::Thread`] if no thread can be started, [`SourceError::Ended`] if it ends on
    /// its own, [`SourceError::Deaf`] if the one does that hears of events. Missing, broken and unreadable
    /// files are no errors, and neither is it if inotify cannot be used: then files are looked at every
    /// second, and it is tried again.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let signal = self.signal.clone();
        self.run_with(signal, out).await
    }

    /// Runs with a signal that others may have a hold of.
    pub(crate) async fn run_with(
        self,
        signal: Arc<Signal>,
        out: mpsc::Sender<Update>,
    ) -> Result<(), SourceError> {
        let (ended, end) = oneshot::channel::<()>();
        let thread = Watching::new(self, signal.clone(), out.clone());
        // Whoever drops this future wants no more of it, so the thread must end as well.
        let stop = StopOnDrop(signal.clone());
        std::thread::Builder::new()
            .name("rulec-manifests".to_owned())
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

struct StopOnDrop(Arc<Signal>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What the thread that hears of events holds. It never ends while somebody listens, but by a panic.
pub(crate) struct Hearing(pub(crate) Arc<Signal>);

impl Drop for Hearing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail();
        }
    }
}

/// The thread that reads.
struct Watching {
    path: PathBuf,
    options: ManifestOptions,
    signal: Arc<Signal>,
    out: mpsc::Sender<Update>,
    manifests: Manifests,
    memory: Option<Memory>,
    /// When what an earlier run has left was true, while it stands in.
    stale: Option<Timestamp>,
    make_watcher: MakeWatcher,
    watcher: Option<RecommendedWatcher>,
    /// Why nobody tells of changes, if nobody does.
    blind: Option<Blind>,
    /// What was watched last at a path: device and inode.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether to try soon again to watch the path, because it led nowhere.
    adrift: bool,
    first: bool,
    /// How many files were unread at the last look.
    unread: usize,
    /// Whether a complete list was sent.
    complete: bool,
}

/// Nobody tells of changes: files are looked at often instead.
struct Blind {
    reason: String,
    retry_at: Instant,
    pause: Duration,
}

/// The receiver is gone.
struct Gone;

impl Watching {
    fn new(source: ManifestSource, signal: Arc<Signal>, out: mpsc::Sender<Update>) -> Self {
        // Events name absolute paths, and the current directory may change.
        let path = std::path::absolute(&source.path).unwrap_or(source.path);
        let manifests = Manifests::beside(path.clone(), signal.writers.clone());
        let options = source.options;
        let memory = source.state.map(|state| Memory::load(&state, &path));
        Self {
            memory,
            stale: None,
            path,
            options,
            signal,
            out,
            manifests,
            make_watcher: source.watcher,
            watcher: None,
            blind: None,
            watched: BTreeMap::new(),
            adrift: true,
            first: true,
            unread: 0,
            complete: false,
        }
    }

    fn run(mut self) {
        info!(path = %self.path.display(), "watching manifests");
        if let Some((left, at)) = self.memory.as_mut().and_then(Memory::take) {
            self.manifests.take_over(left);
            self.stale = Some(at);
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
            // A mount is no event.
            self.adrift |= scan.held;
            if self.tell(scan).is_err() {
                return;
            }
            // The path may have come to lead somewhere after it could not be watched. So what counts
            // is what happened to the watch, and not what the path looks like by now.
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
            // Events may have been lost in ways that nobody notices, so a rescan watches anew too.
            touched.lost |= Instant::now() >= rescan;
        }
    }

    /// Has the files read whose writers do not come to an end.
    fn give_up(&self, now: Instant, touched: &mut Touched) {
        for name in self.signal.writers.give_up(now) {
            let (file, seconds) = (name.display(), LONGEST.as_secs());
            warn!(%file, seconds, "written to for so long without being closed: read as it is");
            touched.add(name);
        }
    }

    /// Waits until it has been quiet for a while, so that a file written in pieces and a directory
    /// replaced file by file are one change; but not for longer than anyone's patience.
    fn settle(&self) {
        let patience = later(Instant::now(), self.options.settle.saturating_mul(PATIENCE));
        loop {
            let count = self.signal.count();
            let until = patience.min(later(Instant::now(), self.options.settle));
            if self.signal.wait(count, until) != Woken::Event {
                return;
            }
        }
    }

    fn tell(&mut self, scan: Scan) -> Result<(), Gone> {
        let news = !scan.changes.is_empty()
            || scan.problems_changed
            || scan.suppressed > 0
            || scan.unread != self.unread;
        self.unread = scan.unread;
        if !scan.held {
            self.stale = None;
            if let Some(memory) = &self.memory {
                let (saved, is_news) = self.manifests.saved();
                memory.save(saved, is_news);
            }
        }
        if !news && !self.first {
            return if self.out.is_closed() { Err(Gone) } else { Ok(()) };
        }
        self.first = false;
        let changes = scan.changes;
        let suppressed = scan.suppressed;
        debug!(changes = changes.len(), suppressed, "manifests changed");
        let problems = self.manifests.problems().clone();
        self.complete |= changes.iter().any(|change| matches!(change, Change::Replace { .. }));
        let complete = self.complete;
        let origin = Origin::Manifests;
        // What set a file off nobody has noted.
        let triggers = Vec::new();
        let update = Update {
            origin,
            changes,
            triggers,
            complete,
            unread: scan.unread,
            unavailable: scan.held,
            stale: self.stale,
            suppressed,
            problems,
        };
        self.out.blocking_send(update).map_err(|_| Gone)
    }

    /// When to try again to be told of changes, if nobody tells.
    fn blind_until(&self) -> Option<Instant> {
        self.blind.as_ref().map(|blind| blind.retry_at)
    }

    /// Makes the watches anew.
    fn watch(&mut self, now: Instant) {
        let outcome = self.try_to_watch();
        self.adrift = outcome.as_ref().copied().unwrap_or_else(|_| !self.path.exists());
        let reason = outcome.err();
        self.manifests.set_unwatched(reason.as_ref().map(|reason| {
            format!("not watched, but looked at every {} s: {reason}", BLIND.as_secs())
        }));
        let is_over = |blind: &Blind| blind.retry_at <= now;
        self.blind = match (reason, self.blind.take()) {
            (None, None) => None,
            (None, Some(_)) => {
                info!(path = %self.path.display(), "watched again");
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

    /// Watches what the path leads to now, and its parent; says whether it leads nowhere.
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

/// Watches what a path leads to now; says whether that is nothing.
fn watch_anew(
    watcher: &mut RecommendedWatcher,
    watched: &mut BTreeMap<PathBuf, (u64, u64)>,
    path: &Path,
) -> Result<bool, String> {
    let found = std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    if watched.get(path).copied() != found {
        // It may be gone already, or never have been watched.
        let _ = watcher.unwatch(path);
    }
    match found {
        Some(found) => watched.insert(path.to_owned(), found),
        None => watched.remove(path),
    };
    // A second watch of the same inode is the first one. Taking that away before would lose what
    // happens in between, such as the close that a file under way waits for.
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
        debug!(path = %path.display(), "not watched: there is nothing");
        return Ok(true);
    }
    watched.remove(path);
    Err(format!("{}: {error}", path.display()))
}

/// A time that far ahead, or as good as never.
fn later(now: Instant, wait: Duration) -> Instant {
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

/// Decides what an event is about.
pub(crate) fn sort_event(root: &Path, event: Event, touched: &mut Touched) {
    if event.need_rescan() {
        touched.lost = true;
    }
    let moves = match event.kind {
        // Reading causes events as well, and looking because of having looked would never end.
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
