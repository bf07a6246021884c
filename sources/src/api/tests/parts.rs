//! Small parts: counters, keys.

use rulec_compiler::name::NodeName;

use super::super::fault::{ErrorKind, Fault};
use super::super::status::ApiStatus;
use super::{Resource, document, service, slice};

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
fn the_last_error_is_the_one_that_matters() {
    let status = ApiStatus::default();
    assert!(status.last_error().is_none());
    let fault = |why: &str| Fault::Connection(why.to_owned());
    let last = || status.last_error().unwrap().1.to_string();
    status.fail(Resource::ServiceCidrs, &fault("refused"));
    assert_eq!(last(), "ServiceCIDRs: refused");
    status.fail(Resource::Services, &fault("unknown"));
    assert_eq!(last(), "Services: unknown");
    // An optional resource is tried again and again, too.
    status.fail(Resource::ServiceCidrs, &fault("refused"));
    assert_eq!(last(), "Services: unknown");
    status.fail(Resource::EndpointSlices, &fault("silent"));
    assert_eq!(last(), "EndpointSlices: silent");
    status.watch(Resource::EndpointSlices, true);
    status.fail(Resource::ServiceCidrs, &fault("refused"));
    assert_eq!(last(), "ServiceCIDRs: refused");
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
    assert_eq!(Resource::Nodes.field_selector(Some(&node)).unwrap(), "metadata.name=node-1");
}
