//! Replaces a file in one step.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces a file by one with this mode (less the umask) and with what is written to it. A reader
/// sees the old file or the new one, also after a crash. Returns what `write` returns.
///
/// # Errors
///
/// If it cannot be written, or if something else than a file has its name. Nothing has changed then.
pub fn replace_file<T>(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    is_replaceable(path)?;
    let new = beside(path);
    // A file left by a crash may have another owner or mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let replaced = make(path, &new, mode, write);
    if replaced.is_err() {
        // Do not help to keep a full disk full.
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// Returns whether there is a file with this name; false if there is nothing.
///
/// # Errors
///
/// If there is something else. A rename would take the place of a device, or of a link that others
/// follow.
pub fn is_replaceable(path: &Path) -> io::Result<bool> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let what = match kind {
        kind if kind.is_file() => return Ok(true),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link; name the file that it leads to",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let message = format!("only a regular file is replaced, and this is {what}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn make<T>(
    path: &Path,
    new: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<T>,
) -> io::Result<T> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(new)?;
    let value = write(&mut file)?;
    // A rename may reach the disk before the content.
    file.sync_all()?;
    fs::rename(new, path)?;
    // The rename is durable only after the directory is synced.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(value)
}

/// Returns the path under which a file is written before it is renamed. Programs that watch a
/// directory skip hidden files.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn replace(path: &Path, text: &str) -> io::Result<()> {
        replace_file(path, 0o640, |file| file.write_all(text.as_bytes()))
    }

    #[test]
    fn a_file_is_replaced_whatever_a_crash_has_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names");
        replace(&path, "a").unwrap();
        fs::write(beside(&path), "half").unwrap();
        fs::set_permissions(beside(&path), fs::Permissions::from_mode(0o444)).unwrap();
        replace(&path, "b").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names");
        replace(&path, "a").unwrap();
        let full = |_: &mut File| Err::<(), _>(io::ErrorKind::StorageFull.into());
        assert_eq!(
            replace_file(&path, 0o600, full).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "a");
        assert!(!beside(&path).exists());
        let missing = directory.path().join("none/names");
        assert_eq!(replace(&missing, "a").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_file_is_named_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "a").unwrap();
        symlink("file", path("link")).unwrap();
        mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        let all = [
            ("link", "a symbolic link; name the file that it leads to"),
            ("pipe", "a pipe"),
            ("socket", "a socket"),
            ("directory", "a directory"),
        ];
        for (name, what) in all {
            let before = fs::symlink_metadata(path(name)).unwrap().file_type();
            let error = replace(&path(name), "b").unwrap_err().to_string();
            assert_eq!(error, format!("only a regular file is replaced, and this is {what}"));
            assert_eq!(fs::symlink_metadata(path(name)).unwrap().file_type(), before);
            assert!(!beside(&path(name)).exists());
        }
        // Only looked at: a fault here must not take the place of a device of this machine.
        let error = is_replaceable(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.ends_with("a device"), "{error}");
        assert_eq!(fs::read_to_string(path("file")).unwrap(), "a");
    }
}
