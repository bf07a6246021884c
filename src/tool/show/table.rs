//! Columns, as of `kubectl get`, and lines, as of `kubectl describe`.

use std::io::{self, Write};

/// The space between two columns: less than kubectl's, so that the usual table fits 80 columns.
const GAP: usize = 2;

/// A table with a header. The last column is not padded.
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates an empty table.
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|it| (*it).to_owned()).collect();
        Self { header, rows: Vec::new() }
    }

    /// Adds a row. An empty cell is shown as `<none>`.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = String>) {
        let cell = |it: String| if it.is_empty() { "<none>".to_owned() } else { it };
        self.rows.push(row.into_iter().map(cell).collect());
    }

    /// Writes it, each line after an indent.
    pub(crate) fn write(&self, out: &mut impl Write, indent: &str) -> io::Result<()> {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| {
            all().filter_map(|row| row.get(column)).map(|it| it.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        for row in all() {
            let mut line = indent.to_owned();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                let room = width + GAP - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', room));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The width of a name and the space after it.
const NAME: usize = 18;

/// Writes a value with its name, unless it is empty.
pub(super) fn line(out: &mut impl Write, name: &str, value: &str) -> io::Result<()> {
    if value.is_empty() { Ok(()) } else { writeln!(out, "{:<NAME$}{value}", format!("{name}:")) }
}

/// Joins values, as kubectl does.
pub(super) fn joined(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
