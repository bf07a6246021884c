//! Which change a time is of, although clocks are set.
//!
//! The order of changes is that of their numbers. Each has the time that the clock of the machine
//! showed, which may be set forward and back at any moment. Those of this process also have the time
//! since the machine started, which passes evenly: how long ago something was follows from that alone,
//! and so does whether the clock was set back between two changes, although their times ascend. Of
//! changes of earlier processes, only their times are known.
//!
//! A time that the clock has shown more than once is not of one change: which states it may mean is
//! told instead of one of them.

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// A clock that was set by less is as good as one that was not.
const SLIGHT: i128 = 1_000_000_000;

/// What the clocks showed at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The time.
    pub(super) time: Timestamp,
    /// How long the machine had been running, suspension included; `None` in an earlier process.
    pub(super) uptime: Option<Duration>,
}

impl Stamp {
    /// Returns what they show now.
    pub(super) fn now() -> Self {
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).ok();
        Self { time: Timestamp::now(), uptime: uptime.map(Duration::from) }
    }

    fn nanoseconds(self) -> i128 {
        self.time.as_nanosecond()
    }

    fn up(self) -> Option<i128> {
        self.uptime.map(nanoseconds)
    }
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// What a moment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Of the state before the first change.
    Before,
    /// Of the state after the change at this index.
    After(usize),
    /// Of one of several, because the clock was set back; these are the first and the last. `None` is
    /// that before the first change.
    Several(Option<usize>, usize),
    /// Of none yet.
    Future,
}

/// Returns what a time is of. The changes are in the order of their numbers.
pub(super) fn at(changes: &[Stamp], now: Stamp, time: Timestamp) -> Held {
    find(changes, now, time.as_nanosecond())
}

/// Returns what held so long ago.
pub(super) fn ago(changes: &[Stamp], now: Stamp, ago: Duration) -> Held {
    let ago = nanoseconds(ago);
    let first = changes.iter().position(|change| change.uptime.is_some());
    let begin = first.and_then(|first| {
        let change = changes.get(first)?;
        Some((first, *change, change.up()?))
    });
    let (Some((first, begin, begun)), Some(up)) = (begin, now.up()) else {
        return find(changes, now, now.nanoseconds().saturating_sub(ago));
    };
    let then = up.saturating_sub(ago);
    if then < begun {
        // By the clock, but not over what it was set by since the start.
        let before = changes.get(..first).unwrap_or_default();
        return find(before, begin, begin.nanoseconds().saturating_sub(begun.saturating_sub(then)));
    }
    let last = changes.iter().rposition(|change| change.up().is_some_and(|up| up <= then));
    Held::After(last.unwrap_or(first))
}

fn find(changes: &[Stamp], now: Stamp, time: i128) -> Held {
    let spans = spans(changes, now);
    let mut held =
        spans.iter().enumerate().filter(|(_, span)| span.has(time)).map(|(index, _)| index);
    let first = held.next();
    let last = held.next_back().or(first);
    let is_before = spans.first().is_some_and(|span| time < span.from);
    match (is_before, first, last) {
        (true, Some(_), Some(last)) => Held::Several(None, last),
        (_, Some(first), Some(last)) if first == last => Held::After(first),
        (_, Some(first), Some(last)) => Held::Several(Some(first), last),
        _ if time > now.nanoseconds() + SLIGHT => Held::Future,
        _ => Held::Before,
    }
}

/// What the clock showed between a change and the next one.
#[derive(Debug)]
struct Span {
    /// At its begin and its end.
    from: i128,
    to: i128,
    /// How long it was, if the clock was set back meanwhile.
    long: Option<i128>,
}

impl Span {
    /// Returns whether the clock may have shown this.
    fn has(&self, time: i128) -> bool {
        let Self { from, to, long } = *self;
        match long {
            // When it was set back is not known.
            Some(long) => (from..=from + long).contains(&time) || (to - long..to).contains(&time),
            // Of a change of an earlier process, it is not known how far it came.
            None if to < from => time == from,
            None => (from..to).contains(&time),
        }
    }
}

fn spans(changes: &[Stamp], now: Stamp) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut next = now;
    // Whoever asks may have another clock.
    let mut to = now.nanoseconds() + SLIGHT + 1;
    for change in changes.iter().rev() {
        let from = change.nanoseconds();
        let long = match (change.up(), next.up()) {
            (Some(begin), Some(end)) => {
                let long = end.saturating_sub(begin);
                (next.nanoseconds() - from < long - SLIGHT).then_some(long)
            }
            _ => None,
        };
        // Set back slightly, the state between the two is that after the second.
        let from = if long.is_none() && from > to && from - to <= SLIGHT { to } else { from };
        spans.push(Span { from, to, long });
        (next, to) = (*change, from);
    }
    spans.reverse();
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn own(time: i64, up: u64) -> Stamp {
        Stamp { uptime: Some(Duration::from_secs(up)), ..recalled(time) }
    }

    fn recalled(time: i64) -> Stamp {
        Stamp { time: Timestamp::from_second(time).unwrap(), uptime: None }
    }

    fn held(changes: &[Stamp], now: Stamp, time: i64) -> Held {
        at(changes, now, Timestamp::from_second(time).unwrap())
    }

    fn held_ago(changes: &[Stamp], now: Stamp, seconds: u64) -> Held {
        ago(changes, now, Duration::from_secs(seconds))
    }

    #[test]
    fn a_time_is_of_the_last_change_before_it() {
        let changes = [recalled(100), recalled(200), own(300, 5), own(400, 105)];
        let now = own(500, 205);
        for (time, expected) in [
            (99, Held::Before),
            (100, Held::After(0)),
            (250, Held::After(1)),
            (300, Held::After(2)),
            (399, Held::After(2)),
            (500, Held::After(3)),
            (501, Held::After(3)),
            (502, Held::Future),
        ] {
            assert_eq!(held(&changes, now, time), expected, "{time}");
            let ago = u64::try_from(500 - time);
            let ago = ago.map(|ago| held_ago(&changes, now, ago));
            assert!(ago.is_err() || ago == Ok(expected), "{time}: {ago:?}");
        }
        assert_eq!(held(&[], now, 400), Held::Before);
        assert_eq!(held(&[], now, 502), Held::Future);
    }

    #[test]
    fn how_long_ago_does_not_depend_on_what_the_clock_is_set_to() {
        let seconds = |by: i64| {
            // Between the second and the third change, it is set by so much.
            let changes = [recalled(700), own(1_000, 0), own(1_100, 100), own(1_200 + by, 200)];
            let now = own(1_300 + by, 300);
            [50, 150, 250, 299, 301, 599, 601].map(|ago| held_ago(&changes, now, ago))
        };
        let expected = [
            Held::After(3),
            Held::After(2),
            Held::After(1),
            Held::After(1),
            Held::After(0),
            Held::After(0),
            Held::Before,
        ];
        for by in [0, 10, -10, HOUR, -HOUR, 1_000 * HOUR] {
            assert_eq!(seconds(by), expected, "{by}");
        }
    }

    #[test]
    fn a_time_that_came_twice_is_of_several() {
        // After the third, the clock was set back by 100.
        let changes = [own(1_000, 0), own(1_100, 100), own(1_200, 200), own(1_250, 350)];
        let now = own(1_400, 500);
        for (time, expected) in [
            (1_050, Held::After(0)),
            // Before the change at 1,200, or after it and before that at 1,250.
            (1_150, Held::Several(Some(1), 2)),
            (1_220, Held::After(2)),
            // At 1,250, or before the clock was set back.
            (1_260, Held::Several(Some(2), 3)),
            (1_349, Held::Several(Some(2), 3)),
            (1_351, Held::After(3)),
        ] {
            assert_eq!(held(&changes, now, time), expected, "{time}");
        }
        // Nothing has changed since.
        let changes = &changes[..3];
        assert_eq!(held(changes, own(1_190, 290), 1_150), Held::Several(Some(1), 2));
        assert_eq!(held(changes, own(1_190, 290), 1_195), Held::After(1));
        assert_eq!(held(changes, own(1_190, 290), 1_250), Held::After(2));
        assert_eq!(held(changes, own(1_190, 290), 1_300), Held::Future);
        assert_eq!(held(changes, own(900, 290), 850), Held::Several(None, 2));
    }

    #[test]
    fn what_the_clock_jumped_over_is_of_the_change_before_it() {
        let changes = [own(1_000, 0), own(1_000 + HOUR, 10)];
        let now = own(1_100 + HOUR, 110);
        assert_eq!(held(&changes, now, 1_500), Held::After(0));
        assert_eq!(held(&changes, now, 1_050 + HOUR), Held::After(1));
    }

    #[test]
    fn of_earlier_processes_only_the_times_are_known() {
        // Set back by an hour, and then right again.
        let changes = [recalled(10_000), recalled(10_600), recalled(7_000), recalled(11_000)];
        let now = own(12_000, 10);
        for (time, expected) in [
            (6_000, Held::Before),
            (8_000, Held::Several(None, 2)),
            (10_100, Held::Several(Some(0), 2)),
            (10_600, Held::Several(Some(1), 2)),
            (10_700, Held::After(2)),
            (11_500, Held::After(3)),
        ] {
            assert_eq!(held(&changes, now, time), expected, "{time}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_slightly_is_as_good_as_one_that_is_not() {
        let part = |milliseconds: i64, up| {
            let time = Timestamp::from_millisecond(milliseconds).unwrap();
            Stamp { time, uptime: up }
        };
        for up in [None, Some(Duration::from_secs(1))] {
            let changes = [part(1_000, up), part(2_010, up), part(2_005, up)];
            let now = part(9_000, up.map(|_| Duration::from_secs(8)));
            let held = |time| at(&changes, now, Timestamp::from_millisecond(time).unwrap());
            let found = [1_500, 2_004, 2_005, 2_007, 2_010].map(held);
            let first = [Held::After(0); 2];
            assert_eq!((&found[..2], &found[2..]), (&first[..], &[Held::After(2); 3][..]));
        }
    }
}
