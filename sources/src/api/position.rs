//! Where the watches of an earlier run stood, and whether a server can be the one that they
//! watched.

use super::version::is_before;

/// The position of a watch of an earlier run.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) version: String,
    /// The newest version of all resources: their versions come from one counter.
    pub(super) newest: String,
    pub(super) cluster: Option<String>,
}

/// The identity of a server, and its current version.
#[derive(Debug)]
pub(super) struct Identity {
    /// The uid of the Service `default/kubernetes`, which each cluster creates for itself.
    pub(super) cluster: Option<String>,
    pub(super) version: String,
}

impl Position {
    /// Returns why the server cannot be the one that issued this position, if so.
    pub(super) fn refuted(&self, server: &Identity) -> Option<String> {
        if self.cluster.is_some() && self.cluster != server.cluster {
            return Some("the saved state is of another cluster".to_owned());
        }
        let (here, there) = (&self.newest, &server.version);
        is_before(there, here).then(|| {
            format!("server version {there} is before {here} of the state, as after a restore")
        })
    }
}
