//! The objects of the server, saved for the next start, and how a start continues from them.
//!
//! The objects stand in for a server that does not answer in time. The watches continue from their
//! resource versions only if the same server has issued these: the state was written by the same
//! version of this program, the cluster is the same, and the server has not gone back.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use super::ApiOptions;
use super::access::Access;
use super::position::Position;
use super::record::Saved;
use super::resource::Resource;
use super::store::Store;
use super::version::is_before;
use crate::state::{Saver, StateDir};

/// The name of the state file.
const NAME: &str = "api.state";

/// The version of this program. Another version may read fields that this one ignores: its objects
/// can stand in for the server, but the watches cannot continue from them.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// The state of an earlier run, and the saver of this run's.
pub(super) struct Memory {
    pub(super) held: Option<Saved>,
    pub(super) saver: Option<Saver<Saved>>,
    /// Until when the server may deliver before the state stands in for it.
    pub(super) grace: Instant,
    blank: Saved,
}

impl Memory {
    /// Reads the state of an earlier run. If it cannot be used, the start continues without it.
    pub(super) fn load(state: &StateDir, grace: Duration, access: &Access) -> Self {
        // The time counts from now, since reading takes time too.
        let grace = Instant::now() + grace;
        let ApiOptions { node_name, .. } = &access.options;
        let blank = Saved {
            program: PROGRAM.to_owned(),
            server: access.name().to_string(),
            node: node_name.to_string(),
            cluster: None,
            at: Timestamp::UNIX_EPOCH,
            resources: Vec::new(),
        };
        let path = state.path().join(NAME);
        let path = path.display();
        let held = match state.load::<Saved>(NAME) {
            Ok(held) => held,
            Err(error) => {
                warn!("saved state ignored: {error}");
                None
            }
        };
        let held = held.filter(|held| {
            let other = |what: &str, of: &str, ours: &str| {
                warn!("saved state ignored: {path}: it is of {what} {of}, not {ours}");
            };
            if held.node != blank.node {
                other("the node", &held.node, &blank.node);
            } else if held.server != blank.server {
                other("the API server", &held.server, &blank.server);
            } else {
                return true;
            }
            false
        });
        if let Some(held) = &held {
            let objects: usize = held.resources.iter().map(|it| it.objects.len()).sum();
            info!(%path, objects, at = %held.at, "read the state of the API server");
        }
        let saver = match state.saver(NAME) {
            Ok(saver) => Some(saver),
            Err(error) => {
                warn!("no state is saved: {path}: {error}");
                None
            }
        };
        Self { held, saver, grace, blank }
    }

    /// Returns the position from which the watch of a resource continues, if it may.
    pub(super) fn position(&self, resource: Resource) -> Option<Position> {
        let held = self.held.as_ref().filter(|held| held.program == PROGRAM)?;
        let saved = held.resources.iter().find(|saved| saved.resource == resource)?;
        let version = saved.version.clone()?;
        let versions = held.resources.iter().filter_map(|saved| saved.version.clone());
        let later = |a: String, b: String| if is_before(&a, &b) { b } else { a };
        let newest = versions.fold(version.clone(), later);
        Some(Position { version, newest, cluster: held.cluster.clone() })
    }

    /// Saves the state: soon if its meaning has changed, and otherwise at the end.
    pub(super) fn remember(&self, store: &Store, is_news: bool) {
        let Some((saver, at)) = self.saver.as_ref().zip(store.current_at()) else { return };
        let Saved { program, server, node, .. } = &self.blank;
        let saved = Saved {
            program: program.clone(),
            server: server.clone(),
            node: node.clone(),
            cluster: store.cluster().map(str::to_owned),
            at,
            resources: store.saved(),
        };
        if is_news { saver.save(saved) } else { saver.keep(saved) }
    }
}
