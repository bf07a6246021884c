//! A log that limits repetition.
//!
//! A line that is repeated, by any part of the program, must not fill a disk: the same text from
//! the same place is written a few times at once, and then once a minute with a count; and one
//! place may write only so many lines, whatever their text. Lines of level debug and trace, which
//! are for troubleshooting, are never held back.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rulec_compiler::plural::counted;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::queue::Queue;
use crate::limits::{Limits, Rate, Said, more};

/// The rate of lines with the same text.
const WORDS: Rate = Rate { burst: 10, period: Duration::from_secs(60) };

/// The rate of lines from one place in the program, whatever their text.
const PLACE: Rate = Rate { burst: 100, period: Duration::from_secs(1) };

/// How many subjects are tracked separately.
const MAX_SUBJECTS: usize = 4096;

/// The format of a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Text,
    Json,
}

/// The lines that were logged recently.
#[derive(Debug)]
pub(super) struct Told {
    words: Limits<u64, String>,
    places: Limits<u64, String>,
}

pub(super) fn limits() -> Arc<Mutex<Told>> {
    let (words, places) = (Limits::new(WORDS, MAX_SUBJECTS), Limits::new(PLACE, MAX_SUBJECTS));
    Arc::new(Mutex::new(Told { words, places }))
}

/// A format that suppresses lines.
#[derive(Debug)]
pub(super) struct Limited<F> {
    format: F,
    style: Style,
    told: Arc<Mutex<Told>>,
    queue: Arc<Queue>,
}

impl<F> Limited<F> {
    pub(super) fn new(format: F, style: Style, with: (Arc<Mutex<Told>>, Arc<Queue>)) -> Self {
        Self { format, style, told: with.0, queue: with.1 }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if *event.metadata().level() > Level::INFO {
            return self.format.format_event(ctx, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(ctx, Writer::new(&mut line), event)?;
        let place = hash(&event.metadata().callsite());
        let mut words = Words(DefaultHasher::new());
        place.hash(&mut words.0);
        event.record(&mut words);
        let now = Instant::now();
        let mut told = lock(&self.told);
        let said = told.words.say(words.0.finish(), line, now);
        let said = said.and_then(|Said { line, more }| {
            told.places.say(place, with_more(&line, more, self.style), now)
        });
        let deadline = told.deadline();
        drop(told);
        if let Some(at) = deadline {
            self.queue.set_alarm(at);
        }
        said.map_or(Ok(()), |said| writer.write_str(&with_others(&said, self.style)))
    }
}

impl Told {
    fn deadline(&self) -> Option<Instant> {
        self.words.deadline().into_iter().chain(self.places.deadline()).min()
    }
}

/// Writes suppressed lines that may be logged by now.
pub(super) fn say_what_is_due(told: &Mutex<Told>, queue: &Queue, style: Style) {
    let now = Instant::now();
    let mut told = lock(told);
    let words = told.words.due(now);
    let places = told.places.due(now);
    let deadline = told.deadline();
    drop(told);
    for Said { line, more } in words {
        queue.push(with_more(&line, more, style).as_bytes());
    }
    for said in places {
        queue.push(with_others(&said, style).as_bytes());
    }
    if let Some(at) = deadline {
        queue.set_alarm(at);
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with_more(line: &str, times: u64, style: Style) -> String {
    suffixed(line, times, &more(times), "said_more", style)
}

fn with_others(said: &Said<String>, style: Style) -> String {
    let text = format!("; and {} of this kind", counted(said.more, "more line"));
    suffixed(&said.line, said.more, &text, "more_of_this_kind", style)
}

/// Returns a line with a count at its end, unless the count is zero.
fn suffixed(line: &str, count: u64, text: &str, field: &str, style: Style) -> String {
    if count == 0 {
        return line.to_owned();
    }
    let line = line.trim_end_matches('\n');
    match (style, line.strip_suffix('}')) {
        (Style::Json, Some(open)) => format!("{open},\"{field}\":{count}}}\n"),
        (Style::Json | Style::Text, _) => format!("{line}{text}\n"),
    }
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Hashes the text of an event: its message and the fields that are strings. Numbers are left out:
/// the same event may take longer each time.
struct Words(DefaultHasher);

impl Visit for Words {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self, "{value:?}");
        0_u8.hash(&mut self.0);
    }

    fn record_f64(&mut self, _: &Field, _: f64) {}

    fn record_i64(&mut self, _: &Field, _: i64) {}

    fn record_u64(&mut self, _: &Field, _: u64) {}
}

impl fmt::Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// Collects the written lines.
    #[derive(Clone, Debug, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(style: Style, log: impl FnOnce()) -> Vec<String> {
        let page = Page::default();
        let with = (limits(), Arc::new(Queue::new(1 << 20)));
        let builder = tracing_subscriber::fmt().with_writer(page.clone()).without_time();
        let builder = builder.with_max_level(Level::DEBUG).with_ansi(false);
        match style {
            Style::Text => {
                let builder = builder.with_target(false);
                let limited = builder.map_event_format(|format| Limited::new(format, style, with));
                tracing::subscriber::with_default(limited.finish(), log);
            }
            Style::Json => {
                let builder = builder.json().flatten_event(true);
                let limited = builder.map_event_format(|format| Limited::new(format, style, with));
                tracing::subscriber::with_default(limited.finish(), log);
            }
        }
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn repeated_messages_are_limited_whatever_their_numbers() {
        let lines = logged(Style::Text, || {
            for service in ["default/a", "default/b"] {
                for took in 0..1_000 {
                    tracing::warn!(service, took, "again");
                }
            }
            for _ in 0..1_000 {
                tracing::debug!("whoever asks for it gets it");
            }
        });
        let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!((count("default/a"), count("default/b")), (10, 10));
        assert_eq!(count("whoever asks"), 1_000);
    }

    #[test]
    fn lines_from_one_call_site_are_limited() {
        let lines = logged(Style::Text, || {
            for file in 0..20_000 {
                tracing::error!("web-{file}.yaml is broken");
            }
        });
        // The last one may come from a second that has passed.
        assert!((100..200).contains(&lines.len()), "{}", lines.len());
    }

    #[test]
    fn a_count_is_appended_to_its_line() {
        let json = "{\"level\":\"WARN\",\"message\":\"again\"}\n";
        assert_eq!(
            with_more(json, 7, Style::Json),
            "{\"level\":\"WARN\",\"message\":\"again\",\"said_more\":7}\n"
        );
        assert_eq!(with_more("again\n", 7, Style::Text), "again; 7 similar lines suppressed\n");
        assert_eq!(with_more("again\n", 0, Style::Text), "again\n");
        let said = Said { line: "a.yaml is broken\n".to_owned(), more: 3 };
        let expected = "a.yaml is broken; and 3 more lines of this kind\n";
        assert_eq!(with_others(&said, Style::Text), expected);
        let lines = logged(Style::Json, || tracing::info!(n = 1, "once"));
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["message"], &line["n"]), (&"once".into(), &1.into()));
    }
}
