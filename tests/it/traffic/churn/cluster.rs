//! The objects of the cluster at one moment, and which backends may answer then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use rulec_testkit::{Family, Protocol, address};

use crate::traffic::{Sender, family_of, indent};

/// The backends on the node under test.
pub(super) const LOCAL: usize = 4;
/// The backends on the other node. Those of both nodes have numbers, the local ones first.
pub(super) const REMOTE: usize = 6;
/// The ports of the backends.
pub(super) const TARGETS: [u16; 2] = [8080, 9090];
/// The addresses of load balancers, and the external IPs, that the Service may have.
pub(super) const EXTERNAL: usize = 2;

/// Everything that changes.
///
/// Invariant: `endpoints` has a local one, so that no policy leaves a client without a backend.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cluster {
    /// The backends of the Service `web`, by number.
    pub(super) endpoints: BTreeSet<usize>,
    pub(super) target: u16,
    pub(super) port_name: u64,
    pub(super) affinity: Option<u64>,
    pub(super) is_local: IsLocal,
    /// Whether endpoints have hints for zones.
    pub(super) hints: bool,
    /// The zone of the node: 0 or 1.
    pub(super) zone: usize,
    pub(super) node_port: Option<u16>,
    pub(super) vips: BTreeSet<usize>,
    pub(super) external_ips: BTreeSet<usize>,
    /// Whether the load balancers' addresses have source ranges, and how many besides the clients'.
    pub(super) source_ranges: Option<usize>,
    /// Other Services, with the number of their endpoints and their affinity.
    pub(super) neighbours: BTreeMap<u64, (usize, Option<u64>)>,
    /// Whether the kernel does not see the Pods' network.
    pub(super) pods_are_unseen: bool,
}

/// Where policies are Local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IsLocal {
    pub(super) internal: bool,
    pub(super) external: bool,
}

/// A kind of destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frontend {
    ClusterIp,
    NodePort,
    Vip(usize),
    ExternalIp(usize),
    /// The cluster address of a Service that never changes.
    Calm,
}

impl Frontend {
    pub(super) const ALL: [Self; 7] = [
        Self::ClusterIp,
        Self::NodePort,
        Self::Vip(0),
        Self::Vip(1),
        Self::ExternalIp(0),
        Self::ExternalIp(1),
        Self::Calm,
    ];
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self {
            endpoints: [0, 1, LOCAL].into(),
            target: TARGETS[0],
            port_name: 0,
            affinity: None,
            is_local: IsLocal { internal: false, external: false },
            hints: false,
            zone: 0,
            node_port: Some(30_080),
            vips: [0].into(),
            external_ips: [0].into(),
            source_ranges: None,
            neighbours: (0..6).map(|number| (number, (3, None))).collect(),
            pods_are_unseen: false,
        }
    }

    /// Returns where a frontend is reached, if there is one.
    pub(super) fn address(
        &self,
        frontend: Frontend,
        family: Family,
        protocol: Protocol,
    ) -> Option<SocketAddr> {
        let ip = |v4: String, v6: String| match family {
            Family::V4 => v4.parse().unwrap(),
            Family::V6 => v6.parse().unwrap(),
        };
        let port = if protocol == Protocol::Udp { 53 } else { 80 };
        let address = match frontend {
            Frontend::ClusterIp => (ip("10.90.0.10".into(), "fd90::10".into()), port),
            Frontend::Calm => (ip("10.90.0.11".into(), "fd90::11".into()), port),
            Frontend::Vip(number) => {
                self.vips.get(&number)?;
                (ip(vip(number, Family::V4), vip(number, Family::V6)), port)
            }
            Frontend::ExternalIp(number) => {
                self.external_ips.get(&number)?;
                (ip(external_ip(number, Family::V4), external_ip(number, Family::V6)), port)
            }
            // TCP and UDP have the same number.
            Frontend::NodePort => (family.of(address::NODE), self.node_port?),
        };
        Some(address.into())
    }

    /// Returns whether a backend may answer this sender at a frontend.
    pub(super) fn may_answer(
        &self,
        frontend: Frontend,
        sender: Sender,
        (name, port): (&str, u16),
    ) -> bool {
        let Ok(backend) = name.parse::<usize>() else { return false };
        let only_local = match frontend {
            Frontend::Calm => return calm().contains(&backend) && port == TARGETS[0],
            Frontend::ClusterIp => self.is_local.internal,
            // Pods and the node itself reach all endpoints, as if from everywhere in the cluster.
            Frontend::NodePort | Frontend::Vip(_) | Frontend::ExternalIp(_) => {
                let is_outside = match sender {
                    Sender::Client => true,
                    Sender::Pod => self.pods_are_unseen,
                    Sender::Host => false,
                };
                self.is_local.external && is_outside
            }
        };
        let in_zone = |backend: &usize| zone_of(*backend) == self.zone;
        let here = self.hints && !only_local && self.endpoints.iter().any(in_zone);
        port == self.target
            && self.endpoints.contains(&backend)
            && (!only_local || backend < LOCAL)
            && (!here || in_zone(&backend))
    }

    /// Returns all objects as YAML.
    pub(super) fn yaml(&self) -> String {
        let mut text = format!(
            "---
apiVersion: v1
kind: Node
metadata: {{name: na, labels: {{topology.kubernetes.io/zone: z{}}}}}
status:
  addresses:
  - {{type: InternalIP, address: 192.0.2.10}}
  - {{type: InternalIP, address: '2001:db8::10'}}
",
            self.zone
        );
        let name = format!("http-{}", self.port_name);
        text += &service("web", 10, &self.spec(&name), &self.status());
        text += &slices("web", &name, self.target, &self.endpoints, self.hints);
        text += &service("calm", 11, &ports("http", None), "");
        text += &slices("calm", "http", TARGETS[0], &calm().into(), false);
        for (number, (endpoints, affinity)) in &self.neighbours {
            let name = format!("neighbour-{number}");
            let spec = ports("http", None) + &sticky(*affinity);
            text += &service(&name, 100 + number, &spec, "");
            let endpoints = (0..*endpoints).collect();
            text += &slices(&name, "http", 7070, &endpoints, false);
        }
        text
    }

    fn spec(&self, port_name: &str) -> String {
        let policy = |is_local| if is_local { "Local" } else { "Cluster" };
        let mut spec = ports(port_name, self.node_port) + &sticky(self.affinity);
        let both = |addresses: &BTreeSet<usize>, of: fn(usize, Family) -> String| {
            let all = addresses.iter().flat_map(|it| Family::BOTH.map(|family| of(*it, family)));
            all.map(|it| format!("'{it}'")).collect::<Vec<_>>().join(", ")
        };
        writeln!(
            spec,
            "type: LoadBalancer
internalTrafficPolicy: {}
externalTrafficPolicy: {}
externalIPs: [{}]",
            policy(self.is_local.internal),
            policy(self.is_local.external),
            both(&self.external_ips, external_ip),
        )
        .unwrap();
        if let Some(more) = self.source_ranges {
            let clients = "10.50.0.0/16, 192.0.2.0/24, 203.0.113.0/24, '2001:db8:50::/48', \
                           '2001:db8::/64', '2001:db8:113::/64'";
            let more: String = (0..more).map(|it| format!(", 198.18.{it}.0/24")).collect();
            writeln!(spec, "loadBalancerSourceRanges: [{clients}{more}]").unwrap();
        }
        spec
    }

    fn status(&self) -> String {
        let all = self.vips.iter().flat_map(|it| Family::BOTH.map(|family| vip(*it, family)));
        let ingress: Vec<String> = all.map(|it| format!("{{ip: '{it}'}}")).collect();
        format!("status: {{loadBalancer: {{ingress: [{}]}}}}\n", ingress.join(", "))
    }
}

/// The backends of the Service that never changes.
fn calm() -> [usize; 2] {
    [1, LOCAL + 1]
}

/// Returns which pod of the node a local backend is: pod 2 is [`Sender::Pod`].
pub(super) fn local_pod(backend: usize) -> usize {
    if backend < 2 { backend } else { backend + 1 }
}

fn zone_of(backend: usize) -> usize {
    backend % 2
}

fn vip(number: usize, family: Family) -> String {
    match family {
        Family::V4 => format!("198.51.100.2{number}"),
        Family::V6 => format!("2001:db8:5::2{number}"),
    }
}

fn external_ip(number: usize, family: Family) -> String {
    match family {
        Family::V4 => format!("198.51.100.3{number}"),
        Family::V6 => format!("2001:db8:5::3{number}"),
    }
}

fn sticky(timeout: Option<u64>) -> String {
    timeout.map_or_else(String::new, |timeout| {
        format!(
            "sessionAffinity: ClientIP
sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {timeout}}}}}
"
        )
    })
}

fn ports(name: &str, node_port: Option<u16>) -> String {
    let node_port = node_port.map_or_else(String::new, |port| format!(", nodePort: {port}"));
    format!(
        "ports:
- {{name: {name}, port: 80{node_port}}}
- {{name: dns, port: 53, protocol: UDP{node_port}}}
"
    )
}

fn service(name: &str, number: u64, spec: &str, status: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
    clusterIP: 10.90.0.{number}
    clusterIPs: [10.90.0.{number}, 'fd90::{number}']
{}{status}",
        indent(spec)
    )
}

fn slices(
    service: &str,
    name: &str,
    target: u16,
    endpoints: &BTreeSet<usize>,
    hints: bool,
) -> String {
    let ports =
        format!("[{{name: {name}, port: {target}}}, {{name: dns, port: {target}, protocol: UDP}}]");
    let of = |family: Family| -> Vec<String> {
        endpoints.iter().map(|backend| endpoint(*backend, family, hints)).collect()
    };
    let slice = |family: Family, kind: &str| {
        let name = format!("{service}-{}", kind.to_lowercase());
        crate::traffic::slice(&name, service, kind, &ports, &of(family))
    };
    slice(Family::V4, "IPv4") + &slice(Family::V6, "IPv6")
}

fn endpoint(backend: usize, family: Family, hints: bool) -> String {
    let (ips, node) = if backend < LOCAL {
        (address::pod(local_pod(backend)), "na")
    } else {
        (address::remote_pod(backend - LOCAL), "nb")
    };
    let hints = if hints {
        format!(", hints: {{forZones: [{{name: z{}}}]}}", zone_of(backend))
    } else {
        String::new()
    };
    format!("{{addresses: ['{}'], nodeName: {node}{hints}}}", family.of(ips))
}

/// Returns an address for messages.
pub(super) fn shown(protocol: Protocol, to: SocketAddr) -> String {
    format!("{protocol} {to} ({:?})", family_of(to))
}
