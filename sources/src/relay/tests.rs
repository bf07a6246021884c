//! Tests of the store, with responses as a relay could send them. `sinks/relay/tests` has both ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use jiff::Timestamp;
use rulec_compiler::Change;
use rulec_compiler::name::NodeName;
use rulec_relay::Topic;
use rulec_relay::discovery::{Any, DeltaResponse, Resource};

use super::saved::{AllVersions, Saved};
use super::store::Store;

fn store() -> Store {
    Store::new(NodeName::from("here"))
}

/// Returns a ServiceCIDR: its message is a list of networks.
fn range(name: &str, third: u8) -> Resource {
    let value = Bytes::copy_from_slice(&[0x0a, 5, 10, 96, third, 0, 24]);
    let any = Any { type_url: Topic::ServiceCidrs.url().to_owned(), value };
    Resource { version: format!("{name}-{third}"), resource: Some(any), name: name.to_owned() }
}

fn response(position: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaResponse {
    DeltaResponse {
        position: position.to_owned(),
        resources,
        type_url: Topic::ServiceCidrs.url().to_owned(),
        nonce: "1".to_owned(),
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Returns the changes in words.
fn changes(store: &mut Store) -> Vec<String> {
    let told = |change| match change {
        Change::Apply(sourced) => format!("apply {}", sourced.object.key()),
        Change::Remove(key) => format!("remove {key}"),
        Change::Replace { objects, .. } => {
            let keys = objects.iter().map(|it| it.object.key().to_string());
            format!("replace by {}", keys.collect::<Vec<_>>().join(", "))
        }
    };
    store.changes().into_iter().map(told).collect()
}

fn problems(store: &Store) -> Vec<String> {
    store.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn responses_count_once_a_position_is_reached() {
    let mut store = store();
    assert_eq!(store.take(response("", vec![range("a", 1)], &[])).unwrap(), [""; 0]);
    assert_eq!(changes(&mut store), [""; 0]);
    assert!(!store.is_current());
    store.take(response("1", vec![range("b", 2)], &[])).unwrap();
    assert_eq!(changes(&mut store), ["replace by ServiceCIDR a, ServiceCIDR b"]);
    assert!(store.is_current());

    store.take(response("2", vec![range("a", 3)], &["b"])).unwrap();
    assert_eq!(changes(&mut store), ["apply ServiceCIDR a", "remove ServiceCIDR b"]);
    // The same again, and something that was never there.
    store.take(response("3", vec![range("a", 3)], &["c", "\n"])).unwrap();
    assert_eq!(changes(&mut store), [""; 0]);
}

#[test]
fn what_another_program_has_saved_can_be_gone() {
    let mut before = store();
    before.take(response("1", vec![range("a", 1), range("b", 2)], &[])).unwrap();
    let objects = before.saved().objects;
    let at = Timestamp::UNIX_EPOCH;
    let (program, node, versions) = ("older".to_owned(), "here".to_owned(), AllVersions::default());
    let mut store = store();
    let standing = String::new();
    store.take_over(Saved { program, node, at, objects, versions, standing });
    let known = &store.known()[Topic::ServiceCidrs.index()];
    assert!(known.keys().eq(["a", "b"]), "so the relay says what is gone");
    assert!(known.values().all(String::is_empty), "and sends the rest");
    store.take(response("2", vec![range("b", 2)], &["a"])).unwrap();
    assert_eq!(changes(&mut store), ["replace by ServiceCIDR b"]);
}

#[test]
fn what_was_never_read_is_counted() {
    let mut store = store();
    let broken = |name: &str| Resource { resource: None, ..range(name, 1) };
    assert_eq!(store.take(response("1", vec![broken("a"), range("b", 1)], &[])).unwrap().len(), 1);
    assert_eq!(store.unread(), 1);
    // The last good version stays.
    store.take(response("2", vec![broken("b")], &[])).unwrap();
    assert_eq!(store.unread(), 1);
    store.take(response("3", vec![range("a", 2)], &[])).unwrap();
    assert_eq!(store.unread(), 0);
}

#[test]
fn half_of_a_change_is_dropped_with_its_connection() {
    let mut store = store();
    store.take(response("1", vec![range("a", 1)], &[])).unwrap();
    assert_eq!(changes(&mut store), ["replace by ServiceCIDR a"]);
    store.take(response("", vec![range("b", 2)], &["a"])).unwrap();
    store.hinder("gone", false);
    assert_eq!(problems(&store), ["relay: gone"]);
    store.begin(store.floor().clone());
    let known = &store.known()[Topic::ServiceCidrs.index()];
    assert!(known.keys().eq(["a"]), "the rest must be sent again");
    // Nothing has changed meanwhile.
    store.take(response("1", Vec::new(), &[])).unwrap();
    assert_eq!((changes(&mut store), problems(&store)), (Vec::new(), Vec::new()));
    // After the next gap, something has.
    store.hinder("gone", false);
    store.begin(store.floor().clone());
    store.take(response("5", vec![range("c", 3)], &[])).unwrap();
    assert_eq!(changes(&mut store), ["replace by ServiceCIDR a, ServiceCIDR c"]);
}

#[test]
fn a_resource_that_cannot_be_used_has_a_reason() {
    let mut store = store();
    store.take(response("1", vec![range("a", 1)], &[])).unwrap();
    changes(&mut store);
    let mut broken = range("a", 2);
    broken.resource.as_mut().unwrap().value = Bytes::from_static(&[0x0a, 1, 7]);
    let empty = Resource { resource: None, ..range("b", 1) };
    let mut other = range("c", 1);
    other.resource.as_mut().unwrap().type_url = "type.googleapis.com/x\n".to_owned();
    let refused =
        store.take(response("2", vec![broken, empty, other, range("d", 4)], &[])).unwrap();
    let expected = [
        "ServiceCIDR a: cidrs[0]: 0 bytes are no address",
        "ServiceCIDR b: it is empty",
        "ServiceCIDR c: it is of type type.googleapis.com/x\\n",
    ];
    assert_eq!(refused, expected);
    assert_eq!(problems(&store), expected.map(|reason| format!("relay: {reason}")));
    assert_eq!(changes(&mut store), ["apply ServiceCIDR d"]);
    // What is known is the last good version, so that a new connection sends the other one again.
    assert_eq!(store.known()[Topic::ServiceCidrs.index()]["a"], "a-1");
    store.take(response("3", vec![range("a", 2)], &["b", "c"])).unwrap();
    assert_eq!(
        (changes(&mut store), problems(&store)),
        (vec!["apply ServiceCIDR a".to_owned()], Vec::new())
    );

    // The Node of another node.
    let any = Any { type_url: Topic::Nodes.url().to_owned(), value: Bytes::new() };
    let node = Resource { version: "1".to_owned(), resource: Some(any), name: "there".to_owned() };
    let type_url = Topic::Nodes.url().to_owned();
    let refused = store.take(DeltaResponse { type_url, ..response("4", vec![node], &[]) }).unwrap();
    assert_eq!(refused, ["Node there: it is not for this node"]);

    let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    let fault = store.take(DeltaResponse { type_url, ..response("5", Vec::new(), &[]) });
    assert_eq!(
        fault.unwrap_err().to_string(),
        "it sends resources of type \"type.googleapis.com/envoy.config.cluster.v3.Cluster\", which \
         were not asked for"
    );
}

#[test]
fn a_node_is_waited_for() {
    let mut store = store();
    store.take(response("1", Vec::new(), &[])).unwrap();
    assert_eq!(changes(&mut store), ["replace by "]);
    assert!(!store.is_complete() && store.waits_for_node());
    store.lose_patience();
    assert!(store.is_complete());
}

#[test]
fn what_is_not_sent_is_gone_if_everything_was_asked_for() {
    let mut store = store();
    store.take(response("c/1/1/1/5", vec![range("a", 1), range("b", 2)], &[])).unwrap();
    changes(&mut store);
    store.start_over();
    assert!(store.known().iter().all(std::collections::BTreeMap::is_empty));

    // One that is behind sends none of them yet.
    store.begin(store.floor().clone());
    store.take(response("c/1/1/1/4", vec![], &[])).unwrap();
    assert_eq!(changes(&mut store), [""; 0]);
    // One that breaks off has not sent all.
    store.begin(store.floor().clone());
    store.take(response("", vec![range("b", 3)], &[])).unwrap();
    store.begin(store.floor().clone());
    assert_eq!(changes(&mut store), [""; 0]);
    assert!(store.known().iter().all(std::collections::BTreeMap::is_empty));

    store.take(response("", vec![range("b", 3)], &[])).unwrap();
    store.take(response("c/1/1/1/6", vec![range("c", 4)], &[])).unwrap();
    assert_eq!(changes(&mut store), ["replace by ServiceCIDR b, ServiceCIDR c"]);
    assert!(store.known()[Topic::ServiceCidrs.index()].keys().eq(["b", "c"]));
    store.take(response("c/1/1/1/7", vec![range("d", 5)], &[])).unwrap();
    assert_eq!(changes(&mut store), ["apply ServiceCIDR d"]);
}

#[test]
fn what_an_earlier_connection_could_not_read_is_forgotten_once_it_is_gone() {
    let mut store = store();
    let broken = Resource { resource: None, ..range("a", 1) };
    store.take(response("c/1/1/1/5", vec![broken], &[])).unwrap();
    assert_eq!((problems(&store).len(), store.unread()), (1, 1));
    store.begin(store.floor().clone());
    store.take(response("c/1/1/1/4", vec![], &[])).unwrap();
    assert_eq!(store.unread(), 1, "one that is behind has not sent it yet");
    store.begin(store.floor().clone());
    store.take(response("c/1/1/1/6", vec![range("b", 1)], &[])).unwrap();
    assert_eq!((problems(&store).len(), store.unread()), (0, 0));
}

#[test]
fn what_the_server_has_sent_meanwhile_stays_until_the_relay_has_caught_up() {
    let mut store = store();
    store.take(response("c/1/1/1/5", vec![range("a", 1)], &[])).unwrap();
    changes(&mut store);
    let server = rulec_relay::Standing::parse("c/1/1/1/9").unwrap().position;
    store.leave_to(&server);
    assert_eq!(*store.floor(), server);
    // It has more than before, and less than the server.
    store.begin(server);
    store.take(response("c/1/1/1/7", vec![], &[])).unwrap();
    assert_eq!(changes(&mut store), [""; 0]);
    store.take(response("c/1/1/1/9", vec![range("b", 2)], &[])).unwrap();
    assert_eq!(changes(&mut store), ["replace by ServiceCIDR a, ServiceCIDR b"]);
}

#[test]
fn a_state_is_read_as_it_was_saved() {
    let mut before = store();
    before.take(response("c/1/1/1/5", vec![range("a", 1), range("b", 2)], &[])).unwrap();
    let whole = before.saved();
    let saved = Saved {
        program: "this".to_owned(),
        node: "here".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        objects: whole.objects.clone(),
        versions: whole.versions.clone(),
        standing: whole.standing.to_string(),
    };
    let text = serde_json::to_string(&saved).unwrap();
    let read: Saved = serde_json::from_str(&text).unwrap();
    assert_eq!((&read.objects, &read.versions), (&whole.objects, &whole.versions));
    let mut store = store();
    store.take_over(read);
    assert_eq!(store.known(), before.known());
    assert_eq!(store.floor(), before.floor());
}
