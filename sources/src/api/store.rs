//! The objects of the server as last received, compared by meaning.
//!
//! There are no connections and no clock in here. Invariant: between calls, `objects` is what the
//! receiver of all changes has, and the receiver shares each object with us; except for objects of
//! an earlier run that were not sent yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::object::{Object, ObjectKey};
use rulec_compiler::{Change, Provenance, Sourced};
use rulec_relay::Position;

use super::faults::Faults;
use super::record::{Objects, Saved, SavedResource};
use super::{Event, Item, Resource, What};
use crate::decode::decode_known;
use crate::decode::document::Document;
use crate::decode::field::{Field, Text};
use crate::decode::intern::Interner;
use crate::problem::{Problem, Problems, Severity};
use crate::update::{Positions, Trigger};

/// The name that stands for a file in problems and provenances.
const PLACE: &str = "API server";

/// The known objects of all resources.
#[derive(Debug, Default)]
pub(crate) struct Store {
    services: ResourceStore,
    endpoint_slices: ResourceStore,
    nodes: ResourceStore,
    service_cidrs: ResourceStore,
    context: Context,
    /// The uid of the cluster, if known.
    cluster: Option<String>,
    /// When the state of an earlier run was current.
    left_at: Option<Timestamp>,
    /// Whether that state was sent in place of the server's objects.
    stood_in: bool,
}

/// The results of events.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) changes: Vec<Change>,
    /// The triggers of changes of slices.
    pub(crate) triggers: Vec<Trigger>,
    /// The number of objects that were written to and mean the same.
    pub(crate) suppressed: u64,
}

#[derive(Debug)]
struct Context {
    interner: Interner,
    place: Arc<str>,
    problems: Problems,
}

/// The known objects of one resource.
#[derive(Debug, Default)]
struct ResourceStore {
    objects: Objects,
    /// The version of the last change or list; `None` if it is not known.
    changed: Option<String>,
    /// The version of a bookmark after that.
    bookmark: Option<String>,
    /// Whether the receiver has the objects.
    told: bool,
    /// Whether the objects are from an earlier run, and the server has not confirmed them.
    left: bool,
    /// Whether the server continues from the position of an earlier run, so that it is the same one.
    resumed: bool,
    faults: Faults,
    /// A list that is being received.
    listing: Option<Listing>,
    listed: bool,
    /// Whether it is not waited for: we lack the permission, or it did not come in time.
    given_up: bool,
    /// Whether the server has said that there is no such object, and the message about that was
    /// sent.
    absent: bool,
    /// Why no events come at the moment.
    obstacle: Option<Problem>,
}

#[derive(Debug, Default)]
struct Listing {
    objects: Objects,
    /// The objects that were deleted while the list was received.
    deleted: BTreeSet<ObjectKey>,
    triggers: Vec<Trigger>,
    faults: Faults,
}

/// The result of reading an object.
struct Reading {
    key: Option<ObjectKey>,
    meaning: Meaning,
    problems: Vec<Problem>,
    trigger: Option<Trigger>,
}

enum Meaning {
    Object(Object),
    /// It is invalid.
    Broken,
    /// It is not meant for us.
    Nothing,
}

impl Default for Context {
    fn default() -> Self {
        Self { interner: Interner::default(), place: PLACE.into(), problems: Problems::default() }
    }
}

impl Store {
    /// Takes over the state of an earlier run, without sending it yet.
    pub(super) fn take_over(&mut self, mut saved: Saved) {
        self.cluster = saved.cluster.take();
        self.left_at = Some(saved.at);
        for resource in Resource::ALL {
            let Some(SavedResource { version, objects, faults, .. }) = saved.take(resource) else {
                continue;
            };
            self.context.problems.replace(&[], faults.problems());
            let left = ResourceStore { objects, faults, left: true, ..ResourceStore::default() };
            let left = ResourceStore { changed: version, ..left };
            *self.of(resource).0 = left;
        }
    }

    /// Sends the state of an earlier run for the resources that the server has not delivered.
    /// Returns false if that is not needed or not enough to serve.
    pub(crate) fn stand_in(&mut self, news: &mut News) -> bool {
        let is_enough = |it: &ResourceStore| it.listed || it.left;
        if self.is_complete() || ![&self.services, &self.endpoint_slices].into_iter().all(is_enough)
        {
            return false;
        }
        self.stood_in = true;
        for resource in Resource::ALL {
            let (resource_store, context) = self.of(resource);
            if resource_store.left {
                resource_store.tell(resource, context, news);
            }
        }
        true
    }

    /// Returns when the sent state was current, if it is from an earlier run and the server has not
    /// replaced all of it.
    pub(crate) fn stale(&self) -> Option<Timestamp> {
        let is_stale = |it: &ResourceStore| it.left && it.told && !it.given_up;
        self.left_at.filter(|_| self.stood_in && self.all().into_iter().any(is_stale))
    }

    /// Returns whether all objects are those of the server.
    fn is_current(&self) -> bool {
        self.is_complete() && !self.all().into_iter().any(|it| it.left && !it.given_up)
    }

    /// Returns since when the objects are known to be current, if they are to be saved: all of them
    /// are the server's, or some are and those of an earlier run stand in for the rest. The kernel
    /// has these together, and a start must not go back behind it.
    pub(super) fn current_at(&self) -> Option<Timestamp> {
        if self.is_current() {
            return Some(Timestamp::now());
        }
        let is_mixed = self.stood_in && self.all().into_iter().any(|it| it.listed);
        self.left_at.filter(|_| is_mixed)
    }

    /// Returns the uid of the cluster, if known.
    pub(super) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Returns how much of the server's changes was taken in; `None` before everything is listed or
    /// given up.
    pub(super) fn positions(&self) -> Option<Positions> {
        if !self.all().into_iter().all(|it| it.listed || it.given_up) {
            return None;
        }
        let position = |of: fn(&ResourceStore) -> Option<&String>| Position {
            cluster: self.cluster.clone(),
            versions: self.all().map(|it| {
                let version = of(it).filter(|_| it.listed);
                version.and_then(|version| version.parse().ok())
            }),
        };
        Some(Positions {
            seen: position(ResourceStore::version),
            changed: position(|it| it.changed.as_ref()),
            unread: self.all().map(|it| !it.listed),
        })
    }

    /// Returns all objects, to be saved.
    pub(super) fn saved(&self) -> Vec<SavedResource> {
        let is_kept = |it: &ResourceStore| it.listed || it.left && !it.given_up;
        let kept = Resource::ALL.into_iter().zip(self.all()).filter(|(_, it)| is_kept(it));
        // A list may be of another server, which does not know what an earlier run has reached.
        let is_same = !self.all().into_iter().any(|it| it.listed && !it.resumed);
        let saved = kept.map(|(resource, resource_store)| {
            let ResourceStore { objects, faults, left, .. } = resource_store;
            // The problem of an object whose name cannot be read is found again only by a list.
            let is_usable = faults.nameless.is_empty() && (!left || is_same);
            let version = resource_store.version().cloned().filter(|_| is_usable);
            SavedResource { resource, version, objects: objects.clone(), faults: faults.clone() }
        });
        saved.collect()
    }

    /// Returns all store in the order of `Resource::ALL`.
    fn all(&self) -> [&ResourceStore; Resource::ALL.len()] {
        [&self.services, &self.endpoint_slices, &self.nodes, &self.service_cidrs]
    }

    fn of(&mut self, resource: Resource) -> (&mut ResourceStore, &mut Context) {
        let resource_store = match resource {
            Resource::Services => &mut self.services,
            Resource::EndpointSlices => &mut self.endpoint_slices,
            Resource::Nodes => &mut self.nodes,
            Resource::ServiceCidrs => &mut self.service_cidrs,
        };
        (resource_store, &mut self.context)
    }

    /// Processes an event.
    pub(crate) fn take(&mut self, event: Event, news: &mut News) {
        let Event { resource, what } = event;
        if let What::Cluster(cluster) = what {
            self.cluster = cluster;
            return;
        }
        let has_required = self.has_required();
        let (resource_store, context) = self.of(resource);
        match what {
            What::Begin => resource_store.listing = Some(Listing::default()),
            What::Items(items) => resource_store.list(resource, items, context),
            What::End(version) => resource_store.complete(resource, version, context, news),
            What::Apply(document) => resource_store.apply(resource, &document, context, news),
            What::Delete(document) => resource_store.delete(resource, &document, context, news),
            What::Resumed => resource_store.confirm(resource, context, news),
            What::Reached(version) => resource_store.bookmark = Some(version),
            What::Cluster(_) => {}
            What::Fine => resource_store.hinder(None, context),
            What::Failing(reason) => {
                let lost = resource.is_required() && !resource_store.listed;
                let severity = if lost { Severity::Error } else { Severity::Warning };
                let message = format!("{resource}: {reason}");
                let problem = Problem::of_file(&context.place, severity, message);
                resource_store.hinder(Some(problem), context);
            }
            What::Absent(message) if resource_store.objects.is_empty() => {
                let problem = Problem::of_file(&context.place, Severity::Warning, message);
                resource_store.hinder(Some(problem), context);
                resource_store.absent = true;
            }
            What::Absent(_) => {}
            What::Refused(reason) => {
                let message = format!("{resource}: refused, continuing without: {reason}");
                let problem = Problem::of_file(&context.place, Severity::Warning, message);
                // Whoever compares misses them.
                let problem = Problem { skips: true, ..problem };
                resource_store.hinder(Some(problem), context);
                // A server that refuses everything is starting, and does not know the roles yet.
                // One that has delivered the required resources knows them, so its refusal counts.
                resource_store.given_up |= has_required;
            }
        }
    }

    /// Returns whether there has been a complete list of all required resources, and of the
    /// optional ones that are worth waiting for: the Node with an address, and the ServiceCIDRs. A
    /// restart must not remove what a list that comes a little later would add again.
    pub(crate) fn is_complete(&self) -> bool {
        let is_addressed =
            |object: &Object| matches!(object, Object::Node(node) if !node.addresses.is_empty());
        let node = self.nodes.given_up || self.nodes.objects.values().any(is_addressed);
        let service_cidrs = self.service_cidrs.given_up || self.service_cidrs.listed;
        self.stood_in || (self.has_required() && node && service_cidrs)
    }

    /// Returns whether only a Node is missing that does not exist on the server.
    pub(crate) fn is_node_absent(&self) -> bool {
        self.nodes.absent && !self.nodes.given_up && self.has_required()
    }

    /// Continues without the Node.
    pub(crate) fn do_without_node(&mut self) {
        self.nodes.given_up = true;
    }

    fn has_required(&self) -> bool {
        self.services.listed && self.endpoint_slices.listed
    }

    /// Returns whether only optional resources are missing.
    pub(crate) fn waits_for_optional(&self) -> bool {
        self.has_required() && !self.is_complete()
    }

    /// Continues without the optional resources.
    pub(crate) fn lose_patience(&mut self) {
        self.nodes.given_up = true;
        self.service_cidrs.given_up = true;
    }

    /// Returns whether the problems differ from those at the last call.
    pub(crate) fn problems_changed(&mut self) -> bool {
        self.context.problems.changed()
    }

    /// Returns all current problems, in order of place.
    pub(crate) fn problems(&self) -> &OrdSet<Problem> {
        self.context.problems.all()
    }

    /// Drops unused strings of objects that are gone.
    pub(crate) fn tidy(&mut self) {
        self.context.interner.tidy();
    }
}

impl ResourceStore {
    /// Returns the version to watch from for changes since, if it is known.
    fn version(&self) -> Option<&String> {
        self.bookmark.as_ref().or(self.changed.as_ref())
    }

    fn hinder(&mut self, obstacle: Option<Problem>, context: &mut Context) {
        context.problems.replace(self.obstacle.as_slice(), obstacle.iter());
        self.obstacle = obstacle;
    }

    /// Records the current problems of an object, if any.
    fn note(&mut self, key: Option<ObjectKey>, problems: Vec<Problem>, context: &mut Context) {
        let [old, new] = self.faults.add(key, problems);
        context.problems.replace(&old, new.iter());
    }

    /// Processes some items of a list.
    fn list(&mut self, resource: Resource, items: Vec<Item>, context: &mut Context) {
        let Some(listing) = &mut self.listing else { return };
        for item in items {
            let reading = match item {
                Ok(document) => context.read(resource, &document),
                Err(reason) => context.unreadable(resource, &reason),
            };
            match (reading.key.clone(), reading.meaning) {
                (Some(key), Meaning::Object(object)) => {
                    // The receiver shares the held copy, so keeping the new one would waste memory.
                    let held = self.objects.get(&key).filter(|held| **held == object);
                    // Objects of a first list have changed before we started to look.
                    if held.is_none() && self.listed {
                        listing.triggers.extend(reading.trigger);
                    }
                    listing.objects.insert(key, held.cloned().unwrap_or(object));
                }
                (Some(key), Meaning::Broken) => {
                    if let Some(held) = self.objects.get(&key)
                        && !listing.deleted.contains(&key)
                    {
                        // A streaming list may have brought a valid version, which is newer.
                        listing.objects.entry(key).or_insert_with(|| held.clone());
                    }
                }
                (Some(key), Meaning::Nothing) => {
                    listing.objects.remove(&key);
                }
                (None, _) => {}
            }
            listing.faults.add(reading.key, reading.problems);
        }
    }

    /// Takes over a complete list.
    fn complete(
        &mut self,
        resource: Resource,
        version: Option<String>,
        context: &mut Context,
        news: &mut News,
    ) {
        let Some(mut listing) = self.listing.take() else { return };
        if !listing.faults.nameless.is_empty() {
            // An object whose name cannot be read may be any of those that are missing now.
            let kept = self.objects.iter().filter(|(key, _)| !listing.deleted.contains(*key));
            for (key, object) in kept {
                listing.objects.entry(key.clone()).or_insert_with(|| object.clone());
            }
        }
        if self.faults != listing.faults {
            let old: Vec<Problem> = self.faults.problems().cloned().collect();
            self.faults = listing.faults;
            context.problems.replace(&old, self.faults.problems());
        }
        self.hinder(None, context);
        self.absent = false;
        self.listed = true;
        self.left = false;
        self.resumed = false;
        // A server that has gone back has older versions than before.
        self.changed = version;
        self.bookmark = None;
        if self.objects != listing.objects {
            self.objects = listing.objects;
            self.told = false;
        }
        if !self.told {
            news.triggers.append(&mut listing.triggers);
            self.tell(resource, context, news);
        }
    }

    /// Sends all objects, unless that was done.
    fn tell(&mut self, resource: Resource, context: &Context, news: &mut News) {
        if !std::mem::replace(&mut self.told, true) {
            let objects = self.objects.values().map(|object| context.sourced(object)).collect();
            news.changes.push(Change::Replace { kinds: resource.kinds(), objects });
        }
    }

    /// Notes that the server continues from the position of an earlier run: the saved objects count
    /// as a list.
    fn confirm(&mut self, resource: Resource, context: &mut Context, news: &mut News) {
        self.listed = true;
        self.left = false;
        self.resumed = true;
        self.hinder(None, context);
        self.tell(resource, context, news);
    }

    fn apply(
        &mut self,
        resource: Resource,
        document: &Document,
        context: &mut Context,
        news: &mut News,
    ) {
        self.reach(document);
        let Reading { key, meaning, problems, trigger } = context.read(resource, document);
        match (&key, meaning) {
            (Some(key), Meaning::Object(object)) => {
                if self.objects.get(key) == Some(&object) {
                    news.suppressed += 1;
                } else {
                    self.objects.insert(key.clone(), object.clone());
                    if std::mem::take(&mut self.absent) {
                        self.hinder(None, context);
                    }
                    news.changes.push(Change::Apply(context.versioned(&object, document)));
                    news.triggers.extend(trigger);
                }
            }
            (Some(key), Meaning::Nothing) => self.remove(key, news),
            (Some(_) | None, _) => {}
        }
        self.note(key, problems, context);
    }

    fn delete(
        &mut self,
        resource: Resource,
        document: &Document,
        context: &mut Context,
        news: &mut News,
    ) {
        self.reach(document);
        let Some(key) = resource.key(document) else { return };
        if let Some(listing) = &mut self.listing {
            listing.objects.remove(&key);
            listing.faults.add(Some(key.clone()), Vec::new());
            listing.deleted.insert(key);
            return;
        }
        self.remove(&key, news);
        self.note(Some(key), Vec::new(), context);
    }

    /// Notes that the watch has reached the version of this object.
    fn reach(&mut self, document: &Document) {
        if let Some(version) = version(document) {
            self.changed = Some(version);
            self.bookmark = None;
        }
    }

    fn remove(&mut self, key: &ObjectKey, news: &mut News) {
        if self.objects.remove(key).is_some() {
            news.changes.push(Change::Remove(key.clone()));
        }
    }
}

/// Returns the version of an object.
fn version(document: &Document) -> Option<String> {
    let Field::Is(metadata) = &document.metadata else { return None };
    if let Field::Is(version) = &metadata.resource_version {
        Some(version.to_string())
    } else {
        None
    }
}

impl Context {
    /// Returns an object with the version in which the server has sent it, so that its change can be
    /// found in logs of the server. Objects of lists have none: a version for each would take much
    /// memory, and says little of what has changed.
    fn versioned(&self, object: &Object, document: &Document) -> Sourced {
        let mut sourced = self.sourced(object);
        if let Some(version) = version(document) {
            let place = format!("{}, resourceVersion {version}", self.place);
            sourced.provenance = Provenance(place.into());
        }
        sourced
    }

    fn sourced(&self, object: &Object) -> Sourced {
        Sourced { object: object.clone(), provenance: Provenance(self.place.clone()) }
    }

    /// Reads an object of a resource.
    fn read(&mut self, resource: Resource, document: &Document) -> Reading {
        let key = resource.key(document);
        let (version, kind) = resource.stated();
        if let Some(found) = other(&document.kind, kind).or(other(&document.api_version, version)) {
            let name = key.as_ref().map(ToString::to_string);
            let message = format!("expected {kind} of {version}, found {found}");
            let problem = Problem::of_file(&self.place, Severity::Error, message);
            let problems = vec![Problem { object: name, ..problem }];
            return Reading { key, meaning: Meaning::Broken, problems, trigger: None };
        }
        let mut decoded = decode_known(&self.place, document, (version, kind), &mut self.interner);
        let problems = decoded.problems;
        match decoded.objects.pop() {
            Some(object) => {
                let (key, trigger) = (Some(object.key()), trigger(document, &object));
                Reading { key, meaning: Meaning::Object(object), problems, trigger }
            }
            None if decoded.nameless || !decoded.broken.is_empty() => {
                Reading { key, meaning: Meaning::Broken, problems, trigger: None }
            }
            None => Reading { key, meaning: Meaning::Nothing, problems, trigger: None },
        }
    }

    /// Returns the reading of an item that cannot be parsed.
    fn unreadable(&self, resource: Resource, reason: &str) -> Reading {
        let message = format!("{resource}: {reason}");
        let problems = vec![Problem::of_file(&self.place, Severity::Error, message)];
        Reading { key: None, meaning: Meaning::Broken, problems, trigger: None }
    }
}

/// Returns what triggered the last change of a slice, if that was noted. An invalid note is
/// ignored, since nothing depends on it.
fn trigger(document: &Document, object: &Object) -> Option<Trigger> {
    let Object::EndpointSlice(slice) = object else { return None };
    let Field::Is(metadata) = &document.metadata else { return None };
    let Field::Is(annotations) = &metadata.annotations else { return None };
    let Field::Is(noted) = &annotations.last_change_trigger_time else { return None };
    Some(Trigger { family: slice.family, at: noted.parse().ok()? })
}

/// Returns the content of a field, if it differs from the wanted text.
fn other(field: &Field<Text>, wanted: &str) -> Option<String> {
    match field {
        Field::Absent => None,
        Field::Is(text) if **text == *wanted => None,
        Field::Is(text) => Some(format!("{text:?}")),
        Field::Wrong(found) => Some((*found).to_owned()),
    }
}
