//! What Pods and containers of podman mean, as documents like those of the API server.

use std::collections::{BTreeMap, BTreeSet};

use rulec_compiler::name::NamespacedName;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::list::{Attachment, Described, ListedContainer, ListedPod, Texts};
use crate::decode::balancing::WEIGHT;
use crate::decode::is_label;
use crate::error::printable;
use crate::pods::Event;
use crate::pods::pod::Raw;

/// The label that says which namespace a Pod is in. podman has no namespaces.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// The longest name that podman's may become: 253 characters less those of an id.
const LONGEST_NAME: usize = 240;

/// Everything that podman has said.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) pods: Vec<ListedPod>,
    pub(super) containers: Vec<ListedContainer>,
    /// The descriptions of containers by their ids.
    pub(super) described: BTreeMap<String, Described>,
    /// The containers that podman cannot describe, and why.
    pub(super) failed: BTreeMap<String, String>,
}

impl World {
    /// Returns what there is to say of a complete list.
    ///
    /// # Errors
    ///
    /// None are known: a document is made of texts.
    pub(super) fn events(&self) -> Result<Vec<Event>, serde_json::Error> {
        let has_network = |pod: &&ListedPod| !pod.infra_id.is_empty();
        let of_pods = self.pods.iter().filter(has_network).map(|pod| self.pod(pod));
        let members: BTreeSet<&str> =
            self.pods.iter().filter(has_network).map(|pod| &*pod.id).collect();
        let alone = self.containers.iter().filter(|it| !members.contains(&*it.pod));
        let all = of_pods.chain(alone.map(|container| self.container(container)));
        let mut names = BTreeSet::new();
        all.map(|subject| subject.event(&mut names)).collect()
    }

    fn pod(&self, pod: &ListedPod) -> Subject<'_> {
        let of_pod = self.containers.iter().filter(|it| it.pod == pod.id);
        let (infra, members): (Vec<_>, Vec<_>) = of_pod.partition(|it| it.id == pod.infra_id);
        let name = pod.name.clone();
        let labels = pod.labels.clone().unwrap_or_default();
        Subject { id: pod.id.clone(), name, labels, network: infra, members, world: self }
    }

    fn container<'a>(&'a self, container: &'a ListedContainer) -> Subject<'a> {
        let name = container.names.iter().flatten().next().cloned().unwrap_or_default();
        let labels = container.labels.clone().unwrap_or_default();
        let (network, members) = (vec![container], vec![container]);
        Subject { id: container.id.clone(), name, labels, network, members, world: self }
    }

    /// Returns whether a container serves: it runs, or is about to stop, and its health check has
    /// not failed.
    fn is_serving(&self, container: &ListedContainer) -> bool {
        let described = self.described.get(&container.id);
        let health = described.and_then(|it| Some(&*it.state.health.as_ref()?.status));
        let health = health.filter(|health| !health.is_empty()).unwrap_or(&container.status);
        let is_running = matches!(&*container.state, "running" | "stopping");
        is_running && !matches!(health, "starting" | "unhealthy")
    }
}

/// A Pod, or a container that is one by itself.
struct Subject<'a> {
    id: String,
    name: String,
    labels: Texts,
    /// The container with the network.
    network: Vec<&'a ListedContainer>,
    /// The containers that do the work.
    members: Vec<&'a ListedContainer>,
    world: &'a World,
}

impl Subject<'_> {
    fn event(self, names: &mut BTreeSet<(String, String)>) -> Result<Event, serde_json::Error> {
        let namespace = self.labels.get(NAMESPACE).map_or("default", |it| it).to_owned();
        if !is_label(&namespace) {
            let message = format!(
                "{}: label {NAMESPACE}: {:?} is no name of a namespace; it is not served",
                self.name,
                printable(&namespace)
            );
            return Ok(Event::Note(message));
        }
        let mut name = name(&self.name);
        if name.is_empty() || names.contains(&(namespace.clone(), name.clone())) {
            name = format!("{name}-{:.12}", self.id).trim_matches('-').to_owned();
        }
        names.insert((namespace.clone(), name.clone()));
        let failed = self.network.iter().chain(&self.members);
        if let Some(why) = failed.into_iter().find_map(|it| self.world.failed.get(&it.id)) {
            let name = NamespacedName::new(&*namespace, &*name);
            let (uid, message) = (self.id.into(), format!("cannot be described: {why}"));
            return Ok(Event::Pod(Raw::Unread { uid, name, message }));
        }
        self.document(&namespace, &name).map(|document| Event::Pod(Raw::Json(document)))
    }

    fn document(self, namespace: &str, name: &str) -> Result<Box<RawValue>, serde_json::Error> {
        let described = |container: &&ListedContainer| self.world.described.get(&container.id);
        let network = self.network.iter().filter(|it| it.is_up()).find_map(described);
        let is_host = network.is_some_and(|it| it.host_config.network_mode == "host");
        let weight = self.members.iter().filter_map(described).find_map(|it| {
            let annotations = it.config.annotations.as_ref()?;
            annotations.get(WEIGHT)
        });
        // One that has done its work is not waited for.
        let working = self.members.iter().filter(|it| !it.is_done());
        let is_ready = network.is_some()
            && working.clone().next().is_some()
            && working.clone().all(|it| self.world.is_serving(it));
        let is_ending = working.clone().any(|it| it.state == "stopping");
        let mut metadata = json!({
            "name": name,
            "namespace": namespace,
            "uid": self.id,
            "labels": self.labels,
        });
        if let Some(weight) = weight {
            metadata["annotations"] = json!({ WEIGHT: weight });
        }
        if is_ending {
            metadata["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        }
        let addresses: Vec<Value> = if is_host { Vec::new() } else { network_addresses(network) };
        let document = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": { "hostNetwork": is_host },
            "status": {
                "phase": if network.is_some() { "Running" } else { "Pending" },
                "podIPs": addresses,
                "conditions": [{
                    "type": "Ready",
                    "status": if is_ready { "True" } else { "False" },
                }],
            },
        });
        serde_json::value::to_raw_value(&document)
    }
}

/// Returns the first address of each family: of the default network if it is the only one, or else
/// of the first network by name that has one.
fn network_addresses(described: Option<&Described>) -> Vec<Value> {
    let Some(network) = described.and_then(|it| it.network_settings.as_ref()) else {
        return Vec::new();
    };
    let all = || {
        let others = network.networks.iter().flat_map(BTreeMap::values);
        std::iter::once(&network.default).chain(others)
    };
    let first = |of: fn(&Attachment) -> &String| all().map(of).find(|it| !it.is_empty());
    let found = [first(|it| &it.v4), first(|it| &it.v6)];
    found.into_iter().flatten().map(|ip| json!({ "ip": ip })).collect()
}

/// Returns a name of podman as one of Kubernetes: in lower case, with dashes for other characters,
/// and not longer than is allowed with an id behind it.
fn name(name: &str) -> String {
    let allowed = |it: char| if it.is_ascii_alphanumeric() || it == '.' { it } else { '-' };
    let characters = name.chars().map(|it| allowed(it.to_ascii_lowercase()));
    let name: String = characters.take(LONGEST_NAME).collect();
    name.trim_matches(['-', '.']).to_owned()
}
