//! The resources of a relay.

use std::collections::BTreeMap;
use std::sync::Arc;

use im::OrdMap;
use im::ordmap::DiffItem;
use rulec_compiler::Model;
use rulec_compiler::name::NodeName;
use rulec_compiler::object::{ClusterIps, Object, ObjectKey};

use crate::encode::encode;
use crate::fold::{fold, is_needed, named, nobody};
use crate::offer::{Known, Offer};
use crate::topic::Topic;

/// The bytes of a version in a request, and of what is around it and a name.
const KNOWN: usize = 36;

/// All resources at a moment. Clones share memory, so that each client can keep the state that it
/// has been sent: that is all that a relay remembers of it.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    topics: [OrdMap<Arc<str>, Entry>; Topic::ALL.len()],
}

/// An object and what is sent of it.
#[derive(Clone, Debug)]
struct Entry(Arc<Content>);

#[derive(Debug)]
struct Content {
    object: Object,
    /// What all nodes get that the object does not name.
    common: Offer,
    /// The nodes that get something else, sorted.
    named: Box<[NodeName]>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.object == other.0.object
    }
}

/// A resource that a node does not have, or not in this version; `None` if it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The type.
    pub topic: Topic,
    /// The name.
    pub name: Arc<str>,
    /// What there is now.
    pub offer: Option<Offer>,
}

impl Entry {
    fn new(topic: Topic, name: &str, object: Object) -> Self {
        let nobody = nobody();
        let common = Offer::new(topic, name, encode(&fold(&object, &nobody), &nobody));
        let named = named(&object);
        Self(Arc::new(Content { object, common, named }))
    }

    /// Returns what a node gets. A variant that only this node gets is not kept.
    fn offer(&self, topic: Topic, name: &str, node: &NodeName) -> Option<Offer> {
        let Content { object, common, named } = &*self.0;
        if !is_needed(object, node) {
            return None;
        }
        Some(match named.binary_search(node) {
            Ok(_) => Offer::new(topic, name, encode(&fold(object, node), node)),
            Err(_) => common.clone(),
        })
    }
}

impl Catalogue {
    /// Returns the resources of a model.
    pub fn of(model: &Model) -> Self {
        let mut catalogue = Self::default();
        catalogue.update(&Model::default(), model);
        catalogue
    }

    /// Takes over the differences between two models. Returns the number of resources that have
    /// changed.
    pub fn update(&mut self, old: &Model, new: &Model) -> usize {
        let mut changed = 0;
        for differing in old.differing(new) {
            let object = differing.new.map(|(_, sourced)| sourced.object);
            changed += usize::from(self.put(&differing.key, object));
        }
        changed
    }

    fn put(&mut self, key: &ObjectKey, object: Option<Object>) -> bool {
        let Some((topic, name)) = Topic::of(key) else { return false };
        let map = &mut self.topics[topic.index()];
        // A Service without an address is no resource of any node.
        let is_served = |object: &Object| match object {
            Object::Service(service) => service.cluster_ips != ClusterIps::default(),
            Object::EndpointSlice(_)
            | Object::Pod(_)
            | Object::Node(_)
            | Object::ServiceCidr(_)
            | Object::InterfaceAddresses(_) => true,
        };
        match object.filter(is_served) {
            Some(object) => {
                let entry = Entry::new(topic, &name, object);
                map.insert(name.into(), entry.clone()) != Some(entry)
            }
            None => map.remove(name.as_str()).is_some(),
        }
    }

    /// Returns the number of resources of a type.
    pub fn count(&self, topic: Topic) -> usize {
        self.topics[topic.index()].len()
    }

    /// Returns how many bytes of requests name each resource and its version once, or a little more.
    pub fn known_length(&self) -> usize {
        let names = self.topics.iter().flat_map(OrdMap::keys);
        names.map(|name| name.len() + KNOWN).sum()
    }

    /// Returns what has changed for a node since an earlier state, in the order of the types. The
    /// cost follows from the number of objects that have changed for anybody.
    pub fn since(&self, old: &Self, node: &NodeName) -> Vec<News> {
        Topic::ALL.into_iter().flat_map(|topic| self.topic_since(topic, old, node)).collect()
    }

    /// Returns the resources of one type that have changed for a node.
    pub fn topic_since(&self, topic: Topic, old: &Self, node: &NodeName) -> Vec<News> {
        let of = |name: &str, entry: &Entry| entry.offer(topic, name, node);
        let version = |offer: &Option<Offer>| offer.as_ref().map(|offer| offer.version);
        let differing = old.topics[topic.index()].diff(&self.topics[topic.index()]);
        let changed = differing.filter_map(|item| {
            let (name, before, now) = match item {
                DiffItem::Add(name, new) => (name, None, of(name, new)),
                DiffItem::Remove(name, old) => (name, of(name, old), None),
                DiffItem::Update { old: (name, old), new: (_, new) } => {
                    (name, of(name, old), of(name, new))
                }
            };
            let is_news = version(&before) != version(&now);
            is_news.then(|| News { topic, name: name.clone(), offer: now })
        });
        changed.collect()
    }

    /// Returns what a node lacks that has these resources from before.
    pub fn beside(&self, known: &Known, node: &NodeName) -> Vec<News> {
        let of = |(topic, known)| self.topic_beside(topic, known, node);
        Topic::ALL.into_iter().zip(known).flat_map(of).collect()
    }

    /// Returns the resources of one type that a node lacks, or has and should not.
    pub fn topic_beside(
        &self,
        topic: Topic,
        known: &BTreeMap<String, String>,
        node: &NodeName,
    ) -> Vec<News> {
        let map = &self.topics[topic.index()];
        let lacking = map.iter().filter_map(|(name, entry)| {
            let offer = entry.offer(topic, name, node)?;
            let is_known =
                known.get(&**name).is_some_and(|version| offer.version.is_written(version));
            (!is_known).then(|| News { topic, name: name.clone(), offer: Some(offer) })
        });
        let is_gone = |name: &&String| {
            let entry = map.get(name.as_str());
            entry.is_none_or(|it| !is_needed(&it.0.object, node))
        };
        let gone = known.keys().filter(is_gone);
        let gone = gone.map(|name| News { topic, name: name.as_str().into(), offer: None });
        lacking.chain(gone).collect()
    }
}
