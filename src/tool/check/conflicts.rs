//! What several Services ask for, and only one can have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::object::Service;
use rulec_compiler::{Frontend, Model, Program, Settings, State};
use rulec_sources::parse_ip;

use super::finding::{Finding, Severity};
use super::objects::{Objects, port_spot};
use super::spot::Spot;
use crate::cli::Rule;

pub(super) fn findings(
    objects: &Objects<'_>,
    model: &Model,
    settings: &Arc<Settings>,
) -> Vec<Finding> {
    let mut lost = of_frontends(objects, model, settings);
    let told: BTreeSet<_> = lost.iter().map(Lost::pair).collect();
    lost.extend(of_the_api(objects).into_iter().filter(|it| !told.contains(&it.pair())));
    // A Service with several ports loses an address once.
    let mut at_one_place = BTreeMap::<Finding, Vec<String>>::new();
    for Lost { by, to, spot, what } in lost {
        let place = objects.spot_of_service(&to).map_or_else(String::new, |it| format!(" ({it})"));
        let message = format!("Service {to}{place} asks for the same, and takes precedence");
        let object = format!("Service {by}");
        let (severity, rule) = (Severity::Error, Rule::FrontendConflict);
        let finding = Finding::at(&spot, object, severity, rule, message);
        at_one_place.entry(finding).or_default().push(what);
    }
    at_one_place.into_iter().map(|(finding, what)| with_subject(finding, what)).collect()
}

fn with_subject(finding: Finding, mut what: Vec<String>) -> Finding {
    what.dedup();
    Finding { message: format!("{}: {}", what.join(", "), finding.message), ..finding }
}

/// Something that a Service asks for and does not get.
struct Lost<'a> {
    by: NamespacedName,
    to: NamespacedName,
    /// The field that asks for it.
    spot: Spot<'a>,
    what: String,
}

impl Lost<'_> {
    /// What identifies it, whichever way it was found.
    fn pair(&self) -> (NamespacedName, NamespacedName, String) {
        (self.by.clone(), self.to.clone(), self.spot.field().to_owned())
    }
}

/// Returns the frontends that several Services have, by which the daemon would serve only one.
fn of_frontends<'a>(
    objects: &Objects<'a>,
    model: &Model,
    settings: &Arc<Settings>,
) -> Vec<Lost<'a>> {
    let program = Program::compile(model, Arc::clone(settings), &State::default());
    let mut lost = Vec::new();
    for conflict in program.conflicts() {
        let others = conflict.losers.iter().filter(|it| it.service != conflict.winner.service);
        for loser in others {
            let Some(spot) = objects.spot_of_service(&loser.service) else { continue };
            lost.push(Lost {
                by: loser.service.clone(),
                to: conflict.winner.service.clone(),
                spot: spot_of(spot, loser, conflict.frontend),
                what: name_of(conflict.frontend),
            });
        }
    }
    lost
}

/// Names a frontend; a node port without its family: it is lost in both.
fn name_of(frontend: Frontend) -> String {
    match frontend {
        Frontend::Address { .. } => frontend.to_string(),
        Frontend::NodePort { protocol, port, .. } => format!("node port {port}/{protocol}"),
    }
}

/// Returns the field that asks for a frontend.
fn spot_of<'a>(service: &Spot<'a>, port: &PortKey, frontend: Frontend) -> Spot<'a> {
    let address = match frontend {
        Frontend::Address { address, .. } => address,
        Frontend::NodePort { .. } => {
            return port_spot(service, port.port.as_str()).key("nodePort");
        }
    };
    spot_of_address(service, address)
}

/// Returns the field in which a Service has an address.
fn spot_of_address<'a>(service: &Spot<'a>, address: IpAddr) -> Spot<'a> {
    let spec = service.key("spec");
    let ingress = service.keys("status.loadBalancer.ingress").elements();
    let mut fields = std::iter::once(spec.key("clusterIP"))
        .chain(spec.key("clusterIPs").elements())
        .chain(ingress.iter().map(|entry| entry.key("ip")))
        .chain(spec.key("externalIPs").elements());
    let is_it = |field: &Spot<'_>| field.text().and_then(parse_ip) == Some(address);
    fields.find(is_it).unwrap_or(spec)
}

/// A value that the API server gives to one Service only.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Unique {
    ClusterIp(IpAddr),
    /// Whatever the protocol.
    NodePort(NonZeroU16),
}

/// Returns what the API server would refuse to give to a second Service, whatever its ports.
fn of_the_api<'a>(objects: &Objects<'a>) -> Vec<Lost<'a>> {
    let mut first = BTreeMap::<Unique, &NamespacedName>::new();
    let mut lost = Vec::new();
    for (service, spot) in objects.services() {
        for (unique, spot, what) in written(service, spot) {
            let to = *first.entry(unique).or_insert(&service.key);
            if *to != service.key {
                lost.push(Lost { by: service.key.clone(), to: to.clone(), spot, what });
            }
        }
    }
    lost
}

fn written<'a>(service: &Service, spot: &Spot<'a>) -> Vec<(Unique, Spot<'a>, String)> {
    let spec = spot.key("spec");
    let of_family = |family| service.cluster_ips.of(family);
    let addresses = Family::ALL.into_iter().filter_map(of_family).map(|address| {
        (Unique::ClusterIp(address), spot_of_address(spot, address), address.to_string())
    });
    let of_port =
        |port: NonZeroU16, spot| (Unique::NodePort(port), spot, format!("node port {port}"));
    let ports = service.ports.iter().filter_map(|port| {
        let field = port_spot(spot, port.name.as_str()).key("nodePort");
        Some(of_port(port.node_port?, field))
    });
    let check = service.health_check_node_port;
    let check = check.map(|port| of_port(port, spec.key("healthCheckNodePort")));
    addresses.chain(ports).chain(check).collect()
}
