//! Tests of which events of the server cause changes.

use std::time::Duration;

use rulec_compiler::net::Family;
use rulec_compiler::object::Object;
use rulec_compiler::{Change, Origin};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::super::store::{News, Store};
use super::super::tell;
use super::{Event, Resource, What, document, of, service, slice};
use crate::problem::Severity;
use crate::update::Update;

use Resource::{EndpointSlices, Nodes, ServiceCidrs, Services};

#[derive(Default)]
struct Fixture {
    store: Store,
}

impl Fixture {
    fn take(&mut self, event: Event) -> News {
        let mut news = News::default();
        self.store.take(event, &mut news);
        news
    }

    fn apply(&mut self, resource: Resource, object: &Value) -> News {
        self.take(of(resource, What::Apply(document(object))))
    }

    fn list(&mut self, resource: Resource, objects: &[Value]) -> News {
        self.take(of(resource, What::Begin));
        let items = objects.iter().map(|object| Ok(document(object))).collect();
        self.take(of(resource, What::Items(items)));
        self.take(of(resource, What::End(None)))
    }

    fn problems(&self) -> Vec<String> {
        self.store.problems().iter().map(ToString::to_string).collect()
    }
}

/// Prints changes in short form.
fn short(news: &News) -> Vec<String> {
    news.changes
        .iter()
        .map(|change| match change {
            Change::Apply(sourced) => format!("+ {}", sourced.object.key()),
            Change::Remove(key) => format!("- {key}"),
            Change::Replace { kinds, objects } => {
                let keys: Vec<String> =
                    objects.iter().map(|sourced| sourced.object.key().to_string()).collect();
                format!("{kinds:?} = {}", keys.join(", "))
            }
        })
        .collect()
}

#[test]
fn a_list_is_one_change_at_its_end() {
    let mut world = Fixture::default();
    assert!(world.take(of(Services, What::Begin)).changes.is_empty());
    let items = vec![Ok(document(&service("b", 1))), Ok(document(&service("a", 2)))];
    assert!(world.take(of(Services, What::Items(items))).changes.is_empty());
    let news = world.take(of(Services, What::End(None)));
    assert_eq!(short(&news), ["[Service] = Service default/a, Service default/b"]);
}

#[test]
fn an_empty_list_is_one_change() {
    let mut world = Fixture::default();
    assert_eq!(short(&world.list(ServiceCidrs, &[])), ["[ServiceCidr] = "]);
    assert_eq!(short(&world.list(ServiceCidrs, &[])), [""; 0]);
}

#[test]
fn the_next_list_removes_deleted_objects() {
    let mut world = Fixture::default();
    world.list(Services, &[service("a", 1), service("b", 2), service("c", 3)]);
    let news = world.list(Services, &[service("c", 9), service("a", 8)]);
    assert_eq!(short(&news), ["[Service] = Service default/a, Service default/c"]);
}

#[test]
fn an_unchanged_list_is_no_change() {
    let mut world = Fixture::default();
    world.list(Services, &[service("a", 1), service("b", 2)]);
    let news = world.list(Services, &[service("b", 20), service("a", 10)]);
    assert_eq!((short(&news), news.suppressed), (vec![], 0));
}

#[test]
fn unchanged_objects_are_shared_between_lists() {
    let mut world = Fixture::default();
    let first = world.list(Services, &[service("a", 1)]);
    let again = world.list(Services, &[service("a", 2), service("b", 2)]);
    let held = |news: &News| {
        let [Change::Replace { objects, .. }] = &news.changes[..] else { panic!("{news:?}") };
        let Object::Service(service) = &objects[0].object else { panic!("{objects:?}") };
        service.clone()
    };
    assert!(std::sync::Arc::ptr_eq(&held(&first), &held(&again)));
}

#[test]
fn an_interrupted_list_is_discarded() {
    let mut world = Fixture::default();
    world.list(Services, &[service("a", 1), service("b", 2)]);
    world.take(of(Services, What::Begin));
    world.take(of(Services, What::Items(vec![Ok(document(&service("x", 3)))])));
    // It broke off here. The next one starts from the beginning.
    let news = world.list(Services, &[service("a", 1), service("b", 2)]);
    assert_eq!(short(&news), [""; 0]);
}

#[test]
fn a_list_does_not_affect_other_kinds() {
    let mut world = Fixture::default();
    world.list(Services, &[service("web", 1)]);
    assert_eq!(short(&world.list(EndpointSlices, &[])), ["[EndpointSlice] = "]);
    assert_eq!(short(&world.list(Services, &[service("web", 2)])), [""; 0]);
}

#[test]
fn updates_without_effect_are_suppressed_and_counted() {
    let mut world = Fixture::default();
    world.list(Services, &[service("web", 1)]);
    world.list(EndpointSlices, &[slice("a", &["10.0.0.1", "10.0.0.2"])]);

    let mut metadata = service("web", 2);
    metadata["metadata"]["annotations"] = json!({ "note": "x" });
    metadata["metadata"]["labels"] = json!({ "app": "web" });
    let mut status = service("web", 3);
    status["status"] =
        json!({ "loadBalancer": {}, "conditions": [{ "type": "X", "status": "True" }] });
    for object in [metadata, status] {
        let news = world.apply(Services, &object);
        assert_eq!((short(&news), news.suppressed), (vec![], 1), "{object}");
    }
    let news = world.apply(EndpointSlices, &slice("a", &["10.0.0.2", "10.0.0.1"]));
    assert_eq!((short(&news), news.suppressed), (vec![], 1));
    let news = world.apply(EndpointSlices, &slice("a", &["10.0.0.2"]));
    assert_eq!((short(&news), news.suppressed), (vec!["+ EndpointSlice default/a".to_owned()], 0));
}

#[test]
fn a_change_says_the_version_of_its_object() {
    let mut world = Fixture::default();
    let mut object = service("web", 1);
    let list = world.list(Services, &[object.clone()]);
    let [Change::Replace { objects, .. }] = &list.changes[..] else { panic!("{list:?}") };
    assert_eq!(objects[0].provenance.to_string(), "API server");
    object["spec"]["ports"][0]["port"] = 81.into();
    object["metadata"]["resourceVersion"] = "4711".into();
    let news = world.apply(Services, &object);
    let [Change::Apply(sourced)] = &news.changes[..] else { panic!("{news:?}") };
    assert_eq!(sourced.provenance.to_string(), "API server, resourceVersion 4711");
}

#[test]
fn only_relevant_annotations_make_a_change() {
    let mut world = Fixture::default();
    world.list(Services, &[service("web", 1)]);
    let annotated = |annotations: Value| {
        let mut service = service("web", 2);
        service["metadata"]["annotations"] = annotations;
        service
    };
    for annotation in [
        "rulec.io/ipvs-scheduler",
        "rulec.io/ipvs-drain-seconds",
        "kube-router.io/service.scheduler",
    ] {
        let value = if annotation.ends_with("seconds") { "9" } else { "lc" };
        for annotations in [json!({ annotation: value }), json!({})] {
            let news = world.apply(Services, &annotated(annotations.clone()));
            let changed = (vec!["+ Service default/web".to_owned()], 0);
            assert_eq!((short(&news), news.suppressed), changed, "{annotations}");
            // Again, with another annotation added.
            let mut noted = annotations;
            noted["note"] = json!("x");
            let news = world.apply(Services, &annotated(noted));
            assert_eq!((short(&news), news.suppressed), (vec![], 1), "{annotation}");
        }
    }
    // An invalid value is reported and makes no change.
    let odd = annotated(json!({ "rulec.io/ipvs-scheduler": "fastest" }));
    let news = world.apply(Services, &odd);
    assert_eq!((short(&news), news.suppressed), (vec![], 1));
    let [problem] = world.problems().try_into().unwrap();
    assert!(problem.contains("Service default/web"), "{problem}");
    let expected = "metadata.annotations.rulec.io/ipvs-scheduler: \"fastest\" is not an IPVS";
    assert!(problem.contains(expected), "{problem}");
    world.apply(Services, &annotated(json!({})));
    assert_eq!(world.problems(), [""; 0]);
}

/// Returns the times of the triggers, in seconds.
fn triggers(news: &News) -> Vec<i64> {
    news.triggers.iter().map(|trigger| trigger.at.as_second()).collect()
}

/// Returns a slice with the time of its trigger.
fn triggered(name: &str, addresses: &[&str], time: &str) -> Value {
    let mut slice = slice(name, addresses);
    let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
    slice["metadata"]["annotations"] = json!({ "note": "x".repeat(2_000), annotation: time });
    slice
}

#[test]
fn triggers_are_reported_only_with_slice_changes() {
    let mut world = Fixture::default();
    let first = triggered("a", &["10.0.0.1"], "1970-01-01T00:00:01Z");
    // The first list has no triggers: its changes happened before we started to look.
    assert_eq!(triggers(&world.list(EndpointSlices, &[first])), [0; 0]);
    let one = ["10.0.0.1"];
    let news = world.apply(EndpointSlices, &triggered("a", &one, "1970-01-01T00:00:02Z"));
    assert_eq!((short(&news), news.suppressed, triggers(&news)), (vec![], 1, vec![]));
    let two = ["10.0.0.1", "10.0.0.2"];
    let news = world.apply(EndpointSlices, &triggered("a", &two, "1970-01-01T01:00:03.5+01:00"));
    assert_eq!(short(&news), ["+ EndpointSlice default/a"]);
    let [trigger] = news.triggers[..] else { panic!("{news:?}") };
    assert_eq!((trigger.family, trigger.at.as_millisecond()), (Family::Ipv4, 3_500));
    // The last slice of the list has changed without a watch; the other one has not.
    let news = world.list(
        EndpointSlices,
        &[
            triggered("a", &two, "1970-01-01T00:00:04Z"),
            triggered("b", &one, "1970-01-01T00:00:05Z"),
        ],
    );
    assert_eq!(triggers(&news), [5]);
    // A missing or invalid time does not prevent the change.
    for (number, time) in ["", "yesterday", "2026-13-01T00:00:00Z"].into_iter().enumerate() {
        let address = format!("10.0.1.{number}");
        let news = world.apply(EndpointSlices, &triggered("a", &[&address], time));
        assert_eq!((short(&news).len(), triggers(&news).len()), (1, 0), "{time:?}");
    }
    let mut odd = slice("a", &["10.0.2.1"]);
    odd["metadata"]["annotations"] = json!([1, 2]);
    assert_eq!(short(&world.apply(EndpointSlices, &odd)), ["+ EndpointSlice default/a"]);
    let problems = format!("{:?}", world.problems());
    assert!(problems.contains("metadata.annotations: expected an object"), "{problems}");
    // A deletion has the trigger of the change before it.
    let gone = triggered("a", &two, "1970-01-01T00:00:06Z");
    let news = world.take(of(EndpointSlices, What::Delete(document(&gone))));
    assert_eq!((short(&news).len(), triggers(&news).len()), (1, 0));
}

#[test]
fn a_deletion_is_applied_once_by_name() {
    let mut world = Fixture::default();
    world.list(Services, &[service("web", 1)]);
    let gone = json!({ "kind": "Service", "apiVersion": "v1", "spec": 7,
        "metadata": { "name": "web", "namespace": "default", "resourceVersion": "2" } });
    let delete = |world: &mut Fixture| world.take(of(Services, What::Delete(document(&gone))));
    assert_eq!(short(&delete(&mut world)), ["- Service default/web"]);
    assert_eq!(short(&delete(&mut world)), [""; 0]);
}

#[test]
fn a_slice_without_its_service_label_is_removed() {
    let mut world = Fixture::default();
    world.list(EndpointSlices, &[slice("a", &["10.0.0.1"])]);
    let mut orphan = slice("a", &["10.0.0.1"]);
    orphan["metadata"]["labels"] = json!({});
    assert_eq!(short(&world.apply(EndpointSlices, &orphan)), ["- EndpointSlice default/a"]);
}

#[test]
fn a_broken_object_keeps_its_last_good_version_and_is_reported() {
    let mut world = Fixture::default();
    world.list(Services, &[service("web", 1), service("dns", 1)]);
    let mut broken = service("web", 2);
    broken["spec"]["ports"][0]["port"] = json!(70_000);
    let complaint =
        ["API server: Service default/web: spec.ports[0].port: 70000 is not in 1..65535"];

    assert_eq!(short(&world.apply(Services, &broken)), [""; 0]);
    assert!(world.store.problems_changed());
    assert_eq!(world.problems(), complaint);
    // A list keeps it as well, and drops the object that is really gone.
    let news = world.list(Services, &[broken]);
    assert_eq!(short(&news), ["[Service] = Service default/web"]);
    assert_eq!(world.problems(), complaint);

    let news = world.apply(Services, &service("web", 3));
    assert_eq!((short(&news), news.suppressed), (vec![], 1));
    assert!(world.store.problems_changed());
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn a_never_valid_object_is_reported_until_it_is_deleted() {
    let mut world = Fixture::default();
    let mut broken = service("web", 2);
    broken["spec"]["clusterIP"] = json!("10.0.0.999");
    let news = world.list(Services, &[broken.clone(), service("dns", 1)]);
    assert_eq!(short(&news), ["[Service] = Service default/dns"]);
    assert!(world.problems()[0].starts_with("API server: Service default/web: spec.clusterIP"));
    world.take(of(Services, What::Delete(document(&broken))));
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn an_unreadable_list_item_prevents_removals() {
    let mut world = Fixture::default();
    world.list(Services, &[service("a", 1), service("b", 1)]);
    world.take(of(Services, What::Begin));
    let items = vec![Ok(document(&service("a", 2))), Err("an object that is null".to_owned())];
    world.take(of(Services, What::Items(items)));
    assert_eq!(short(&world.take(of(Services, What::End(None)))), [""; 0]);
    assert_eq!(world.problems(), ["API server: Services: an object that is null"]);
    assert_eq!(short(&world.list(Services, &[service("a", 3)])), ["[Service] = Service default/a"]);
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn a_deletion_during_a_list_removes_the_object_from_it() {
    let mut world = Fixture::default();
    world.list(Services, &[service("a", 1), service("b", 1), service("c", 1)]);
    world.take(of(Services, What::Begin));
    let items = ["a", "b", "c", "d"].map(|name| Ok(document(&service(name, 2)))).into();
    world.take(of(Services, What::Items(items)));
    for gone in ["a", "b", "d"] {
        let news = world.take(of(Services, What::Delete(document(&service(gone, 3)))));
        assert_eq!(short(&news), [""; 0], "nothing before the end of the list");
    }
    // One object came back, and another came back broken: its good version was deleted.
    let mut broken = service("b", 4);
    broken["spec"]["ports"][0]["port"] = json!(0);
    let items = vec![Ok(document(&service("a", 4))), Ok(document(&broken))];
    world.take(of(Services, What::Items(items)));
    let news = world.take(of(Services, What::End(None)));
    assert_eq!(short(&news), ["[Service] = Service default/a, Service default/c"]);
    // After the list, deletions work as usual.
    let news = world.take(of(Services, What::Delete(document(&service("c", 5)))));
    assert_eq!(short(&news), ["- Service default/c"]);
}

#[test]
fn an_object_broken_during_a_list_keeps_its_listed_version() {
    let mut world = Fixture::default();
    world.list(Services, &[service("a", 1)]);
    world.take(of(Services, What::Begin));
    let mut newer = service("a", 2);
    newer["spec"]["ports"][0]["port"] = json!(81);
    let mut broken = service("a", 3);
    broken["spec"]["ports"][0]["port"] = json!(0);
    let items = vec![Ok(document(&newer)), Ok(document(&broken))];
    world.take(of(Services, What::Items(items)));
    assert_eq!(
        short(&world.take(of(Services, What::End(None)))),
        ["[Service] = Service default/a"]
    );
    assert_eq!(short(&world.apply(Services, &newer)), [""; 0]);
}

#[test]
fn an_object_of_another_kind_is_refused() {
    let mut world = Fixture::default();
    world.list(Services, &[service("web", 1)]);
    let mut other = service("web", 2);
    other["kind"] = json!("Pod");
    assert_eq!(short(&world.apply(Services, &other)), [""; 0]);
    let expected = "API server: Service default/web: expected Service of v1, found \"Pod\"";
    assert_eq!(world.problems(), [expected]);
}

#[test]
fn list_items_may_omit_their_kind() {
    let mut world = Fixture::default();
    let mut bare = slice("a", &["10.0.0.1"]);
    bare.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
    let news = world.list(EndpointSlices, &[bare]);
    assert_eq!(short(&news), ["[EndpointSlice] = EndpointSlice default/a"]);
}

/// All problems are kept: the log limits them, and metrics count them all. Adding one does not cost
/// time for the others.
#[test]
fn all_problems_are_kept_without_a_limit() {
    let mut world = Fixture::default();
    let broken = |number: usize| {
        let mut service = service(&format!("s{number:03}"), 1);
        service["spec"]["ports"][0]["port"] = json!(0);
        service
    };
    let all: Vec<Value> = (0..250).map(broken).collect();
    world.list(Services, &all);
    assert!(world.store.problems_changed());
    assert_eq!(world.problems().len(), 250);
    world.apply(Services, &broken(250));
    assert_eq!((world.problems().len(), world.store.problems_changed()), (251, true));
    world.apply(Services, &broken(250));
    assert_eq!((world.problems().len(), world.store.problems_changed()), (251, false));
    world.apply(Services, &service("s000", 1));
    assert_eq!((world.problems().len(), world.store.problems_changed()), (250, true));
    // There may be any number of objects without a name.
    let nameless = vec![json!({ "metadata": { "resourceVersion": "7" } }); 250];
    world.list(Services, &nameless);
    assert_eq!(world.problems().len(), 1, "they are all the same");
    world.list(Services, &all[1..]);
    assert_eq!(world.problems().len(), 249);
}

#[test]
fn a_failure_is_reported_until_it_is_over() {
    let mut world = Fixture::default();
    let failing = || of(Services, What::Failing("no connection".to_owned()));
    world.take(failing());
    assert_eq!(world.store.problems().get_min().unwrap().severity, Severity::Error);
    assert!(world.store.problems_changed());
    world.take(failing());
    assert!(!world.store.problems_changed());
    world.list(Services, &[]);
    assert!(world.store.problems_changed());
    assert_eq!(world.problems(), [""; 0]);
    // The known objects stay in force, so it is a warning now and no error.
    world.take(failing());
    assert_eq!(world.store.problems().get_min().unwrap().severity, Severity::Warning);
    world.take(of(Services, What::Fine));
    assert_eq!(world.problems(), [""; 0]);
}

fn node(addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }))
        .collect();
    json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "node-1", "resourceVersion": "3" },
        "status": { "addresses": addresses } })
}

#[test]
fn the_store_is_complete_with_all_lists_and_a_node_address() {
    let mut world = Fixture::default();
    world.list(Services, &[]);
    world.list(Nodes, &[node(&[])]);
    world.list(EndpointSlices, &[]);
    assert!(!world.store.is_complete());
    world.apply(Nodes, &node(&["192.0.2.1"]));
    assert!(!world.store.is_complete());
    world.list(ServiceCidrs, &[]);
    assert!(world.store.is_complete());
}

#[test]
fn the_store_is_complete_without_a_forbidden_node() {
    let mut world = Fixture::default();
    world.list(Services, &[]);
    world.take(of(Nodes, What::Refused("403".to_owned())));
    world.list(EndpointSlices, &[]);
    world.list(ServiceCidrs, &[]);
    assert!(!world.store.is_complete(), "a server that starts refuses everything");
    world.take(of(Nodes, What::Refused("403".to_owned())));
    assert!(world.store.is_complete());
    assert_eq!(world.problems(), ["API server: the Node: refused, continuing without: 403"]);
}

#[test]
fn the_store_is_complete_without_forbidden_service_cidrs() {
    let mut world = Fixture::default();
    world.list(Services, &[]);
    world.list(EndpointSlices, &[]);
    world.take(of(ServiceCidrs, What::Refused("404".to_owned())));
    assert!(!world.store.is_complete(), "the Node may be seen, and will come");
    world.list(Nodes, &[node(&["192.0.2.1"])]);
    assert!(world.store.is_complete());
}

/// A running [`tell`].
struct Telling {
    events: mpsc::Sender<Event>,
    updates: mpsc::Receiver<Update>,
    /// Ends the wait for the Node.
    impatience: oneshot::Sender<()>,
}

impl Telling {
    /// Starts it with events that have already arrived.
    async fn after(first: impl IntoIterator<Item = Event>) -> Self {
        let (events, received) = mpsc::channel(64);
        for event in first {
            events.send(event).await.unwrap();
        }
        let (out, updates) = mpsc::channel(64);
        let (impatience, patience) = oneshot::channel();
        tokio::spawn(async {
            let patience = async {
                if patience.await.is_err() {
                    std::future::pending().await
                }
            };
            tell(received, patience, Duration::from_secs(3600), None, false, out).await;
        });
        Self { events, updates, impatience }
    }

    async fn next(&mut self) -> Update {
        self.updates.recv().await.unwrap()
    }
}

fn empty(resource: Resource) -> [Event; 2] {
    [of(resource, What::Begin), of(resource, What::End(None))]
}

#[tokio::test]
async fn waiting_for_a_missing_node_is_limited() {
    let lists = [Services, EndpointSlices, ServiceCidrs, Nodes].into_iter().flat_map(empty);
    let mut telling = Telling::after(lists).await;
    let first = telling.next().await;
    assert_eq!((first.changes.len(), first.complete, first.origin), (4, false, Origin::Api));
    telling.impatience.send(()).unwrap();
    let second = telling.updates.recv().await.unwrap();
    assert_eq!((second.changes.len(), second.complete), (0, true));
}

#[tokio::test]
async fn waiting_for_missing_service_cidrs_is_limited() {
    let lists = [Services, EndpointSlices, Nodes].into_iter().flat_map(empty);
    let node = of(Nodes, What::Apply(document(&node(&["192.0.2.1"]))));
    let mut telling = Telling::after(lists.chain([node])).await;
    assert!(!telling.next().await.complete);
    telling.impatience.send(()).unwrap();
    let second = telling.updates.recv().await.unwrap();
    assert_eq!((second.changes.len(), second.complete), (0, true));
}

#[tokio::test]
async fn the_node_timeout_does_not_replace_missing_services() {
    let mut telling = Telling::after(empty(EndpointSlices)).await;
    assert!(!telling.next().await.complete);
    telling.impatience.send(()).unwrap();
    let deletion = What::Delete(document(&service("web", 1)));
    telling.events.send(of(Services, deletion)).await.unwrap();
    // That deletion changed nothing. The list is a change, and completes the required resources.
    for event in empty(Services) {
        telling.events.send(event).await.unwrap();
    }
    let update = telling.updates.recv().await.unwrap();
    assert_eq!((short(&News { changes: update.changes, ..News::default() })), ["[Service] = "]);
    // The Node is waited for only from now on.
    assert!(!update.complete);
    let update = telling.updates.recv().await.unwrap();
    assert_eq!((update.changes.len(), update.complete), (0, true));
}

#[tokio::test]
async fn events_that_arrive_together_form_one_update() {
    let mut events: Vec<Event> = empty(Services).into();
    events.extend(empty(EndpointSlices));
    events.push(of(Services, What::Apply(document(&service("web", 2)))));
    events.push(of(EndpointSlices, What::Apply(document(&slice("a", &["10.0.0.1"])))));
    let changes = Telling::after(events).await.next().await.changes;
    assert_eq!(
        short(&News { changes, ..News::default() }),
        [
            "[Service] = ",
            "[EndpointSlice] = ",
            "+ Service default/web",
            "+ EndpointSlice default/a",
        ]
    );
}

#[tokio::test]
async fn suppressed_updates_are_reported_with_a_change_or_later() {
    let lists = [Services, EndpointSlices].into_iter().flat_map(empty);
    let web = of(Services, What::Apply(document(&service("web", 2))));
    let mut telling = Telling::after(lists.chain([web])).await;
    assert_eq!(telling.next().await.changes.len(), 3);
    let again = |version| of(Services, What::Apply(document(&service("web", version))));
    for version in 3..6 {
        telling.events.send(again(version)).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(telling.updates.try_recv().is_err(), "the receiver is not woken for that");
    let later = telling.next().await;
    assert_eq!((later.changes.len(), later.suppressed), (0, 3));
    telling.events.send(again(6)).await.unwrap();
    tokio::task::yield_now().await;
    let change = of(EndpointSlices, What::Apply(document(&slice("a", &["10.0.0.1"]))));
    telling.events.send(change).await.unwrap();
    let with = telling.next().await;
    assert_eq!((with.changes.len(), with.suppressed), (1, 1));
}
