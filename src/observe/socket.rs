//! The Unix socket that the other commands ask: read-only, for root and the daemon's user
//! alone.
//!
//! A lock beside the socket says which daemon has it. So the socket of a daemon that was killed is
//! replaced, and that of a living one is not, however busy that is.

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::http::{FIRST_RETRY, RETRY, Site, serve_all};

/// How many connections the socket has at once. An answer may be as large as all objects together.
const CONNECTIONS: usize = 8;

/// How many connections may wait to be accepted.
const WAITING: i32 = 64;

const MODE: u32 = 0o600;

/// A socket that listens; its file is removed with it.
#[derive(Debug)]
struct Held {
    listener: UnixListener,
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without the file, a client is told at once that there is no daemon.
        let _ = fs::remove_file(&self.path);
    }
}

/// Serves a site on a Unix socket until it is dropped. The daemon works without the socket, so that
/// nothing is fatal: it is tried again for as long as necessary.
pub async fn serve(path: PathBuf, site: impl Site) -> io::Result<Infallible> {
    let mut pause = FIRST_RETRY;
    let held = loop {
        match open(&path) {
            Ok(held) => break held,
            // Logged once.
            Err(error) if pause == FIRST_RETRY => tracing::warn!(
                path = %path.display(),
                %error,
                "no socket for the other commands; will keep retrying"
            ),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY);
    };
    if pause > FIRST_RETRY {
        tracing::info!(path = %path.display(), "listening on the socket");
    }
    serve_all("socket", &held.listener, CONNECTIONS, site).await
}

/// Makes the socket. No moment passes in which others could open it.
fn open(path: &Path) -> io::Result<Held> {
    if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let message = format!("creating {}: {error}", directory.display());
                return Err(io::Error::new(error.kind(), message));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(MODE).open(name)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            io::Error::new(io::ErrorKind::AddrInUse, "another rulec listens there")
        }
        TryLockError::Error(error) => error,
    })?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("there is something else than a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    // The file gets the mode of the socket (`unix_bind_bsd`), less what the umask forbids.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(MODE))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(WAITING)?;
    let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
    Ok(Held { listener, path: path.to_owned(), _lock: lock })
}
