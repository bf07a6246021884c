//! Replaces names and addresses by pseudonyms.
//!
//! A pseudonym follows from a key: the same name has the same one everywhere in a recording, so that
//! selectors, slices and hints still fit. Addresses keep their networks (`address`). Ports, protocols,
//! weights, timeouts and names of interfaces stay, and so do the names that have a meaning of their
//! own. Texts that may contain names, such as problems and the paths of files, go.

mod address;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use rulec_compiler::Settings;
use rulec_compiler::change::{Provenance, Sourced};
use rulec_compiler::name::{
    LabelKey, LabelValue, Name, Namespace, NamespacedName, NodeName, PortName, Zone,
};
use rulec_compiler::object::{
    ClusterIps, Endpoint, EndpointSlice, Hints, HostName, InterfaceAddresses, Node, Object,
    ObjectKey, Pod, PodAddresses, Service, ServiceCidr, ServicePort, SlicePort, TargetPort,
};
use rulec_compiler::settings::{DetectLocal, IpvsSettings, NodePortAddresses, ProxyMode};

use super::entry::{Entry, Header, Held, Recorded, RecordedChange, What, Whole};
use super::random::random;
use crate::replace::replace_file;
use address::Addresses;

/// What pseudonyms follow from. Who has it can find out whether a name is in a recording.
#[derive(Clone, Copy)]
pub struct MaskKey([u8; 32]);

impl From<[u8; 32]> for MaskKey {
    fn from(key: [u8; 32]) -> Self {
        Self(key)
    }
}

impl MaskKey {
    /// Makes a key that nobody knows.
    ///
    /// # Errors
    ///
    /// If the kernel has no random bytes.
    pub fn random() -> io::Result<Self> {
        random().map(Self)
    }

    /// Reads a key from a file. If there is no such file, it is made, with a new key.
    ///
    /// # Errors
    ///
    /// If it cannot be read or written, or is no key.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::random()?;
                let text: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
                replace_file(path, 0o600, |file| writeln!(file, "{text}"))?;
                return Ok(key);
            }
            Err(error) => return Err(error),
        };
        let wrong = || {
            let message = "is no key: it must be one line of 64 hexadecimal digits";
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        let text = text.trim();
        let mut key = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(key))
    }
}

/// What a name is the name of: the same text has another pseudonym as the name of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Namespace,
    Object,
    Port,
    Node,
    Key,
    Value,
    Zone,
}

impl Of {
    /// What its pseudonyms begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Namespace => "ns-",
            Self::Object => "n-",
            Self::Port => "p-",
            Self::Node => "node-",
            Self::Key => "k-",
            Self::Value => "v-",
            Self::Zone => "zone-",
        }
    }
}

/// The taint that keeps load balancers away from a node. It is none of the user's names.
const DELETED_BY_AUTOSCALER: &str = "ToBeDeletedByClusterAutoscaler";

/// How many pseudonyms are remembered.
const REMEMBERED: usize = 1 << 18;

/// Replaces names and addresses.
pub struct Mask {
    key: [u8; 32],
    addresses: Addresses,
    known: BTreeMap<(Of, Arc<str>), Arc<str>>,
}

impl std::fmt::Debug for Mask {
    /// Says nothing of the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    /// Takes a key.
    pub fn new(key: MaskKey) -> Self {
        Self { key: key.0, addresses: Addresses::new(key.0), known: BTreeMap::new() }
    }

    fn text(&mut self, of: Of, text: &str) -> Arc<str> {
        // No name is a name, too.
        if text.is_empty() {
            return text.into();
        }
        let question = (of, Arc::from(text));
        if let Some(known) = self.known.get(&question) {
            return Arc::clone(known);
        }
        let hash = blake3::keyed_hash(&self.key, format!("{}{text}", of.prefix()).as_bytes());
        let digits: String =
            hash.as_bytes().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        let pseudonym: Arc<str> = format!("{}{digits}", of.prefix()).into();
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(question, Arc::clone(&pseudonym));
        pseudonym
    }

    fn namespace(&mut self, name: &Namespace) -> Namespace {
        // Everybody has these.
        match name.as_str() {
            "default" | "kube-system" => name.clone(),
            text => Namespace::new(self.text(Of::Namespace, text)),
        }
    }

    /// Keeps whether the name is that of a slice that mirrors Endpoints.
    fn name(&mut self, name: &Name) -> Name {
        match EndpointSlice::mirrored(name) {
            Some(endpoints) => {
                let rest = name.as_str().get(endpoints.len()..).unwrap_or_default();
                Name::new(format!("{}{rest}", self.text(Of::Object, endpoints)))
            }
            None => Name::new(self.text(Of::Object, name.as_str())),
        }
    }

    fn key(&mut self, key: &NamespacedName) -> NamespacedName {
        // Its place among the others is fixed.
        if (key.namespace.as_str(), key.name.as_str()) == ("default", "kubernetes") {
            return key.clone();
        }
        NamespacedName { namespace: self.namespace(&key.namespace), name: self.name(&key.name) }
    }

    fn port(&mut self, name: &PortName) -> PortName {
        PortName::new(self.text(Of::Port, name.as_str()))
    }

    fn node(&mut self, name: &NodeName) -> NodeName {
        NodeName::new(self.text(Of::Node, name.as_str()))
    }

    fn labels(&mut self, all: &BTreeMap<LabelKey, LabelValue>) -> BTreeMap<LabelKey, LabelValue> {
        let one = |(key, value): (&LabelKey, &LabelValue)| {
            let key = LabelKey::new(self.text(Of::Key, key.as_str()));
            (key, LabelValue::new(self.text(Of::Value, value.as_str())))
        };
        all.iter().map(one).collect()
    }

    fn zone(&mut self, zone: &Zone) -> Zone {
        Zone::new(self.text(Of::Zone, zone.as_str()))
    }

    /// Returns the pseudonym of an address. Those of its network are in one network, too.
    pub fn address(&mut self, address: IpAddr) -> IpAddr {
        self.addresses.address(address)
    }

    /// Returns the pseudonym of a network.
    pub fn network(&mut self, network: &IpNet) -> IpNet {
        self.addresses.network(network)
    }

    fn addresses(&mut self, all: &[IpAddr]) -> Vec<IpAddr> {
        all.iter().map(|address| self.address(*address)).collect()
    }

    fn networks(&mut self, all: &[IpNet]) -> Vec<IpNet> {
        all.iter().map(|network| self.network(network)).collect()
    }

    /// Returns settings with pseudonyms.
    pub fn settings(&mut self, settings: &Settings) -> Settings {
        let detect_local = match &settings.detect_local {
            DetectLocal::ClusterCidr(networks) => DetectLocal::ClusterCidr(self.networks(networks)),
            DetectLocal::NodeCidr => DetectLocal::NodeCidr,
            DetectLocal::Interface(pattern) => DetectLocal::Interface(*pattern),
        };
        let node_port_addresses = match &settings.node_port_addresses {
            NodePortAddresses::Primary => NodePortAddresses::Primary,
            NodePortAddresses::PrimaryAnd(all) => NodePortAddresses::PrimaryAnd(self.networks(all)),
            NodePortAddresses::Cidrs(all) => NodePortAddresses::Cidrs(self.networks(all)),
        };
        let proxy_mode = match &settings.proxy_mode {
            ProxyMode::Nftables => ProxyMode::Nftables,
            ProxyMode::Ipvs(ipvs) => {
                let exclude = self.networks(&ipvs.exclude);
                ProxyMode::Ipvs(IpvsSettings { exclude, ..ipvs.clone() })
            }
        };
        Settings {
            node_name: self.node(&settings.node_name),
            node_addresses: self.addresses(&settings.node_addresses),
            detect_local,
            node_port_addresses,
            proxy_mode,
            ..settings.clone()
        }
    }

    /// Returns a header with pseudonyms.
    pub fn header(&mut self, header: &Header) -> Header {
        Header { masked: true, settings: self.settings(&header.settings), ..header.clone() }
    }

    /// Returns an entry with pseudonyms.
    pub fn entry(&mut self, entry: &Entry) -> Entry {
        let what = match &entry.what {
            What::Whole(Whole { reason, sources }) => {
                let sources = sources.iter().map(|held| Held {
                    origin: held.origin,
                    said: held.said,
                    problems: Vec::new(),
                    objects: self.all(&held.objects),
                });
                What::Whole(Whole { reason: *reason, sources: sources.collect() })
            }
            What::Update(recorded) => What::Update(Recorded {
                problems: None,
                changes: recorded.changes.iter().map(|change| self.change(change)).collect(),
                ..recorded.clone()
            }),
        };
        Entry { time: entry.time, what }
    }

    fn change(&mut self, change: &RecordedChange) -> RecordedChange {
        match change {
            RecordedChange::Apply(sourced) => RecordedChange::Apply(self.sourced(sourced)),
            RecordedChange::Remove(key) => RecordedChange::Remove(self.object_key(key)),
            RecordedChange::Replace { kinds, objects } => {
                RecordedChange::Replace { kinds: kinds.clone(), objects: self.all(objects) }
            }
        }
    }

    fn all(&mut self, all: &[Sourced]) -> Vec<Sourced> {
        all.iter().map(|sourced| self.sourced(sourced)).collect()
    }

    fn sourced(&mut self, sourced: &Sourced) -> Sourced {
        let object = self.object(&sourced.object);
        Sourced { object, provenance: Provenance("masked".into()) }
    }

    fn object_key(&mut self, key: &ObjectKey) -> ObjectKey {
        match key {
            ObjectKey::Service(key) => ObjectKey::Service(self.key(key)),
            ObjectKey::EndpointSlice(key) => ObjectKey::EndpointSlice(self.key(key)),
            ObjectKey::Pod(key) => ObjectKey::Pod(self.key(key)),
            ObjectKey::Node(name) => ObjectKey::Node(self.node(name)),
            ObjectKey::ServiceCidr(name) => ObjectKey::ServiceCidr(self.name(name)),
            ObjectKey::InterfaceAddresses => ObjectKey::InterfaceAddresses,
        }
    }

    /// Returns an object with pseudonyms, in normal form: what is sorted is sorted anew.
    pub fn object(&mut self, object: &Object) -> Object {
        match object {
            Object::Service(service) => Object::Service(Arc::new(self.service(service))),
            Object::EndpointSlice(slice) => Object::EndpointSlice(Arc::new(self.slice(slice))),
            Object::Pod(pod) => Object::Pod(Arc::new(self.pod(pod))),
            Object::Node(node) => Object::Node(Arc::new(self.node_object(node))),
            Object::ServiceCidr(cidr) => {
                let ServiceCidr { name, cidrs } = &**cidr;
                let cidrs = sorted(self.networks(cidrs));
                Object::ServiceCidr(Arc::new(ServiceCidr { name: self.name(name), cidrs }))
            }
            Object::InterfaceAddresses(held) => {
                let InterfaceAddresses { addresses, primary } = &**held;
                Object::InterfaceAddresses(Arc::new(InterfaceAddresses {
                    addresses: sorted(self.addresses(addresses)),
                    primary: self.addresses(primary),
                }))
            }
        }
    }

    fn service(&mut self, service: &Service) -> Service {
        let ClusterIps { v4, v6 } = service.cluster_ips;
        let cluster_ips = ClusterIps {
            v4: v4.map(|address| self.addresses.v4(address)),
            v6: v6.map(|address| self.addresses.v6(address)),
        };
        let ports = service.ports.iter().map(|port| ServicePort {
            name: self.port(&port.name),
            target: match &port.target {
                TargetPort::Number(number) => TargetPort::Number(*number),
                TargetPort::Name(name) => TargetPort::Name(self.port(name)),
            },
            ..port.clone()
        });
        Service {
            ports: ports.collect(),
            key: self.key(&service.key),
            cluster_ips,
            external_ips: sorted(self.addresses(&service.external_ips)),
            load_balancer_vips: sorted(self.addresses(&service.load_balancer_vips)),
            source_ranges: sorted(self.networks(&service.source_ranges)),
            selector: self.labels(&service.selector),
            ..service.clone()
        }
    }

    fn slice_ports(&mut self, ports: &[SlicePort]) -> Vec<SlicePort> {
        let one = |port: &SlicePort| SlicePort { name: self.port(&port.name), ..port.clone() };
        sorted(ports.iter().map(one).collect())
    }

    fn slice(&mut self, slice: &EndpointSlice) -> EndpointSlice {
        let endpoints = slice.endpoints.iter().map(|endpoint| Endpoint {
            address: self.address(endpoint.address),
            conditions: endpoint.conditions,
            node: endpoint.node.as_ref().map(|node| self.node(node)),
            hints: endpoint.hints.as_ref().map(|hints| {
                let zones = hints.zones.iter().map(|zone| self.zone(zone)).collect();
                let nodes = hints.nodes.iter().map(|node| self.node(node)).collect();
                let (zones, nodes) = (sorted(zones).into(), sorted(nodes).into());
                Box::new(Hints { zones, nodes })
            }),
        });
        EndpointSlice {
            endpoints: sorted(endpoints.collect()),
            key: self.key(&slice.key),
            service: self.key(&slice.service),
            ports: self.slice_ports(&slice.ports),
            ..slice.clone()
        }
    }

    fn pod(&mut self, pod: &Pod) -> Pod {
        Pod {
            key: self.key(&pod.key),
            labels: self.labels(&pod.labels),
            node: pod.node.as_ref().map(|node| self.node(node)),
            addresses: match &pod.addresses {
                PodAddresses::Own(addresses) => PodAddresses::Own(self.addresses(addresses)),
                PodAddresses::Node => PodAddresses::Node,
            },
            ports: self.slice_ports(&pod.ports),
            host: pod.host.as_ref().map(|HostName { hostname, subdomain }| HostName {
                hostname: self.name(hostname),
                subdomain: self.name(subdomain),
            }),
            ..pod.clone()
        }
    }

    fn node_object(&mut self, node: &Node) -> Node {
        let taints = node.taints.iter().map(|taint| match &**taint {
            DELETED_BY_AUTOSCALER => Arc::clone(taint),
            text => self.text(Of::Key, text),
        });
        Node {
            taints: sorted(taints.collect()),
            name: self.node(&node.name),
            addresses: self.addresses(&node.addresses),
            pod_cidrs: self.networks(&node.pod_cidrs),
            zone: node.zone.as_ref().map(|zone| self.zone(zone)),
            ..node.clone()
        }
    }
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all.dedup();
    all
}
