//! The objects of a row: those of tests/cases/objects.yaml with the row's patches.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rulec_testkit::Family;
use serde_json::{Value, json};

use super::row::{Patches, of_family, yaml};

/// All objects of a row, by names such as `Service web`.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    /// The objects at the start, with the row's patches.
    given: BTreeMap<String, Value>,
    now: BTreeMap<String, Value>,
    family: Family,
}

impl Objects {
    /// Returns the objects with which a row begins.
    pub(super) fn new(given: &str, with: &Patches, family: Family) -> Self {
        let all = of_family(&yaml("objects.yaml"), family);
        let of = |name: &str| {
            let objects = all[name].as_object();
            objects.unwrap_or_else(|| panic!("objects.yaml has no {name:?}")).clone()
        };
        let now: BTreeMap<String, Value> = of("always").into_iter().chain(of(given)).collect();
        let mut objects = Self { given: now.clone(), now, family };
        objects.apply(with);
        // Objects that `with` removes stay as objects.yaml has them, so that `given` can restore
        // them.
        objects.given.extend(objects.now.clone());
        objects
    }

    /// Changes objects by merge patches (RFC 7386): a field that is null is removed, other fields
    /// replace or extend the existing ones. An object that is null is removed; one that is `given`
    /// is restored to its state at the start.
    pub(super) fn apply(&mut self, patches: &Patches) {
        for (name, patch) in patches {
            if patch.is_null() {
                assert!(self.now.remove(name).is_some(), "there is no {name}");
            } else if patch == "given" {
                self.now.insert(name.clone(), self.given[name].clone());
            } else {
                merge(self.now.entry(name.clone()).or_insert_with(|| json!({})), patch);
            }
        }
    }

    /// Returns whether the address is an external IP or load balancer address of a Service.
    pub(super) fn has_external(&self, ip: IpAddr) -> bool {
        let ip = json!(ip.to_string());
        let has = |object: &Value| {
            let named = object["spec"]["externalIPs"].as_array().into_iter().flatten();
            let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
            let vips = ingress.into_iter().flatten().map(|it| &it["ip"]);
            named.chain(vips).any(|it| *it == ip)
        };
        self.now.iter().any(|(name, object)| name.starts_with("Service ") && has(object))
    }

    /// Returns complete objects, as an API server returns them.
    pub(super) fn whole(&self) -> Vec<Value> {
        self.now.iter().map(|(name, object)| whole(name, object, self.family)).collect()
    }
}

/// Completes the object of a name such as `Service web`, or `Service other/web` outside the
/// namespace `default`.
fn whole(name: &str, object: &Value, family: Family) -> Value {
    let (kind, name) =
        name.split_once(' ').unwrap_or_else(|| panic!("{name:?} is no kind and name"));
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let version = match kind {
        "Service" | "Node" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "ServiceCIDR" => "networking.k8s.io/v1",
        other => panic!("no row needs a {other}"),
    };
    let mut whole = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    if matches!(kind, "Service" | "EndpointSlice") {
        whole["metadata"]["namespace"] = json!(namespace);
    }
    merge(&mut whole, object);
    if let Some(Value::Array(endpoints)) = whole.get_mut("endpoints") {
        for entry in endpoints {
            *entry = endpoint(entry, family);
        }
    }
    whole
}

/// Completes an endpoint, given as the name of a pod or as fields with `is: <name>`.
fn endpoint(entry: &Value, family: Family) -> Value {
    let (name, more) = match (entry.as_str(), entry["is"].as_str()) {
        (Some(name), _) => (name, json!({})),
        (None, Some(name)) => (name, entry.clone()),
        (None, None) => return entry.clone(),
    };
    let pod = super::place::pod(name);
    let mut endpoint = json!({
        "addresses": [family.of(pod.ips()).to_string()],
        "nodeName": pod.node(),
        "conditions": {"ready": true},
    });
    merge(&mut endpoint, &more);
    // The field `is` is only for this function.
    merge(&mut endpoint, &json!({"is": null}));
    endpoint
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, patch) in fields {
        if patch.is_null() {
            target.as_object_mut().expect("it is an object").remove(name);
        } else {
            merge(&mut target[name], patch);
        }
    }
}
