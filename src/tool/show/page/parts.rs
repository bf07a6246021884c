//! What several sections consist of: names with values, tables, and lists that end somewhere.

use super::html::Html;

/// How many lines a table or a list has at most.
pub(super) const LINES: usize = 50;

/// Adds values with their names, without those that are empty.
pub(super) fn facts(html: &mut Html, facts: &[(&str, String)]) {
    if facts.iter().all(|(_, value)| value.is_empty()) {
        return;
    }
    html.element("dl", &[], |html| {
        for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            html.element("div", &[], |html| {
                html.leaf("dt", &[], name);
                html.leaf("dd", &[], value);
            });
        }
    });
}

/// Adds a table. Each row has a class of the style; on a phone, it becomes a block of names and
/// values.
pub(super) fn table<const N: usize>(
    html: &mut Html,
    columns: [&'static str; N],
    rows: impl ExactSizeIterator<Item = (&'static str, [String; N])>,
) {
    let left_out = rows.len().saturating_sub(LINES);
    html.element("table", &[], |html| {
        html.element("thead", &[], |html| {
            html.element("tr", &[], |html| {
                columns.iter().for_each(|name| html.leaf("th", &[], name));
            });
        });
        html.element("tbody", &[], |html| {
            for (class, cells) in rows.take(LINES) {
                html.element("tr", &[("class", &class)], |html| {
                    for (name, cell) in columns.iter().zip(cells) {
                        html.leaf("td", &[("data-name", name)], cell);
                    }
                });
            }
        });
    });
    more(html, left_out);
}

/// Adds a paragraph for each text.
pub(super) fn paragraphs(html: &mut Html, class: &'static str, texts: &[String]) {
    for text in texts.iter().take(LINES) {
        html.leaf("p", &[("class", &class)], text);
    }
    more(html, texts.len().saturating_sub(LINES));
}

fn more(html: &mut Html, left_out: usize) {
    if left_out > 0 {
        html.leaf("p", &[("class", &"more")], format_args!("and {left_out} more"));
    }
}
