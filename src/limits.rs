//! How often the log says something: at first at once, later seldom, and always with a count.
//!
//! Pure: the time comes from the caller. Invariant: what was not said is counted, and said with the next
//! line about the same, which comes by itself (`due`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often something may be said.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// So many lines at once.
    pub burst: u32,
    /// And from then on, one in such a time.
    pub period: Duration,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    left: u32,
    /// When `left` was right. Meaningless while nothing was taken.
    since: Instant,
}

impl Bucket {
    /// One of which nothing was taken.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.burst, since: now }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let Some(left) = self.left.checked_sub(1) else { return false };
        if self.left == self.rate.burst {
            self.since = now;
        }
        self.left = left;
        true
    }

    /// When there is one again.
    pub fn next(&self) -> Instant {
        if self.left > 0 { self.since } else { self.since + self.rate.period }
    }

    fn is_full(&self, now: Instant) -> bool {
        let mut copy = *self;
        copy.refill(now);
        copy.left == copy.rate.burst
    }

    fn refill(&mut self, now: Instant) {
        let period = self.rate.period.as_nanos().max(1);
        let passed = now.saturating_duration_since(self.since).as_nanos() / period;
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed >= self.rate.burst - self.left {
            self.left = self.rate.burst;
            self.since = now;
        } else {
            self.left += passed;
            self.since += self.rate.period * passed;
        }
    }
}

/// A line to be said now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<T> {
    /// The line.
    pub line: T,
    /// How many about the same were not said before it.
    pub more: u64,
}

/// Lines by what they are about.
#[derive(Debug)]
pub struct Limits<K, T> {
    rate: Rate,
    /// How many subjects are told apart.
    most: usize,
    subjects: BTreeMap<K, Subject<T>>,
    /// How many of them have a line that was not said.
    waiting: usize,
    /// When to look next for those that can be forgotten. They become so with time only.
    tidy_at: Option<Instant>,
}

#[derive(Debug)]
struct Subject<T> {
    bucket: Bucket,
    /// The last line that was not said, and how many others were not.
    unsaid: Option<Said<T>>,
}

impl<K: Ord + Clone, T> Limits<K, T> {
    /// Nothing was said yet.
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, subjects: BTreeMap::new(), waiting: 0, tidy_at: None }
    }

    /// Says a line now, or keeps it until it may be said, unless another one about the same comes.
    pub fn say(&mut self, subject: K, line: T, now: Instant) -> Option<Said<T>> {
        if self.subjects.len() >= self.most && !self.subjects.contains_key(&subject) {
            if self.tidy_at.is_none_or(|at| at <= now) {
                self.subjects.retain(|_, it| it.unsaid.is_some() || !it.bucket.is_full(now));
                self.tidy_at = Some(now + self.rate.period / 16);
            }
            // So many at once are for others to bound.
            if self.subjects.len() >= self.most {
                return Some(Said { line, more: 0 });
            }
        }
        let rate = self.rate;
        let fresh = || Subject { bucket: Bucket::new(rate, now), unsaid: None };
        let subject = self.subjects.entry(subject).or_insert_with(fresh);
        let before = subject.unsaid.take();
        let more = before.as_ref().map_or(0, |unsaid| unsaid.more + 1);
        self.waiting -= usize::from(before.is_some());
        let said = Said { line, more };
        if subject.bucket.take(now) {
            return Some(said);
        }
        self.waiting += 1;
        subject.unsaid = Some(said);
        None
    }

    /// The lines that were not said, as far as their time has come.
    pub fn due(&mut self, now: Instant) -> Vec<Said<T>> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let mut due = Vec::new();
        for subject in self.subjects.values_mut() {
            if subject.unsaid.is_some() && subject.bucket.take(now) {
                due.extend(subject.unsaid.take());
            }
        }
        self.waiting -= due.len();
        due
    }

    /// When to ask what is due.
    pub fn deadline(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let waiting = self.subjects.values().filter(|subject| subject.unsaid.is_some());
        waiting.map(|subject| subject.bucket.next()).min()
    }
}

/// What a line ends in.
pub fn more(times: u64) -> String {
    match times {
        0 => String::new(),
        1 => "; said once more".to_owned(),
        _ => format!("; said {times} times more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 5, period: Duration::from_secs(60) };
    const MINUTE: Duration = RATE.period;

    #[test]
    fn five_lines_at_once_and_then_one_a_minute_with_a_count() {
        let start = Instant::now();
        let mut limits = Limits::new(RATE, 10);
        let mut said = Vec::new();
        // One Service is broken 1,000 times, ten times a second.
        for time in 0..1_000_u32 {
            let now = start + Duration::from_millis(100) * time;
            said.extend(limits.due(now));
            said.extend(limits.say("web", time, now));
        }
        let lines: Vec<(u32, u64)> = said.iter().map(|said| (said.line, said.more)).collect();
        assert_eq!(lines[..5], [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
        // The first is given back after a minute.
        assert_eq!(lines[5..], [(599, 594)]);
        assert_eq!(limits.deadline(), Some(start + 2 * MINUTE));
        assert_eq!(limits.due(start + 2 * MINUTE - Duration::from_nanos(1)), []);
        // How it ended is said, though nothing more comes.
        assert_eq!(limits.due(start + 2 * MINUTE), [Said { line: 999, more: 399 }]);
        assert_eq!(limits.deadline(), None);
        let total = 5 + 1 + 594 + 1 + 399;
        assert_eq!(total, 1_000, "each was said or counted");
    }

    #[test]
    fn who_is_quiet_for_long_has_all_again_and_others_do_not_count() {
        let start = Instant::now();
        let mut limits = Limits::new(RATE, 10);
        let mut all =
            |subject, now| (0..10).filter(|_| limits.say(subject, (), now).is_some()).count();
        assert_eq!(all("a", start), 5);
        assert_eq!(all("b", start), 5);
        assert_eq!(all("a", start + MINUTE * 3), 3);
        assert_eq!(all("a", start + MINUTE * 100), 5);
    }

    #[test]
    fn subjects_are_forgotten_when_they_have_nothing_to_tell() {
        let start = Instant::now();
        let mut limits = Limits::new(RATE, 3);
        for subject in 0..3 {
            for _ in 0..6 {
                limits.say(subject, (), start);
            }
        }
        assert!(limits.say(3, (), start).is_some(), "there is no room to count it");
        assert_eq!(limits.subjects.len(), 3);
        let later = start + 10 * MINUTE;
        assert_eq!(limits.due(later).len(), 3);
        assert!(limits.say(3, (), later + 10 * MINUTE).is_some());
        assert_eq!(limits.subjects.len(), 1);
    }
}
