//! The objects: Services and EndpointSlices of a few names and meanings, as the API has them.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use rulec_compiler::net::Backend;
use serde_json::{Value, json};

/// The node of all histories, and another one.
pub(crate) const NODE: &str = "here";
const OTHER: &str = "there";

/// The number of the Service that is never touched.
pub(crate) const BASE: u8 = 100;

/// The number of the Service whose only endpoint says how many changes the server has seen.
pub(crate) const CLOCK: u8 = 101;

/// Where a Service comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Server,
    File,
}

impl From {
    fn prefix(self) -> &'static str {
        match self {
            Self::Server => "api",
            Self::File => "file",
        }
    }

    fn octet(self) -> u8 {
        match self {
            Self::Server => 1,
            Self::File => 2,
        }
    }
}

pub(crate) fn name(from: From, number: u8) -> String {
    format!("{}-{number}", from.prefix())
}

/// Returns the cluster address, which never changes.
pub(crate) fn address(from: From, number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 96, from.octet(), number + 1))
}

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("not zero")
}

/// A Service of one of several meanings.
pub(crate) fn service(from: From, number: u8, meaning: u8) -> Value {
    let mut spec = json!({
        "type": "ClusterIP",
        "clusterIP": address(from, number).to_string(),
        "clusterIPs": [address(from, number).to_string()],
        "ports": [{"name": "web", "protocol": "TCP", "port": 80, "targetPort": 8080}],
    });
    let node_port = 30_000 + u16::from(number) + 1_000 * u16::from(from.octet());
    let balanced = |spec: &mut Value| {
        spec["type"] = "LoadBalancer".into();
        spec["ports"][0]["nodePort"] = node_port.into();
    };
    match meaning {
        1 => spec["ports"][0]["port"] = 81.into(),
        2 => {
            spec["sessionAffinity"] = "ClientIP".into();
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
        }
        3 => {
            spec["type"] = "NodePort".into();
            spec["ports"][0]["nodePort"] = node_port.into();
        }
        4 => {
            balanced(&mut spec);
            spec["externalTrafficPolicy"] = "Local".into();
        }
        5 => {
            balanced(&mut spec);
            spec["loadBalancerSourceRanges"] = json!(["192.0.2.0/24", "198.51.100.7/32"]);
        }
        6 => spec["internalTrafficPolicy"] = "Local".into(),
        // The same address as another Service of this meaning.
        7 => spec["externalIPs"] = json!(["203.0.113.5"]),
        8 => {
            let more = json!({"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353});
            spec["ports"].as_array_mut().expect("a list").push(more);
        }
        9 => {
            spec["clusterIP"] = "None".into();
            spec["clusterIPs"] = json!(["None"]);
        }
        _ => {}
    }
    let mut annotations = json!({});
    match meaning {
        10 => annotations["rulec.io/load-balancing"] = "maglev".into(),
        11 => annotations["rulec.io/load-balancing"] = "round-robin".into(),
        _ => {}
    }
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "default", "name": name(from, number), "annotations": annotations,
        },
        "spec": spec,
    });
    if matches!(meaning, 4 | 5) {
        let ip = format!("203.0.113.{}", 100 + number + 20 * from.octet());
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    }
    service
}

/// The EndpointSlice of a Service, of one of several meanings: so many endpoints, and the last of
/// some of them is not ready, on another node or on this one.
pub(crate) fn slice(from: From, number: u8, meaning: u8) -> Value {
    let count = [0, 1, 2, 3, 9, 2, 3, 1][usize::from(meaning) % 8];
    let endpoints: Vec<Value> = (0..count)
        .map(|index| {
            let is_last = index + 1 == count;
            let ready = !(meaning == 5 && is_last);
            let node = if index % 2 == 0 { OTHER } else { NODE };
            let node = if meaning == 7 { NODE } else { node };
            json!({
                "addresses": [endpoint(from, number, index).to_string()],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "nodeName": node,
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name(from, number),
            "labels": {"kubernetes.io/service-name": name(from, number)},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "web", "protocol": "TCP", "port": 8080},
            {"name": "dns", "protocol": "UDP", "port": 5353},
        ],
        "endpoints": endpoints,
    })
}

pub(crate) fn endpoint(from: From, number: u8, index: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 50 + from.octet(), number, index + 1))
}

/// Returns the backends of the Service that is never touched.
pub(crate) fn base_backends(from: From) -> Vec<Backend> {
    let backend = |index| Backend { address: endpoint(from, BASE, index), port: port(8080) };
    (0..3).map(backend).collect()
}

/// The EndpointSlice after this many changes.
pub(crate) fn clock(changes: u16) -> Value {
    let mut slice = slice(From::Server, CLOCK, 1);
    slice["endpoints"][0]["addresses"][0] = time(changes).to_string().into();
    slice
}

fn time(changes: u16) -> IpAddr {
    let [high, low] = changes.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 60, high, low))
}

/// Returns how many changes a backend of the clock stands for.
pub(crate) fn changes(backend: Backend) -> Option<u16> {
    match backend.address {
        IpAddr::V4(address) => match address.octets() {
            [10, 60, high, low] => Some(u16::from_be_bytes([high, low])),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

pub(crate) fn node(zone: u8) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": format!("zone-{zone}")}},
        "spec": {"podCIDR": "10.50.0.0/16", "podCIDRs": ["10.50.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
    })
}

pub(crate) fn service_cidr() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16"]},
    })
}
