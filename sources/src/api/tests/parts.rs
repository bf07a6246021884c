//! Small parts: waits, counters, keys.

use std::time::Duration;

use rulec_compiler::name::NodeName;

use super::super::backoff::Backoff;
use super::super::fault::ErrorKind;
use super::super::status::ApiStatus;
use super::{Resource, document, service, slice};

#[test]
fn backoff_grows_to_the_maximum_and_resets() {
    let (shortest, longest) = (Duration::from_millis(800), Duration::from_secs(30));
    let mut backoff = Backoff::new(shortest, longest);
    for _ in 0..3 {
        let waits: Vec<Duration> = (0..20).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= shortest && waits[0] < 2 * shortest, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= longest), "{waits:?}");
        assert!(waits[19] >= longest / 2, "{waits:?}");
        backoff.reset();
    }
}

#[test]
fn backoff_differs_between_nodes() {
    let waits = || {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        (0..8).map(|_| backoff.wait()).collect::<Vec<Duration>>()
    };
    assert_ne!(waits(), waits());
}

#[test]
fn a_source_is_connected_while_required_resources_are_watched() {
    let status = ApiStatus::default();
    assert_eq!((status.is_connected(), status.silence()), (false, None));
    status.watch(Resource::Services, true);
    status.watch(Resource::Nodes, true);
    assert!(!status.is_connected());
    status.watch(Resource::EndpointSlices, true);
    assert!(status.is_connected());
    status.watch(Resource::Nodes, false);
    assert!(status.is_connected());
    status.watch(Resource::Services, false);
    assert!(!status.is_connected());
    status.hear();
    assert!(status.silence().is_some());
}

#[test]
fn errors_are_counted_by_kind() {
    let status = ApiStatus::default();
    for (times, kind) in ErrorKind::ALL.into_iter().enumerate() {
        (0..times).for_each(|_| status.count_error(kind));
    }
    for (times, kind) in ErrorKind::ALL.into_iter().enumerate() {
        assert_eq!(status.errors(kind), times as u64, "{}", kind.name());
    }
}

#[test]
fn objects_are_identified_by_kind_and_name() {
    let key = |resource: Resource, object| resource.key(&document(&object)).map(|k| k.to_string());
    assert_eq!(key(Resource::Services, service("web", 1)).unwrap(), "Service default/web");
    assert_eq!(key(Resource::EndpointSlices, slice("a", &[])).unwrap(), "EndpointSlice default/a");
    assert_eq!(key(Resource::ServiceCidrs, service("x", 1)).unwrap(), "ServiceCIDR x");
    let mut nameless = service("web", 1);
    nameless["metadata"]["name"] = serde_json::Value::Null;
    assert_eq!(key(Resource::Services, nameless), None);
    let node = NodeName::from("node-1");
    assert_eq!(Resource::Nodes.field_selector(&node).unwrap(), "metadata.name=node-1");
}
