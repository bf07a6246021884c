//! Rate limits for log lines: the first come at once, later ones seldom, and always with a count.
//!
//! Pure: the time comes from the caller. Invariant: suppressed lines are counted, and the count
//! comes with the next line about the same subject, which `due` returns even if no new line comes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rulec_compiler::plural::counted;

/// How often a line may be logged.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The number of lines that may come at once.
    pub burst: u32,
    /// After those, one line in each period.
    pub period: Duration,
}

/// The remaining budget of a rate.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    left: u32,
    /// The time that `left` refers to. Meaningless while nothing was taken.
    since: Instant,
}

impl Bucket {
    /// Starts with the full budget.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.burst, since: now }
    }

    /// Takes one line from the budget, if one is left.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let Some(left) = self.left.checked_sub(1) else { return false };
        if self.left == self.rate.burst {
            self.since = now;
        }
        self.left = left;
        true
    }

    /// Returns when the budget has a line again.
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

/// A line to be logged now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<T> {
    /// The line.
    pub line: T,
    /// How many lines about the same subject were suppressed before it.
    pub more: u64,
}

/// Rate limits by the subject of lines.
#[derive(Debug)]
pub struct Limits<K, T> {
    rate: Rate,
    /// How many subjects are tracked separately.
    most: usize,
    subjects: BTreeMap<K, Subject<T>>,
    /// How many of them have a suppressed line.
    waiting: usize,
    /// When to look next for subjects that can be forgotten. Only the passing of time makes them
    /// so.
    tidy_at: Option<Instant>,
}

#[derive(Debug)]
struct Subject<T> {
    bucket: Bucket,
    /// The last suppressed line, and how many others were suppressed before it.
    unsaid: Option<Said<T>>,
}

impl<K: Ord + Clone, T> Limits<K, T> {
    /// Starts without subjects.
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, subjects: BTreeMap::new(), waiting: 0, tidy_at: None }
    }

    /// Returns a line that may be logged now, or keeps it until it may be; a later line about the
    /// same subject replaces it.
    pub fn say(&mut self, subject: K, line: T, now: Instant) -> Option<Said<T>> {
        if self.subjects.len() >= self.most && !self.subjects.contains_key(&subject) {
            if self.tidy_at.is_none_or(|at| at <= now) {
                self.subjects.retain(|_, it| it.unsaid.is_some() || !it.bucket.is_full(now));
                self.tidy_at = Some(now + self.rate.period / 16);
            }
            // Another limit has to bound the number of subjects.
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

    /// Returns the suppressed lines that may be logged now.
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

    /// Returns when to call `due`.
    pub fn deadline(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let waiting = self.subjects.values().filter(|subject| subject.unsaid.is_some());
        waiting.map(|subject| subject.bucket.next()).min()
    }
}

/// Returns the suffix of a line after which others were suppressed.
pub fn more(times: u64) -> String {
    match times {
        0 => String::new(),
        times => format!("; {} suppressed", counted(times, "similar line")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 5, period: Duration::from_secs(60) };
    const MINUTE: Duration = RATE.period;

    #[test]
    fn five_lines_are_allowed_and_then_one_a_minute_with_a_count() {
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
        // The first token is returned after a minute.
        assert_eq!(lines[5..], [(599, 594)]);
        assert_eq!(limits.deadline(), Some(start + 2 * MINUTE));
        assert_eq!(limits.due(start + 2 * MINUTE - Duration::from_nanos(1)), []);
        // The last state is logged even if no line follows.
        assert_eq!(limits.due(start + 2 * MINUTE), [Said { line: 999, more: 399 }]);
        assert_eq!(limits.deadline(), None);
        let total = 5 + 1 + 594 + 1 + 399;
        assert_eq!(total, 1_000, "each was said or counted");
    }

    #[test]
    fn the_allowance_refills_and_is_separate_per_subject() {
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
    fn idle_subjects_are_forgotten() {
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
