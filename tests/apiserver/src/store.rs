//! All objects and their history: the role of etcd.
//!
//! Every write makes one version, whatever its kind. The log of writes since the last compaction
//! allows to reconstruct every state in between, and the changes that a watch missed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::faults::Injection;
use crate::object;
use crate::resource::Resource;

/// The version of an empty store; no object has it.
const FIRST: u64 = 1;

/// The data that a server keeps over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Objects, versions and history. A real server loses its watch cache: call
    /// [`compact`](crate::ApiServer::compact) to imitate that.
    Kept,
    /// No objects; versions continue, and all earlier ones are compacted.
    Emptied,
    /// No objects, and versions begin again, as in another cluster, or one restored without care.
    Fresh,
}

/// The position of an object in a list. The order is that of etcd's keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self(if resource.namespaced() { format!("{namespace}/{name}") } else { name.to_owned() })
    }

    /// Returns the key of an object; `None` if it lacks a name that its kind needs.
    pub(crate) fn of(resource: Resource, object: &Value) -> Option<Self> {
        let text = |field: &str| object["metadata"][field].as_str().filter(|text| !text.is_empty());
        let namespace = if resource.namespaced() { text("namespace")? } else { "" };
        Some(Self::new(resource, namespace, text("name")?))
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> bool {
        self.0.split_once('/').is_some_and(|(own, _)| own == namespace)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One write: an object was created, changed or deleted.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: Resource,
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Value>>,
    pub(crate) after: Option<Arc<Value>>,
}

/// A message to an open watch.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Change(Arc<Change>),
    /// There were no relevant changes up to this version.
    Bookmark(u64),
    Inject(Injection),
}

/// The requested version was compacted; contains the oldest version that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compacted(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Store {
    version: u64,
    compacted: u64,
    objects: BTreeMap<(Resource, Key), Arc<Value>>,
    log: Vec<Arc<Change>>,
    watchers: Vec<(Resource, UnboundedSender<Message>)>,
    /// The number of objects ever created, for their uids.
    created: u64,
}

/// Objects of one kind, in order.
pub(crate) type Objects = BTreeMap<Key, Arc<Value>>;

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            version: FIRST,
            compacted: FIRST,
            objects: BTreeMap::new(),
            log: Vec::new(),
            watchers: Vec::new(),
            created: 0,
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Returns the oldest version that is left.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn get(&self, resource: Resource, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&(resource, key.clone()))
    }

    /// Creates or replaces an object, and returns it as stored.
    pub(crate) fn apply(&mut self, resource: Resource, key: Key, given: &Value) -> Arc<Value> {
        let place = (resource, key.clone());
        let before = self.objects.get(&place).cloned();
        if let Some(before) = &before
            && object::unchanged(before, given)
        {
            return Arc::clone(before);
        }
        if before.is_none() {
            self.created += 1;
        }
        self.version += 1;
        let after = Arc::new(object::stored(
            resource,
            given,
            before.as_deref(),
            self.version,
            self.created,
        ));
        self.objects.insert(place, Arc::clone(&after));
        self.record(resource, key, before, Some(Arc::clone(&after)));
        after
    }

    /// Deletes an object and returns the version of the deletion; `None` if there was no such
    /// object.
    pub(crate) fn delete(&mut self, resource: Resource, key: Key) -> Option<u64> {
        let before = self.objects.remove(&(resource, key.clone()))?;
        self.version += 1;
        self.record(resource, key, Some(before), None);
        Some(self.version)
    }

    /// Increases the version, as writes of kinds that are not served do.
    pub(crate) fn advance(&mut self, versions: u64) {
        self.version += versions;
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
        self.log.clear();
    }

    /// Restarts with the data that `what` says. Drops the open watches: their connections are
    /// closed on a restart.
    pub(crate) fn restart(&mut self, what: Restart) {
        self.watchers.clear();
        match what {
            Restart::Kept => {}
            Restart::Emptied => {
                self.objects.clear();
                self.version += 1;
                self.compact();
            }
            Restart::Fresh => *self = Self { created: self.created, ..Self::new() },
        }
    }

    /// Returns the objects of a kind as of a version, which must have been reached.
    pub(crate) fn snapshot(&self, resource: Resource, version: u64) -> Result<Objects, Compacted> {
        let missed = self.since(resource, version)?;
        let mut objects: Objects = self
            .objects
            .iter()
            .filter(|((kind, _), _)| *kind == resource)
            .map(|((_, key), object)| (key.clone(), Arc::clone(object)))
            .collect();
        for change in missed.into_iter().rev() {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }

    /// Returns the writes of a kind after a version.
    pub(crate) fn since(
        &self,
        resource: Resource,
        version: u64,
    ) -> Result<Vec<Arc<Change>>, Compacted> {
        if version < self.compacted {
            return Err(Compacted(self.compacted));
        }
        let after = self.log.iter().filter(|change| change.version > version);
        Ok(after.filter(|change| change.resource == resource).map(Arc::clone).collect())
    }

    /// Subscribes the watch to every write from now on.
    pub(crate) fn subscribe(&mut self, resource: Resource, watch: UnboundedSender<Message>) {
        self.watchers.push((resource, watch));
    }

    /// Sends a message to the watches of a kind, or of all, and returns their number.
    pub(crate) fn tell(&mut self, resource: Option<Resource>, message: &Message) -> usize {
        self.watchers.retain(|(_, watch)| !watch.is_closed());
        self.watchers
            .iter()
            .filter(|(kind, _)| resource.is_none_or(|wanted| wanted == *kind))
            .filter(|(_, watch)| watch.send(message.clone()).is_ok())
            .count()
    }

    fn record(
        &mut self,
        resource: Resource,
        key: Key,
        before: Option<Arc<Value>>,
        after: Option<Arc<Value>>,
    ) {
        let change = Arc::new(Change { version: self.version, resource, key, before, after });
        self.log.push(Arc::clone(&change));
        self.tell(Some(resource), &Message::Change(change));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(store: &mut Store, name: &str, label: &str) -> u64 {
        let given = json!({ "metadata": { "name": name, "labels": { "l": label } } });
        let stored = store.apply(Resource::Nodes, Key::new(Resource::Nodes, "", name), &given);
        stored["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    fn names(objects: &Objects) -> Vec<&str> {
        objects.keys().map(Key::as_str).collect()
    }

    #[test]
    fn every_past_state_is_available_until_compaction() {
        let mut store = Store::new();
        let first = node(&mut store, "a", "1");
        node(&mut store, "b", "1");
        let changed = node(&mut store, "a", "2");
        store.delete(Resource::Nodes, Key::new(Resource::Nodes, "", "b"));
        let label = |version| {
            let objects = store.snapshot(Resource::Nodes, version).unwrap();
            objects[&Key::new(Resource::Nodes, "", "a")]["metadata"]["labels"]["l"].clone()
        };
        assert_eq!(label(first), "1");
        assert_eq!(label(changed), "2");
        assert_eq!(names(&store.snapshot(Resource::Nodes, first).unwrap()), ["a"]);
        assert_eq!(names(&store.snapshot(Resource::Nodes, changed).unwrap()), ["a", "b"]);
        assert_eq!(names(&store.snapshot(Resource::Nodes, store.version()).unwrap()), ["a"]);

        store.compact();
        let now = store.version();
        assert_eq!(store.snapshot(Resource::Nodes, now - 1), Err(Compacted(now)));
        assert_eq!(names(&store.snapshot(Resource::Nodes, now).unwrap()), ["a"]);
    }

    #[test]
    fn an_update_without_effect_makes_no_version() {
        let mut store = Store::new();
        let first = node(&mut store, "a", "1");
        assert_eq!(node(&mut store, "a", "1"), first);
        assert_eq!(node(&mut store, "a", "2"), first + 1);
    }

    #[test]
    fn a_restart_can_keep_empty_or_reset_the_store() {
        let mut store = Store::new();
        let before = node(&mut store, "a", "1");
        store.restart(Restart::Kept);
        assert!(store.since(Resource::Nodes, before - 1).is_ok_and(|missed| missed.len() == 1));
        store.restart(Restart::Emptied);
        assert!(store.version() > before);
        assert!(store.snapshot(Resource::Nodes, store.version()).unwrap().is_empty());
        assert!(store.since(Resource::Nodes, before).is_err());
        store.restart(Restart::Fresh);
        assert_eq!(store.version(), FIRST);
    }
}
