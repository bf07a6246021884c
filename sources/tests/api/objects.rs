//! Objects as clients write them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{LazyLock, Mutex};

use serde_json::{Value, json};

/// Returns a Service `default/{name}` with one port.
pub(crate) fn service(name: &str, port: u16) -> Value {
    let address = cluster_ip(name);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "default", "name": name, "labels": { "app": name } },
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
            "type": "ClusterIP", "selector": { "app": name },
            "ports": [{ "port": port, "protocol": "TCP", "targetPort": 8080 }],
        },
        "status": { "loadBalancer": {} },
    })
}

/// Returns an address for each name: a real server does not give two Services the same one.
fn cluster_ip(name: &str) -> Ipv4Addr {
    static GIVEN: LazyLock<Mutex<BTreeMap<String, u32>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap();
    let next = u32::try_from(given.len()).unwrap();
    let number = *given.entry(name.to_owned()).or_insert(next);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 90, 1, 0)) + number)
}

/// Returns an EndpointSlice of the Service `web`.
pub(crate) fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": name,
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "", "protocol": "TCP", "port": 8080 }],
        "endpoints": endpoints,
    })
}

pub(crate) fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
    })
}

pub(crate) fn service_cidr(name: &str, cidr: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": name },
        "spec": { "cidrs": [cidr] },
    })
}
