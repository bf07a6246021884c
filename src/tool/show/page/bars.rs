//! Bars as SVG: upright ones beside each other, each with what it stands for below and in a title; and
//! lying ones below each other, each with its name.

use std::fmt::Display;

use super::html::Html;

/// The width of a plot, in its own units: those of letters that are readable on a phone.
const WIDTH: f64 = 340.0;

/// The height of upright bars.
const HEIGHT: f64 = 120.0;

/// The room below the bars for what they stand for.
const FOOT: f64 = 18.0;

/// The room above the highest bar.
const HEAD: f64 = 8.0;

/// The room for half of the letters below a bar.
const LETTERS: f64 = 22.0;

/// How many bars have something written below them.
const LABELS: usize = 5;

/// The height of a lying bar, and of its row with its name.
const THICK: f64 = 7.0;
const ROW: f64 = 25.0;

/// A bar.
pub(super) struct Bar {
    pub(super) value: f64,
    /// What a pointer shows.
    pub(super) title: String,
    /// What is written beside it.
    pub(super) label: String,
}

/// Adds upright bars, from left to right.
#[expect(clippy::cast_precision_loss, reason = "of pixels, there are not that many")]
pub(super) fn bars(html: &mut Html, label: &str, all: &[Bar]) {
    let highest = highest(all.iter());
    let step = WIDTH / all.len().max(1) as f64;
    let floor = HEIGHT - FOOT;
    svg(html, label, "upright", HEIGHT, |html| {
        let edge: [(&'static str, &dyn Display); 4] =
            [("x1", &0), ("x2", &WIDTH), ("y1", &floor), ("y2", &floor)];
        html.empty("line", &edge);
        let every = all.len().div_ceil(LABELS).max(1);
        for (n, bar) in all.iter().enumerate() {
            let left = n as f64 * step;
            // What there is must be seen, however little it is.
            let high =
                if bar.value > 0.0 { (bar.value / highest * (floor - HEAD)).max(2.0) } else { 0.0 };
            rect(html, bar, [left + step * 0.08, floor - high], [step * 0.84, high]);
            if n % every == every / 2 {
                // The letters of the outer ones stay inside.
                let middle = (left + step / 2.0).clamp(LETTERS, WIDTH - LETTERS);
                let [x, y] = [middle, HEIGHT - 4.0].map(rounded);
                html.leaf("text", &[("x", &x), ("y", &y)], &bar.label);
            }
        }
    });
}

/// Adds lying bars, from top to bottom, each with its name and its value above it.
#[expect(clippy::cast_precision_loss, reason = "of pixels, there are not that many")]
pub(super) fn rows(html: &mut Html, label: &str, all: &[Bar], value: impl Fn(f64) -> String) {
    let highest = highest(all.iter());
    svg(html, label, "lying", all.len() as f64 * ROW, |html| {
        for (n, bar) in all.iter().enumerate() {
            let top = n as f64 * ROW;
            let [above, end] = [top + 12.0, WIDTH].map(rounded);
            html.leaf("text", &[("x", &0), ("y", &above)], &bar.label);
            html.leaf("text", &[("x", &end), ("y", &above), ("class", &"value")], value(bar.value));
            let long = (bar.value / highest * WIDTH).max(2.0);
            rect(html, bar, [0.0, top + ROW - THICK - 2.0], [long, THICK]);
        }
    });
}

fn svg(
    html: &mut Html,
    label: &str,
    class: &'static str,
    height: f64,
    content: impl FnOnce(&mut Html),
) {
    let size = format!("0 0 {WIDTH} {height}");
    let attributes: [(&'static str, &dyn Display); 4] =
        [("viewBox", &size), ("class", &class), ("role", &"img"), ("aria-label", &label)];
    html.element("svg", &attributes, content);
}

fn rect(html: &mut Html, bar: &Bar, at: [f64; 2], size: [f64; 2]) {
    if bar.value <= 0.0 {
        return;
    }
    let ([x, y], [width, height]) = (at.map(rounded), size.map(rounded));
    let place: [(&'static str, &dyn Display); 5] =
        [("x", &x), ("y", &y), ("width", &width), ("height", &height), ("rx", &1.5)];
    html.element("rect", &place, |html| html.leaf("title", &[], &bar.title));
}

/// Returns the highest value, which all others are compared with.
fn highest<'a>(all: impl Iterator<Item = &'a Bar>) -> f64 {
    let highest = all.map(|bar| bar.value).fold(0.0, f64::max);
    if highest > 0.0 { highest } else { 1.0 }
}

fn rounded(number: f64) -> String {
    format!("{number:.1}")
}
