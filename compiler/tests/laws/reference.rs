//! The fate of a packet by the specification alone: its tables, read from top to bottom over the
//! plain list of objects. It is slow, and uses nothing of the compiler except objects and verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use rulec_compiler::Settings;
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{NamespacedName, PortName};
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::object::{
    Conditions, EndpointSlice, Hints, Node, Object, Pod, PodAddresses, Service, ServicePort,
    ServiceType, TargetPort, TrafficPolicy,
};
use rulec_compiler::oracle::{Packet, Verdict};
use rulec_compiler::resolve::local::{LocalFamily, LocalView};
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};

/// The verdict on a packet, and whether it is masqueraded on the way to a backend.
pub(crate) type Fate = (Verdict, bool);

/// All objects, by kind.
pub(crate) struct Cluster<'a> {
    settings: &'a Settings,
    own: &'a [IpAddr],
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    pods: Vec<Arc<Pod>>,
    nodes: Vec<Arc<Node>>,
    service_cidrs: Vec<IpNet>,
    interfaces: Vec<IpAddr>,
    /// The ones among them that the kernel uses as source addresses.
    primary: Vec<IpAddr>,
    /// In IPVS mode, the addresses that are bound only for IPVS.
    bound: BTreeSet<IpAddr>,
}

/// A frontend: an address, or a node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entrance {
    pub(crate) family: Family,
    /// `None` for a node port.
    pub(crate) address: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) port: NonZeroU16,
}

/// The reason why a Service port has a frontend, in order of precedence (§4.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    ClusterIp,
    Vip,
    ExternalIp,
    NodePort,
}

#[derive(Clone)]
struct Claim<'a> {
    entrance: Entrance,
    reason: Reason,
    service: &'a Service,
    port: &'a ServicePort,
}

#[derive(Clone, Copy)]
struct Found<'a> {
    conditions: Conditions,
    local: bool,
    /// True if it names no node, so that it may be here.
    placeless: bool,
    hints: Option<&'a Hints>,
    weight: Weight,
}

impl Found<'_> {
    fn is_ready(&self) -> bool {
        self.conditions.ready && self.weight != Weight::NONE
    }

    fn is_last_resort(&self) -> bool {
        self.conditions.serving && self.conditions.terminating && self.weight != Weight::NONE
    }
}

type Endpoints<'a> = BTreeMap<Backend, Found<'a>>;

/// The endpoints of a Service port that §3 selects.
struct Selected {
    cluster: BTreeSet<Backend>,
    local: BTreeSet<Backend>,
    any: bool,
}

/// The result of the NAT hook, and whether the packet is marked for masquerading.
enum Translated {
    To(BTreeSet<Backend>, bool),
    Dropped,
    Not,
}

impl<'a> Cluster<'a> {
    pub(crate) fn of(
        objects: impl Iterator<Item = Object>,
        settings: &'a Settings,
        own: &'a [IpAddr],
    ) -> Self {
        let mut all = Self {
            settings,
            own,
            services: Vec::new(),
            slices: Vec::new(),
            pods: Vec::new(),
            nodes: Vec::new(),
            service_cidrs: Vec::new(),
            interfaces: Vec::new(),
            primary: Vec::new(),
            bound: BTreeSet::new(),
        };
        for object in objects {
            match object {
                Object::Service(service) => all.services.push(service),
                Object::EndpointSlice(slice) => all.slices.push(slice),
                Object::Pod(pod) => all.pods.push(pod),
                Object::Node(node) => all.nodes.push(node),
                Object::ServiceCidr(cidr) => all.service_cidrs.extend(&cidr.cidrs),
                Object::InterfaceAddresses(held) => {
                    all.interfaces.extend(&held.addresses);
                    all.primary.extend(&held.primary);
                }
            }
        }
        all.bound = all.to_bind();
        all
    }

    pub(crate) fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// Returns every frontend that a Service asks for.
    pub(crate) fn entrances(&self) -> Vec<Entrance> {
        self.claims().into_iter().map(|claim| claim.entrance).collect()
    }

    /// Returns the possible fates of the first packet of a flow.
    pub(crate) fn fates(&self, packet: &Packet) -> BTreeSet<Fate> {
        let claims = self.claims();
        let is_sent = self.is_own(packet.source);
        if self.is_kept_out(&claims, packet) {
            return [(Verdict::Drop, false)].into();
        }
        let (backends, is_marked) = match self.translate(&claims, packet) {
            Translated::Dropped => return [(Verdict::Drop, false)].into(),
            Translated::Not => return self.untranslated(&claims, packet, false),
            Translated::To(backends, is_marked) => (backends, is_marked),
        };
        if self.settings.ipvs().is_some() {
            // IPVS sees only packets to this node, and arriving packets only after the filter.
            if !self.is_own(packet.destination) {
                return self.untranslated(&claims, packet, is_marked);
            }
            if let Some(verdict) = self.filter(&claims, packet).filter(|_| !is_sent) {
                return [(verdict, false)].into();
            }
        }
        let mut fates = BTreeSet::new();
        for backend in backends {
            let translated = Packet {
                destination: backend.address,
                transport: packet.transport.map(|(protocol, _)| (protocol, backend.port)),
                ..packet.clone()
            };
            // §4.0; a packet that arrives and stays here never reaches postrouting.
            let leaves = is_sent || !self.is_own(backend.address);
            // If IPVS has translated it, it does not pass a filter either.
            let is_filtered = leaves || self.settings.ipvs().is_none();
            let verdict = self.filter(&claims, &translated).filter(|_| is_filtered);
            if let Some(verdict) = verdict {
                fates.insert((verdict, false));
                continue;
            }
            let hairpins = self.hairpins();
            // Conntrack does not know that IPVS has translated a packet. It has if the original
            // destination is not an endpoint.
            let is_known =
                self.settings.ipvs().is_none() || !hairpins.contains(&packet.destination);
            let is_hairpin =
                packet.source == backend.address && hairpins.contains(&backend.address);
            let is_masqueraded = leaves && (is_marked || is_hairpin && is_known);
            fates.insert((Verdict::Backend(backend), is_masqueraded));
        }
        fates
    }

    /// Returns the fates of a packet that goes to its original destination, if it may.
    fn untranslated(
        &self,
        claims: &[Claim<'_>],
        packet: &Packet,
        is_marked: bool,
    ) -> BTreeSet<Fate> {
        let leaves = self.is_own(packet.source) || !self.is_own(packet.destination);
        let passed = (Verdict::Pass, is_marked && leaves);
        [self.filter(claims, packet).map_or(passed, |verdict| (verdict, false))].into()
    }

    /// Returns the counts of §8.3 and of the gauges in §9 for a Service.
    pub(crate) fn local_view(&self, service: &Service) -> Option<LocalView> {
        let (internal, external) = (is_internal_local(service), is_external_local(service));
        let families: BTreeMap<Family, LocalFamily> = Family::ALL
            .into_iter()
            .filter(|family| is_served(service, *family))
            .map(|family| {
                let mut weight = BTreeSet::new();
                let mut dropped = 0;
                for port in &service.ports {
                    let endpoints = self.endpoints(service, port, family);
                    let here = endpoints.iter().filter(|(_, it)| it.local && it.is_ready());
                    weight.extend(here.map(|(backend, _)| backend.address));
                    let selected = self.select(&endpoints);
                    dropped += usize::from(selected.any && selected.local.is_empty());
                }
                let counted = LocalFamily {
                    ready: weight.len(),
                    dropped_internal: if internal { dropped } else { 0 },
                    dropped_external: if external { dropped } else { 0 },
                };
                (family, counted)
            })
            .collect();
        let is_asked = external && service.kind == ServiceType::LoadBalancer;
        let is_any = (internal || external) && !families.is_empty() && !service.ports.is_empty();
        is_any.then(|| LocalView {
            health_check: service.health_check_node_port.filter(|_| is_asked),
            families,
        })
    }

    // ---- §2: endpoints ----

    fn endpoints(&self, service: &Service, port: &ServicePort, family: Family) -> Endpoints<'_> {
        let mut all: Vec<(Backend, Found<'_>)> = Vec::new();
        for slice in &self.slices {
            if slice.service != service.key || slice.family != family {
                continue;
            }
            let ports = slice.ports.iter();
            for number in ports
                .filter(|it| it.name == port.name && it.protocol == port.protocol)
                .map(|it| it.port)
            {
                for endpoint in &slice.endpoints {
                    let found = Found {
                        conditions: endpoint.conditions,
                        local: endpoint.node.as_ref() == Some(&self.settings.node_name),
                        placeless: endpoint.node.is_none(),
                        hints: endpoint.hints.as_deref(),
                        weight: slice.weight,
                    };
                    all.push((Backend { address: endpoint.address, port: number }, found));
                }
            }
        }
        for pod in &self.pods {
            let is_selected = pod.key.namespace == service.key.namespace
                && !service.selector.is_empty()
                && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
            if !is_selected {
                continue;
            }
            let named = |name: &PortName| {
                let mut ports = pod.ports.iter();
                ports.find(|it| it.name == *name && it.protocol == port.protocol).map(|it| it.port)
            };
            let number = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => named(name),
            };
            let on = pod.node.as_ref().unwrap_or(&self.settings.node_name);
            let addresses: &[IpAddr] = match &pod.addresses {
                PodAddresses::Own(addresses) => addresses,
                PodAddresses::Node => self
                    .nodes
                    .iter()
                    .find(|node| node.name == *on)
                    .map_or(&[], |node| node.addresses.as_slice()),
            };
            // §2.6: for this node, the settings may name the address; without a Node object, the
            // kernel does.
            let is_own_host = pod.addresses == PodAddresses::Node && *on == self.settings.node_name;
            let told = self.settings.node_addresses.iter().filter(|_| is_own_host);
            let of_kernel = self.primary.iter().filter(|_| is_own_host && addresses.is_empty());
            let mut addresses = addresses.iter().chain(told).chain(of_kernel);
            let address = addresses.find(|address| Family::of(**address) == family);
            if let (Some(port), Some(address)) = (number, address) {
                let ready = pod.conditions.ready || service.publish_not_ready;
                let found = Found {
                    conditions: Conditions { ready, ..pod.conditions },
                    local: *on == self.settings.node_name,
                    placeless: false,
                    hints: None,
                    weight: pod.weight,
                };
                all.push((Backend { address: *address, port }, found));
            }
        }
        // §2.9: of copies, the one that is not terminating; then the better one, so that the order
        // of the copies does not matter.
        let worth = |found: &Found<'_>| {
            let Conditions { ready, serving, terminating } = found.conditions;
            let Found { local, placeless, weight, .. } = *found;
            let nodes = |hints: &Hints| {
                let is_ours = hints.nodes.contains(&self.settings.node_name);
                (!hints.nodes.is_empty()).then_some(is_ours)
            };
            let hints = found.hints.map(|hints| (hints.zones.clone(), nodes(hints)));
            (!terminating, ready, serving, local, hints, placeless, weight)
        };
        all.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| worth(one).cmp(&worth(other))));
        all.into_iter().collect()
    }

    // ---- §3: selection ----

    fn select(&self, endpoints: &Endpoints<'_>) -> Selected {
        let those = |is: &dyn Fn(&Found<'_>) -> bool| -> BTreeSet<Backend> {
            let chosen = endpoints.iter().filter(|(_, found)| is(found));
            chosen.map(|(backend, _)| *backend).collect()
        };
        let or = |first: BTreeSet<Backend>, second: BTreeSet<Backend>| {
            if first.is_empty() { second } else { first }
        };
        let ready: Vec<&Found<'_>> = endpoints.values().filter(|it| it.is_ready()).collect();

        let node = &self.settings.node_name;
        let nodes = |it: &Found<'_>| it.hints.map(|hints| hints.nodes.clone()).unwrap_or_default();
        let zones = |it: &Found<'_>| it.hints.map(|hints| hints.zones.clone()).unwrap_or_default();
        let zone = self.node().and_then(|node| node.zone.clone());
        let same_node = ready.iter().all(|it| !nodes(it).is_empty())
            && ready.iter().any(|it| nodes(it).contains(node));
        let same_zone = zone.as_ref().is_some_and(|zone| {
            ready.iter().all(|it| !zones(it).is_empty())
                && ready.iter().any(|it| zones(it).contains(zone))
        });
        let is_allowed = |it: &Found<'_>| {
            if same_node {
                nodes(it).contains(node)
            } else if same_zone {
                zone.as_ref().is_some_and(|zone| zones(it).contains(zone))
            } else {
                true
            }
        };
        Selected {
            cluster: or(
                those(&|it| it.is_ready() && is_allowed(it)),
                those(&|it| it.is_last_resort()),
            ),
            local: or(
                those(&|it| it.local && it.is_ready()),
                those(&|it| it.local && it.is_last_resort()),
            ),
            any: endpoints.values().any(|it| it.is_ready() || it.is_last_resort()),
        }
    }

    fn selected(&self, claim: &Claim<'_>) -> Selected {
        self.select(&self.endpoints(claim.service, claim.port, claim.entrance.family))
    }

    // ---- §4: frontends ----

    fn claims(&self) -> Vec<Claim<'_>> {
        let mut claims = Vec::new();
        for service in &self.services {
            for family in Family::ALL.into_iter().filter(|family| is_served(service, *family)) {
                for port in &service.ports {
                    let mut claim = |reason, address, number| {
                        let protocol = port.protocol;
                        let entrance = Entrance { family, address, protocol, port: number };
                        claims.push(Claim { entrance, reason, service, port });
                    };
                    let own = service.cluster_ips.of(family);
                    claim(Reason::ClusterIp, own, port.port);
                    let is_served = |address: &&IpAddr| {
                        Family::of(**address) == family && !self.is_elsewhere(**address)
                    };
                    for vip in service.load_balancer_vips.iter().filter(is_served) {
                        claim(Reason::Vip, Some(*vip), port.port);
                    }
                    for address in service.external_ips.iter().filter(is_served) {
                        claim(Reason::ExternalIp, Some(*address), port.port);
                    }
                    let Some(number) = port.node_port else { continue };
                    if self.settings.ipvs().is_none() {
                        claim(Reason::NodePort, None, number);
                        continue;
                    }
                    // §6.2: a virtual server for each address.
                    for address in self.node_port_addresses(family) {
                        claim(Reason::NodePort, Some(address), number);
                    }
                }
            }
        }
        claims
    }

    /// Applies the rest of §4.0 to §4.6: the services chain.
    fn translate(&self, claims: &[Claim<'_>], packet: &Packet) -> Translated {
        let Some((protocol, port)) = packet.transport else { return Translated::Not };
        let family = Family::of(packet.destination);
        let is_sent = self.is_own(packet.source);
        let is_pod = self.is_pod(packet, is_sent);
        // §4.3: for packets to a port of a Service at an active cluster address; others are not
        // served, and keep their source. The second part: other nodes could not
        // answer to an address that is bound only for IPVS.
        let is_unmasked = self.settings.masquerade_all || is_pod == Some(false);
        let mut is_marked = self.is_cluster_ip(packet.destination) && is_unmasked
            || self.bound.contains(&packet.source);
        let address = Entrance { family, address: Some(packet.destination), protocol, port };
        let node_port = Entrance { family, address: None, protocol, port };
        // Connections of this node to `localhost` have no other entrance before.
        let at_localhost = self.is_to_localhost(packet).then_some(node_port);
        let node_port = self.is_node_port_address(packet.destination).then_some(node_port);
        for entrance in [at_localhost, Some(address), node_port].into_iter().flatten() {
            let Some(claim) = winner(claims, entrance) else { continue };
            let Selected { mut cluster, local, any } = self.selected(claim);
            if !any {
                continue;
            }
            let is_by_ipvs = self.settings.ipvs().is_some();
            if is_by_ipvs
                && is_external_local(claim.service)
                && !local.is_empty()
                && claim.reason != Reason::ClusterIp
            {
                // §6.5: a virtual server has one list for all clients.
                cluster.clone_from(&local);
            }
            let targets = if claim.reason == Reason::ClusterIp {
                if is_internal_local(claim.service) { local } else { cluster }
            } else if !is_external_local(claim.service) {
                is_marked = true;
                cluster
            } else if is_pod == Some(true) && at_localhost.is_none() {
                // This comes before the row of the host (§5.1): an address may match both.
                cluster
            } else if is_sent {
                is_marked = true;
                cluster
            } else {
                local
            };
            return if targets.is_empty() {
                Translated::Dropped
            } else {
                Translated::To(targets, is_marked)
            };
        }
        Translated::Not
    }

    /// §4.8.
    fn is_kept_out(&self, claims: &[Claim<'_>], packet: &Packet) -> bool {
        let Some((protocol, port)) = packet.transport else { return false };
        let family = Family::of(packet.destination);
        let entrance = Entrance { family, address: Some(packet.destination), protocol, port };
        let Some(claim) = winner(claims, entrance) else { return false };
        if claim.reason != Reason::Vip {
            return false;
        }
        let of_family = |range: &&IpNet| Family::of(range.addr()) == family;
        let ranges = || claim.service.source_ranges.iter().filter(of_family);
        if ranges().next().is_none() || ranges().any(|range| range.prefix_len() == 0) {
            return false;
        }
        let node = self.primary_address(family);
        let has_node = node.is_some_and(|node| ranges().any(|range| range.contains(&node)));
        let is_vip = claim.service.load_balancer_vips.contains(&packet.source);
        !(ranges().any(|range| range.contains(&packet.source)) || has_node && is_vip)
    }

    /// Applies §4.9 and §4.10: returns the verdict of the filter hooks, if any.
    fn filter(&self, claims: &[Claim<'_>], packet: &Packet) -> Option<Verdict> {
        let (is_sent, is_for_us) = (self.is_own(packet.source), self.is_own(packet.destination));
        let unserved = |address| {
            let (protocol, port) = packet.transport?;
            let family = Family::of(packet.destination);
            let claim = winner(claims, Entrance { family, address, protocol, port })?;
            (!self.selected(claim).any).then_some(Verdict::Reject)
        };
        let at_address = unserved(Some(packet.destination));
        if is_sent || !is_for_us {
            let is_unknown_port = self.is_cluster_ip(packet.destination);
            let is_unallocated =
                self.service_cidrs.iter().any(|cidr| cidr.contains(&packet.destination));
            if at_address.is_some() || is_unknown_port {
                return Some(Verdict::Reject);
            }
            if is_unallocated {
                return Some(Verdict::Drop);
            }
        }
        if !is_for_us {
            return None;
        }
        let is_node = self.is_node_port_address(packet.destination);
        let at_port = at_address.or_else(|| if is_node { unserved(None) } else { None });
        // §6.4: no program of the node is reached at a bound address.
        let is_unknown = || {
            let claim = packet.transport.and_then(|(protocol, port)| {
                let (family, address) = (Family::of(packet.destination), Some(packet.destination));
                winner(claims, Entrance { family, address, protocol, port })
            });
            self.bound.contains(&packet.destination) && claim.is_none()
        };
        at_port.or_else(|| is_unknown().then_some(Verdict::Reject))
    }

    /// Returns the addresses of §4.0 (b): endpoints that are reachable and are, or may be, local.
    /// By address, since traffic to itself needs masquerading at any port.
    fn hairpins(&self) -> BTreeSet<IpAddr> {
        let mut hairpins = BTreeSet::new();
        for claim in self.claims().iter().filter(|claim| claim.reason == Reason::ClusterIp) {
            let family = claim.entrance.family;
            let endpoints = self.endpoints(claim.service, claim.port, family);
            let selected = self.select(&endpoints);
            let own = claim.entrance.address;
            let addresses = claim.service.load_balancer_vips.iter();
            let mut addresses = addresses.chain(&claim.service.external_ips);
            // An entry that equals the cluster address is not another frontend.
            let has_node_port = claim.port.node_port.is_some()
                && (self.settings.ipvs().is_none() || !self.node_port_addresses(family).is_empty());
            let is_accessible =
                has_node_port || addresses.any(|it| Family::of(*it) == family && Some(*it) != own);
            let (internal, external) =
                (is_internal_local(claim.service), is_external_local(claim.service));
            let mut reachable = BTreeSet::new();
            if !internal || is_accessible {
                reachable.extend(selected.cluster);
            }
            if internal || external && is_accessible {
                reachable.extend(selected.local);
            }
            let may_be_here = |backend: &Backend| {
                let found = endpoints[backend];
                found.local || found.placeless
            };
            let here = reachable.into_iter().filter(may_be_here);
            hairpins.extend(here.map(|backend| backend.address));
        }
        hairpins
    }

    // ---- §1.7, §4.1, §4.6: the node ----

    fn node(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == self.settings.node_name).map(|node| &**node)
    }

    fn primary_address(&self, family: Family) -> Option<IpAddr> {
        let named = self.settings.node_addresses.iter();
        let of_node = self.node().into_iter().flat_map(|node| &node.addresses);
        named.chain(of_node).find(|address| Family::of(**address) == family).copied()
    }

    /// Returns `None` if the detection has no network to work with.
    fn is_pod(&self, packet: &Packet, is_sent: bool) -> Option<bool> {
        let family = Family::of(packet.source);
        let within = |cidrs: &[IpNet]| {
            let first = cidrs.iter().find(|cidr| Family::of(cidr.addr()) == family);
            first.map(|cidr| cidr.contains(&packet.source))
        };
        match &self.settings.detect_local {
            DetectLocal::ClusterCidr(cidrs) => within(cidrs),
            DetectLocal::NodeCidr => within(&self.node()?.pod_cidrs),
            DetectLocal::Interface(pattern) => {
                let name = packet.interface.as_deref().filter(|_| !is_sent);
                Some(name.is_some_and(|name| matches_pattern(*pattern, name)))
            }
        }
    }

    /// Returns true if a packet is one to a node port on `localhost`, should there be such a port
    /// (KEP-6032).
    fn is_to_localhost(&self, packet: &Packet) -> bool {
        let networks: &[IpNet] = match &self.settings.node_port_addresses {
            NodePortAddresses::Primary => &[],
            NodePortAddresses::PrimaryAnd(networks) | NodePortAddresses::Cidrs(networks) => {
                networks
            }
        };
        let is_localhost = match packet.destination {
            IpAddr::V4(address) => address == Ipv4Addr::LOCALHOST,
            IpAddr::V6(address) => address == Ipv6Addr::LOCALHOST,
        };
        let is_named =
            networks.iter().any(|it| it.contains(&packet.destination) && it.addr().is_loopback());
        self.settings.ipvs().is_none() && packet.source.is_loopback() && is_localhost && is_named
    }

    fn is_node_port_address(&self, address: IpAddr) -> bool {
        let family = Family::of(address);
        if address.is_loopback() {
            return false;
        }
        let primary = self.primary_address(family).filter(|it| !it.is_loopback());
        let is_primary = primary == Some(address);
        let cidrs: Option<Vec<IpNet>> = match &self.settings.node_port_addresses {
            NodePortAddresses::Primary if primary.is_some() => return is_primary,
            NodePortAddresses::Primary => None,
            NodePortAddresses::PrimaryAnd(_) if primary.is_none() => None,
            NodePortAddresses::PrimaryAnd(cidrs) => {
                let of_family = cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family);
                let is_all = of_family.clone().any(|cidr| cidr.prefix_len() == 0);
                if is_primary && !is_all {
                    return true;
                }
                (!is_all).then(|| of_family.copied().collect())
            }
            NodePortAddresses::Cidrs(cidrs) => {
                let of_family = cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family);
                let cidrs: Vec<IpNet> = of_family.copied().collect();
                let is_all = cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.prefix_len() == 0);
                (!is_all).then_some(cidrs)
            }
        };
        match cidrs {
            None => self.is_own(address),
            Some(cidrs) => {
                self.interfaces.contains(&address)
                    && cidrs.iter().any(|cidr| cidr.contains(&address))
            }
        }
    }

    /// Returns the addresses of §6.2: node ports of IPVS mode are on these, and never on loopback
    /// or link-local ones.
    fn node_port_addresses(&self, family: Family) -> Vec<IpAddr> {
        let primary = self.primary_address(family).filter(|it| !it.is_loopback());
        let mut all: BTreeSet<IpAddr> = match &self.settings.node_port_addresses {
            NodePortAddresses::Primary if primary.is_some() => primary.into_iter().collect(),
            NodePortAddresses::Primary => self.interfaces.iter().copied().collect(),
            NodePortAddresses::PrimaryAnd(_) if primary.is_none() => {
                self.interfaces.iter().copied().collect()
            }
            NodePortAddresses::PrimaryAnd(cidrs) => {
                let cidrs = cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family);
                let is_all = cidrs.clone().any(|cidr| cidr.prefix_len() == 0);
                let is_selected =
                    |it: &&IpAddr| is_all || cidrs.clone().any(|cidr| cidr.contains(*it));
                let selected = self.interfaces.iter().filter(is_selected);
                // Every address is every one that an interface has.
                selected.copied().chain(primary.filter(|_| !is_all)).collect()
            }
            NodePortAddresses::Cidrs(cidrs) => {
                let cidrs = cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family);
                let is_all = cidrs.clone().next().is_none()
                    || cidrs.clone().any(|cidr| cidr.prefix_len() == 0);
                let is_selected =
                    |it: &&IpAddr| is_all || cidrs.clone().any(|cidr| cidr.contains(*it));
                self.interfaces.iter().filter(is_selected).copied().collect()
            }
        };
        all.retain(|address| {
            let is_of_link =
                matches!(address, IpAddr::V6(it) if it.segments()[0] & 0xffc0 == 0xfe80);
            Family::of(*address) == family && !address.is_loopback() && !is_of_link
        });
        all.into_iter().collect()
    }

    /// Returns the addresses of §6.2: cluster addresses, and those others that no interface and no
    /// other node has.
    fn to_bind(&self) -> BTreeSet<IpAddr> {
        let mut bound = BTreeSet::new();
        let Some(ipvs) = self.settings.ipvs() else { return bound };
        for service in self.services.iter().filter(|service| !service.ports.is_empty()) {
            for family in Family::ALL.into_iter().filter(|family| is_served(service, *family)) {
                let others = service.load_balancer_vips.iter().chain(&service.external_ips);
                let others = others.filter(|it| Family::of(**it) == family);
                let others = others.filter(|it| !self.interfaces.contains(it)).copied();
                let others = others.filter(|it| !self.is_elsewhere(*it));
                bound.extend(others.chain(service.cluster_ips.of(family)));
            }
        }
        bound.retain(|address| !ipvs.exclude.iter().any(|net| net.contains(address)));
        bound
    }

    /// Returns true if, in IPVS mode, another node has the address, so that nothing is served at it
    /// here.
    fn is_elsewhere(&self, address: IpAddr) -> bool {
        let mut others = self.nodes.iter().filter(|node| node.name != self.settings.node_name);
        self.settings.ipvs().is_some() && others.any(|node| node.addresses.contains(&address))
    }

    fn is_cluster_ip(&self, address: IpAddr) -> bool {
        self.services.iter().any(|service| {
            let own = service.cluster_ips.of(Family::of(address));
            own == Some(address) && !service.ports.is_empty()
        })
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address) || self.bound.contains(&address)
    }
}

/// §1.2.
fn is_served(service: &Service, family: Family) -> bool {
    service.kind != ServiceType::ExternalName && service.cluster_ips.of(family).is_some()
}

/// §1.4.
fn is_internal_local(service: &Service) -> bool {
    service.internal_policy == TrafficPolicy::Local
}

fn is_external_local(service: &Service) -> bool {
    let counts = match service.kind {
        ServiceType::LoadBalancer | ServiceType::NodePort => true,
        ServiceType::ClusterIP => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    };
    counts && service.external_policy == TrafficPolicy::Local
}

/// Applies §4.12: the best reason, then the first name.
fn winner<'a, 'b>(claims: &'a [Claim<'b>], entrance: Entrance) -> Option<&'a Claim<'b>> {
    fn rank<'c>(claim: &'c Claim<'_>) -> (Reason, &'c NamespacedName, &'c PortName) {
        (claim.reason, &claim.service.key, &claim.port.name)
    }
    let all = claims.iter().filter(|claim| claim.entrance == entrance);
    all.min_by(|one, other| rank(one).cmp(&rank(other)))
}

fn matches_pattern(pattern: InterfacePattern, name: &str) -> bool {
    match pattern.to_string().strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern.to_string(),
    }
}
