//! Basic objects.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{NamespacedName, NodeName, PortName};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::nft::maglev::TableSize;
use rulec_compiler::object::{
    Conditions, Endpoint, EndpointSlice, Object, Service, ServicePort, SlicePort, TargetPort,
};
use rulec_compiler::{Change, Model, Origin, Provenance, Settings, Sourced};

/// The node that is programmed.
pub(crate) const HERE: &str = "here";

pub(crate) fn settings() -> Arc<Settings> {
    // Small tables, so that large histories stay fast.
    let maglev_table_size = TableSize::try_from(251).unwrap_or_default();
    Arc::new(Settings { maglev_table_size, ..Settings::new(NodeName::from(HERE)) })
}

pub(crate) fn sourced(object: Object) -> Sourced {
    Sourced { object, provenance: Provenance("test".into()) }
}

/// Returns a change after which the model holds exactly these objects.
pub(crate) fn replacement(objects: &[Object]) -> Change {
    Change::everything(objects.iter().cloned().map(sourced).collect())
}

pub(crate) fn model(objects: &[Object]) -> Model {
    let mut model = Model::default();
    model.apply(Origin::Manifests, replacement(objects));
    model
}

pub(crate) fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap_or(NonZeroU16::MIN)
}

pub(crate) fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: PortName::from(name),
        protocol: Protocol::Tcp,
        port: number(port),
        node_port: None,
        target: TargetPort::Number(number(8080)),
    }
}

pub(crate) fn slice_port(name: &str, port: u16) -> SlicePort {
    SlicePort { name: PortName::from(name), protocol: Protocol::Tcp, port: number(port) }
}

/// Returns a Service with only a name.
pub(crate) fn bare_service(namespace: &str, name: &str) -> Service {
    Service::new(NamespacedName::new(namespace, name))
}

/// Returns an EndpointSlice without ports and endpoints.
pub(crate) fn bare_slice(
    namespace: &str,
    name: &str,
    service: &str,
    family: Family,
) -> EndpointSlice {
    EndpointSlice {
        key: NamespacedName::new(namespace, name),
        service: NamespacedName::new(namespace, service),
        family,
        ports: Vec::new(),
        endpoints: Vec::new(),
        weight: Weight::default(),
    }
}

pub(crate) fn endpoint(address: IpAddr, conditions: Conditions, node: Option<&str>) -> Endpoint {
    Endpoint { address, conditions, node: node.map(NodeName::from), hints: None }
}

/// Parses networks, in order.
pub(crate) fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    let mut nets: Vec<ipnet::IpNet> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    assert_eq!(nets.len(), texts.len(), "one of them is not a network: {texts:?}");
    nets.sort_unstable();
    nets
}
