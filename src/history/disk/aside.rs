//! Files of changes that could not be read, kept beside the one that is written.
//!
//! Nobody reads them again: their numbers are those of another history. They are for people, until
//! there are too many of them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rulec_sources::is_replaceable;

/// What they are called, with a number between these.
const NAME: [&str; 2] = ["history-aside-", ".jsonl"];

/// How many there are at the most.
const MOST: usize = 3;

/// Gives a file another name, unless there is none; returns its path. The oldest ones go, if there are
/// too many.
pub(super) fn put(path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(directory) = path.parent().filter(|_| is_replaceable(path).is_ok_and(|it| it)) else {
        // What is no file is not replaced either.
        return is_replaceable(path).map(|_| None);
    };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(number_of));
    }
    numbers.sort_unstable();
    let next = numbers.last().map_or(1, |last| last + 1);
    let aside = path_of(directory, next);
    fs::rename(path, &aside)?;
    File::open(directory)?.sync_all()?;
    numbers.push(next);
    let surplus = numbers.len().saturating_sub(MOST);
    for number in numbers.into_iter().take(surplus) {
        let old = path_of(directory, number);
        // It is tried again when the next one is put aside.
        if let Err(error) = fs::remove_file(&old) {
            tracing::debug!(path = %old.display(), %error, "an old history cannot be removed");
        }
    }
    Ok(Some(aside))
}

fn number_of(name: &str) -> Option<u64> {
    let number: u32 = name.strip_prefix(NAME[0])?.strip_suffix(NAME[1])?.parse().ok()?;
    Some(number.into())
}

fn path_of(directory: &Path, number: u64) -> PathBuf {
    let [before, after] = NAME;
    directory.join(format!("{before}{number}{after}"))
}
