//! The source that sends what a recording says.

use std::fmt;
use std::future::pending;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::entry::Entry;
use super::frame::RecordingError;
use super::moment::Moment;
use super::reader::Reader;
use crate::error::SourceError;
use crate::update::Update;

/// How many entries are decoded ahead.
const AHEAD: usize = 64;

/// How fast a recording is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded.
    Times(f64),
    /// As fast as the daemon takes it.
    Max,
}

impl Speed {
    /// The fastest and the slowest; what is faster is `max`.
    const RANGE: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

    /// Returns how long something takes that took so long.
    fn shorten(self, time: Duration) -> Duration {
        match self {
            Self::Times(times) => time.div_f64(times),
            Self::Max => Duration::ZERO,
        }
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text.parse().ok().filter(|times| Self::RANGE.contains(times));
        let wrong = || format!("{text:?} is not a speed: write max, or a number such as 1 or 0.5");
        times.map(Self::Times).ok_or_else(wrong)
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => times.fmt(f),
            Self::Max => f.write_str("max"),
        }
    }
}

/// What is replayed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayOptions {
    /// The recording.
    pub path: PathBuf,
    /// How fast.
    pub speed: Speed,
    /// What was before is sent at once.
    pub from: Option<Timestamp>,
    /// What was after is not sent.
    pub until: Option<Timestamp>,
}

/// When each entry is sent.
#[derive(Debug)]
pub(super) struct Timetable {
    pub(super) speed: Speed,
    pub(super) from: Option<Timestamp>,
    /// The time of the entry before.
    pub(super) last: Option<Timestamp>,
    /// How long it was from the first entry to this, without what is cut off.
    pub(super) passed: Duration,
}

/// The longest pause. A node whose clock was set after its start has one of many years.
const LONGEST: Duration = Duration::from_secs(3600);

impl Timetable {
    /// Returns how long after the begin an entry is sent; `None` if it is sent at once.
    pub(super) fn after(&mut self, time: Timestamp) -> Option<Duration> {
        if self.from.is_some_and(|from| time < from) || self.speed == Speed::Max {
            return None;
        }
        let before = self.last.replace(time).or(self.from).unwrap_or(time);
        // A clock that was set back makes no pause.
        let pause = Duration::try_from(time.duration_since(before)).unwrap_or_default();
        if pause > LONGEST {
            info!(?pause, %time, "a pause of the recording is cut to an hour");
        }
        self.passed += pause.min(LONGEST);
        Some(self.speed.shorten(self.passed))
    }
}

/// The source that sends what a recording says. It goes on after its end, without sending anything.
#[derive(Debug)]
pub struct ReplaySource {
    options: ReplayOptions,
    reader: Reader,
}

/// What the thread that reads has found.
enum Read {
    Entry(Entry),
    /// A part cannot be read.
    LeftOut(String),
    Failed(RecordingError),
}

impl ReplaySource {
    /// Takes a recording that was opened.
    pub fn new(reader: Reader, options: ReplayOptions) -> Self {
        Self { options, reader }
    }

    /// Sends updates.
    ///
    /// # Errors
    ///
    /// If the recording cannot be read, or the thread that reads it cannot be started.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let Self { options, reader } = self;
        let ReplayOptions { path, speed, from, until } = options;
        let (found, mut entries) = mpsc::channel(AHEAD);
        let body = move || read(reader, until, &found);
        let thread = thread::Builder::new().name("rulec-replay".to_owned()).spawn(body);
        thread.map_err(SourceError::Thread)?;
        let mut moment = Moment::default();
        let mut timetable = Timetable { speed, from, last: None, passed: Duration::ZERO };
        let mut begun = None;
        let mut sent: u64 = 0;
        while let Some(read) = entries.recv().await {
            let entry = match read {
                Read::Entry(entry) => entry,
                Read::LeftOut(what) => {
                    warn!("{what}");
                    continue;
                }
                Read::Failed(error) => return Err(SourceError::Recording(Box::new(error))),
            };
            if let Some(after) = timetable.after(entry.time) {
                let begun = *begun.get_or_insert_with(Instant::now);
                if let Some(at) = begun.checked_add(after) {
                    tokio::time::sleep_until(at).await;
                }
            }
            for update in moment.updates(&entry) {
                sent += 1;
                if out.send(update).await.is_err() {
                    return Ok(());
                }
            }
        }
        for origin in moment.incomplete() {
            warn!(%origin, "the recording ends before the first complete list of a source");
        }
        info!(path = %path.display(), updates = sent, "the recording has ended; its last state stays");
        pending().await
    }
}

/// Reads a recording until its end, or until nobody wants more of it.
fn read(mut reader: Reader, until: Option<Timestamp>, out: &mpsc::Sender<Read>) {
    let mut told = 0;
    loop {
        let read = reader.read();
        for left_out in reader.left_out().iter().skip(told) {
            told += 1;
            if out.blocking_send(Read::LeftOut(left_out.to_string())).is_err() {
                return;
            }
        }
        let read = match read {
            Ok(None) => return,
            Ok(Some(entry)) if until.is_some_and(|until| entry.time > until) => return,
            Ok(Some(entry)) => Read::Entry(entry),
            Err(error) => Read::Failed(error),
        };
        let is_last = matches!(read, Read::Failed(_));
        if out.blocking_send(read).is_err() || is_last {
            return;
        }
    }
}
