//! Durations as the metrics have them: how many in each bucket. They are read from the text that
//! Prometheus gets, so that the page cannot say anything else.

use std::time::Duration;

/// How many events took how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Durations {
    /// The longest time in seconds of each bucket, and the events in it alone. The last bucket has no
    /// longest time.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
    /// All times together, in seconds.
    pub(super) sum: f64,
}

impl Durations {
    /// Reads a histogram. Of several with different labels, the one with this label is meant; an
    /// empty label means any.
    pub(super) fn read(metrics: &str, name: &str, label: &str) -> Self {
        let mut found = Self::default();
        let mut below = 0;
        for line in metrics.lines().filter(|line| !line.starts_with('#') && line.contains(label)) {
            let Some(rest) = line.strip_prefix(name) else { continue };
            let Some((series, value)) = rest.rsplit_once(' ') else { continue };
            if let Some(labels) = series.strip_prefix("_bucket{le=\"") {
                let bound = labels.split('"').next().and_then(bound);
                let (Some(bound), Ok(count)) = (bound, value.parse::<u64>()) else { continue };
                found.buckets.push((bound, count.saturating_sub(below)));
                below = count;
            } else if series.starts_with("_sum") {
                found.sum = value.parse().unwrap_or_default();
            } else if series.starts_with("_count") {
                found.count = value.parse().unwrap_or_default();
            }
        }
        found
    }

    /// Returns the average, if there is one.
    #[expect(clippy::cast_precision_loss, reason = "an average of this many needs no more digits")]
    pub(super) fn average(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// Returns a time that at least this part of the events, in percent, did not exceed.
    pub(super) fn within(&self, percent: u64) -> Option<f64> {
        let needed = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        let reaches = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= needed
        });
        reaches.map(|(bound, _)| *bound).filter(|_| self.count > 0)
    }

    /// Returns the buckets from the first that has something to the last, with one more on each
    /// side.
    pub(super) fn filled(&self) -> &[(f64, u64)] {
        let is_filled = |(_, count): &(f64, u64)| *count > 0;
        let Some(first) = self.buckets.iter().position(is_filled) else { return &[] };
        let last = self.buckets.iter().rposition(is_filled).unwrap_or(first);
        let last = (last + 1).min(self.buckets.len() - 1);
        &self.buckets[first.saturating_sub(1)..=last]
    }
}

fn bound(text: &str) -> Option<f64> {
    if text == "+Inf" { Some(f64::INFINITY) } else { text.parse().ok() }
}

/// Returns a duration with two or three digits: `64 µs`, `1.02 ms`, `8.2 s`.
pub(super) fn short(seconds: f64) -> String {
    let Ok(duration) = Duration::try_from_secs_f64(seconds) else { return "more".to_owned() };
    let (value, unit) = match duration.as_micros() {
        0 => return "0".to_owned(),
        1..1_000 => (seconds * 1e6, "µs"),
        1_000..1_000_000 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    if value < 9.95 {
        let text = format!("{value:.1}");
        format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::metrics::Metrics;

    #[test]
    fn the_histogram_is_that_of_the_metrics() {
        let metrics = Metrics::default();
        metrics.own.acknowledged(Duration::from_micros(50), 2);
        metrics.own.acknowledged(Duration::from_micros(500), 1);
        metrics.own.acknowledged(Duration::from_secs(1000), 1);
        let text = metrics.text().unwrap();
        let read = Durations::read(&text, "rulec_queue_to_ack_seconds", "");
        assert_eq!((read.count, read.sum.round()), (4, 1000.0));
        let filled: Vec<(String, u64)> =
            read.filled().iter().map(|(bound, count)| (short(*bound), *count)).collect();
        assert_eq!(filled[..3], [("32 µs", 0), ("64 µs", 2), ("128 µs", 0)].map(own));
        assert_eq!(filled.last(), Some(&("more".to_owned(), 1)));
        assert_eq!(read.within(50).map(short), Some("64 µs".to_owned()));
        assert_eq!(read.within(75).map(short), Some("512 µs".to_owned()));
        assert_eq!(read.within(99).map(short), Some("more".to_owned()));
    }

    fn own((bound, count): (&str, u64)) -> (String, u64) {
        (bound.to_owned(), count)
    }

    #[test]
    fn one_of_several_is_chosen_by_its_label() {
        let metrics = Metrics::default();
        metrics.kube_proxy.synced(Duration::from_millis(3), true);
        let text = metrics.text().unwrap();
        let name = "kubeproxy_sync_proxy_rules_duration_seconds";
        let read = Durations::read(&text, name, "ip_family=\"IPv4\"");
        assert_eq!((read.count, read.within(50).map(short)), (1, Some("4 ms".to_owned())));
        let none = Durations::read(&text, name, "ip_family=\"none\"");
        assert_eq!((none.average(), none.within(50), none.filled()), (None, None, &[][..]));
    }

    #[test]
    fn durations_are_short() {
        let all = [0.000_032, 0.001_024, 0.016_384, 0.0995, 2.097_152, 67.1, f64::INFINITY];
        assert_eq!(
            all.map(short),
            ["32 µs", "1 ms", "16 ms", "100 ms", "2.1 s", "67 s", "more"].map(str::to_owned)
        );
    }
}
