//! What the server has, as it was last told: comparing by meaning.
//!
//! No connections, no clock. Invariant: between calls, `objects` is what the receiver of all changes
//! has, and it shares each object with us; unless they are of an earlier run and not told yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::object::{Object, ObjectKey};
use rulec_compiler::{Change, Provenance, Sourced};
use serde::{Deserialize, Serialize};

use super::saved::{Saved, SavedResource};
use super::{Event, Item, Resource, What};
use crate::decode::decode_known;
use crate::field::{Field, Text};
use crate::intern::Interner;
use crate::manifest::Document;
use crate::problem::{Problem, Problems, Severity};
use crate::update::Trigger;

/// What stands for a file in problems and provenances.
const PLACE: &str = "API server";

/// More problems than anyone reads, of objects that do not say which they are.
const MOST_NAMELESS: usize = 100;

/// Objects by key. A copy costs nothing, so that what is held can be saved beside the changes.
pub(crate) type Objects = im::OrdMap<ObjectKey, Object>;

/// What is known of all resources.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    services: Holding,
    endpoint_slices: Holding,
    nodes: Holding,
    service_cidrs: Holding,
    context: Context,
    /// Which cluster it is, as far as known.
    cluster: Option<String>,
    /// When what an earlier run has left was true.
    left_at: Option<Timestamp>,
    /// Whether that was told in place of what the server has.
    stood_in: bool,
}

/// What events brought.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) changes: Vec<Change>,
    /// What set off those of slices.
    pub(crate) triggers: Vec<Trigger>,
    /// Objects that were written to and mean the same.
    pub(crate) suppressed: u64,
}

#[derive(Debug)]
struct Context {
    interner: Interner,
    place: Arc<str>,
    problems: Problems,
}

/// What is known of one resource.
#[derive(Debug, Default)]
struct Holding {
    objects: Objects,
    /// What to watch from to learn what has changed since; nothing if that is not known.
    version: Option<String>,
    /// Whether the receiver has the objects.
    told: bool,
    /// Whether the objects are of an earlier run, and the server has not confirmed them.
    left: bool,
    faults: Faults,
    /// A list that is under way.
    listing: Option<Listing>,
    listed: bool,
    /// Whether it is not waited for: we may not see it, or it did not come.
    given_up: bool,
    /// Whether the server has said that there is none, and we were told what to say of it.
    absent: bool,
    /// Why nothing comes at the moment.
    obstacle: Option<Problem>,
}

#[derive(Debug, Default)]
struct Listing {
    objects: Objects,
    /// What was deleted while the list came.
    deleted: BTreeSet<ObjectKey>,
    triggers: Vec<Trigger>,
    faults: Faults,
}

/// What is wrong with objects, whether they are in use or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Faults {
    #[serde(with = "pairs")]
    named: BTreeMap<ObjectKey, Vec<Problem>>,
    /// Of objects that do not say which one they are.
    nameless: Vec<Problem>,
}

/// Texts have maps only of texts.
mod pairs {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{BTreeMap, ObjectKey, Problem};

    type Named = BTreeMap<ObjectKey, Vec<Problem>>;

    pub(super) fn serialize<S: Serializer>(named: &Named, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(named)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Named, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

/// What an object says.
struct Reading {
    key: Option<ObjectKey>,
    meaning: Meaning,
    problems: Vec<Problem>,
    trigger: Option<Trigger>,
}

enum Meaning {
    Object(Object),
    /// It cannot be used as it is.
    Broken,
    /// It is not meant for us.
    Nothing,
}

impl Default for Context {
    fn default() -> Self {
        Self { interner: Interner::default(), place: PLACE.into(), problems: Problems::default() }
    }
}

impl Holdings {
    /// Takes over what an earlier run has left. Nobody is told of it yet.
    pub(super) fn take_over(&mut self, mut saved: Saved) {
        self.cluster = saved.cluster.take();
        self.left_at = Some(saved.at);
        for resource in Resource::ALL {
            let Some(SavedResource { version, objects, faults, .. }) = saved.take(resource) else {
                continue;
            };
            self.context.problems.replace(&[], faults.problems());
            let left = Holding { objects, version, faults, left: true, ..Holding::default() };
            *self.of(resource).0 = left;
        }
    }

    /// Tells what an earlier run has left of what the server has not delivered. Says whether there is
    /// anything to do without the server.
    pub(crate) fn stand_in(&mut self, news: &mut News) -> bool {
        let is_enough = |holding: &Holding| holding.listed || holding.left;
        if self.is_complete() || ![&self.services, &self.endpoint_slices].into_iter().all(is_enough)
        {
            return false;
        }
        self.stood_in = true;
        for resource in Resource::ALL {
            let (holding, context) = self.of(resource);
            if holding.left {
                holding.tell(resource, context, news);
            }
        }
        true
    }

    /// When what was told was true, if it is an earlier run's and the server has not said more.
    pub(crate) fn stale(&self) -> Option<Timestamp> {
        let is_stale = |holding: &Holding| holding.left && holding.told && !holding.given_up;
        self.left_at.filter(|_| self.stood_in && self.all().into_iter().any(is_stale))
    }

    /// Whether all that is held is what the server has.
    pub(super) fn is_current(&self) -> bool {
        self.is_complete() && !self.all().into_iter().any(|it| it.left && !it.given_up)
    }

    /// Which cluster it is, if that is known.
    pub(super) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// Everything, to be saved.
    pub(super) fn saved(&self) -> Vec<SavedResource> {
        let listed = Resource::ALL.into_iter().zip(self.all()).filter(|(_, it)| it.listed);
        let saved = listed.map(|(resource, holding)| {
            let Holding { version, objects, faults, .. } = holding;
            // What is wrong with an object that does not say which one it is can only be listed again.
            let version = version.clone().filter(|_| faults.nameless.is_empty());
            SavedResource { resource, version, objects: objects.clone(), faults: faults.clone() }
        });
        saved.collect()
    }

    /// In the order of `Resource::ALL`.
    fn all(&self) -> [&Holding; Resource::ALL.len()] {
        [&self.services, &self.endpoint_slices, &self.nodes, &self.service_cidrs]
    }

    fn of(&mut self, resource: Resource) -> (&mut Holding, &mut Context) {
        let holding = match resource {
            Resource::Services => &mut self.services,
            Resource::EndpointSlices => &mut self.endpoint_slices,
            Resource::Nodes => &mut self.nodes,
            Resource::ServiceCidrs => &mut self.service_cidrs,
        };
        (holding, &mut self.context)
    }

    /// Takes in an event.
    pub(crate) fn take(&mut self, event: Event, news: &mut News) {
        let Event { resource, what } = event;
        if let What::Cluster(cluster) = what {
            self.cluster = cluster;
            return;
        }
        let has_required = self.has_required();
        let (holding, context) = self.of(resource);
        match what {
            What::Begin => holding.listing = Some(Listing::default()),
            What::Items(items) => holding.list(resource, items, context),
            What::End => holding.complete(resource, context, news),
            What::Apply(document) => holding.apply(resource, &document, context, news),
            What::Delete(document) => holding.delete(resource, &document, context, news),
            What::Resumed => holding.confirm(resource, context, news),
            What::Reached(version) => holding.version = Some(version),
            What::Cluster(_) => {}
            What::Fine => holding.hinder(None, context),
            What::Failing(reason) => {
                let lost = resource.is_required() && !holding.listed;
                let severity = if lost { Severity::Error } else { Severity::Warning };
                let message = format!("{resource}: {reason}");
                let problem = Problem::of_file(&context.place, severity, message);
                holding.hinder(Some(problem), context);
            }
            What::Absent(message) if holding.objects.is_empty() => {
                let problem = Problem::of_file(&context.place, Severity::Warning, message);
                holding.hinder(Some(problem), context);
                holding.absent = true;
            }
            What::Absent(_) => {}
            What::Refused(reason) => {
                let message = format!("{resource}: done without: {reason}");
                let problem = Problem::of_file(&context.place, Severity::Warning, message);
                holding.hinder(Some(problem), context);
                // A server that refuses everything is starting, and does not know the roles yet. One
                // that has given what is required means what it says.
                holding.given_up |= has_required;
            }
        }
    }

    /// Whether there has been a complete list of everything that must be there, and of what else was
    /// worth waiting for: the Node with an address, and the ServiceCIDRs. A restart must not take away
    /// what a list that comes a little later brings back.
    pub(crate) fn is_complete(&self) -> bool {
        let is_addressed =
            |object: &Object| matches!(object, Object::Node(node) if !node.addresses.is_empty());
        let node = self.nodes.given_up || self.nodes.objects.values().any(is_addressed);
        let service_cidrs = self.service_cidrs.given_up || self.service_cidrs.listed;
        self.stood_in || (self.has_required() && node && service_cidrs)
    }

    /// Whether nothing is missing but a Node that the server does not have.
    pub(crate) fn is_node_absent(&self) -> bool {
        self.nodes.absent && !self.nodes.given_up && self.has_required()
    }

    /// Does without the Node.
    pub(crate) fn do_without_node(&mut self) {
        self.nodes.given_up = true;
    }

    fn has_required(&self) -> bool {
        self.services.listed && self.endpoint_slices.listed
    }

    /// Whether nothing is missing but what can be done without.
    pub(crate) fn waits_for_optional(&self) -> bool {
        self.has_required() && !self.is_complete()
    }

    /// Does without what can be done without.
    pub(crate) fn lose_patience(&mut self) {
        self.nodes.given_up = true;
        self.service_cidrs.given_up = true;
    }

    /// Whether anything else is wrong than at the last call.
    pub(crate) fn problems_changed(&mut self) -> bool {
        self.context.problems.changed()
    }

    /// Everything that is wrong at the moment, in order of place.
    pub(crate) fn problems(&self) -> &OrdSet<Problem> {
        self.context.problems.all()
    }

    /// Drops what is left of objects that are gone.
    pub(crate) fn tidy(&mut self) {
        self.context.interner.tidy();
    }
}

impl Holding {
    fn hinder(&mut self, obstacle: Option<Problem>, context: &mut Context) {
        context.problems.replace(self.obstacle.as_slice(), obstacle.iter());
        self.obstacle = obstacle;
    }

    /// Notes what is wrong with an object now, if anything.
    fn note(&mut self, key: Option<ObjectKey>, problems: Vec<Problem>, context: &mut Context) {
        let [old, new] = self.faults.add(key, problems);
        context.problems.replace(&old, new.iter());
    }

    /// Takes in some items of a list.
    fn list(&mut self, resource: Resource, items: Vec<Item>, context: &mut Context) {
        let Some(listing) = &mut self.listing else { return };
        for item in items {
            let reading = match item {
                Ok(document) => context.read(resource, &document),
                Err(reason) => context.unreadable(resource, &reason),
            };
            match (reading.key.clone(), reading.meaning) {
                (Some(key), Meaning::Object(object)) => {
                    // The copy that is held is shared with whoever got it, so the new one is a waste.
                    let held = self.objects.get(&key).filter(|held| **held == object);
                    // What a first list holds has changed before anybody looked.
                    if held.is_none() && self.listed {
                        listing.triggers.extend(reading.trigger);
                    }
                    listing.objects.insert(key, held.cloned().unwrap_or(object));
                }
                (Some(key), Meaning::Broken) => {
                    if let Some(held) = self.objects.get(&key)
                        && !listing.deleted.contains(&key)
                    {
                        // A streaming list may have brought one that is good, and newer.
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
    fn complete(&mut self, resource: Resource, context: &mut Context, news: &mut News) {
        let Some(mut listing) = self.listing.take() else { return };
        if !listing.faults.nameless.is_empty() {
            // What does not say which object it is may be any that is missing now.
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
        // Until it is said what version the list is of. A server that has gone back counts anew.
        self.version = None;
        if self.objects != listing.objects {
            self.objects = listing.objects;
            self.told = false;
        }
        if !self.told {
            news.triggers.append(&mut listing.triggers);
            self.tell(resource, context, news);
        }
    }

    /// Tells of all objects, unless that was done.
    fn tell(&mut self, resource: Resource, context: &Context, news: &mut News) {
        if !std::mem::replace(&mut self.told, true) {
            let objects = self.objects.values().map(|object| context.sourced(object)).collect();
            news.changes.push(Change::Replace { kinds: resource.kinds(), objects });
        }
    }

    /// The server goes on from where an earlier run was: what that has left is as good as a list.
    fn confirm(&mut self, resource: Resource, context: &mut Context, news: &mut News) {
        self.listed = true;
        self.left = false;
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
                    news.changes.push(Change::Apply(context.sourced(&object)));
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

    /// The watch has come to the version of this object.
    fn reach(&mut self, document: &Document) {
        if let Field::Is(metadata) = &document.metadata
            && let Field::Is(version) = &metadata.resource_version
        {
            self.version = Some(version.to_string());
        }
    }

    fn remove(&mut self, key: &ObjectKey, news: &mut News) {
        if self.objects.remove(key).is_some() {
            news.changes.push(Change::Remove(key.clone()));
        }
    }
}

impl Faults {
    fn problems(&self) -> impl Iterator<Item = &Problem> + Clone {
        self.nameless.iter().chain(self.named.values().flatten())
    }

    /// Notes what is wrong with an object now, if anything. Returns what it takes the place of, and what
    /// was noted.
    fn add(&mut self, key: Option<ObjectKey>, problems: Vec<Problem>) -> [Vec<Problem>; 2] {
        match key {
            Some(key) if problems.is_empty() => {
                [self.named.remove(&key).unwrap_or_default(), problems]
            }
            Some(key) => [self.named.insert(key, problems.clone()).unwrap_or_default(), problems],
            None => {
                let room = MOST_NAMELESS.saturating_sub(self.nameless.len());
                let new: Vec<Problem> = problems.into_iter().take(room).collect();
                self.nameless.extend(new.iter().cloned());
                [Vec::new(), new]
            }
        }
    }
}

impl Context {
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

    /// An item that is no object at all.
    fn unreadable(&self, resource: Resource, reason: &str) -> Reading {
        let message = format!("{resource}: {reason}");
        let problems = vec![Problem::of_file(&self.place, Severity::Error, message)];
        Reading { key: None, meaning: Meaning::Broken, problems, trigger: None }
    }
}

/// What set off the last change of a slice, if that was noted. A note that cannot be read is none: nothing
/// depends on it.
fn trigger(document: &Document, object: &Object) -> Option<Trigger> {
    let Object::EndpointSlice(slice) = object else { return None };
    let Field::Is(metadata) = &document.metadata else { return None };
    let Field::Is(annotations) = &metadata.annotations else { return None };
    let Field::Is(noted) = &annotations.last_change_trigger_time else { return None };
    Some(Trigger { family: slice.family, at: noted.parse().ok()? })
}

/// What a field says, if it says something else.
fn other(field: &Field<Text>, wanted: &str) -> Option<String> {
    match field {
        Field::Absent => None,
        Field::Is(text) if **text == *wanted => None,
        Field::Is(text) => Some(format!("{text:?}")),
        Field::Wrong(found) => Some((*found).to_owned()),
    }
}
