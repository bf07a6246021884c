//! Tests of the parts, without a server. `tests/api.rs` has one.

mod parts;
mod store;
mod wire;

use serde_json::{Value, json};

use super::wire::{Heard, event};
use super::{Event, Resource, What};
use crate::decode::document::Document;

/// A Service as the API server writes it, with many irrelevant fields.
fn service(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": "8b2a7d9e-21b1-4f2c-9e63-7d7a0f0f5d11",
            "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{ "manager": "kubectl", "operation": "Apply", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:ports": {} } } }],
        },
        "spec": {
            "clusterIP": "10.90.0.10",
            "clusterIPs": ["10.90.0.10"],
            "ipFamilies": ["IPv4"],
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080 }],
        },
        "status": { "loadBalancer": {} },
    })
}

fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "resourceVersion": "7",
            "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
        "endpoints": endpoints,
    })
}

/// Returns a line of a watch.
fn line(kind: &str, object: &Value) -> String {
    json!({ "type": kind, "object": object }).to_string()
}

/// Returns an object as a watch brings it.
fn document(object: &Value) -> Box<Document> {
    match event(line("ADDED", object).as_bytes()) {
        Ok(Heard::Apply(document, _)) => document,
        other => panic!("{other:?}"),
    }
}

fn of(resource: Resource, what: What) -> Event {
    Event { resource, what }
}
