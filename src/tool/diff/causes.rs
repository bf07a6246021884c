//! Objects that have changed, as the causes of a change: the fields that differ, and where they were
//! read from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use rulec_compiler::model::Differing;
use rulec_compiler::object::{
    Conditions, Endpoint, EndpointSlice, InterfaceAddresses, Node, Object, Pod, PodAddresses,
    ServiceCidr, SlicePort,
};
use serde_json::Value;

use super::fields::{self, list, optional};
use crate::history::change::{Cause, FieldChange, Presence};

/// How many fields of an object are named.
const FIELDS: usize = 20;

/// How long a value may be. It is a name, an address or a list of them.
const LENGTH: usize = 300;

/// Returns an object that differs as a cause.
pub(super) fn of(differing: &Differing) -> Cause {
    let Differing { key, old, new } = differing;
    let presence = match (old, new) {
        (None, _) => Presence::Added,
        (_, None) => Presence::Removed,
        (Some(_), Some(_)) => Presence::Changed,
    };
    let held = new.as_ref().or(old.as_ref());
    let fields = match (old, new) {
        (Some((_, old)), Some((_, new))) => differences(&old.object, &new.object),
        _ => Vec::new(),
    };
    let source = held.map(|(origin, _)| *origin);
    let from = held.map(|(_, sourced)| sourced.provenance.to_string()).unwrap_or_default();
    cause(key.to_string(), presence, source, from, fields)
}

/// Returns the settings that differ since the last start.
pub(super) fn of_settings(old: &Value, new: &Value) -> Option<Cause> {
    let mut found = Vec::new();
    differing_values("", old, new, &mut found);
    (!found.is_empty()).then(|| {
        cause(
            "settings".to_owned(),
            Presence::Changed,
            None,
            "the command line or --config".to_owned(),
            found,
        )
    })
}

fn cause(
    object: String,
    presence: Presence,
    source: Option<rulec_compiler::Origin>,
    from: String,
    mut fields: Vec<FieldChange>,
) -> Cause {
    let more_fields = fields.len().saturating_sub(FIELDS);
    fields.truncate(FIELDS);
    Cause { object, presence, source, from, fields, more_fields }
}

/// Returns the fields in which two versions of an object differ, as the API writes them.
fn differences(old: &Object, new: &Object) -> Vec<FieldChange> {
    match (old, new) {
        (Object::Service(old), Object::Service(new)) => {
            let found = fields::differences(old, new).into_iter();
            found.map(|(_, it)| difference(it.field, it.from, it.to)).collect()
        }
        (Object::EndpointSlice(old), Object::EndpointSlice(new)) => {
            let mut found = different(slice(old), slice(new));
            found.extend(endpoints(old, new));
            found
        }
        (Object::Pod(old), Object::Pod(new)) => different(pod(old), pod(new)),
        (Object::Node(old), Object::Node(new)) => different(node(old), node(new)),
        (Object::ServiceCidr(old), Object::ServiceCidr(new)) => {
            let fields = |it: &ServiceCidr| BTreeMap::from([field("spec.cidrs", list(&it.cidrs))]);
            different(fields(old), fields(new))
        }
        (Object::InterfaceAddresses(old), Object::InterfaceAddresses(new)) => {
            let fields = |it: &InterfaceAddresses| {
                let [all, primary] = [&it.addresses, &it.primary].map(list);
                BTreeMap::from([field("addresses", all), field("primary", primary)])
            };
            different(fields(old), fields(new))
        }
        // Objects of the same key are of the same kind.
        _ => Vec::new(),
    }
}

/// The fields of an object with their values as text. One that is not there has no value.
type Fields = BTreeMap<String, String>;

fn field(path: impl Into<String>, value: impl Display) -> (String, String) {
    (path.into(), value.to_string())
}

fn different(mut old: Fields, mut new: Fields) -> Vec<FieldChange> {
    let paths: BTreeSet<String> = old.keys().chain(new.keys()).cloned().collect();
    let both = paths.into_iter().map(|path| {
        let (from, to) = (optional(old.remove(&path)), optional(new.remove(&path)));
        difference(path, from, to)
    });
    both.filter(|it| it.from != it.to).collect()
}

fn difference(field: String, from: String, to: String) -> FieldChange {
    let [from, to] = [from, to].map(|mut text| {
        if let Some((at, _)) = text.char_indices().nth(LENGTH) {
            text.truncate(at);
            text.push('…');
        }
        text
    });
    FieldChange { field, from, to }
}

fn slice(slice: &EndpointSlice) -> Fields {
    let EndpointSlice { key: _, service, family, ports: all, endpoints: _, weight } = slice;
    let mut fields = Fields::from([
        field("metadata.labels[kubernetes.io/service-name]", &service.name),
        field("addressType", family),
        field(WEIGHT, weight),
    ]);
    ports("ports", all, &mut fields);
    fields
}

/// Returns the fields of endpoints that differ. One that comes or goes is told as a whole.
fn endpoints(old: &EndpointSlice, new: &EndpointSlice) -> Vec<FieldChange> {
    let by_address = |slice: &EndpointSlice| -> BTreeMap<IpAddr, Endpoint> {
        slice.endpoints.iter().map(|it| (it.address, it.clone())).collect()
    };
    let (mut old, mut new) = (by_address(old), by_address(new));
    let all: BTreeSet<IpAddr> = old.keys().chain(new.keys()).copied().collect();
    let mut found = Vec::new();
    for address in all {
        let path = format!("endpoints[{address}]");
        match (old.remove(&address), new.remove(&address)) {
            (Some(old), Some(new)) => {
                found.extend(different(endpoint(&path, &old), endpoint(&path, &new)));
            }
            (old, new) => {
                let [from, to] = [old, new].map(|it| optional(it.as_ref().map(whole)));
                found.push(difference(path, from, to));
            }
        }
    }
    found
}

fn endpoint(path: &str, endpoint: &Endpoint) -> Fields {
    let Endpoint { address: _, conditions, node, hints } = endpoint;
    let hints = hints.as_ref().map(|hints| {
        let zones = hints.zones.iter().map(ToString::to_string);
        list(zones.chain(hints.nodes.iter().map(ToString::to_string)))
    });
    Fields::from([
        field(format!("{path}.conditions"), condition(*conditions)),
        field(format!("{path}.nodeName"), optional(node.as_ref())),
        field(format!("{path}.hints"), optional(hints)),
    ])
}

fn whole(endpoint: &Endpoint) -> String {
    let node = endpoint.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    format!("{}{node}", condition(endpoint.conditions))
}

const WEIGHT: &str = "metadata.annotations[rulec.io/weight]";

fn ports(path: &str, ports: &[SlicePort], fields: &mut Fields) {
    for SlicePort { name, protocol, port } in ports {
        fields.extend([field(format!("{path}[{name}/{protocol}]"), port)]);
    }
}

fn pod(pod: &Pod) -> Fields {
    let Pod { key: _, labels, node, addresses, ports: all, conditions, host, weight } = pod;
    let addresses = match addresses {
        PodAddresses::Own(addresses) => list(addresses),
        PodAddresses::Node => "those of its node".to_owned(),
    };
    let mut fields = Fields::from([
        field("spec.nodeName", optional(node.as_ref())),
        field("spec.hostname", optional(host.as_ref().map(|it| &it.hostname))),
        field("spec.subdomain", optional(host.as_ref().map(|it| &it.subdomain))),
        field("status.podIPs", addresses),
        field("status.conditions", condition(*conditions)),
        field(WEIGHT, weight),
    ]);
    fields
        .extend(labels.iter().map(|(key, value)| field(format!("metadata.labels[{key}]"), value)));
    ports("spec.containers[].ports", all, &mut fields);
    fields
}

fn node(node: &Node) -> Fields {
    let Node { name: _, addresses, pod_cidrs, zone, taints, deleting } = node;
    Fields::from([
        field("status.addresses", list(addresses)),
        field("spec.podCIDRs", list(pod_cidrs)),
        field("metadata.labels[topology.kubernetes.io/zone]", optional(zone.as_ref())),
        field("spec.taints", list(taints)),
        field("metadata.deletionTimestamp", if *deleting { "set" } else { "none" }),
    ])
}

fn condition(Conditions { ready, serving, terminating }: Conditions) -> &'static str {
    match (ready, serving, terminating) {
        (true, _, false) => "ready",
        (true, _, true) => "ready, terminating",
        (false, true, true) => "serving, terminating",
        (false, false, true) => "terminating",
        (false, true, false) => "serving, not ready",
        (false, false, false) => "not ready",
    }
}

/// Adds the values that differ between two documents, by their paths.
fn differing_values(path: &str, old: &Value, new: &Value, found: &mut Vec<FieldChange>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let [old, new] = [before, after].map(|it| it.get(name).unwrap_or(&Value::Null));
                differing_values(&path, old, new, found);
            }
        }
        (old, new) if old == new => {}
        (old, new) => {
            let text = |value: &Value| match value {
                Value::Null => optional(None::<&str>),
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    value.to_string()
                }
            };
            found.push(difference(path.to_owned(), text(old), text(new)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rulec_compiler::name::NamespacedName;
    use rulec_compiler::net::Family;

    use super::*;

    fn told(old: &Object, new: &Object) -> Vec<String> {
        let found = differences(old, new).into_iter();
        found.map(|FieldChange { field, from, to }| format!("{field}: {from} -> {to}")).collect()
    }

    #[test]
    fn the_fields_of_a_slice_are_named_by_address() {
        let ready = |last: u8| Endpoint::ready(format!("10.50.1.{last}").parse().unwrap());
        let of = |endpoints| {
            Object::EndpointSlice(Arc::new(EndpointSlice {
                key: NamespacedName::new("default", "web-1"),
                service: NamespacedName::new("default", "web"),
                family: Family::Ipv4,
                ports: Vec::new(),
                endpoints,
                weight: Default::default(),
            }))
        };
        let mut going = ready(1);
        going.conditions = Conditions { ready: false, serving: true, terminating: true };
        let expected = [
            "endpoints[10.50.1.1].conditions: ready -> serving, terminating",
            "endpoints[10.50.1.2]: ready -> none",
        ];
        let (old, new) = (of(vec![ready(1), ready(2)]), of(vec![going]));
        assert_eq!(told(&old, &new), expected);
        assert!(told(&old, &old.clone()).is_empty());
    }

    #[test]
    fn the_fields_of_a_node_and_of_interfaces_are_named() {
        let of = |zone: Option<&str>| {
            Object::Node(Arc::new(Node {
                name: "na".into(),
                addresses: Vec::new(),
                pod_cidrs: Vec::new(),
                zone: zone.map(Into::into),
                taints: Vec::new(),
                deleting: zone.is_none(),
            }))
        };
        let expected = [
            "metadata.deletionTimestamp: none -> set",
            "metadata.labels[topology.kubernetes.io/zone]: z1 -> none",
        ];
        assert_eq!(told(&of(Some("z1")), &of(None)), expected);
        let of = |address: &str| {
            let addresses = vec![address.parse().unwrap()];
            let held = InterfaceAddresses { addresses, primary: Vec::new() };
            Object::InterfaceAddresses(Arc::new(held))
        };
        let expected = ["addresses: 192.0.2.1 -> 192.0.2.2"];
        assert_eq!(told(&of("192.0.2.1"), &of("192.0.2.2")), expected);
    }

    #[test]
    fn settings_that_differ_are_named_by_their_paths() {
        let old = serde_json::json!({"a": {"b": 1, "c": "x"}, "d": [1]});
        let new = serde_json::json!({"a": {"b": 2, "c": "x"}, "d": [1], "e": "y"});
        let found = of_settings(&old, &new).unwrap().fields;
        let expected = [("a.b", "1", "2"), ("e", "none", "y")];
        let expected =
            expected.map(|(path, from, to)| difference(path.into(), from.into(), to.into()));
        assert_eq!(found, expected);
        assert_eq!(of_settings(&old, &old), None);
    }
}
