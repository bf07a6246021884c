//! The metadata of an object that the server itself writes.

use serde_json::{Map, Value, json};

use crate::resource::Resource;

/// Completes an object that is stored at a version: `uid`, `creationTimestamp`, `generation`,
/// `managedFields`, `resourceVersion`.
///
/// `before` is the object that it replaces, whose identity it keeps.
pub(crate) fn stored(
    resource: Resource,
    given: &Value,
    before: Option<&Value>,
    version: u64,
    number: u64,
) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut object = given.clone();
    let metadata = &mut object["metadata"];
    match before {
        Some(before) => {
            for field in ["uid", "creationTimestamp"] {
                metadata[field] = before["metadata"][field].clone();
            }
        }
        None => {
            metadata["uid"] = format!("7d5a1c30-52f4-4b6e-9c0d-{number:012x}").into();
            metadata["creationTimestamp"] = now.clone().into();
        }
    }
    // Among the kinds here, these have a generation; it counts changes of anything but metadata.
    if matches!(resource, Resource::EndpointSlices | Resource::ServiceCidrs) {
        let last = before.and_then(|before| before["metadata"]["generation"].as_u64()).unwrap_or(0);
        let grew = before.is_none_or(|before| content(before) != content(given));
        metadata["generation"] = (last + u64::from(grew)).into();
    }
    metadata["resourceVersion"] = version.to_string().into();
    metadata["managedFields"] = json!([{
        "manager": manager(resource),
        "operation": "Update",
        "apiVersion": resource.api_version(),
        "time": now,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields(given),
    }]);
    object
}

/// Returns whether an update leaves the object as it is. Real servers then write nothing, and the
/// version stays.
pub(crate) fn unchanged(before: &Value, given: &Value) -> bool {
    without_servers_own(before) == without_servers_own(given)
}

/// Returns the object with that version, as sent when it is deleted or stops matching.
pub(crate) fn at_version(object: &Value, version: u64) -> Value {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = version.to_string().into();
    object
}

fn without_servers_own(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"]
        {
            metadata.remove(field);
        }
    }
    object
}

fn content(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("metadata");
    }
    object
}

fn manager(resource: Resource) -> &'static str {
    match resource {
        Resource::EndpointSlices => "kube-controller-manager",
        Resource::Nodes => "kubelet",
        Resource::ServiceCidrs => "kube-apiserver",
        Resource::Events | Resource::Services => "kubectl-client-side-apply",
    }
}

/// Returns the set of an object's fields in the form of `FieldsV1`: `{"f:spec": {"f:clusterIP":
/// {}}}`.
fn fields(object: &Value) -> Value {
    let mut all = fields_of(object);
    for identity in ["f:apiVersion", "f:kind"] {
        all.remove(identity);
    }
    if let Some(metadata) = all.get_mut("f:metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| matches!(field.as_str(), "f:labels" | "f:annotations"));
    }
    Value::Object(all)
}

fn fields_of(object: &Value) -> Map<String, Value> {
    let children = object.as_object().into_iter().flatten();
    children
        .map(|(key, value)| {
            let inner = match (key.as_str(), value) {
                // The only associative list among the kinds here.
                ("ports", Value::Array(ports)) if ports.iter().all(has_number) => {
                    ports.iter().map(port).collect()
                }
                _ => fields_of(value),
            };
            (format!("f:{key}"), Value::Object(inner))
        })
        .collect()
}

fn has_number(port: &Value) -> bool {
    port["port"].is_number()
}

fn port(port: &Value) -> (String, Value) {
    let key = json!({ "port": port["port"], "protocol": port["protocol"] });
    let mut inner = fields_of(port);
    inner.insert(".".to_owned(), json!({}));
    (format!("k:{key}"), Value::Object(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_name_the_given_fields() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web", "labels": { "app": "web" } },
            "spec": { "clusterIP": "10.0.0.1", "ports": [{ "port": 80, "protocol": "TCP" }] },
        });
        let stored = stored(Resource::Services, &service, None, 7, 1);
        assert_eq!(
            stored["metadata"]["managedFields"][0]["fieldsV1"],
            json!({
                "f:metadata": { "f:labels": { "f:app": {} } },
                "f:spec": {
                    "f:clusterIP": {},
                    "f:ports": {
                        "k:{\"port\":80,\"protocol\":\"TCP\"}":
                            { ".": {}, "f:port": {}, "f:protocol": {} },
                    },
                },
            })
        );
        assert!(unchanged(&stored, &service));
    }

    #[test]
    fn the_generation_counts_changes_of_content_only() {
        let slice = |label: &str, address: &str| {
            json!({
                "metadata": { "name": "web-1", "labels": { "l": label } },
                "endpoints": [{ "addresses": [address] }],
            })
        };
        let kind = Resource::EndpointSlices;
        let first = stored(kind, &slice("a", "10.0.0.1"), None, 2, 1);
        let labelled = stored(kind, &slice("b", "10.0.0.1"), Some(&first), 3, 1);
        let moved = stored(kind, &slice("b", "10.0.0.2"), Some(&labelled), 4, 1);
        let generations: Vec<_> =
            [&first, &labelled, &moved].map(|o| o["metadata"]["generation"].clone()).into();
        assert_eq!(generations, [1, 1, 2]);
        assert_eq!(first["metadata"]["uid"], moved["metadata"]["uid"]);
    }
}
