//! Objects as the server stores them in etcd, including the records that it would create with them.

use serde_json::{Value, json};

use crate::resource::Resource;

/// Returns the keys and values that represent an object.
pub(super) fn of(object: &Value) -> Vec<(String, Value)> {
    let resource = Resource::of(object).expect("the object is of a kind that is served");
    let name = object["metadata"]["name"].as_str().expect("the object has a name");
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let key = match resource {
        Resource::Services => format!("services/specs/{namespace}/{name}"),
        Resource::EndpointSlices => format!("endpointslices/{namespace}/{name}"),
        Resource::Nodes => format!("minions/{name}"),
        Resource::ServiceCidrs => format!("servicecidrs/{name}"),
        Resource::Events => format!("events/{namespace}/{name}"),
    };
    let mut all = vec![(key, created(object.clone(), namespace))];
    let address = object["spec"]["clusterIP"].as_str().filter(|address| *address != "None");
    if let (Resource::Services, Some(address)) = (resource, address) {
        let service = json!({"resource": "services", "namespace": namespace, "name": name});
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        let allocated = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {
                "name": address,
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": family,
                    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                },
            },
            "spec": {"parentRef": service},
        });
        all.push((format!("ipaddresses/{address}"), created(allocated, "")));
    }
    all.into_iter().map(|(key, value)| (format!("/registry/{key}"), value)).collect()
}

/// Adds the metadata that every created object has. The uid is derived from kind and names.
fn created(mut object: Value, namespace: &str) -> Value {
    let uid = format!("{}-{namespace}-{}", object["kind"], object["metadata"]["name"]);
    object["metadata"]["uid"] = uid.replace('"', "").into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    object
}
