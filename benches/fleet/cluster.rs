//! The objects of a cluster: what the API server has of Services, endpoints and nodes.
//!
//! The readiness of a Service's endpoints is a number in Gray code, its serial. So the next serial
//! is one change of readiness, and what a node holds says how old it is.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use rulec_apiserver::{ApiServer, Credential, Resource};
use rulec_compiler::object::EndpointSlice;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Size;

/// An API server with its objects.
pub(super) struct Cluster {
    pub(super) server: ApiServer,
    pub(super) directory: TempDir,
    size: Size,
    serials: RefCell<Vec<u32>>,
}

impl Cluster {
    /// Starts a server with all Services, and one node.
    pub(super) fn start(size: Size) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = ApiServer::start();
        server.write_kubeconfig(
            &directory.path().join("kubeconfig"),
            &Credential::Token("token".to_owned()),
        );
        for service in 0..size.services {
            server.apply(&self::service(service));
            server.apply(&slice(service, size, 0));
        }
        server.apply(&node(0));
        let serials = RefCell::new(vec![0; size.services]);
        Self { server, directory, size, serials }
    }

    /// Adds the other nodes.
    pub(super) fn add_nodes(&self) {
        for number in 1..self.size.nodes {
            self.server.apply(&node(number));
        }
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// Returns the serial of a Service after the next change.
    pub(super) fn next(&self, service: usize) -> u32 {
        self.serials.borrow()[service] + 1
    }

    /// Changes the readiness of one endpoint of a Service.
    pub(super) fn change(&self, service: usize) {
        let serial = self.next(service);
        assert!(serial < 1 << self.size.endpoints, "more endpoints have more serials");
        self.server.apply(&slice(service, self.size, serial));
        self.serials.borrow_mut()[service] = serial;
    }

    /// Returns the serials of all Services.
    pub(super) fn serials(&self) -> Vec<u32> {
        self.serials.borrow().clone()
    }

    /// Returns how many watches are open, for each kind.
    pub(super) fn watches(&self) -> [usize; 4] {
        let kinds =
            [Resource::Services, Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs];
        kinds.map(|kind| self.server.open_watches(kind))
    }
}

/// Returns the name of a node.
pub(super) fn node_name(number: usize) -> String {
    format!("node-{number:05}")
}

/// Returns the number of a Service by its name, or that of its slice.
pub(super) fn number(name: &str) -> usize {
    name.split('-').nth(1).unwrap().parse().unwrap()
}

/// Returns the serial that a slice has.
pub(super) fn serial(slice: &EndpointSlice) -> u32 {
    let of = |address: IpAddr| match address {
        IpAddr::V4(address) => u32::from(address) & 0xf,
        IpAddr::V6(_) => unreachable!("all endpoints have IPv4"),
    };
    let code = slice.endpoints.iter().filter(|it| !it.conditions.ready);
    let code = code.fold(0, |code, endpoint| code | 1 << of(endpoint.address));
    (0..u32::BITS).fold(0, |serial, shift| serial ^ (code >> shift))
}

fn node(number: usize) -> Value {
    let number32 = u32::try_from(number).unwrap();
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + number32);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(number), "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {"addresses": [{"type": "InternalIP", "address": address.to_string()}]},
    })
}

fn service(number: usize) -> Value {
    let number32 = u32::try_from(number).unwrap();
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number32);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("service-{number}"), "namespace": "default",
            "labels": {"app": format!("service-{number}")},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address.to_string(),
            "clusterIPs": [address.to_string()], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None", "selector": {"app": format!("service-{number}")},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    })
}

/// Returns a slice like those of the endpoints controller.
fn slice(number: usize, size: Size, serial: u32) -> Value {
    let code = serial ^ (serial >> 1);
    let endpoint = |n: usize| {
        let address = u32::try_from(number * 16 + n).unwrap();
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + address);
        let is_ready = code >> n & 1 == 0;
        let place = number * size.endpoints + n;
        json!({
            "addresses": [address.to_string()],
            "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
            // Neighbours are far from each other, so that all nodes have some.
            "nodeName": node_name(place * 7919 % size.nodes), "zone": "a",
            "targetRef": {
                "kind": "Pod", "namespace": "default",
                "name": format!("service-{number}-6b7c8d9f5-{n:05}"),
                "uid": format!("5b0c7e52-93a4-4f0e-8a6e-{place:012x}"),
            },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{number}-a"), "namespace": "default",
            "generateName": format!("service-{number}-"),
            "labels": {
                "app": format!("service-{number}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": format!("service-{number}"),
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": format!("service-{number}"),
                "uid": format!("91c2f0de-6d0b-4c3f-9a55-{number:012x}"),
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..size.endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}
