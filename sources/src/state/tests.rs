use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::file::{StateError, read, write};
use super::{Pace, StateDir};
use crate::replace::beside;

/// The type of value that is saved here.
type Value = Vec<(String, u64)>;

fn value(number: u64) -> Value {
    (0..40).map(|n| (format!("default/web-{n}"), number * n)).collect()
}

fn file() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("state").join("api.state");
    write(&path, &value(7)).unwrap();
    (directory, path)
}

fn refused(path: &Path) -> StateError {
    let error = read::<Value>(path).unwrap_err();
    assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    error
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn quick() -> Pace {
    let millis = Duration::from_millis;
    Pace { least: millis(20), bytes_per_second: 1 << 30, longest_retry: millis(50) }
}

fn wait_until(what: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < until, "timed out");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_state_file_round_trips_and_is_private() {
    let (directory, path) = file();
    assert_eq!(read::<Value>(&path).unwrap(), Some(value(7)));
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(read::<Value>(&directory.path().join("none.state")).unwrap(), None);
    assert_eq!(read::<Value>(&directory.path().join("none/api.state")).unwrap(), None);
}

#[test]
fn a_truncated_file_is_refused() {
    let (_directory, path) = file();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = refused(&path);
        assert!(matches!(error, StateError::Torn { .. }), "at {length}: {error}");
    }
    fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
    assert!(matches!(refused(&path), StateError::Torn { .. }));
    fs::write(&path, &whole).unwrap();
    assert_eq!(read::<Value>(&path).unwrap(), Some(value(7)));
}

#[test]
fn a_file_with_any_changed_byte_is_refused() {
    let (_directory, path) = file();
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut other = whole.clone();
        other[at] ^= 0x10;
        fs::write(&path, other).unwrap();
        let error = refused(&path);
        let is_it = match at {
            0..8 => matches!(error, StateError::Foreign { .. }),
            8..12 => matches!(error, StateError::Format { .. }),
            _ => matches!(error, StateError::Torn { .. }),
        };
        assert!(is_it, "at {at}: {error}");
    }
}

#[test]
fn a_file_that_is_not_a_state_file_is_refused() {
    let (directory, path) = file();
    fs::write(&path, "apiVersion: v1\n").unwrap();
    assert!(matches!(refused(&path), StateError::Foreign { .. }));
    fs::write(&path, [0; 200]).unwrap();
    assert!(matches!(refused(&path), StateError::Foreign { .. }));
    assert!(matches!(refused(directory.path()), StateError::Foreign { .. }));
    let pipe = directory.path().join("pipe.state");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    assert!(matches!(refused(&pipe), StateError::Foreign { .. }));
    let inside = path.join("api.state");
    assert!(matches!(refused(&inside), StateError::Io { .. }));
}

#[test]
fn a_file_in_a_newer_format_is_refused() {
    let (_directory, path) = file();
    let mut newer = fs::read(&path).unwrap();
    newer[8..12].copy_from_slice(&9u32.to_le_bytes());
    fs::write(&path, newer).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StateError::Format { format: 9, .. }));
    assert!(error.to_string().ends_with("has format 9, but this program reads format 1"));
}

#[test]
fn a_file_with_unexpected_content_is_refused() {
    let (_directory, path) = file();
    write(&path, &"a text").unwrap();
    assert!(matches!(refused(&path), StateError::Unreadable { .. }));
}

#[test]
fn a_leftover_temporary_file_is_ignored_and_replaced() {
    let (_directory, path) = file();
    let new = beside(&path);
    fs::write(&new, "half of it").unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o444)).unwrap();
    assert_eq!(read::<Value>(&path).unwrap(), Some(value(7)));
    write(&path, &value(8)).unwrap();
    assert_eq!(read::<Value>(&path).unwrap(), Some(value(8)));
    assert_eq!(mode(&path), 0o600);
    assert!(!new.exists());
}

#[test]
fn a_failed_write_keeps_the_previous_content() {
    let (_directory, path) = file();
    // A directory in the place of the temporary file.
    fs::create_dir(beside(&path)).unwrap();
    write(&path, &value(8)).unwrap_err();
    assert_eq!(read::<Value>(&path).unwrap(), Some(value(7)));
}

#[test]
fn saving_never_blocks_and_writes_are_batched() {
    let directory = TempDir::new().unwrap();
    let pace = Pace { least: Duration::from_secs(3600), ..quick() };
    let state = StateDir::with_pace(directory.path().to_owned(), pace);
    let saver = state.saver("api.state").unwrap();
    for number in 0..10_000 {
        saver.save(value(number));
    }
    wait_until(|| state.writes() == 1);
    for number in 0..10_000 {
        saver.save(value(number));
    }
    assert_eq!(state.writes(), 1, "the pause has not ended");
    assert!(state.finish(Duration::from_secs(20)));
    assert_eq!(state.writes(), 2);
    assert_eq!(state.load("api.state").unwrap(), Some(value(9_999)));
    let length = fs::metadata(directory.path().join("api.state")).unwrap().len();
    assert!((length..4 * length).contains(&state.bytes()));
}

#[test]
fn a_kept_value_is_written_at_the_end() {
    let directory = TempDir::new().unwrap();
    let state = StateDir::with_pace(directory.path().to_owned(), quick());
    let saver = state.saver("api.state").unwrap();
    saver.save(value(1));
    wait_until(|| state.writes() == 1);
    saver.keep(value(2));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(state.load("api.state").unwrap(), Some(value(1)));
    drop(saver);
    wait_until(|| state.writes() == 2);
    assert_eq!(state.load("api.state").unwrap(), Some(value(2)));
    assert!(state.finish(Duration::ZERO), "it has ended already");
}

#[test]
fn a_failed_write_is_retried() {
    let directory = TempDir::new().unwrap();
    let place = directory.path().join("state");
    // Not a directory, so that no file can be made in it.
    fs::write(&place, "").unwrap();
    let state = StateDir::with_pace(place.clone(), quick());
    let saver = state.saver("api.state").unwrap();
    saver.save(value(1));
    wait_until(|| state.failures() >= 2);
    fs::remove_file(&place).unwrap();
    wait_until(|| state.writes() == 1);
    assert_eq!(state.load("api.state").unwrap(), Some(value(1)));
    fs::remove_dir_all(&place).unwrap();
    fs::write(&place, "").unwrap();
    saver.save(value(2));
    // At the end there is one attempt and no pause.
    assert!(state.finish(Duration::from_secs(3600)));
}

#[test]
fn the_write_rate_is_bounded() {
    let pace = Pace::default();
    assert_eq!(pace.rest(3_000), Duration::from_secs(1), "a small node is saved within a second");
    assert_eq!(pace.rest(1_600 << 10), Duration::from_secs(100));
    assert_eq!(pace.retry(1), Duration::from_secs(1));
    assert_eq!(pace.retry(3), Duration::from_secs(4));
    assert_eq!(pace.retry(u32::MAX), Duration::from_secs(60));
}

#[test]
fn a_text_that_is_far_longer_than_its_file_is_refused() {
    let text = |blanks: usize| [" ".repeat(blanks).as_bytes(), b"[]"].concat();
    let decode = |blanks: usize| {
        let payload = zstd::encode_all(&*text(blanks), 1).unwrap();
        super::file::decode::<Value>(Path::new("x"), &payload).map_err(|error| error.to_string())
    };
    assert_eq!(decode(1 << 19), Ok(Value::new()));
    let error = decode(64 << 20).unwrap_err();
    assert!(error.starts_with("x: cannot be decoded: its content is longer than "), "{error}");
}
