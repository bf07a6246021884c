//! The last changes, with what each has cost and why it was made.

use super::html::Html;
use super::parts::table;
use crate::history::History;
use crate::history::change::Change;
use crate::tool::past;

/// How many are shown. What one means is found when it is first asked for, which takes a while.
const SHOWN: usize = 10;

/// Returns the last changes, the newest first.
pub(super) fn last(history: &History) -> Vec<[String; 6]> {
    let all = history.all();
    all.iter().rev().take(SHOWN).map(|entry| row(&history.told(entry))).collect()
}

/// Returns the row of a change, as `rulec history` has it, and its first causes.
fn row(change: &Change) -> [String; 6] {
    let [id, time, took, operations, what] = past::row(change);
    let mut causes: Vec<String> = change.causes.iter().take(2).map(past::cause).collect();
    let more = (change.causes.len() + change.more_causes).saturating_sub(causes.len());
    if more > 0 {
        causes.push(format!("and {more} more"));
    }
    [id, time, took, operations, what, causes.join("; ")]
}

/// Adds the section.
pub(super) fn changes(html: &mut Html, changes: &[[String; 6]]) {
    html.element("section", &[("id", &"changes")], |html| {
        html.leaf("h2", &[], "Last changes");
        if changes.is_empty() {
            return html.leaf("p", &[("class", &"note")], "No change is kept.");
        }
        let columns = ["Change", "Time", "Took", "Operations", "What", "Why"];
        table(html, columns, changes.iter().map(|row| ("good", row.clone())));
    });
}
