//! Lines of a text for a terminal: their width, their indentation, and their styles.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

pub(super) const CHANGE: Style = AnsiColor::Yellow.on_default();
pub(super) const DANGER: Style = AnsiColor::Red.on_default().bold();
pub(super) const HEAD: Style = Style::new().bold();

/// The width of a terminal that shows every line as it is, unless a name is longer.
const WIDTH: usize = 80;

/// Where reasons begin.
const INDENT: usize = 6;

/// How many frontends of a dangerous change, or of flows, are named.
pub(super) const NAMED: usize = 3;

/// Writes a text below what it belongs to.
pub(super) fn indented(out: &mut impl Write, style: Style, text: &str) -> io::Result<()> {
    write!(out, "{:INDENT$}", "")?;
    wrapped(out, INDENT, style, text)
}

/// Writes a text in lines of [`WIDTH`] columns, of which the first one has some already.
pub(crate) fn wrapped(
    out: &mut impl Write,
    mut column: usize,
    style: Style,
    text: &str,
) -> io::Result<()> {
    write!(out, "{style}")?;
    for (number, word) in text.split(' ').enumerate() {
        let width = word.chars().count();
        if number > 0 && column + 1 + width > WIDTH {
            write!(out, "{style:#}\n{:INDENT$}{style}", "")?;
            column = INDENT;
        } else if number > 0 {
            write!(out, " ")?;
            column += 1;
        }
        write!(out, "{word}")?;
        column += width;
    }
    writeln!(out, "{style:#}")
}
