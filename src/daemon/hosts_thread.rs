//! The thread that writes the names of Services to a hosts file.
//!
//! It follows what the kernel has acknowledged, so that a name is never there before its rules. While
//! it works, only the newest state waits. The work is proportional to the number of Services, and
//! done beside the commits.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rulec_compiler::{Model, Program};
use rulec_sources::{is_replaceable, replace_file, retry_pause};

use crate::config::HostsFile;
use crate::daemon::names;
use crate::newest;
use crate::observe::metrics::Metrics;
use crate::threads::Vital;

/// The first and the longest pause after a failure.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Everyone may read the file, whatever the umask: name servers run as other users.
const MODE: u32 = 0o644;

/// A handle of the thread. Dropping it ends the thread after the newest state.
#[derive(Debug)]
pub struct HostsThread {
    states: newest::Sender<(Program, Model)>,
    thread: Vital,
}

impl HostsThread {
    /// Starts the thread. The file stays as it is until the first state.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(hosts: HostsFile, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let (states, received) = newest::channel();
        let writer = Writer { hosts, metrics, failures: 0 };
        let thread = Vital::start("rulec-hosts", move || writer.run(&received))?;
        Ok(Self { states, thread })
    }

    /// Writes the names that an acknowledged program serves, without waiting.
    pub fn follow(&self, program: &Program, model: &Model) {
        // If the thread has died, the daemon ends.
        self.states.send((program.clone(), model.clone()));
    }

    /// Resolves with an error when the thread has died.
    pub async fn death(&mut self) -> anyhow::Error {
        self.thread.death().await
    }
}

struct Writer {
    hosts: HostsFile,
    metrics: Arc<Metrics>,
    /// How many attempts in a row have failed.
    failures: u32,
}

impl Writer {
    fn run(mut self, states: &newest::Receiver<(Program, Model)>) {
        let mut due: Option<String> = None;
        loop {
            let pause = due.as_ref().map(|_| self.pause());
            match states.recv(pause) {
                Ok((program, model)) => {
                    due = Some(names::text(&program, &model, &self.hosts.domain));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            due = due.filter(|text| !self.write(text));
        }
    }

    /// Returns the pause before the next attempt.
    fn pause(&self) -> Duration {
        let (first, longest) = RETRY_PAUSES;
        retry_pause(first, longest, self.failures)
    }

    /// Makes this the content of the file; returns whether it is.
    fn write(&mut self, text: &str) -> bool {
        let path = self.hosts.path.display();
        match replace(&self.hosts.path, text) {
            Ok(is_new) => {
                if std::mem::take(&mut self.failures) > 0 {
                    tracing::info!(%path, "names of Services can be written again");
                } else if is_new {
                    tracing::debug!(%path, "wrote the names of Services");
                }
                self.metrics.own.hosts_file(text.lines().skip(1).count());
                true
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.metrics.own.hosts_file_failed();
                if self.failures == 1 {
                    tracing::warn!(%path, %error, "cannot write names of Services, will keep retrying");
                } else {
                    tracing::debug!(%path, %error, failures = self.failures, "still cannot write names");
                }
                false
            }
        }
    }
}

/// Replaces a file in one step, unless it has this content. Returns whether it was replaced.
fn replace(path: &Path, text: &str) -> io::Result<bool> {
    // Reading a pipe would wait for a writer.
    if is_replaceable(path)? && fs::read(path).is_ok_and(|held| held == text.as_bytes()) {
        return Ok(false);
    }
    replace_file(path, MODE, |file| {
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(text.as_bytes())
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_file_is_replaced_only_if_its_content_differs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        assert!(replace(&path, "a\n").unwrap());
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(!replace(&path, "a\n").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert!(replace(&path, "b\n").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, MODE);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none/hosts");
        assert_eq!(replace(&missing, "a\n").unwrap_err().kind(), io::ErrorKind::NotFound);
        let path = directory.path().join("hosts");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let error = replace(&path, "a\n").unwrap_err().to_string();
        assert_eq!(error, "only a regular file is replaced, and this is a pipe");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
