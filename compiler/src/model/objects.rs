//! The objects of one kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use im::OrdMap;
use im::ordmap::DiffItem;

use crate::change::{Origin, Provenance, Sourced};
use crate::name::{Name, NamespacedName, NodeName};
use crate::object::{
    EndpointSlice, InterfaceAddresses, Node, Object, ObjectKey, Pod, Service, ServiceCidr,
};

/// An object and the place it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The object.
    pub object: Arc<T>,
    /// The source that has it.
    pub origin: Origin,
    /// The place it was read from.
    pub provenance: Provenance,
}

/// A kind of object: a type that a table can hold.
pub(super) trait Stored: Clone + PartialEq {
    /// The name, unique among objects of this kind.
    type Key: Clone + Ord;

    fn key(&self) -> Self::Key;

    /// Returns the name in a key of this kind.
    fn name_in(key: &ObjectKey) -> Option<&Self::Key>;

    fn object(object: Arc<Self>) -> Object;
}

/// A change of one object: what it was and what it is.
pub(super) struct Replaced<T> {
    pub(super) old: Option<Arc<T>>,
    pub(super) new: Option<Arc<T>>,
}

/// The objects of one kind, by name.
#[derive(Clone, Debug)]
pub(super) struct Objects<T: Stored>(OrdMap<T::Key, Entry<T>>);

impl<T: Stored> Default for Objects<T> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<T: Stored> Objects<T> {
    pub(super) fn get(&self, key: &T::Key) -> Option<&Entry<T>> {
        self.0.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.0.values()
    }

    /// Adds or replaces an object. Returns `None` if its meaning is unchanged.
    pub(super) fn insert(
        &mut self,
        origin: Origin,
        object: Arc<T>,
        provenance: Provenance,
    ) -> Option<Replaced<T>> {
        // What a source says again leaves the map as it is, so that older models go on sharing it.
        let is_known = |held: &Entry<T>| {
            (held.origin, &held.provenance) == (origin, &provenance) && *held.object == *object
        };
        if self.0.get(&object.key()).is_some_and(is_known) {
            return None;
        }
        let entry = Entry { object: Arc::clone(&object), origin, provenance };
        let old = self.0.insert(object.key(), entry).map(|old| old.object);
        let is_same = old.as_ref().is_some_and(|old| **old == *object);
        (!is_same).then_some(Replaced { old, new: Some(object) })
    }

    /// Removes an object, if there is one of this name.
    pub(super) fn remove(&mut self, key: &T::Key) -> Option<Replaced<T>> {
        let old = self.0.remove(key)?.object;
        Some(Replaced { old: Some(old), new: None })
    }
}

/// A table of any kind.
pub(super) trait AnyObjects {
    /// Returns the number of objects.
    fn len(&self) -> usize;

    /// Returns the number of objects of each source.
    fn origins(&self) -> BTreeMap<Origin, usize>;

    /// Returns all objects, in order of their names.
    fn sourced(&self) -> Box<dyn Iterator<Item = (Origin, Sourced)> + '_>;

    /// Returns an object.
    fn find(&self, key: &ObjectKey) -> Option<(Origin, Sourced)>;

    /// Returns the source that has an object.
    fn origin(&self, key: &ObjectKey) -> Option<Origin>;
}

/// An object that differs between two models: what it is in either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// Its identity.
    pub key: ObjectKey,
    /// The object in the first model, if it is there, and the source that has it.
    pub old: Option<(Origin, Sourced)>,
    /// The object in the second one.
    pub new: Option<(Origin, Sourced)>,
}

impl<T: Stored> Objects<T> {
    /// Adds the objects that differ in meaning. Parts that both share are not visited.
    pub(super) fn differing(&self, other: &Self, found: &mut Vec<Differing>) {
        let of = |entry: &Entry<T>| T::object(Arc::clone(&entry.object)).key();
        found.extend(self.0.diff(&other.0).filter_map(|item| match item {
            DiffItem::Add(_, new) => {
                Some(Differing { key: of(new), old: None, new: Some(sourced(new)) })
            }
            DiffItem::Remove(_, old) => {
                Some(Differing { key: of(old), old: Some(sourced(old)), new: None })
            }
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                (old.object != new.object).then(|| Differing {
                    key: of(new),
                    old: Some(sourced(old)),
                    new: Some(sourced(new)),
                })
            }
        }));
    }
}

impl<T: Stored> AnyObjects for Objects<T> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn origins(&self) -> BTreeMap<Origin, usize> {
        let mut counts = BTreeMap::new();
        for entry in self.iter() {
            *counts.entry(entry.origin).or_default() += 1;
        }
        counts
    }

    fn sourced(&self) -> Box<dyn Iterator<Item = (Origin, Sourced)> + '_> {
        Box::new(self.iter().map(sourced))
    }

    fn find(&self, key: &ObjectKey) -> Option<(Origin, Sourced)> {
        self.get(T::name_in(key)?).map(sourced)
    }

    fn origin(&self, key: &ObjectKey) -> Option<Origin> {
        self.get(T::name_in(key)?).map(|entry| entry.origin)
    }
}

/// Returns an object as its source has sent it.
pub(super) fn sourced<T: Stored>(entry: &Entry<T>) -> (Origin, Sourced) {
    let object = T::object(Arc::clone(&entry.object));
    (entry.origin, Sourced { object, provenance: entry.provenance.clone() })
}

/// Implements `Stored` for a kind whose key in `ObjectKey` is the field with this name.
macro_rules! tabled {
    ($kind:ident, $field:ident: $key:ty) => {
        impl Stored for $kind {
            type Key = $key;

            fn key(&self) -> $key {
                self.$field.clone()
            }

            fn name_in(key: &ObjectKey) -> Option<&$key> {
                if let ObjectKey::$kind(key) = key { Some(key) } else { None }
            }

            fn object(object: Arc<Self>) -> Object {
                Object::$kind(object)
            }
        }
    };
}

tabled!(Service, key: NamespacedName);
tabled!(EndpointSlice, key: NamespacedName);
tabled!(Pod, key: NamespacedName);
tabled!(Node, name: NodeName);
tabled!(ServiceCidr, name: Name);

/// There is one object of this kind.
impl Stored for InterfaceAddresses {
    type Key = ();

    fn key(&self) {}

    fn name_in(key: &ObjectKey) -> Option<&()> {
        (*key == ObjectKey::InterfaceAddresses).then_some(&())
    }

    fn object(object: Arc<Self>) -> Object {
        Object::InterfaceAddresses(object)
    }
}
