//! Literal blocks: lines as they are.

use super::cursor::Cursor;

/// Passes over a block that begins here, of a key or a dash in this column, and returns its text.
/// The cursor stays at the end of its last line.
pub(super) fn take(cursor: &mut Cursor<'_>, column: usize) -> Option<String> {
    let keeps_end = match cursor.rest_of_line().trim_end() {
        "|" => true,
        "|-" => false,
        _ => return None,
    };
    let header = cursor.rest_of_line().len();
    let (_, below) = cursor.rest().split_once('\n')?;
    let indent = below.len() - below.trim_start_matches(' ').len();
    if indent <= column {
        return None;
    }
    let mut text = String::new();
    let mut bytes = header;
    for line in below.split_inclusive('\n') {
        let own = line.trim_start_matches(' ');
        let spaces = line.len() - own.len();
        match own {
            "\n" if spaces == 0 => text.push('\n'),
            "\n" => return None,
            _ if spaces >= indent => text.push_str(line.get(indent..)?),
            // Comments have rules of their own.
            _ if spaces > column || own.starts_with('#') => return None,
            _ => break,
        }
        bytes += line.len();
    }
    // The first line has something, and the last one an end.
    if text.starts_with('\n') || !text.ends_with('\n') {
        return None;
    }
    text.truncate(text.trim_end_matches('\n').len());
    if keeps_end {
        text.push('\n');
    }
    cursor.skip(bytes);
    Some(text)
}
