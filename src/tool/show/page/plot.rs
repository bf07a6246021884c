//! A histogram as SVG: a bar for each bucket, with its longest time below and its events in a title.

use std::fmt::Write as _;

use rulec_compiler::plural::counted;

use super::histogram::{Durations, short};
use super::html::Html;

/// The size of a plot, in its own units: those of letters that are readable on a phone.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 120.0;

/// The room below the bars for the times.
const FOOT: f64 = 18.0;

/// The room above the highest bar.
const HEAD: f64 = 8.0;

/// The room for half of a time's letters.
const LETTERS: f64 = 22.0;

/// How many times are written.
const LABELS: usize = 5;

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
    let highest = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1) as f64;
    let step = WIDTH / buckets.len().max(1) as f64;
    let floor = HEIGHT - FOOT;
    let size = format!("0 0 {WIDTH} {HEIGHT}");
    let label = format!("{title}: {}", summary(durations));
    let attributes: [(&'static str, &dyn std::fmt::Display); 3] =
        [("viewBox", &size), ("role", &"img"), ("aria-label", &label)];
    html.element("svg", &attributes, |html| {
        let edge: [(&'static str, &dyn std::fmt::Display); 4] =
            [("x1", &0), ("x2", &WIDTH), ("y1", &floor), ("y2", &floor)];
        html.empty("line", &edge);
        let every = buckets.len().div_ceil(LABELS).max(1);
        for (n, (bound, count)) in buckets.iter().enumerate() {
            let left = n as f64 * step;
            // What there is must be seen, however little it is.
            let scaled = *count as f64 / highest * (floor - HEAD);
            let high = if *count > 0 { scaled.max(2.0) } else { 0.0 };
            let [x, y] = [left + step * 0.08, floor - high].map(rounded);
            let [width, height] = [step * 0.84, high].map(rounded);
            let bar: [(&'static str, &dyn std::fmt::Display); 5] =
                [("x", &x), ("y", &y), ("width", &width), ("height", &height), ("rx", &1.5)];
            if *count > 0 {
                html.element("rect", &bar, |html| {
                    let up_to = if bound.is_finite() { "up to " } else { "" };
                    html.leaf("title", &[], format!("{up_to}{}: {count}", short(*bound)));
                });
            }
            if n % every == every / 2 {
                // The letters of the outer ones stay inside.
                let middle = (left + step / 2.0).clamp(LETTERS, WIDTH - LETTERS);
                let [x, y] = [middle, HEIGHT - 4.0].map(rounded);
                html.leaf("text", &[("x", &x), ("y", &y)], short(*bound));
            }
        }
    });
}

fn rounded(number: f64) -> String {
    format!("{number:.1}")
}
