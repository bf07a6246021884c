//! What the server has, as it was last told: comparing by meaning.
//!
//! No connections, no clock. Invariant: between calls, `objects` is what the receiver of all changes
//! has, and it shares each object with us.

use std::collections::BTreeMap;
use std::sync::Arc;

use rulec_compiler::object::{Object, ObjectKey};
use rulec_compiler::{Change, Provenance, Sourced};

use super::{Event, Item, Resource, What};
use crate::decode::decode_known;
use crate::field::{Field, Text};
use crate::intern::Interner;
use crate::manifest::Document;
use crate::problem::{Problem, Severity};
use crate::update::Trigger;

/// What stands for a file in problems and provenances.
const PLACE: &str = "API server";

/// More problems than anyone reads. They are sent as a whole each time that one changes.
const MOST_PROBLEMS: usize = 100;

/// What is known of all resources.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    services: Holding,
    endpoint_slices: Holding,
    nodes: Holding,
    service_cidrs: Holding,
    context: Context,
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
    problems_changed: bool,
}

/// What is known of one resource.
#[derive(Debug, Default)]
struct Holding {
    objects: BTreeMap<ObjectKey, Object>,
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
    objects: BTreeMap<ObjectKey, Object>,
    triggers: Vec<Trigger>,
    faults: Faults,
}

/// What is wrong with objects, whether they are in use or not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Faults {
    named: BTreeMap<ObjectKey, Vec<Problem>>,
    /// Of objects that do not say which one they are.
    nameless: Vec<Problem>,
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
        Self { interner: Interner::default(), place: PLACE.into(), problems_changed: false }
    }
}

impl Holdings {
    /// Takes in an event.
    pub(crate) fn take(&mut self, event: Event, news: &mut News) {
        let Event { resource, what } = event;
        let context = &mut self.context;
        let holding = match resource {
            Resource::Services => &mut self.services,
            Resource::EndpointSlices => &mut self.endpoint_slices,
            Resource::Nodes => &mut self.nodes,
            Resource::ServiceCidrs => &mut self.service_cidrs,
        };
        match what {
            What::Begin => holding.listing = Some(Listing::default()),
            What::Items(items) => holding.list(resource, items, context),
            What::End => holding.complete(resource, context, news),
            What::Apply(document) => holding.apply(resource, &document, context, news),
            What::Delete(document) => holding.delete(resource, &document, context, news),
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
                holding.given_up = true;
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
        self.has_required() && node && service_cidrs
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
        std::mem::take(&mut self.context.problems_changed)
    }

    /// Everything that is wrong at the moment, or the worst of it.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let holdings = [&self.services, &self.endpoint_slices, &self.nodes, &self.service_cidrs];
        let mut problems: Vec<&Problem> =
            holdings.into_iter().flat_map(Holding::problems).collect();
        problems.sort_unstable_by(|a, b| a.severity.cmp(&b.severity).then_with(|| a.cmp(b)));
        let more = problems.len().saturating_sub(MOST_PROBLEMS);
        problems.truncate(MOST_PROBLEMS);
        let mut problems: Vec<Problem> = problems.into_iter().cloned().collect();
        if more > 0 {
            let message = format!("{more} more problems");
            problems.push(Problem::of_file(&self.context.place, Severity::Warning, message));
        }
        problems.sort_unstable();
        problems
    }

    /// Drops what is left of objects that are gone.
    pub(crate) fn tidy(&mut self) {
        self.context.interner.tidy();
    }
}

impl Holding {
    fn problems(&self) -> impl Iterator<Item = &Problem> {
        let Faults { named, nameless } = &self.faults;
        self.obstacle.iter().chain(nameless).chain(named.values().flatten())
    }

    fn hinder(&mut self, obstacle: Option<Problem>, context: &mut Context) {
        if self.obstacle != obstacle {
            self.obstacle = obstacle;
            context.problems_changed = true;
        }
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
                    if let Some(held) = self.objects.get(&key) {
                        listing.objects.insert(key, held.clone());
                    }
                }
                (Some(_) | None, _) => {}
            }
            listing.faults.add(reading.key, reading.problems);
        }
    }

    /// Takes over a complete list.
    fn complete(&mut self, resource: Resource, context: &mut Context, news: &mut News) {
        let Some(mut listing) = self.listing.take() else { return };
        if !listing.faults.nameless.is_empty() {
            // What does not say which object it is may be any that is missing now.
            for (key, object) in &self.objects {
                listing.objects.entry(key.clone()).or_insert_with(|| object.clone());
            }
        }
        if self.faults != listing.faults {
            self.faults = listing.faults;
            context.problems_changed = true;
        }
        self.hinder(None, context);
        self.absent = false;
        let is_first = !std::mem::replace(&mut self.listed, true);
        if is_first || self.objects != listing.objects {
            self.objects = listing.objects;
            news.triggers.append(&mut listing.triggers);
            let objects = self.objects.values().map(|object| context.sourced(object)).collect();
            news.changes.push(Change::Replace { kinds: resource.kinds(), objects });
        }
    }

    fn apply(
        &mut self,
        resource: Resource,
        document: &Document,
        context: &mut Context,
        news: &mut News,
    ) {
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
        context.problems_changed |= self.faults.add(key, problems);
    }

    fn delete(
        &mut self,
        resource: Resource,
        document: &Document,
        context: &mut Context,
        news: &mut News,
    ) {
        let Some(key) = resource.key(document) else { return };
        self.remove(&key, news);
        context.problems_changed |= self.faults.add(Some(key), Vec::new());
    }

    fn remove(&mut self, key: &ObjectKey, news: &mut News) {
        if self.objects.remove(key).is_some() {
            news.changes.push(Change::Remove(key.clone()));
        }
    }
}

impl Faults {
    /// Notes what is wrong with an object now, if anything; says whether that is news.
    fn add(&mut self, key: Option<ObjectKey>, problems: Vec<Problem>) -> bool {
        match key {
            Some(key) if problems.is_empty() => self.named.remove(&key).is_some(),
            Some(key) => {
                let news = self.named.get(&key) != Some(&problems);
                self.named.insert(key, problems);
                news
            }
            None => {
                let room = MOST_PROBLEMS.saturating_sub(self.nameless.len());
                let before = self.nameless.len();
                self.nameless.extend(problems.into_iter().take(room));
                before != self.nameless.len()
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
