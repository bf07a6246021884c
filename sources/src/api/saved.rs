//! The objects of the server, saved for the next start, and how a start continues from them.
//!
//! The objects stand in for a server that does not answer in time. The watches continue from their
//! resource versions only if the same server has issued these: the state was written by the same
//! version of this program, the cluster is the same, and the server has not gone back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use rulec_compiler::name::{NodeName, PortName, Zone};
use rulec_compiler::object::Object;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::ApiOptions;
use super::access::Access;
use super::answer::send;
use super::fault::Fault;
use super::follow::is_before;
use super::holdings::{Faults, Holdings, Objects};
use super::resource::Resource;
use crate::intern::Interner;
use crate::state::{Saver, StateDir};

/// The name of the state file.
const NAME: &str = "api.state";

/// The version of this program. Another version may read fields that this one ignores: its objects
/// can stand in for the server, but the watches cannot continue from them.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// All objects of a server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    /// The version of the program that wrote it.
    pub(crate) program: String,
    /// The name of the server.
    pub(crate) server: String,
    /// The Node that was followed.
    pub(crate) node: String,
    /// The uid of the cluster, if it could be seen.
    pub(crate) cluster: Option<String>,
    /// When all of it was last known to be current.
    pub(crate) at: Timestamp,
    pub(crate) resources: Vec<SavedResource>,
}

/// All objects of one resource.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedResource {
    pub(crate) resource: Resource,
    /// The version to watch from; `None` if the resource has to be listed again.
    pub(crate) version: Option<String>,
    #[serde(with = "by_key")]
    pub(crate) objects: Objects,
    /// The problems of the objects: a watch does not bring these again.
    pub(crate) faults: Faults,
}

/// Serializes objects without their keys, which the objects contain.
mod by_key {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Interner, Object, Objects};

    pub(super) fn serialize<S: Serializer>(objects: &Objects, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(objects.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Objects, D::Error> {
        let mut objects = Vec::<Object>::deserialize(from)?;
        let mut interner = Interner::default();
        objects.iter_mut().for_each(|object| super::share(object, &mut interner));
        Ok(objects.into_iter().map(|object| (object.key(), object)).collect())
    }
}

/// Replaces equal names of endpoints by one shared copy: the decoded text has a copy for each.
fn share(object: &mut Object, interner: &mut Interner) {
    let Object::EndpointSlice(slice) = object else { return };
    let Some(slice) = Arc::get_mut(slice) else { return };
    for port in &mut slice.ports {
        port.name = PortName::new(interner.get(port.name.as_str()));
    }
    for endpoint in &mut slice.endpoints {
        for node in endpoint.node.iter_mut() {
            *node = NodeName::new(interner.get(node.as_str()));
        }
        for zone in endpoint.hints.iter_mut().flat_map(|hints| &mut hints.zones) {
            *zone = Zone::new(interner.get(zone.as_str()));
        }
    }
}

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
    pub(super) fn remember(&self, holdings: &Holdings, is_news: bool) {
        let Some(saver) = self.saver.as_ref().filter(|_| holdings.is_current()) else { return };
        let Saved { program, server, node, .. } = &self.blank;
        let saved = Saved {
            program: program.clone(),
            server: server.clone(),
            node: node.clone(),
            cluster: holdings.cluster().map(str::to_owned),
            at: Timestamp::now(),
            resources: holdings.saved(),
        };
        if is_news { saver.save(saved) } else { saver.keep(saved) }
    }
}

/// The position of a watch of an earlier run.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) version: String,
    /// The newest version of all resources: their versions come from one counter.
    newest: String,
    cluster: Option<String>,
}

/// The identity of a server, and its current version.
#[derive(Debug)]
pub(super) struct Identity {
    /// The uid of the Service `default/kubernetes`, which each cluster creates for itself.
    cluster: Option<String>,
    version: String,
}

impl Position {
    /// Returns why the server cannot be the one that issued this position, if so.
    fn refuted(&self, server: &Identity) -> Option<String> {
        if self.cluster.is_some() && self.cluster != server.cluster {
            return Some("the saved state is of another cluster".to_owned());
        }
        let (here, there) = (&self.newest, &server.version);
        is_before(there, here).then(|| {
            format!("server version {there} is before {here} of the state, as after a restore")
        })
    }
}

impl Access {
    /// Returns whether the server is the one that issued this position.
    pub(super) async fn knows(
        &self,
        client: &Client,
        resource: Resource,
        position: &Position,
    ) -> Result<bool, Fault> {
        let refuted = match self.identity.get_or_try_init(|| identify(self, client)).await {
            Ok(server) => position.refuted(server),
            // Without the permission to identify the server, list it.
            Err(fault @ Fault::Status { code: 400 | 403 | 404, .. }) => Some(fault.to_string()),
            Err(fault) => return Err(fault),
        };
        // Logged only once for all resources.
        if let Some(reason) = refuted.as_ref().filter(|_| resource == Resource::Services) {
            info!("not continuing from the saved state: {reason}");
        }
        Ok(refuted.is_none())
    }

    /// Returns the uid of the cluster; `None` if no state is saved, or if the server could not be
    /// asked.
    pub(super) async fn cluster(&self, client: &Client) -> Option<Option<String>> {
        self.options.state.as_ref()?;
        let server = self.identity.get_or_try_init(|| identify(self, client)).await;
        server.ok().map(|server| server.cluster.clone())
    }
}

/// Identifies the server by one request: the list of one Service, with the newest resource version.
/// Without this check, a server whose etcd was restored from a copy would accept a watch from a
/// future version and send nothing on it.
async fn identify(access: &Access, client: &Client) -> Result<Identity, Fault> {
    const PATH: &str =
        "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes&limit=1";
    let request = http::Request::get(PATH).body(Vec::new());
    let request = request.map_err(|error| Fault::Config(error.to_string()))?;
    let answer = send(access, client, request).await?;
    let text = answer.text(access.options.timing.answer).await?;
    let list: ServiceList = serde_json::from_slice(&text)
        .map_err(|error| Fault::garbled(format!("not a list of Services: {error}")))?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let cluster = list.items.into_iter().flatten().find_map(|service| service.metadata.uid);
    debug!(cluster, version, "identified the cluster");
    Ok(Identity { cluster, version })
}

#[derive(Deserialize)]
struct ServiceList {
    metadata: Metadata,
    items: Option<Vec<ListedService>>,
}

#[derive(Deserialize)]
struct ListedService {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Saved {
    /// Takes the objects of a resource.
    pub(super) fn take(&mut self, resource: Resource) -> Option<SavedResource> {
        let at = self.resources.iter().position(|saved| saved.resource == resource)?;
        Some(self.resources.swap_remove(at))
    }
}
