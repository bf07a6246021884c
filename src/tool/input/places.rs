//! Where states are found that are no files of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rulec_compiler::Settings;
use rulec_sources::Shared;

use super::api::Server;
use crate::cli::ApiArgs;
use crate::config::options::SocketArgs;

/// Where states are found, for all sides of a comparison.
pub(crate) struct Places {
    /// What `api` means.
    pub(super) server: Server,
    socket: Option<PathBuf>,
    /// What has been decoded for another side.
    pub(super) shared: Arc<Shared>,
}

impl Places {
    /// Takes them from the command line, for a node.
    pub(crate) fn of(api: &ApiArgs, socket: &SocketArgs, settings: &Settings) -> Self {
        Self {
            server: Server::of(api, settings),
            socket: socket.path().map(Path::to_owned),
            shared: Arc::default(),
        }
    }

    /// Returns where the daemon tells of moments, if anywhere.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }
}
