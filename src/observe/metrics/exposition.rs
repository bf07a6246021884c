//! Converts OpenMetrics text to Prometheus' older text format, 0.0.4, which kube-proxy answers in
//! and every scraper knows.
//!
//! For our metrics, the two formats differ in four ways: the name of a counter includes `_total` in
//! the comments, too; whole numbers have no fraction (so `le` is `1`, not `1.0`, as existing
//! queries for kube-proxy's buckets expect); there are no units; and there is no end marker.

use std::fmt::Write as _;

/// Converts a whole exposition.
pub(super) fn plain(open_metrics: &str) -> String {
    let mut plain = String::with_capacity(open_metrics.len());
    // The comment comes before the type, which decides about the name in it.
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take().and_then(|help| help.split_once(' ')) {
                let _ = writeln!(plain, "# HELP {name}{suffix} {text}");
            }
            let _ = writeln!(plain, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            let _ = writeln!(plain, "{}", sample(line));
        }
    }
    plain
}

/// Converts a line `name{labels} value`. Only the bound of a bucket, which is its first label, and
/// the value are numbers.
fn sample(line: &str) -> String {
    let Some((series, value)) = line.rsplit_once(' ') else { return line.to_owned() };
    let value = whole(value);
    let bucket = series.split_once("_bucket{le=\"");
    match bucket.and_then(|(name, rest)| Some((name, rest.split_once('"')?))) {
        Some((name, (bound, labels))) => {
            format!("{name}_bucket{{le=\"{}\"{labels} {value}", whole(bound))
        }
        None => format!("{series} {value}"),
    }
}

fn whole(number: &str) -> &str {
    number.strip_suffix(".0").unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_translated_to_the_prometheus_format() {
        let open_metrics = "\
# HELP a_changes Changes.
# TYPE a_changes counter
a_changes_total{source=\"api\"} 3
# HELP b_no_local_total Ports.
# TYPE b_no_local_total gauge
b_no_local_total 0
# HELP c_seconds Time.
# TYPE c_seconds histogram
# UNIT c_seconds seconds
c_seconds_sum 1.5
c_seconds_count 2
c_seconds_bucket{le=\"0.25\",ip_family=\"IPv4\"} 0
c_seconds_bucket{le=\"1.0\",ip_family=\"IPv4\"} 2
c_seconds_bucket{le=\"+Inf\",ip_family=\"IPv4\"} 2
# HELP d_time When.
# TYPE d_time gauge
d_time 1700000000.0
# EOF
";
        let expected = "\
# HELP a_changes_total Changes.
# TYPE a_changes_total counter
a_changes_total{source=\"api\"} 3
# HELP b_no_local_total Ports.
# TYPE b_no_local_total gauge
b_no_local_total 0
# HELP c_seconds Time.
# TYPE c_seconds histogram
c_seconds_sum 1.5
c_seconds_count 2
c_seconds_bucket{le=\"0.25\",ip_family=\"IPv4\"} 0
c_seconds_bucket{le=\"1\",ip_family=\"IPv4\"} 2
c_seconds_bucket{le=\"+Inf\",ip_family=\"IPv4\"} 2
# HELP d_time When.
# TYPE d_time gauge
d_time 1700000000
";
        assert_eq!(plain(open_metrics), expected);
    }
}
