//! A node whose daemon can be asked: its namespace, its manifests, and a directory for its socket and
//! whatever else a test keeps.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::PathBuf;

use rulec_testkit::Namespace;
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests};
use crate::support::{Ran, rulec};

pub(crate) struct Asked {
    pub(crate) node: Namespace,
    pub(crate) manifests: Manifests,
    directory: TempDir,
}

impl Asked {
    pub(crate) fn new(name: &str, manifests: Manifests) -> Self {
        Self { node: Namespace::new(name), manifests, directory: TempDir::new().unwrap() }
    }

    /// Returns a path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the path of the socket. The daemon makes the directory that it is in.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("own/rulec.sock")
    }

    /// Returns the option that names the socket.
    pub(crate) fn args(&self) -> [String; 2] {
        ["--socket".to_owned(), self.socket().to_str().unwrap().to_owned()]
    }

    /// Starts the daemon, and waits until the kernel is in sync with the manifests.
    pub(crate) fn start(&self, more: &[&str]) -> Daemon {
        let [option, path] = self.args();
        Daemon::start(&self.node, &self.manifests.path(), &[&[&*option, &path], more].concat())
    }

    /// Runs a command that asks the daemon.
    pub(crate) fn ask(&self, args: &[&str]) -> Ran {
        let [option, path] = self.args();
        rulec(&self.node, &[args, &[&option, &path]].concat())
    }
}
