//! What a relay sends to a node is enough for the node, and no more than what it lacks.

#![allow(clippy::unwrap_used, reason = "a resource that cannot be read fails the law")]

use rulec_relay::discovery::{DeltaResponse, Resource};
use rulec_relay::{Catalogue, Known, News, Response, Topic, decode, fold, is_needed};

use super::ipvs::ipvs_settings;
use super::*;

/// A node of a relay: what it was sent, read again.
struct Receiver {
    node: NodeName,
    objects: BTreeMap<ObjectKey, Object>,
    known: Known,
    /// The state of the relay that it has.
    position: Catalogue,
}

impl Receiver {
    fn new(node: &str) -> Self {
        let (objects, known) = <(BTreeMap<_, _>, Known)>::default();
        Self { node: NodeName::from(node), objects, known, position: Catalogue::default() }
    }

    /// Takes over what it lacks. Returns how many resources these were.
    fn take(&mut self, news: &[News]) -> usize {
        for News { topic, name, offer } in news {
            let mut response = Response::new(*topic, "1");
            match offer {
                Some(offer) => response.add(offer),
                None => response.remove(name),
            }
            let bytes = response.finish(None);
            let response = <DeltaResponse as prost::Message>::decode(bytes).unwrap();
            let known = &mut self.known[topic.index()];
            for name in &response.removed {
                known.remove(name);
                self.objects.remove(&topic.key(name).unwrap());
            }
            for Resource { version, resource, name } in response.resources {
                let any = resource.unwrap();
                assert_eq!(any.type_url, topic.url());
                let object = decode(*topic, &name, &any.value, &self.node).unwrap();
                self.objects.insert(object.key(), object);
                known.insert(name, version);
            }
        }
        news.len()
    }

    /// Takes over a state. Returns how many resources differed.
    fn follow(&mut self, catalogue: &Catalogue) -> usize {
        let news = catalogue.since(&self.position, &self.node);
        self.position = catalogue.clone();
        self.take(&news)
    }

    /// Checks that it has what it needs of these objects, and nothing else.
    fn check(&self, all: &[Object], ipvs: &Settings) {
        let needed = all.iter().filter(|object| is_needed(object, &self.node));
        let expected: BTreeMap<ObjectKey, Object> =
            needed.map(|object| (object.key(), normal(fold(object, &self.node)))).collect();
        for key in expected.keys().chain(self.objects.keys()) {
            assert_eq!(self.objects.get(key), expected.get(key), "{key}");
        }
        for settings in [&*settings(), ipvs] {
            let settings = Arc::new(Settings { node_name: self.node.clone(), ..settings.clone() });
            let compile = |objects: Vec<Object>| {
                Program::compile(&model(&objects), Arc::clone(&settings), &State::default()).state()
            };
            // The Pods and interfaces of a node are known to other sources. An API server tells a
            // node of no other Node.
            let of_node = |object: &&Object| {
                if let Object::Node(it) = object { it.name == self.node } else { true }
            };
            let own = |object: &&Object| Topic::of(&object.key()).is_none();
            let whole = all.iter().filter(of_node).cloned().collect();
            let received = self.objects.values().chain(all.iter().filter(own));
            assert_eq!(compile(received.cloned().collect()), compile(whole), "{}", self.node);
        }
    }
}

fn networks(all: &[IpNet]) -> Vec<IpNet> {
    all.iter().map(IpNet::trunc).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Returns an object in normal form: a source masks and sorts what the generators do not.
fn normal(object: Object) -> Object {
    if let Object::Service(service) = &object {
        let source_ranges = networks(&service.source_ranges);
        return Object::Service(Arc::new(Service { source_ranges, ..Service::clone(service) }));
    }
    if let Object::ServiceCidr(range) = &object {
        let cidrs = networks(&range.cidrs);
        return Object::ServiceCidr(Arc::new(ServiceCidr { cidrs, ..ServiceCidr::clone(range) }));
    }
    object
}

proptest! {
    #![proptest_config(cases(4, seeds!("relay.txt")))]

    /// A node has the same program as if it had been told of all objects, whether it follows every
    /// change, or comes back later with what it had.
    #[test]
    fn what_is_sent_is_enough((list, batches) in history(), ipvs in ipvs_settings()) {
        let mut model = model(&list);
        let mut catalogue = Catalogue::of(&model);
        let mut nodes = [HERE, "there", "third"].map(Receiver::new);
        let mut late = Receiver::new(HERE);
        for node in &mut nodes {
            node.follow(&catalogue);
        }
        let news = catalogue.beside(&late.known, &late.node);
        late.take(&news);
        for batch in &batches {
            let old = model.clone();
            for change in batch {
                model.apply(Origin::Api, change.clone());
            }
            catalogue.update(&old, &model);
            for node in &mut nodes {
                node.follow(&catalogue);
            }
        }
        let all: Vec<Object> = model.objects().map(|it| it.object).collect();
        let news = catalogue.beside(&late.known, &late.node);
        late.take(&news);
        for node in nodes.iter().chain([&late]) {
            node.check(&all, &ipvs);
            // Another relay, which has read the same objects, has nothing for it.
            let other = Catalogue::of(&model);
            prop_assert_eq!(other.beside(&node.known, &node.node), []);
        }
        prop_assert_eq!(&nodes[0].known, &late.known);
    }

    /// What means the same to a node is not sent to it.
    #[test]
    fn what_changes_nothing_stays_away((list, batches) in history()) {
        let mut model = model(&list);
        let mut catalogue = Catalogue::of(&model);
        for change in batches.into_iter().flatten() {
            let (old, before) = (model.clone(), catalogue.clone());
            model.apply(Origin::Manifests, change);
            catalogue.update(&old, &model);
            for node in [HERE, "there", "third"].map(NodeName::from) {
                let of = |model: &Model| -> BTreeMap<ObjectKey, Object> {
                    let needed = model.objects().map(|it| it.object);
                    let needed = needed.filter(|object| is_needed(object, &node));
                    needed.map(|object| (object.key(), fold(&object, &node))).collect()
                };
                let differing = old.differing(&model).into_iter().map(|it| it.key);
                let (one, other) = (of(&old), of(&model));
                let differing = differing.filter(|key| one.get(key) != other.get(key)).count();
                prop_assert_eq!(catalogue.since(&before, &node).len(), differing);
            }
        }
    }
}

/// Bytes that are no message, or not a valid one, are an error that names the resource.
#[test]
fn garbage_is_refused_with_a_name() {
    let node = NodeName::from(HERE);
    let errors: Vec<String> = [
        (Topic::Services, "default/web", &b"\xff"[..]),
        (Topic::Services, "web", b""),
        (Topic::Services, "default/\"", b""),
        (Topic::Services, "default/web", b"\x08\x09"),
        (Topic::Services, "default/web", b"\x12\x04\x7f\0\0\x01"),
        (Topic::Services, "default/web", b"\x1a\0"),
        (Topic::Slices, "default/web", b"\x0a\x01w\x22\x03abc"),
        (Topic::Slices, "default/web", b"\x0a\x01w\x22\x04\x0a\0\0\x01\x2a\x01\x18"),
        (Topic::Slices, "default/web", b""),
        (Topic::Nodes, "here", b"\x0a\x01a"),
    ]
    .into_iter()
    .map(|(topic, name, value)| decode(topic, name, value, &node).unwrap_err().to_string())
    .collect();
    assert_eq!(
        errors,
        [
            "Service default/web: failed to decode Protobuf message: invalid varint",
            "Service web: this is not the name of an object",
            "Service default/\\\": this is not the name of an object",
            "Service default/web: kind: 9 is no type of Services",
            "Service default/web: cluster_ips[0]: 127.0.0.1 cannot be the address of a Service or \
             an endpoint",
            "Service default/web: ports[0].port: 0 is not in 1..65535",
            "EndpointSlice default/web: addresses: 3 bytes are no addresses",
            "EndpointSlice default/web: states[0]: 24 is no state",
            "EndpointSlice default/web: service: \"\" is not a name",
            "Node here: addresses[0]: 1 bytes are no address",
        ]
    );
}
