//! A histogram: a bar for each bucket, with its longest time below and its events in a title.

use std::fmt::Write as _;

use rulec_compiler::plural::counted;

use super::bars::{self, Bar};
use super::histogram::{Durations, short};
use super::html::Html;

/// Adds a plot with a title and what the numbers mean.
pub(super) fn plot(html: &mut Html, title: &str, what: &str, durations: &Durations) {
    html.element("figure", &[], |html| {
        html.element("figcaption", &[], |html| {
            html.leaf("b", &[], title);
            html.leaf("span", &[("class", &"what")], what);
            html.leaf("span", &[("class", &"sum")], summary(durations));
        });
        if durations.count > 0 {
            bars(html, title, durations);
        }
    });
}

fn summary(durations: &Durations) -> String {
    let (Some(half), Some(most), Some(average)) =
        (durations.within(50), durations.within(99), durations.average())
    else {
        return "nothing yet".to_owned();
    };
    let mut text = counted(durations.count, "time");
    for (part, bound) in [("half", half), ("99 %", most)] {
        // The last bucket has no bound; Prometheus calls it infinite, too.
        let _ = if bound.is_finite() {
            write!(text, " · {part} within {}", short(bound))
        } else {
            write!(text, " · {part} beyond the longest bucket")
        };
    }
    let _ = write!(text, " · average {}", short(average));
    text
}

#[expect(clippy::cast_precision_loss, reason = "of pixels, there are not that many")]
fn bars(html: &mut Html, title: &str, durations: &Durations) {
    let buckets = durations.filled();
    let bar = |(bound, count): &(f64, u64)| {
        let up_to = if bound.is_finite() { "up to " } else { "" };
        let title = format!("{up_to}{}: {count}", short(*bound));
        Bar { value: *count as f64, title, label: short(*bound) }
    };
    let all: Vec<Bar> = buckets.iter().map(bar).collect();
    bars::bars(html, &format!("{title}: {}", summary(durations)), &all);
}
