//! What a Service means on this node: its frontends with their policies, and its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::model::Entry;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::nft::element::Key;
use rulec_compiler::object::{Affinity, Service, ServiceType, TrafficPolicy};
use rulec_compiler::resolve::{self, Route};
use rulec_compiler::{Frontend, Model, Origin, remark};
use serde::Serialize;

use super::frontend::FrontendView;
use super::known::Known;
use super::port::PortView;
use crate::observe::status::RefusedService;

/// A Service. What only objects tell is missing if they are not known.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceView {
    #[serde(skip)]
    pub(super) key: NamespacedName,
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<ServiceType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub(super) cluster_ips: Vec<IpAddr>,
    #[serde(rename = "externalIPs")]
    pub(super) external_ips: Vec<IpAddr>,
    #[serde(rename = "loadBalancerIPs")]
    pub(super) load_balancer_ips: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) internal_traffic_policy: Option<TrafficPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) external_traffic_policy: Option<TrafficPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_affinity_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) load_balancing: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) source_ranges: Vec<IpNet>,
    /// New connections to all of its ports, if they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<RefusedService>,
    /// What else there is to know, for people.
    pub(super) notes: Vec<String>,
    pub(super) ports: Vec<PortView>,
}

/// Returns all Services: those of the objects, and those that only the kernel has.
pub(super) fn all(known: &Known) -> Vec<ServiceView> {
    let mut only_held = held(known);
    let Some(model) = &known.side.model else { return only_held };
    only_held.retain(|service| model.service(&service.key).is_none());
    let note = "no source names it, but the kernel still has it";
    only_held.iter_mut().for_each(|service| service.notes.push(note.to_owned()));
    let named = model.services().map(|entry| ServiceView::of(known, model, entry));
    let mut all: Vec<ServiceView> = named.chain(only_held).collect();
    all.sort_by(|one, other| one.key.cmp(&other.key));
    all
}

impl ServiceView {
    fn of(known: &Known, model: &Model, entry: &Entry<Service>) -> Self {
        let service = &*entry.object;
        let settings = &known.side.settings;
        let key = &service.key;
        let routes = resolve::resolve(model, settings, key);
        let ports = routes.iter().filter_map(|route| {
            let port = service.ports.iter().find(|port| port.name == route.port.port)?;
            Some(PortView::of(known, model, service, port, route))
        });
        let is_external =
            |route: &Route| route.frontends.iter().any(|(_, rank)| rank.is_external());
        let affinity = match service.affinity {
            Affinity::None => None,
            Affinity::ClientIp { timeout } => Some(timeout),
        };
        let balancing = match settings.ipvs() {
            Some(ipvs) => service.ipvs.scheduling(ipvs.scheduling).scheduler.to_string(),
            None => service.load_balancing.unwrap_or(settings.load_balancing).name().to_owned(),
        };
        let cluster_ips = Family::ALL.into_iter().filter_map(|it| service.cluster_ips.of(it));
        Self {
            key: key.clone(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            kind: Some(service.kind),
            source: Some(entry.origin),
            from: Some(entry.provenance.to_string()),
            cluster_ips: cluster_ips.collect(),
            external_ips: service.external_ips.clone(),
            load_balancer_ips: service.load_balancer_vips.clone(),
            internal_traffic_policy: Some(service.internal_policy),
            external_traffic_policy: routes
                .iter()
                .any(is_external)
                .then_some(service.external_policy),
            session_affinity_seconds: affinity,
            load_balancing: Some(balancing),
            source_ranges: service.source_ranges.clone(),
            connections: None,
            refused: known.refused(key).cloned(),
            notes: notes(known, model, service),
            ports: ports.collect(),
        }
    }

    /// Returns how many endpoints it uses, and how many it has.
    pub(super) fn endpoints(&self) -> (usize, usize) {
        let all = || self.ports.iter().flat_map(|port| &port.endpoints);
        let distinct = |is_one: &dyn Fn(bool) -> bool| {
            let some = all().filter(|endpoint| is_one(endpoint.used));
            some.map(|it| (&it.endpoint, &it.object)).collect::<BTreeSet<_>>().len()
        };
        (distinct(&|used| used), distinct(&|_| true))
    }
}

/// Returns what is not said elsewhere: why nothing is served, what has no effect, what is invalid.
fn notes(known: &Known, model: &Model, service: &Service) -> Vec<String> {
    let settings = &known.side.settings;
    let is_addressed = Family::ALL.into_iter().any(|it| service.cluster_ips.of(it).is_some());
    let unserved = if service.kind == ServiceType::ExternalName {
        Some("a name of the DNS: there is nothing to serve")
    } else if is_addressed {
        service.ports.is_empty().then_some("it has no port")
    } else if service.asks.is_empty() {
        Some("headless: without a cluster address, nothing is served")
    } else {
        Some("no cluster address could be given out: it is not served")
    };
    let elsewhere = resolve::elsewhere(model, settings, service);
    let elsewhere = elsewhere.map(|(address, node)| {
        format!("{address} is not served here: it is an address of Node {node}")
    });
    let remarks = remark::of_service(model, settings, &service.key).into_iter();
    let unserved = unserved.map(str::to_owned).into_iter();
    let of_objects = unserved.chain(elsewhere).chain(remarks.map(|remark| remark.to_string()));
    of_objects.chain(known.problems_of(&service.key)).collect()
}

/// Returns the Services that the kernel has, as far as comments and elements tell.
fn held(known: &Known) -> Vec<ServiceView> {
    let mut found: BTreeMap<NamespacedName, BTreeMap<(PortKey, Family), Vec<Frontend>>> =
        BTreeMap::new();
    let elements = || known.state.tables.values().flat_map(|table| &table.elements);
    for (key, held) in elements() {
        let (Key::Service(frontend) | Key::Reject(frontend)) = key else { continue };
        let Some(owner) = held.owner.as_deref() else { continue };
        let owner = known.side.meant(owner);
        let ports = found.entry(owner.service.clone()).or_default();
        ports.entry((owner, frontend.family())).or_default().push(*frontend);
    }
    let of = |key: NamespacedName, ports: BTreeMap<(PortKey, Family), Vec<Frontend>>| {
        let ports = ports.into_iter().map(|((owner, family), frontends)| {
            let frontends = frontends.into_iter();
            let frontends =
                frontends.map(|frontend| FrontendView::of(&known.state, &owner, frontend, None));
            PortView::held(&owner, family, frontends.collect())
        });
        let ports: Vec<PortView> = ports.collect();
        let frontends = || ports.iter().flat_map(|port| &port.frontends);
        let is_cluster_ip = |address: &IpAddr| {
            let table = known.state.tables.get(&Family::of(*address));
            table.is_some_and(|table| table.elements.contains_key(&Key::ClusterIp(*address)))
        };
        let addresses: BTreeSet<IpAddr> = frontends().filter_map(|it| it.address()).collect();
        let (cluster_ips, external_ips) = addresses.into_iter().partition(is_cluster_ip);
        let ranges = frontends().filter_map(|it| known.state.sources(it.frontend)).flatten();
        let ranges: BTreeSet<IpNet> = ranges.collect();
        ServiceView {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            key,
            kind: None,
            source: None,
            from: None,
            cluster_ips,
            external_ips,
            load_balancer_ips: Vec::new(),
            internal_traffic_policy: None,
            external_traffic_policy: None,
            session_affinity_seconds: frontends().find_map(|it| it.affinity),
            load_balancing: frontends().find_map(|it| it.load_balancing.clone()),
            source_ranges: ranges.into_iter().collect(),
            connections: None,
            refused: None,
            notes: Vec::new(),
            ports,
        }
    };
    found.into_iter().map(|(key, ports)| of(key, ports)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rulec_compiler::change::{Change, Provenance, Sourced};
    use rulec_compiler::name::NodeName;
    use rulec_compiler::object::{ClusterIps, Endpoint, EndpointSlice, Object};
    use rulec_compiler::{Settings, State};

    use super::*;
    use crate::tool::input::Side;

    /// A Service with a ready endpoint, of which the kernel has nothing.
    fn known(refused: Option<RefusedService>) -> Known {
        let key = NamespacedName::new("default", "web");
        let number = |port| std::num::NonZeroU16::new(port).unwrap();
        let port = rulec_compiler::object::ServicePort {
            name: "http".into(),
            protocol: rulec_compiler::net::Protocol::Tcp,
            port: number(80),
            node_port: None,
            target: rulec_compiler::object::TargetPort::Number(number(8080)),
        };
        let v4 = Some([10, 96, 0, 1].into());
        let service = Service {
            cluster_ips: ClusterIps { v4, v6: None },
            ports: vec![port.clone()],
            ..Service::new(key.clone())
        };
        let slice = EndpointSlice {
            key: NamespacedName::new("default", "web-1"),
            service: key,
            family: Family::Ipv4,
            ports: vec![rulec_compiler::object::SlicePort {
                name: port.name,
                protocol: port.protocol,
                port: number(8080),
            }],
            endpoints: vec![Endpoint::ready([10, 0, 0, 1].into())],
            weight: Default::default(),
        };
        let mut model = Model::default();
        for object in [Object::Service(Arc::new(service)), Object::EndpointSlice(Arc::new(slice))] {
            let sourced = Sourced { object, provenance: Provenance("test".into()) };
            model.apply(Origin::Manifests, Change::Apply(sourced));
        }
        let settings = Arc::new(Settings::new(NodeName::from("na")));
        let side = Side::of_objects("test", Some(model), settings);
        Known::for_test(side, State::default(), refused)
    }

    #[test]
    fn what_only_the_kernel_has_is_shown() {
        let mut known = known(None);
        known.state = known.side.compile(&State::default()).unwrap().state();
        let [service] = &all(&known)[..] else { panic!("one Service") };
        assert_eq!((service.kind, service.notes.len()), (Some(ServiceType::ClusterIP), 0));
        known.side.model = Some(Model::default());
        let [service] = &all(&known)[..] else { panic!("one Service") };
        assert_eq!(service.kind, None);
        assert_eq!(service.notes, ["no source names it, but the kernel still has it"]);
        assert_eq!(service.endpoints(), (1, 1));
        known.side.model = None;
        assert_eq!(all(&known)[0].notes, [""; 0], "the kernel knows no sources");
    }

    #[test]
    fn what_the_kernel_lacks_has_a_reason() {
        let reason = |known: &Known| {
            let [service] = &all(known)[..] else { panic!("one Service") };
            let [endpoint] = &service.ports[0].endpoints[..] else { panic!("one endpoint") };
            assert!(!endpoint.used);
            assert_eq!(service.ports[0].frontends[0].paths, []);
            let [unused] = &endpoint.unused[..] else { panic!("one reason") };
            unused.reason.clone()
        };
        assert!(reason(&known(None)).starts_with("the kernel does not have it: not yet, or "));
        let refused = RefusedService {
            service: "default/web".to_owned(),
            error: "Invalid argument (os error 22)".to_owned(),
            attempts: 3,
        };
        assert_eq!(
            reason(&known(Some(refused))),
            "the kernel refuses the Service: Invalid argument (os error 22)"
        );
    }
}
