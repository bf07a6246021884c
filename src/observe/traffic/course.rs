//! How many new connections there were, minute by minute: what a page can show that is made once.
//!
//! Readings are those that are made anyway. What is kept of them is the number of each minute, and the
//! last two readings for the rates of single Services.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_sinks::nft::traffic::Totals;

/// How many intervals are kept.
pub(crate) const MINUTES: usize = 60;

/// What an interval is meant to be.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// How much shorter one may be. The reading at the end of a minute may be one that somebody has just
/// asked for, and the clock that it is of may be slower than the one that the minute was waited by:
/// without this, an interval would now and then be of two minutes.
const EARLY: Duration = Duration::from_secs(2);

/// The shortest time over which the rate of a Service is told, if there is a longer one.
const LEAST: Duration = Duration::from_secs(20);

/// What is kept. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Course(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    minutes: VecDeque<Minute>,
    /// The readings at the ends of the last two intervals, the older one first.
    readings: VecDeque<(SystemTime, Arc<Totals>)>,
}

/// The new connections of an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Minute {
    /// Its end.
    pub(crate) to: Timestamp,
    /// How long it was. It is longer if there was no reading at the end of a minute.
    pub(crate) passed: Duration,
    /// Connections in a second.
    pub(crate) rate: f64,
}

/// The rate of each Service, the busiest first, with the seconds over which it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Busiest {
    pub(crate) seconds: f64,
    pub(crate) services: Vec<(NamespacedName, f64)>,
}

impl Course {
    /// Takes a reading. Returns whether an interval ends, and so the next one begins.
    pub(crate) fn take(&self, totals: &Arc<Totals>) -> bool {
        let Some(at) = totals.at else { return false };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((before, last)) = kept.readings.back() else {
            kept.readings.push_back((at, Arc::clone(totals)));
            return true;
        };
        // A clock that was set back begins anew.
        let Ok(passed) = at.duration_since(*before) else {
            kept.minutes.clear();
            kept.readings.clear();
            kept.readings.push_back((at, Arc::clone(totals)));
            return true;
        };
        if passed < MINUTE - EARLY {
            return false;
        }
        let connections: u64 = new_connections(last, totals).map(|(_, count)| count).sum();
        if let Ok(to) = Timestamp::try_from(at) {
            kept.minutes.push_back(Minute { to, passed, rate: rate(connections, passed) });
        }
        kept.readings.push_back((at, Arc::clone(totals)));
        while kept.minutes.len() > MINUTES {
            kept.minutes.pop_front();
        }
        while kept.readings.len() > 2 {
            kept.readings.pop_front();
        }
        true
    }

    /// Returns the intervals, the oldest first.
    pub(crate) fn minutes(&self) -> Vec<Minute> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.minutes.iter().copied().collect()
    }

    /// Returns the rates until a reading, since one of a minute or two ago; none, if there is no such.
    /// `names` are the whole names of ports whose comments are shortened.
    pub(crate) fn busiest(&self, now: &Totals, names: &BTreeMap<PortKey, PortKey>) -> Busiest {
        let Some(at) = now.at else { return Busiest::default() };
        let readings = {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.readings.clone()
        };
        let passed = |before: &SystemTime| at.duration_since(*before).unwrap_or_default();
        let is_long = |(before, _): &&(SystemTime, Arc<Totals>)| passed(before) >= LEAST;
        let found = readings.iter().rev().find(is_long).or(readings.front());
        let Some((before, totals)) = found.filter(|(before, _)| !passed(before).is_zero()) else {
            return Busiest::default();
        };
        let passed = passed(before);
        let mut services: BTreeMap<&NamespacedName, u64> = BTreeMap::new();
        for (comment, count) in new_connections(totals, now) {
            let key = names.get(comment).unwrap_or(comment);
            *services.entry(&key.service).or_default() += count;
        }
        let rates = services.into_iter().filter(|(_, count)| *count > 0);
        let mut services: Vec<(NamespacedName, f64)> =
            rates.map(|(service, count)| (service.clone(), rate(count, passed))).collect();
        // Those with the same rate stay in the order of their names.
        services.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Busiest { seconds: passed.as_secs_f64(), services }
    }
}

/// Returns the new connections to each port between two readings. A port that is new began at 0.
fn new_connections<'a>(
    before: &'a Totals,
    now: &'a Totals,
) -> impl Iterator<Item = (&'a PortKey, u64)> {
    now.ports.iter().map(|(port, totals)| {
        let old = before.ports.get(port).map_or(0, |totals| totals.connections);
        (&**port, totals.connections.saturating_sub(old))
    })
}

fn rate(connections: u64, passed: Duration) -> f64 {
    // No node makes 2^32 connections in an interval.
    f64::from(u32::try_from(connections).unwrap_or(u32::MAX)) / passed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use rulec_sinks::nft::traffic::PortTotals;

    use super::*;

    fn totals(seconds: u64, ports: &[(&str, u64)]) -> Arc<Totals> {
        let port = |(name, connections): &(&str, u64)| {
            let totals = PortTotals { connections: *connections, ..PortTotals::default() };
            (Arc::new(PortKey::from_comment(name).unwrap()), totals)
        };
        let at = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        Arc::new(Totals { at, ports: ports.iter().map(port).collect(), losses: 0 })
    }

    fn rates(course: &Course) -> Vec<f64> {
        course.minutes().iter().map(|minute| minute.rate).collect()
    }

    #[test]
    fn a_minute_has_what_was_counted_in_it_however_often_it_is_read() {
        let course = Course::default();
        for (seconds, web) in [(0, 1_000), (1, 1_005), (30, 1_010), (60, 1_060), (100, 1_100)] {
            course.take(&totals(seconds, &[("default/web", web)]));
        }
        assert_eq!(rates(&course), [1.0], "what was counted before is not of this minute");
        // A Service has gone, and its total with it; another one is new.
        course.take(&totals(160, &[("default/new", 200)]));
        assert_eq!(rates(&course), [1.0, 2.0]);
        assert_eq!(course.minutes()[1].to, Timestamp::from_second(160).unwrap());
        for minute in 0..2 * MINUTES as u64 {
            course.take(&totals(300 + 60 * minute, &[("default/new", 200)]));
        }
        assert_eq!(rates(&course), [0.0; MINUTES]);
        // A clock that was set back.
        course.take(&totals(10, &[("default/new", 300)]));
        assert_eq!(rates(&course), [0.0; 0]);
    }

    /// The clock that readings are of need not be the one that a minute was waited by.
    #[test]
    fn a_reading_that_is_a_little_early_ends_a_minute() {
        let course = Course::default();
        let at = |milliseconds| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            Arc::new(Totals { at: Some(at), ..Totals::default() })
        };
        let taken =
            [0, 59_900, 60_000, 90_000, 119_800, 200_000, 179_700].map(|it| course.take(&at(it)));
        assert_eq!(taken, [true, true, false, false, true, true, true]);
        let minutes = |course: &Course| -> Vec<u128> {
            course.minutes().iter().map(|minute| minute.passed.as_millis()).collect()
        };
        assert_eq!(minutes(&course), [0; 0], "it was set back");
        assert_eq!([240_000, 400_000].map(|it| course.take(&at(it))), [true; 2]);
        assert_eq!(minutes(&course), [60_300, 160_000], "nobody has read meanwhile");
    }

    #[test]
    fn the_busiest_service_has_all_of_its_ports_and_its_whole_name() {
        let course = Course::default();
        let nothing = BTreeMap::new();
        let web = |http, dns| [("default/web:http", http), ("default/web:dns", dns)];
        let first = totals(0, &[web(0, 0)[0], web(0, 0)[1], ("default/idle", 7)]);
        assert_eq!(course.busiest(&first, &nothing), Busiest::default());
        course.take(&first);
        assert_eq!(course.busiest(&first, &nothing), Busiest::default(), "no time has passed");
        let now = totals(10, &[web(30, 0)[0], web(0, 30)[1], ("default/idle", 7), ("b/new", 70)]);
        let key = |name: &str| PortKey::from_comment(name).unwrap();
        let names = BTreeMap::from([(key("b/new"), key("b/new-with-a-long-name"))]);
        let of = |namespace, name| NamespacedName::new(namespace, name);
        let expected = Busiest {
            seconds: 10.0,
            services: vec![(of("b", "new-with-a-long-name"), 7.0), (of("default", "web"), 6.0)],
        };
        assert_eq!(course.busiest(&now, &names), expected);
        // Of two readings, that which is long enough ago.
        course.take(&totals(60, &web(60, 0)));
        let busiest = |seconds, http| course.busiest(&totals(seconds, &web(http, 0)), &nothing);
        let found = [busiest(70, 70), busiest(90, 120)];
        let found = found.map(|it| (it.seconds, it.services[0].1));
        assert_eq!(found, [(70.0, 1.0), (30.0, 2.0)]);
    }
}
