//! Remarks on objects that have no effect although they were probably meant to, for people.
//!
//! None of these objects is invalid by itself, or its source would have reported it. They do not
//! match: a slice whose port no Service port has, a selected Pod without an address, a node name
//! that no Node has. All remarks follow from the model, so `run`, `diff`, `explain` and `check`
//! report the same.

use std::collections::BTreeSet;
use std::fmt;

use crate::change::Origin;
use crate::model::{Entry, Model};
use crate::name::{NamespacedName, NodeName};
use crate::object::{
    EndpointSlice, ObjectKey, Pod, PodAddresses, Service, ServicePort, TargetPort,
};
use crate::resolve::host;
use crate::settings::Settings;

/// The maximum number of names that one remark lists.
const MAX_NAMES: usize = 5;

/// An object or setting that has no effect. Prints with its object; sorted by object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The object concerned.
    pub object: ObjectKey,
    /// The reason why it has no effect.
    pub message: String,
    /// What it is about.
    pub about: About,
}

/// What a remark is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// An EndpointSlice that is not used.
    Slice,
    /// Pods whose address is not known.
    Address,
    /// Pods that lack a named port.
    TargetPort,
    /// An annotation for the other mode.
    Mode,
    /// The name of this node.
    NodeName,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}

/// Returns all remarks on a model.
pub fn all(model: &Model, settings: &Settings) -> Vec<Remark> {
    let services = model.services().map(|entry| &entry.object.key);
    let named = model.slices().map(|entry| &entry.object.service);
    let services: BTreeSet<&NamespacedName> = services.chain(named).collect();
    let of_services = services.into_iter().flat_map(|key| of_service(model, settings, key));
    of_node(model, settings).into_iter().chain(of_services).collect()
}

/// Returns the remarks on a Service and on the objects that refer to it, whether or not it exists.
pub fn of_service(model: &Model, settings: &Settings, key: &NamespacedName) -> Vec<Remark> {
    let slices = model.slices_of(key);
    let Some(service) = model.service(key).map(|entry| &*entry.object) else {
        // The API server omits Services that are not for us, but sends their slices.
        let strays = slices.filter(|slice| slice.origin == Origin::Manifests);
        return strays.map(|slice| of_slice(slice, format!("there is no Service {key}"))).collect();
    };
    if !is_served(service) {
        return Vec::new();
    }
    let has_own = model.slices_of(key).any(|slice| !slice.object.is_mirror());
    let reason = |slice: &EndpointSlice| match (slice.is_mirror(), service.selector.is_empty()) {
        (true, false) => Some(format!(
            "Endpoints are used only for Services without a selector, and Service {key} has one"
        )),
        (true, true) if has_own => {
            Some(format!("Service {key} has EndpointSlices of its own, which take precedence"))
        }
        (true | false, _) => mismatch(service, slice),
    };
    let mismatched = slices.filter_map(|slice| Some(of_slice(slice, reason(&slice.object)?)));
    let of_mode = of_other_mode(settings, service);
    mismatched.chain(of_pods(model, settings, service)).chain(of_mode).collect()
}

fn is_served(service: &Service) -> bool {
    let has_address = service.cluster_ips.v4.is_some() || service.cluster_ips.v6.is_some();
    has_address && !service.ports.is_empty()
}

/// Returns remarks on annotations that have an effect only in the other mode.
fn of_other_mode(settings: &Settings, service: &Service) -> impl Iterator<Item = Remark> {
    let balancing = "its load balancing has no effect in mode ipvs, where the annotation \
                     rulec.io/ipvs-scheduler chooses";
    let limit = "its annotation rulec.io/max-connections has no effect in mode nftables";
    let is_ipvs = settings.ipvs().is_some();
    let balancing = (is_ipvs && service.load_balancing.is_some()).then_some(balancing);
    let limit = (!is_ipvs && service.ipvs.max_connections.is_some()).then_some(limit);
    let object = ObjectKey::Service(service.key.clone());
    let remark = move |message: &str| Remark {
        object: object.clone(),
        message: message.into(),
        about: About::Mode,
    };
    [balancing, limit].into_iter().flatten().map(remark)
}

fn of_slice(slice: &Entry<EndpointSlice>, message: String) -> Remark {
    let object = ObjectKey::EndpointSlice(slice.object.key.clone());
    let message = format!("its endpoints are not used: {message}");
    Remark { object, message, about: About::Slice }
}

/// Returns the reason why no port of a slice is one of its Service, if that is so.
fn mismatch(service: &Service, slice: &EndpointSlice) -> Option<String> {
    let is_one = |port: &ServicePort| {
        slice.ports.iter().any(|it| it.name == port.name && it.protocol == port.protocol)
    };
    if slice.endpoints.is_empty() || service.ports.iter().any(is_one) {
        return None;
    }
    let port = |name: &str, protocol| match name {
        "" => format!("(unnamed)/{protocol}"),
        name => format!("{name}/{protocol}"),
    };
    let own = listed(slice.ports.iter().map(|it| port(it.name.as_str(), it.protocol)));
    let asked = listed(service.ports.iter().map(|it| port(it.name.as_str(), it.protocol)));
    let own = if own.is_empty() { "no port with a number".to_owned() } else { own };
    Some(format!(
        "ports are matched by name and protocol: Service {} has {asked}, but the slice has {own}",
        service.key
    ))
}

/// Returns remarks on the Pods that a Service selects and cannot reach.
fn of_pods(model: &Model, settings: &Settings, service: &Service) -> Vec<Remark> {
    let pods: Vec<&Pod> = model.pods_of(service).map(|entry| &*entry.object).collect();
    let remark = |about: About, message: String| Remark {
        object: ObjectKey::Service(service.key.clone()),
        message: format!("selects Pods that it cannot reach: {message}"),
        about,
    };
    let mut remarks = Vec::new();
    let without = |about: About, reason: &str, pods: Vec<&&Pod>| {
        let names = listed(pods.iter().map(|pod| pod.key.to_string()));
        let (count, total) = (pods.len(), model.pods_of(service).count());
        (count > 0).then(|| remark(about, format!("{count} of {total} {reason}: {names}")))
    };
    // One that is not ready is no endpoint in any case: it gets its address when it starts.
    let is_bare =
        |pod: &&&Pod| pod.conditions.serving && pod.addresses == PodAddresses::Own(Vec::new());
    let bare = pods.iter().filter(is_bare).collect();
    remarks.extend(without(About::Address, "have no address (status.podIPs)", bare));
    let is_homeless = |pod: &&&Pod| {
        pod.addresses == PodAddresses::Node && host::addresses_of(model, settings, pod).is_empty()
    };
    let homeless = pods.iter().filter(is_homeless).collect();
    let why = "use the host network, and no address of their node is known (from a Node object or \
               --bind-address)";
    remarks.extend(without(About::Address, why, homeless));
    for port in &service.ports {
        let TargetPort::Name(name) = &port.target else { continue };
        let has =
            |pod: &Pod| pod.ports.iter().any(|it| it.name == *name && it.protocol == port.protocol);
        let lacking = pods.iter().filter(|pod| !has(pod)).collect();
        let why = format!("have no container port {name}/{} (targetPort)", port.protocol);
        remarks.extend(without(About::TargetPort, &why, lacking));
    }
    remarks
}

/// Returns a remark on this node's name if no Node has it although there are Nodes, or if no
/// endpoint or Pod is on it but some are on a node whose name differs only by a domain.
pub fn of_node(model: &Model, settings: &Settings) -> Vec<Remark> {
    let own = &settings.node_name;
    if model.node(own).is_some() {
        return Vec::new();
    }
    let nodes: BTreeSet<&NodeName> = model.nodes().map(|entry| &entry.object.name).collect();
    let endpoints = model.slices().flat_map(|entry| &entry.object.endpoints);
    let of_endpoints = endpoints.filter_map(|endpoint| endpoint.node.as_ref());
    let of_pods = model.pods().filter_map(|entry| entry.object.node.as_ref());
    let used: BTreeSet<&NodeName> = of_endpoints.chain(of_pods).collect();
    let known = if nodes.is_empty() {
        let is_near = |name: &&NodeName| is_short_of(own, name) || is_short_of(name, own);
        used.iter().copied().filter(is_near).collect()
    } else {
        nodes.clone()
    };
    if known.is_empty() || nodes.is_empty() && used.contains(own) {
        return Vec::new();
    }
    let what =
        if nodes.is_empty() { "no Pod or endpoint is on a node" } else { "there is no Node" };
    let names = listed(known.iter().map(ToString::to_string));
    let message =
        format!("{what} of this name (--node-name). Known nodes: {names}. {WITHOUT_NODE}");
    vec![Remark { object: ObjectKey::Node(own.clone()), message, about: About::NodeName }]
}

/// The consequences of a node name that no Node has.
pub const WITHOUT_NODE: &str = "Until there is one, no endpoint counts as local: traffic policies Local drop traffic, \
     endpoints cannot reach themselves through their Service, and no address may be known for Pods \
     in the host network";

/// Returns true if the first name is the second without its domain.
fn is_short_of(short: &NodeName, long: &NodeName) -> bool {
    long.as_str().strip_prefix(short.as_str()).is_some_and(|rest| rest.starts_with('.'))
}

/// Joins the first names, followed by the number of names that were left out.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let mut text = names.take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests;
