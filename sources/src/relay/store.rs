//! The resources as last received, and what of them is new.
//!
//! There are no connections and no clock in here. Responses are gathered until a position says that
//! they are a whole, and are then used at once. Invariant: between calls, `objects` is what the
//! receiver of all changes has, except for objects of an earlier run that were not sent yet.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::name::NodeName;
use rulec_compiler::object::{Kind, Object, ObjectKey};
use rulec_compiler::{Change, Provenance, Sourced};
use rulec_relay::discovery::{DeltaResponse, Resource};
use rulec_relay::{Known, Position, Standing, Topic, decode, is_needed};

use super::fault::Fault;
use super::saved::{AllVersions, Saved, Whole};
use crate::api::Objects;
use crate::problem::{Problem, Problems, Severity};

/// The name that stands for a file in problems and provenances.
const PLACE: &str = "relay";

/// The kinds of all resources.
pub(super) const KINDS: &[Kind] =
    &[Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];

pub(super) struct Store {
    node: NodeName,
    place: Arc<str>,
    objects: Objects,
    versions: AllVersions,
    /// What has come since the last position.
    gathered: Vec<Gathered>,
    changes: Vec<Change>,
    problems: Problems,
    /// Why resources cannot be used.
    broken: BTreeMap<(Topic, String), Problem>,
    /// Why nothing comes at the moment.
    obstacle: Option<Problem>,
    /// Whether the receiver has the objects.
    told: bool,
    /// Whether it has newer ones from elsewhere, until the relay has caught up.
    left: bool,
    /// How much of the API server's changes the objects have.
    floor: Position,
    /// Whether some of them may be from manifests of the relay.
    has_manifests: bool,
    /// What the relay of this connection was asked to know before it sends anything.
    asked: Position,
    /// Where it stands.
    standing: Standing,
    /// The types of which the relay is told nothing, so that it sends all of them.
    anew: [bool; Topic::ALL.len()],
    /// Whether this connection has sent everything once.
    current: bool,
    /// Whether any has.
    listed: bool,
    /// Whether the Node is not waited for.
    given_up: bool,
    /// When the state of an earlier run was current, and whether it was sent.
    left_at: Option<Timestamp>,
    stood_in: bool,
}

/// A resource that has come, or that is gone.
struct Gathered {
    topic: Topic,
    name: String,
    what: What,
}

enum What {
    Object(Object, String),
    Broken(Problem),
    Gone,
}

impl Store {
    pub(super) fn new(node: NodeName) -> Self {
        Self {
            node,
            place: PLACE.into(),
            objects: Objects::new(),
            versions: Default::default(),
            gathered: Vec::new(),
            changes: Vec::new(),
            problems: Problems::default(),
            broken: BTreeMap::new(),
            obstacle: None,
            told: false,
            left: false,
            floor: Position::default(),
            has_manifests: false,
            asked: Position::default(),
            standing: Standing::default(),
            anew: Default::default(),
            current: false,
            listed: false,
            given_up: false,
            left_at: None,
            stood_in: false,
        }
    }

    /// Takes over the state of an earlier run, without sending it yet.
    pub(super) fn take_over(&mut self, saved: Saved) {
        self.left_at = Some(saved.at);
        let standing = Standing::parse(&saved.standing).unwrap_or_default();
        self.floor = standing.position;
        self.has_manifests = standing.has_manifests;
        self.objects = saved.objects;
        for (topic, versions) in Topic::ALL.into_iter().zip(saved.versions) {
            // A version without its object would keep the object away.
            let held = versions.into_iter().filter(|(name, _)| {
                topic.key(name).is_some_and(|key| self.objects.contains_key(&key))
            });
            self.versions[topic.index()] = held.collect();
        }
        // What is held is known to the relay by its name, if its version is another program's: it
        // sends it again, or says that it is gone.
        for (topic, name) in self.objects.keys().filter_map(Topic::of) {
            self.versions[topic.index()].entry(name).or_default();
        }
    }

    /// Returns how many resources could not be read and have no last good version.
    pub(super) fn unread(&self) -> usize {
        let is_held = |(topic, name): &(Topic, String)| {
            topic.key(name).is_some_and(|key| self.objects.contains_key(&key))
        };
        self.broken.keys().filter(|part| !is_held(part)).count()
    }

    /// Returns everything, to be saved.
    pub(super) fn saved(&self) -> Whole {
        Whole {
            objects: self.objects.clone(),
            versions: self.versions.clone(),
            standing: Standing {
                position: self.floor.clone(),
                has_manifests: self.has_manifests,
                ..Standing::default()
            },
        }
    }

    /// Sends the state of an earlier run. Returns false if that is not needed.
    pub(super) fn stand_in(&mut self) -> bool {
        if self.listed || self.left_at.is_none() {
            return false;
        }
        self.stood_in = true;
        self.replace();
        true
    }

    /// Returns when the sent state was current, if it is from an earlier run.
    pub(super) fn stale(&self) -> Option<Timestamp> {
        self.left_at.filter(|_| self.stood_in && !self.listed)
    }

    /// Returns the resources that need not be sent again.
    pub(super) fn known(&self) -> Known {
        Topic::ALL.map(|topic| {
            let all = self.versions[topic.index()].iter().filter(|_| !self.anew[topic.index()]);
            all.map(|(name, version)| (name.clone(), version.clone())).collect()
        })
    }

    /// Asks for everything on the next connection, for a relay that does not want to know what there is
    /// here. What it does not send then is gone.
    pub(super) fn start_over(&mut self) {
        self.anew = [true; Topic::ALL.len()];
    }

    /// Adds what is gone of the types that were sent as a whole.
    fn complete_anew(&mut self, gathered: &mut Vec<Gathered>) {
        for topic in Topic::ALL {
            let is_sent = !self.standing.position.is_behind(&self.asked, topic);
            if !is_sent || !mem::take(&mut self.anew[topic.index()]) {
                continue;
            }
            let sent: BTreeSet<&str> =
                gathered.iter().filter(|it| it.topic == topic).map(|it| it.name.as_str()).collect();
            let held = self.objects.keys().filter_map(Topic::of);
            let gone = held.filter(|(of, name)| *of == topic && !sent.contains(name.as_str()));
            let gone: Vec<Gathered> =
                gone.map(|(topic, name)| Gathered { topic, name, what: What::Gone }).collect();
            gathered.extend(gone);
        }
    }

    /// Notes that a connection begins: what the last one has left unfinished is dropped.
    pub(super) fn begin(&mut self, asked: Position) {
        self.asked = asked;
        self.abandon();
    }

    fn abandon(&mut self) {
        self.gathered.clear();
        self.standing = Standing::default();
        self.current = false;
    }

    /// Notes why nothing comes, and whether something else serves meanwhile.
    pub(super) fn hinder(&mut self, reason: &str, is_served: bool) {
        self.abandon();
        let severity = if self.listed || is_served { Severity::Warning } else { Severity::Error };
        self.obstruct(Some(Problem::of_file(&self.place, severity, reason)));
    }

    fn obstruct(&mut self, obstacle: Option<Problem>) {
        self.problems.replace(self.obstacle.as_slice(), obstacle.iter());
        self.obstacle = obstacle;
    }

    /// Gathers a response, and uses all that was gathered if it has a position. Returns why
    /// resources cannot be used; their last good versions stay.
    ///
    /// # Errors
    ///
    /// If the response is none to our requests. The connection cannot be used any more.
    pub(super) fn take(&mut self, response: DeltaResponse) -> Result<Vec<String>, Fault> {
        let DeltaResponse { position, resources, type_url, removed, .. } = response;
        let Some(topic) = Topic::of_url(&type_url) else { return Err(Fault::Type(type_url)) };
        let mut refused = Vec::new();
        for Resource { version, resource, name } in resources {
            let what = match self.read(topic, &name, resource) {
                Ok(object) => What::Object(object, version),
                Err(reason) => {
                    let problem = Problem::of_file(&self.place, Severity::Error, reason.clone());
                    refused.push(reason);
                    What::Broken(problem)
                }
            };
            self.gathered.push(Gathered { topic, name, what });
        }
        let gone = removed.into_iter().map(|name| Gathered { topic, name, what: What::Gone });
        self.gathered.extend(gone);
        if !position.is_empty() {
            // One that says something else does not know of positions.
            self.standing = Standing::parse(&position).unwrap_or_default();
            self.use_gathered();
        }
        Ok(refused)
    }

    fn read(
        &self,
        topic: Topic,
        name: &str,
        any: Option<rulec_relay::discovery::Any>,
    ) -> Result<Object, String> {
        let Some(any) = any else {
            return Err(format!("{topic} {}: it is empty", name.escape_default()));
        };
        if any.type_url != topic.url() {
            let found = any.type_url.escape_default();
            return Err(format!("{topic} {}: it is of type {found}", name.escape_default()));
        }
        let object = decode(topic, name, &any.value, &self.node).map_err(|it| it.to_string())?;
        if !is_needed(&object, &self.node) {
            return Err(format!("{topic} {name}: it is not for this node"));
        }
        Ok(object)
    }

    fn use_gathered(&mut self) {
        let mut touched: BTreeSet<ObjectKey> = BTreeSet::new();
        let before = self.objects.clone();
        let mut gathered = mem::take(&mut self.gathered);
        self.complete_anew(&mut gathered);
        if !self.current {
            self.forget_broken(&gathered);
        }
        for Gathered { topic, name, what } in gathered {
            let versions = &mut self.versions[topic.index()];
            let part = (topic, name.clone());
            let old: Vec<Problem> = self.broken.remove(&part).into_iter().collect();
            let mut new = None;
            match (what, topic.key(&name)) {
                (What::Object(object, version), _) => {
                    touched.insert(object.key());
                    self.objects.insert(object.key(), object);
                    versions.insert(name, version);
                }
                (What::Broken(problem), _) => {
                    self.broken.insert(part, problem.clone());
                    new = Some(problem);
                }
                (What::Gone, Some(key)) => {
                    self.objects.remove(&key);
                    versions.remove(&name);
                    touched.insert(key);
                }
                // What has no name was never there.
                (What::Gone, None) => {}
            }
            self.problems.replace(&old, new.iter());
        }
        let cut_off = self.standing.is_cut_off.then(|| {
            Problem::of_file(&self.place, Severity::Warning, "it hears nothing from its API server")
        });
        self.obstruct(cut_off);
        // What it keeps back is as it was.
        let asked = mem::take(&mut self.asked);
        self.floor.advance_but(&self.standing.position, |topic| {
            self.standing.position.is_behind(&asked, topic)
        });
        self.asked = asked;
        self.has_manifests = self.standing.has_manifests;
        let was_current = mem::replace(&mut self.current, true);
        self.listed = true;
        if self.left && self.standing.position.is_behind_in_any(&self.asked) {
            return;
        }
        self.left = false;
        touched.retain(|key| before.get(key) != self.objects.get(key));
        if !self.told || !was_current && !touched.is_empty() {
            // After a gap, a complete list leaves nothing behind.
            return self.replace();
        }
        for key in touched {
            self.changes.push(match self.objects.get(&key) {
                Some(object) => Change::Apply(self.sourced(object)),
                None => Change::Remove(key),
            });
        }
    }

    /// Forgets what could not be read on an earlier connection and is not sent on this one: it is
    /// gone, since the relay was not told of a version of it that we have.
    fn forget_broken(&mut self, gathered: &[Gathered]) {
        let sent: BTreeSet<(Topic, &str)> =
            gathered.iter().map(|it| (it.topic, it.name.as_str())).collect();
        let Self { broken, problems, asked, standing, .. } = self;
        broken.retain(|(topic, name), problem| {
            let is_there = sent.contains(&(*topic, name.as_str()))
                || standing.position.is_behind(asked, *topic);
            if !is_there {
                problems.replace(std::slice::from_ref(problem), [].iter());
            }
            is_there
        });
    }

    /// Sends all objects.
    pub(super) fn replace(&mut self) {
        self.told = true;
        let objects = self.objects.values().map(|object| self.sourced(object)).collect();
        self.changes.push(Change::Replace { kinds: KINDS, objects });
    }

    fn sourced(&self, object: &Object) -> Sourced {
        Sourced { object: object.clone(), provenance: Provenance(self.place.clone()) }
    }

    /// Returns the changes since the last call.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        mem::take(&mut self.changes)
    }

    pub(super) fn has_news(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Returns whether the relay has sent everything on this connection.
    pub(super) fn is_current(&self) -> bool {
        self.current
    }

    /// Returns how much of the API server's changes the objects have.
    pub(super) fn floor(&self) -> &Position {
        &self.floor
    }

    /// Returns whether some of them may be from manifests of the relay, which no other source has.
    pub(super) fn has_manifests(&self) -> bool {
        self.has_manifests
    }

    /// Notes that the receiver has got objects from elsewhere, with this position: it needs all of ours
    /// once they are no older.
    pub(super) fn leave_to(&mut self, other: &Position) {
        self.floor.advance(other);
        (self.told, self.left) = (false, true);
    }

    /// Returns the objects of the types that are named.
    pub(super) fn objects_of(&self, topic: Topic) -> Vec<Sourced> {
        let of = |key: &ObjectKey| topic.kinds().contains(&key.kind());
        let all = self.objects.iter().filter(|(key, _)| of(key));
        all.map(|(_, object)| self.sourced(object)).collect()
    }

    /// Forgets how much that is, so that any relay may go on.
    pub(super) fn lower_floor(&mut self) {
        self.floor = Position::default();
    }

    /// Returns where the relay of this connection stands.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Returns whether there has been a complete state, with a Node that has an address, unless that
    /// is not waited for any more.
    pub(super) fn is_complete(&self) -> bool {
        self.stood_in || self.listed && (self.given_up || self.has_address())
    }

    /// Returns whether only the Node is missing.
    pub(super) fn waits_for_node(&self) -> bool {
        self.listed && !self.is_complete()
    }

    /// Continues without the Node.
    pub(super) fn lose_patience(&mut self) {
        self.given_up = true;
    }

    fn has_address(&self) -> bool {
        let node = self.objects.get(&ObjectKey::Node(self.node.clone()));
        matches!(node, Some(Object::Node(node)) if !node.addresses.is_empty())
    }

    /// Returns whether the problems differ from those at the last call.
    pub(super) fn problems_changed(&mut self) -> bool {
        self.problems.changed()
    }

    /// Returns all current problems, in order of place.
    pub(super) fn problems(&self) -> &OrdSet<Problem> {
        self.problems.all()
    }
}
