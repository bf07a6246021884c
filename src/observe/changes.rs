//! What the socket serves of the history: the changes, one of them, those from now on, and past
//! states.
//!
//! What a change means is found on another thread, when it is asked for. Whoever follows has no
//! queue: the next change is looked up in the history when the last one is written, so that a slow
//! reader delays nobody, and is told how many changes were dropped meanwhile.
//!
//! States of before the start are on the disk, and those that memory has no room for. Whoever asks for
//! one waits for the disk (`stored`), and for nobody else; nobody else waits for them.

mod stored;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, mpsc};

use super::http::HttpAnswer;
use crate::history::change::{API_VERSION, Change, ChangeList, Line};
use crate::history::moment::Moment;
use crate::history::{History, Next, Past};
use crate::snapshot::Snapshot;
use stored::Reads;

/// The path of a `ChangeList`, and of one `Change` below it.
pub const CHANGES: &str = "/v1alpha1/changes";

/// The path of the `Snapshot` of a moment below it.
pub const STATES: &str = "/v1alpha1/states";

/// The path of the lines of changes from now on; below it, of those after a number, and below that
/// of those of a history: all of them, if the daemon has another.
pub const WATCH: &str = "/v1alpha1/watch";

/// How long those who follow hear nothing if there is nothing to say.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long one that follows may take for a line. It keeps its place meanwhile.
const SLOW: Duration = Duration::from_secs(60);

/// How often it is looked whether the changes of earlier processes are there.
const READING: Duration = Duration::from_millis(20);

/// How large a list of changes may be: the oldest are left out.
const LARGEST: usize = 16 << 20;

/// How many may follow at once: half of the connections of the socket.
const FOLLOWERS: usize = 4;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    history: History,
    followers: Arc<AtomicUsize>,
    /// Allows one document at a time that is made of what is in memory.
    turn: Arc<Mutex<()>>,
    /// Reads what is not.
    reads: Reads,
    /// How long one that follows may take for a line.
    patience: Duration,
}

impl Changes {
    pub(super) fn new(history: History) -> Self {
        let (followers, turn, reads) = Default::default();
        Self { history, followers, turn, reads, patience: SLOW }
    }

    /// Returns the answer for a path.
    pub(super) async fn answer(&self, path: &str) -> HttpAnswer {
        if !self.history.is_kept()
            && [CHANGES, STATES, WATCH].iter().any(|it| below(path, it).is_some())
        {
            let text = "the daemon keeps no changes (--history-changes 0)\n";
            return HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        if let Some(below) = below(path, WATCH) {
            return match parse_after(below) {
                Some(_) => {
                    let text = format!("there are {FOLLOWERS} others that follow changes\n");
                    HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, text)
                }
                None => HttpAnswer::not_found(),
            };
        }
        if let Some(moment) = below(path, STATES) {
            return self.state(moment).await;
        }
        let history = self.history.clone();
        let path = path.to_owned();
        self.make(move || answer(&history, &path)).await
    }

    /// Returns the state at a moment.
    async fn state(&self, moment: &str) -> HttpAnswer {
        let past = moment.parse::<Moment>().and_then(|moment| self.history.state(moment));
        let stored = match past {
            Ok(Past::Held(point)) => {
                let state = move || Snapshot::of(&point.program, &point.model);
                return self.make(move || HttpAnswer::json(StatusCode::OK, &state())).await;
            }
            Ok(Past::Stored(stored)) => Arc::new(stored),
            Err(why) => return gone(why),
        };
        let read = Arc::clone(&stored);
        let read = self.reads.read(move || match read.read() {
            Ok(snapshot) => HttpAnswer::json(StatusCode::OK, &snapshot),
            Err(why) => gone(why),
        });
        read.await.unwrap_or_else(|why| {
            HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, stored.but(&why) + "\n")
        })
    }

    /// Makes a document of what is in memory.
    async fn make(&self, make: impl FnOnce() -> HttpAnswer + Send + 'static) -> HttpAnswer {
        let _turn = self.turn.lock().await;
        let made = tokio::task::spawn_blocking(make).await;
        made.unwrap_or_else(|error| {
            HttpAnswer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string() + "\n")
        })
    }

    /// Follows changes, if the path says so and there is room.
    pub(super) fn follow(
        &self,
        path: &str,
        follows: &Arc<AtomicBool>,
    ) -> Option<mpsc::Receiver<Bytes>> {
        let after = parse_after(below(path, WATCH)?)?;
        if !self.history.is_kept() {
            return None;
        }
        let place = Place::take(&self.followers, follows)?;
        let (lines, body) = mpsc::channel(1);
        let history = self.history.clone();
        let reader = Reader { lines, patience: self.patience };
        tokio::spawn(async move {
            let _place = place;
            // It ends when the reader or the daemon does.
            let _ = follow(&history, after, &reader).await;
        });
        Some(body)
    }
}

/// The place of one that follows.
struct Place {
    followers: Arc<AtomicUsize>,
    /// Whether its connection is spared.
    follows: Arc<AtomicBool>,
}

impl Place {
    fn take(followers: &Arc<AtomicUsize>, follows: &Arc<AtomicBool>) -> Option<Self> {
        let more = |count| (count < FOLLOWERS).then_some(count + 1);
        followers.fetch_update(Relaxed, Relaxed, more).ok()?;
        follows.store(true, Relaxed);
        Some(Self { followers: Arc::clone(followers), follows: Arc::clone(follows) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.followers.fetch_sub(1, Relaxed);
        self.follows.store(false, Relaxed);
    }
}

/// Returns what follows a path, without the slash.
fn below<'a>(path: &'a str, of: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(of)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// Where to begin.
struct After {
    id: u64,
    /// When the numbers of that history began, if it is told.
    since: Option<Timestamp>,
}

/// Returns after which change to begin; `Some(None)` for now.
fn parse_after(text: &str) -> Option<Option<After>> {
    if text.is_empty() {
        return Some(None);
    }
    let (id, since) = text.split_once('/').map_or((text, None), |(id, of)| (id, Some(of)));
    let since = since.map(str::parse).transpose().ok()?;
    Some(Some(After { id: id.parse().ok()?, since }))
}

fn gone(why: String) -> HttpAnswer {
    HttpAnswer::text(StatusCode::GONE, why + "\n")
}

fn answer(history: &History, path: &str) -> HttpAnswer {
    match below(path, CHANGES) {
        Some("") => HttpAnswer::json(StatusCode::OK, &list(history, LARGEST)),
        Some(id) => match id.parse().ok().and_then(|id| history.find(id)) {
            Some(entry) => HttpAnswer::json(StatusCode::OK, &*history.told(&entry)),
            None => gone(format!("no change {id} is kept")),
        },
        None => HttpAnswer::not_found(),
    }
}

/// Returns the newest changes that fit into a document of this size.
fn list(history: &History, largest: usize) -> ChangeList<Box<RawValue>> {
    let all = history.all();
    let mut items = Vec::new();
    let mut bytes = 0;
    for entry in all.iter().rev() {
        // It was made here, and can be written.
        let Ok(text) = serde_json::value::to_raw_value(&*history.told(entry)) else { break };
        bytes += text.get().len();
        if bytes > largest && !items.is_empty() {
            break;
        }
        items.push(text);
    }
    items.reverse();
    let (api_version, kind) = (API_VERSION.to_owned(), "ChangeList".to_owned());
    ChangeList { api_version, kind, more_items: all.len() - items.len(), items }
}

/// Sends changes after one, or from now on, until the reader is gone, or too slow.
async fn follow(history: &History, after: Option<After>, reader: &Reader) -> anyhow::Result<()> {
    // Their numbers are not known before.
    while history.is_reading() {
        tokio::select! {
            () = tokio::time::sleep(READING) => {}
            () = reader.lines.closed() => return Ok(()),
        }
    }
    let mut newest = history.follow();
    let last = *newest.borrow();
    let mut seen = match after {
        None => last,
        // The numbers of a daemon without a state directory begin again.
        Some(After { since: Some(of), .. }) if of != history.since() => 0,
        Some(After { id, .. }) => id.min(last),
    };
    // It says at once that it is there.
    reader.send(&heartbeat(history, seen)).await?;
    loop {
        newest.mark_unchanged();
        while let Some(Next { entry, lost }) = history.next(seen) {
            if lost > 0 {
                reader.send(&Line::Lost { changes: lost }).await?;
            }
            seen = entry.id;
            let history = history.clone();
            // A change may be megabytes as text, which the daemon's thread does not make.
            let make = move || text(&Line::Change(Box::new(Change::clone(&history.told(&entry)))));
            reader.pass(tokio::task::spawn_blocking(make).await??).await?;
        }
        tokio::select! {
            changed = newest.changed() => changed?,
            () = tokio::time::sleep(HEARTBEAT) => reader.send(&heartbeat(history, seen)).await?,
            () = reader.lines.closed() => return Ok(()),
        }
    }
}

fn heartbeat(history: &History, newest: u64) -> Line {
    Line::Heartbeat { newest, since: history.since(), time: Timestamp::now() }
}

/// One that follows.
struct Reader {
    lines: mpsc::Sender<Bytes>,
    patience: Duration,
}

impl Reader {
    async fn send(&self, line: &Line) -> anyhow::Result<()> {
        self.pass(text(line)?).await
    }

    /// Waits until the reader has taken the line before, but not for ever.
    async fn pass(&self, line: Bytes) -> anyhow::Result<()> {
        Ok(self.lines.send_timeout(line, self.patience).await?)
    }
}

fn text(line: &Line) -> anyhow::Result<Bytes> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rulec_compiler::{Model, Program, Settings};
    use rulec_engine::{Acknowledged, Base, Cost, Verdicts};

    use rulec_sources::StateDir;

    use super::*;
    use crate::history::Limits;
    use crate::history::keeper::Keeper;

    /// How long a disk may take.
    const LONG: Duration = Duration::from_secs(600);

    fn empty() -> History {
        History::new(Limits::default(), |entry| entry.untold())
    }

    fn note(history: &History) {
        history.note(Acknowledged {
            program: Program::new(Arc::new(Settings::new("na".into()))),
            model: Model::default(),
            base: Base::Acknowledged,
            cost: Cost { operations: 1, ..Cost::default() },
            verdicts: Verdicts::default(),
        });
    }

    /// A history with changes 1, 2 and 3.
    fn three() -> History {
        let history = empty();
        (0..3).for_each(|_| note(&history));
        history
    }

    /// Starts to keep a history in a directory, and waits until what is there is read.
    fn keep(history: &History, directory: &Path) -> Keeper {
        let keeper = history.keep(Some(StateDir::new(directory.to_owned()))).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while history.is_reading() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        keeper
    }

    async fn code(changes: &Changes, path: &str) -> (u16, String) {
        let answer = changes.answer(path).await;
        (answer.code.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
    }

    /// Only who needs the disk waits for it, and not for ever.
    #[tokio::test]
    async fn a_disk_that_hangs_delays_only_states_of_before_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let history = empty();
        let keeper = keep(&history, directory.path());
        note(&history);
        keeper.finish(LONG);
        let history = empty();
        let _keeper = keep(&history, directory.path());
        note(&history);
        let reads = Reads::with_patience(Duration::from_millis(20));
        let changes = Changes { reads, ..Changes::new(history) };
        let (work, works) = std::sync::mpsc::channel::<()>();
        assert!(changes.reads.read(move || works.recv().is_ok()).await.is_err());
        let old = format!("{STATES}/1");
        let (refused, why) = code(&changes, &old).await;
        assert_eq!(refused, 503, "{why}");
        assert!(why.contains("@1: change @1 of "), "{why}");
        assert!(why.contains(" and the disk has not answered for 20ms: the oldest is @2"), "{why}");
        let patient = Changes { reads: changes.reads.patient(), ..changes.clone() };
        let waiting = tokio::spawn(async move { code(&patient, &old).await });
        tokio::task::yield_now().await;
        for path in [CHANGES.to_owned(), format!("{CHANGES}/1"), format!("{STATES}/2")] {
            assert_eq!(code(&changes, &path).await.0, 200, "{path}");
        }
        for path in [format!("{STATES}/now"), format!("{STATES}/-0s")] {
            assert_eq!(code(&changes, &path).await.0, 200, "{path}");
        }
        work.send(()).unwrap();
        let (found, text) = waiting.await.unwrap();
        assert_eq!(found, 200, "{text}");
    }

    /// Returns the number that a first line names.
    async fn begins_at(changes: &Changes, path: &str) -> u64 {
        let mut lines = changes.follow(path, &Arc::default()).unwrap();
        let line = lines.recv().await.unwrap();
        match serde_json::from_slice(&line).unwrap() {
            Line::Heartbeat { newest, .. } => newest,
            other @ (Line::Change(_) | Line::Lost { .. }) => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn changes_of_another_history_are_all_told() {
        let changes = Changes::new(three());
        let since = changes.history.since();
        let other = since - Duration::from_secs(1);
        for (below, expected) in [
            (String::new(), 3),
            ("/2".to_owned(), 2),
            ("/500".to_owned(), 3),
            (format!("/2/{since}"), 2),
            (format!("/2/{other}"), 0),
        ] {
            assert_eq!(begins_at(&changes, &format!("{WATCH}{below}")).await, expected, "{below}");
        }
        for below in ["/x", "/2/yesterday"] {
            assert!(changes.follow(&format!("{WATCH}{below}"), &Arc::default()).is_none());
        }
    }

    #[tokio::test]
    async fn one_that_reads_nothing_loses_its_place() {
        let changes = Changes { patience: Duration::from_millis(20), ..Changes::new(three()) };
        let follows = Arc::default();
        let lines = changes.follow(&format!("{WATCH}/0"), &follows).unwrap();
        assert!(follows.load(Relaxed));
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while changes.followers.load(Relaxed) > 0 && std::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(changes.followers.load(Relaxed), 0);
        assert!(!follows.load(Relaxed), "its connection is not spared any more");
        drop(lines);
    }

    #[test]
    fn a_list_has_the_newest_changes_that_fit() {
        let history = three();
        let whole = list(&history, usize::MAX);
        assert_eq!((whole.items.len(), whole.more_items), (3, 0));
        // Times are written without their last zeros, so that no two need be equally long.
        let newest: usize = whole.items[1..].iter().map(|item| item.get().len()).sum();
        let part = list(&history, newest);
        assert_eq!((part.items.len(), part.more_items), (2, 1));
        let least = list(&history, 1);
        assert_eq!((least.items.len(), least.more_items), (1, 2), "at least one");
        let last: Change = serde_json::from_str(least.items[0].get()).unwrap();
        assert_eq!(last.id, 3);
    }
}
