//! The thread that records what the sources send.
//!
//! It never delays a change: an update is handed over as pointers, and if too many wait because the
//! disk is slow, they are dropped, and a whole state is recorded in their place. The daemon also
//! hands over a whole state when the file is full, since a file begins with one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::{Change, Model, Origin};
use rulec_sources::recording::{
    Begin, Entry, Recorded, RecordedChange, Recorder, RecordingError, Said, Status, What, Whole,
    WholeReason,
};
use rulec_sources::{Problem, Update, retry_pause};

use crate::observe::metrics::Metrics;
use crate::threads::Vital;

/// How many updates may wait for the thread, and how many for the disk.
const WAITING: usize = 1024;

/// How many objects they may have, of which some may be nowhere else any more. One update may have
/// more: there are lists of any length.
const OBJECTS: usize = 1 << 17;

/// How soon a whole state is tried again in place of updates that were dropped.
const AGAIN: Duration = Duration::from_secs(1);

/// The first and the longest pause after a failure.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a stop waits for the last entries.
pub const FINISH: Duration = Duration::from_secs(2);

/// What an update says, before the daemon has taken it in.
#[derive(Debug)]
pub struct Heard {
    time: Timestamp,
    origin: Origin,
    status: Status,
    suppressed: u64,
    changes: Vec<Change>,
}

impl Heard {
    /// Copies the pointers of an update.
    pub fn of(update: &Update) -> Self {
        Self {
            time: Timestamp::now(),
            origin: update.origin,
            status: Status { said: Said::of(update), problems: update.problems.clone() },
            suppressed: update.suppressed,
            changes: update.changes.clone(),
        }
    }

    /// Returns how many objects it keeps in memory, about.
    fn objects(&self) -> usize {
        let of = |change: &Change| match change {
            Change::Replace { objects, .. } => objects.len(),
            Change::Apply(_) | Change::Remove(_) => 1,
        };
        self.changes.iter().map(of).sum()
    }
}

/// Returns the same of an entry. A whole state has those of the daemon.
fn objects(entry: &Entry) -> usize {
    let of = |change: &RecordedChange| match change {
        RecordedChange::Replace { objects, .. } => objects.len(),
        RecordedChange::Apply(_) | RecordedChange::Remove(_) => 1,
    };
    match &entry.what {
        What::Update(update) => update.changes.iter().map(of).sum(),
        What::Whole(_) => 0,
    }
}

/// Returns whether so many more objects may wait.
fn has_room(waiting: usize, more: usize) -> bool {
    waiting == 0 || waiting.saturating_add(more) <= OBJECTS
}

enum Message {
    Whole(Box<State>),
    Update { heard: Heard, has_other_problems: bool },
}

/// Everything that the sources have sent so far.
struct State {
    time: Timestamp,
    reason: WholeReason,
    model: Model,
    sources: BTreeMap<Origin, Status>,
}

/// A handle of the thread. Dropping it ends the thread after the last entry.
#[derive(Debug)]
pub struct RecordThread {
    messages: SyncSender<Message>,
    /// Whether the thread wants a whole state, to begin a file with.
    is_full: Arc<AtomicBool>,
    /// How many objects wait for the thread.
    waiting: Arc<AtomicUsize>,
    /// How each source is.
    sources: BTreeMap<Origin, Status>,
    /// How many updates were dropped since the last that was handed over.
    lost: u64,
    metrics: Arc<Metrics>,
    thread: Vital,
}

impl RecordThread {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(begin: Begin, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let sources = begin.sources.iter().map(|origin| (*origin, Status::default())).collect();
        let recorder = Recorder::new(begin)?;
        let (messages, received) = mpsc::sync_channel(WAITING);
        let is_full = Arc::new(AtomicBool::new(false));
        let waiting = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            recorder,
            has_gone_on: false,
            is_full: Arc::clone(&is_full),
            has_asked: false,
            is_warned: false,
            waiting: Arc::clone(&waiting),
            due: Vec::new(),
            objects: 0,
            lost: 0,
            failures: 0,
            metrics: Arc::clone(&metrics),
        };
        let thread = Vital::start("rulec-record", move || worker.run(&received))?;
        let mut this = Self { messages, is_full, waiting, sources, lost: 0, metrics, thread };
        this.send_whole(WholeReason::Start, Model::default());
        Ok(this)
    }

    /// Records an update that the daemon has taken in, without waiting. `model` is what is known
    /// since.
    pub fn record(&mut self, heard: Heard, model: &Model) {
        let before = self.sources.insert(heard.origin, heard.status.clone());
        if self.lost > 0 {
            self.lose(1);
            // The whole state that follows is also what the thread has asked for.
            self.is_full.store(false, Relaxed);
            return self.catch_up(model);
        }
        let has_other_problems =
            before.is_none_or(|before| differ(&before.problems, &heard.status.problems));
        let more = heard.objects();
        let message = Message::Update { heard, has_other_problems };
        if !has_room(self.waiting.load(Relaxed), more) {
            self.lose(1);
        } else {
            // Before the thread can have it.
            self.waiting.fetch_add(more, Relaxed);
            if let Err(TrySendError::Full(_)) = self.messages.try_send(message) {
                self.waiting.fetch_sub(more, Relaxed);
                self.lose(1);
            }
        }
        // The file that is full has the update, too.
        if self.is_full.swap(false, Relaxed) {
            self.catch_up(model);
        }
    }

    /// Records the whole state in place of updates that were dropped, if there is room now.
    pub fn follow(&mut self, model: &Model) {
        if self.lost > 0 {
            self.catch_up(model);
        }
    }

    /// Returns when to call [`Self::follow`] at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        (self.lost > 0).then(|| Instant::now() + AGAIN)
    }

    fn catch_up(&mut self, model: &Model) {
        let reason = match self.lost {
            0 => WholeReason::Full,
            lost => WholeReason::Gap(lost),
        };
        self.send_whole(reason, model.clone());
    }

    fn send_whole(&mut self, reason: WholeReason, model: Model) {
        let (time, sources) = (Timestamp::now(), self.sources.clone());
        let state = Box::new(State { time, reason, model, sources });
        match self.messages.try_send(Message::Whole(state)) {
            // If the thread has died, the daemon ends.
            Ok(()) | Err(TrySendError::Disconnected(_)) => self.lost = 0,
            // Nothing is lost yet, and it is still wanted.
            Err(TrySendError::Full(_)) if self.lost == 0 => self.is_full.store(true, Relaxed),
            Err(TrySendError::Full(_)) => {}
        }
    }

    fn lose(&mut self, updates: u64) {
        self.lost += updates;
        self.metrics.own.recording_lost(updates);
    }

    /// Resolves with an error when the thread has died.
    pub async fn death(&mut self) -> anyhow::Error {
        self.thread.death().await
    }

    /// Ends the thread after the last entry, for which it waits no longer than this.
    pub fn finish(self, patience: Duration) {
        let Self { messages, mut thread, .. } = self;
        drop(messages);
        thread.wait(patience);
    }
}

fn differ(one: &OrdSet<Problem>, other: &OrdSet<Problem>) -> bool {
    !one.ptr_eq(other) && one != other
}

struct Worker {
    recorder: Recorder,
    /// Whether the files of before were looked at.
    has_gone_on: bool,
    is_full: Arc<AtomicBool>,
    /// Whether a whole state was asked for, and has not come.
    has_asked: bool,
    /// Whether the log says that the files become larger than they may be.
    is_warned: bool,
    /// How many objects wait for us.
    waiting: Arc<AtomicUsize>,
    /// Entries that are not written yet.
    due: Vec<Entry>,
    /// How many objects they have.
    objects: usize,
    /// How many updates were dropped because the disk has failed for too long.
    lost: u64,
    failures: u32,
    metrics: Arc<Metrics>,
}

impl Worker {
    fn run(mut self, messages: &Receiver<Message>) {
        let path = self.recorder.path().display().to_string();
        let mut earliest = Instant::now();
        loop {
            let pause = (self.failures > 0).then(|| earliest.duration_since(Instant::now()));
            let first = match pause {
                Some(pause) => messages.recv_timeout(pause),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
            // What has arrived meanwhile is one frame.
            for message in first.into_iter().chain(messages.try_iter().take(WAITING - 1)) {
                self.take(message);
            }
            if self.failures > 0 && Instant::now() < earliest && !is_over {
                continue;
            }
            self.write(&path);
            if self.failures > 0 {
                let (least, longest) = RETRY_PAUSES;
                earliest = Instant::now() + retry_pause(least, longest, self.failures);
            }
            if is_over {
                return;
            }
        }
    }

    /// Makes an entry of a message.
    fn take(&mut self, message: Message) {
        if let Message::Update { heard, .. } = &message {
            self.waiting.fetch_sub(heard.objects(), Relaxed);
        }
        let mut entry = match message {
            Message::Whole(state) => {
                let State { time, mut reason, model, sources } = *state;
                self.has_asked = false;
                if let WholeReason::Gap(lost) = reason {
                    tracing::warn!(updates = lost, "the disk is slow: updates were not recorded");
                }
                if self.lost > 0 {
                    let more = if let WholeReason::Gap(lost) = reason { lost } else { 0 };
                    reason = WholeReason::Gap(self.lost + more);
                    self.lost = 0;
                }
                let sources = sources.iter().map(|(origin, status)| (*origin, status));
                Entry { time, what: What::Whole(Whole::of(reason, &model, sources)) }
            }
            Message::Update { .. } if self.lost > 0 => return self.lose(1),
            Message::Update { heard, has_other_problems } => {
                let Heard { time, origin, status, suppressed, changes } = heard;
                let problems = has_other_problems.then(|| status.problems.into_iter().collect());
                let changes = changes.into_iter().map(Into::into).collect();
                let said = status.said;
                let what = What::Update(Recorded { origin, said, suppressed, problems, changes });
                Entry { time, what }
            }
        };
        if let What::Whole(whole) = &mut entry.what
            && self.failures > 0
        {
            // It has all that the others change, which were not written in time.
            let dropped = self.drop_due();
            self.metrics.own.recording_lost(dropped);
            let before = if let WholeReason::Gap(lost) = whole.reason { lost } else { 0 };
            if before + dropped > 0 {
                whole.reason = WholeReason::Gap(before + dropped);
            }
        }
        let more = objects(&entry);
        if self.due.len() >= WAITING || !has_room(self.objects, more) {
            let dropped = self.drop_due() + 1;
            return self.lose(dropped);
        }
        self.objects += more;
        self.due.push(entry);
    }

    /// Drops what is not written yet. Returns how many updates that are.
    fn drop_due(&mut self) -> u64 {
        let is_update = |entry: &Entry| matches!(entry.what, What::Update(_));
        self.objects = 0;
        self.due.drain(..).filter(is_update).count() as u64
    }

    /// Notes that updates were dropped, and asks for a whole state instead.
    fn lose(&mut self, updates: u64) {
        self.lost += updates;
        self.metrics.own.recording_lost(updates);
        self.ask();
    }

    /// Asks for a whole state, once.
    fn ask(&mut self) {
        if !self.has_asked {
            self.has_asked = true;
            self.is_full.store(true, Relaxed);
        }
    }

    /// Goes on with the files of before, once. Returns whether something can be written.
    fn go_on(&mut self, path: &str) -> bool {
        if self.has_gone_on {
            return true;
        }
        match self.recorder.go_on() {
            Ok(None) => {}
            Ok(Some(notice)) => tracing::warn!(path, "{notice}"),
            // They must stay as they are. That may change.
            Err(error @ (RecordingError::Foreign { .. } | RecordingError::Io { .. })) => {
                self.fail(path, &error);
                return false;
            }
            Err(error) => tracing::warn!("{error}; the recording goes on in a new file"),
        }
        self.has_gone_on = true;
        true
    }

    fn fail(&mut self, path: &str, error: &dyn std::error::Error) {
        self.failures = self.failures.saturating_add(1);
        self.metrics.own.recording_failed();
        if self.failures == 1 {
            tracing::warn!(path, %error, "cannot write the recording, will keep retrying");
        }
    }

    /// Writes what is due, a frame for each whole state with what follows it.
    fn write(&mut self, path: &str) {
        if self.due.is_empty() || !self.go_on(path) {
            return;
        }
        while !self.due.is_empty() {
            let is_whole = |entry: &Entry| matches!(entry.what, What::Whole(_));
            let next = self.due.iter().skip(1).position(is_whole);
            let end = next.map_or(self.due.len(), |position| position + 1);
            match self.recorder.write(self.due.get(..end).unwrap_or_default()) {
                Ok(bytes) => {
                    self.objects -=
                        self.due.drain(..end).map(|entry| objects(&entry)).sum::<usize>();
                    self.metrics.own.recorded(bytes);
                    if std::mem::take(&mut self.failures) > 0 {
                        tracing::info!(path, "the recording can be written again");
                    }
                }
                Err(error) => {
                    self.fail(path, &error);
                    if !self.recorder.has_begun() && !self.due.first().is_some_and(is_whole) {
                        let dropped = self.drop_due();
                        self.lose(dropped);
                    }
                    return;
                }
            }
        }
        if let Some(bytes) = self.recorder.excess()
            && !std::mem::replace(&mut self.is_warned, true)
        {
            tracing::warn!(
                path,
                bytes,
                "the state is too large for --to-file-mib, which is exceeded"
            );
        }
        if self.recorder.is_full() {
            self.ask();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rulec_compiler::Settings;
    use rulec_sources::recording::Reader;

    use super::*;

    fn worker(path: &Path) -> Worker {
        let begin = Begin {
            path: path.to_owned(),
            most: 1 << 20,
            is_masked: false,
            program: "0.0.0".to_owned(),
            settings: Settings::new("na".into()),
            sources: vec![Origin::Manifests],
        };
        Worker {
            recorder: Recorder::new(begin).unwrap(),
            has_gone_on: false,
            is_full: Arc::default(),
            has_asked: false,
            is_warned: false,
            waiting: Arc::default(),
            due: Vec::new(),
            objects: 0,
            lost: 0,
            failures: 0,
            metrics: Arc::default(),
        }
    }

    fn whole(reason: WholeReason) -> Message {
        let (time, model) = (Timestamp::now(), Model::default());
        let sources = BTreeMap::from([(Origin::Manifests, Status::default())]);
        Message::Whole(Box::new(State { time, reason, model, sources }))
    }

    fn update() -> Message {
        let (origin, status) = (Origin::Manifests, Status::default());
        let time = Timestamp::now();
        let heard = Heard { time, origin, status, suppressed: 0, changes: Vec::new() };
        Message::Update { heard, has_other_problems: false }
    }

    /// Returns the whole states of a recording, and how many updates it has.
    fn recorded(path: &Path) -> (Vec<WholeReason>, usize) {
        let mut reader = Reader::open(path).unwrap();
        let (mut reasons, mut updates) = (Vec::new(), 0);
        while let Some(entry) = reader.read().unwrap() {
            match entry.what {
                What::Whole(whole) => reasons.push(whole.reason),
                What::Update(_) => updates += 1,
            }
        }
        (reasons, updates)
    }

    #[test]
    fn the_change_that_fills_a_file_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.rec");
        let begin = Begin {
            path: path.clone(),
            most: 1 << 20,
            is_masked: false,
            program: "0.0.0".to_owned(),
            settings: Settings::new("na".into()),
            sources: vec![Origin::Manifests],
        };
        let mut thread = RecordThread::start(begin, Arc::default()).unwrap();
        let Message::Update { heard, .. } = update() else { panic!("it is one") };
        thread.is_full.store(true, Relaxed);
        thread.record(heard, &Model::default());
        thread.finish(Duration::from_secs(600));
        assert_eq!(recorded(&path), (vec![WholeReason::Start, WholeReason::Full], 1));
    }

    #[test]
    fn one_list_of_any_length_may_wait_but_not_many() {
        assert!(has_room(0, OBJECTS + 1));
        assert!(has_room(1, OBJECTS - 1));
        assert!(!has_room(1, OBJECTS));
    }

    #[test]
    fn a_file_of_something_else_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.rec");
        std::fs::write(&path, "something else").unwrap();
        let mut worker = worker(&path);
        worker.take(whole(WholeReason::Start));
        for failures in [1, 2] {
            worker.write("a.rec");
            assert_eq!((worker.failures, worker.due.len()), (failures, 1));
        }
        std::fs::remove_file(&path).unwrap();
        worker.write("a.rec");
        assert_eq!(worker.failures, 0);
        assert_eq!(recorded(&path), (vec![WholeReason::Start], 0));
    }

    #[test]
    fn a_disk_that_fails_for_long_costs_updates_which_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/a.rec");
        let mut worker = worker(&path);
        worker.take(whole(WholeReason::Start));
        worker.write("a.rec");
        assert_eq!((worker.failures, worker.due.len()), (1, 1), "it is tried again");
        for _ in 0..WAITING {
            worker.take(update());
        }
        assert!(worker.due.is_empty());
        assert!(worker.is_full.swap(false, Relaxed), "a whole state is asked for");
        worker.take(update());
        assert!(worker.due.is_empty(), "it changes what is not known");
        assert!(!worker.is_full.load(Relaxed), "it was asked for already");
        worker.take(whole(WholeReason::Full));
        worker.take(update());
        std::fs::create_dir(directory.path().join("missing")).unwrap();
        worker.write("a.rec");
        assert_eq!(worker.failures, 0);
        let lost = WholeReason::Gap(WAITING as u64 + 1);
        assert_eq!(recorded(&path), (vec![lost], 1));
        // What waits when a whole state comes is not needed any more.
        worker.failures = 1;
        worker.take(update());
        worker.take(whole(WholeReason::Gap(4)));
        worker.write("a.rec");
        assert_eq!(recorded(&path).0, [lost, WholeReason::Gap(5)]);
    }
}
