//! The objects of all roots, of which the last that defines an object takes precedence.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use im::OrdSet;
use im::ordset::DiffItem;
use rulec_compiler::object::ObjectKey;
use rulec_compiler::{Change, Origin, Sourced};

use crate::problem::{Problem, Severity};
use crate::update::Update;

/// Joins the updates of roots. A single root passes as it is.
#[derive(Debug)]
pub(crate) struct Union {
    roots: Vec<Root>,
    /// The objects that several roots define.
    contested: BTreeMap<ObjectKey, Problem>,
    /// The problems of all roots, and those above.
    problems: OrdSet<Problem>,
    has_begun: bool,
    /// Whether a complete list was passed on.
    delivered: bool,
}

/// What a root has sent so far.
#[derive(Debug)]
struct Root {
    objects: BTreeMap<ObjectKey, Sourced>,
    /// The last update, without its changes.
    last: Update,
    has_spoken: bool,
}

impl Union {
    pub(crate) fn new(roots: usize) -> Self {
        let root = || Root { objects: BTreeMap::new(), last: nothing(), has_spoken: false };
        Self {
            roots: std::iter::repeat_with(root).take(roots).collect(),
            contested: BTreeMap::new(),
            problems: OrdSet::new(),
            has_begun: false,
            delivered: false,
        }
    }

    /// Returns whether any root has sent anything.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Takes an update of a root, and returns the one to pass on.
    pub(crate) fn take(&mut self, root: usize, mut update: Update) -> Update {
        self.has_begun = true;
        let changes = std::mem::take(&mut update.changes);
        let suppressed = std::mem::take(&mut update.suppressed);
        let changes = if self.roots.len() == 1 { changes } else { self.join(root, changes) };
        self.note(root, update);
        let changes = if self.roots.len() == 1 { changes } else { self.deliver(changes) };
        Update { changes, suppressed, ..self.status() }
    }

    /// Returns an update without changes.
    pub(crate) fn status(&self) -> Update {
        let all = || self.roots.iter().map(|root| &root.last);
        let is_only = self.roots.len() == 1;
        // What a missing root would define may be what the kernel holds.
        let missing = all().filter(|last| self.delivered && !last.complete).count();
        Update {
            complete: if is_only { all().all(|last| last.complete) } else { self.delivered },
            unread: all().map(|last| last.unread).sum::<usize>() + missing,
            unavailable: all().any(|last| last.unavailable),
            stale: all().filter_map(|last| last.stale).min(),
            problems: self.problems.clone(),
            ..nothing()
        }
    }

    /// Keeps what a root has sent, and updates the problems by what differs from before.
    fn note(&mut self, root: usize, update: Update) {
        let Some(root) = self.roots.get_mut(root) else { return };
        root.has_spoken = true;
        let before = std::mem::replace(&mut root.last, update);
        // Problems name their file, or the path of the root: no two roots have the same.
        for item in before.problems.diff(&root.last.problems) {
            match item {
                DiffItem::Add(problem) => drop(self.problems.insert(problem.clone())),
                DiffItem::Remove(problem) => drop(self.problems.remove(problem)),
            }
        }
    }

    /// Takes the changes of a root, and returns what changes for the receiver.
    fn join(&mut self, index: usize, changes: Vec<Change>) -> Vec<Change> {
        let Some(root) = self.roots.get_mut(index) else { return changes };
        let mut news: BTreeMap<ObjectKey, Option<Sourced>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Apply(sourced) => {
                    news.insert(sourced.object.key(), Some(sourced));
                }
                Change::Remove(key) => {
                    news.insert(key, None);
                }
                Change::Replace { objects, .. } => {
                    news.extend(root.objects.keys().map(|key| (key.clone(), None)));
                    news.extend(objects.into_iter().map(|one| (one.object.key(), Some(one))));
                }
            }
        }
        let (mut removed, mut applied) = (Vec::new(), Vec::new());
        for (key, object) in news {
            let before = self.winner(&key).cloned();
            if let Some(root) = self.roots.get_mut(index) {
                match object {
                    Some(object) => drop(root.objects.insert(key.clone(), object)),
                    None => drop(root.objects.remove(&key)),
                }
            }
            self.contest(&key);
            match self.winner(&key) {
                Some(after) if before.as_ref() != Some(after) => {
                    applied.push(Change::Apply(after.clone()));
                }
                None if before.is_some() => removed.push(Change::Remove(key)),
                Some(_) | None => {}
            }
        }
        removed.into_iter().chain(applied).collect()
    }

    /// Returns the changes to pass on: all objects at first, as soon as each root has sent a
    /// complete list or cannot be read.
    fn deliver(&mut self, changes: Vec<Change>) -> Vec<Change> {
        if self.delivered {
            return changes;
        }
        let is_known =
            |root: &Root| root.has_spoken && (root.last.complete || root.last.unavailable);
        let any_complete = self.roots.iter().any(|root| root.last.complete);
        if !any_complete || !self.roots.iter().all(is_known) {
            return Vec::new();
        }
        self.delivered = true;
        let keys = self.roots.iter().flat_map(|root| root.objects.keys());
        let keys: BTreeSet<&ObjectKey> = keys.collect();
        let all = keys.into_iter().filter_map(|key| self.winner(key).cloned());
        vec![Change::everything(all.collect())]
    }

    /// Returns the object that takes precedence.
    fn winner(&self, key: &ObjectKey) -> Option<&Sourced> {
        self.roots.iter().rev().find_map(|root| root.objects.get(key))
    }

    /// Reports an object that several roots define.
    fn contest(&mut self, key: &ObjectKey) {
        let mut of = self.roots.iter().rev().filter_map(|root| root.objects.get(key));
        let winner = of.next().map(|winner| &winner.provenance.0);
        let others: Vec<&str> = of.map(|other| &*other.provenance.0).collect();
        let problem = winner.filter(|_| !others.is_empty()).map(|path: &Arc<str>| {
            let others = others.join(", ");
            let message = format!("also defined in {others}; {path} takes precedence");
            let problem = Problem::of_file(path, Severity::Error, message);
            Problem { object: Some(key.to_string()), ..problem }
        });
        let old = match problem.clone() {
            Some(problem) => self.contested.insert(key.clone(), problem),
            None => self.contested.remove(key),
        };
        if let Some(old) = old {
            self.problems.remove(&old);
        }
        self.problems.extend(problem);
    }
}

/// Returns an update without news.
fn nothing() -> Update {
    Update {
        origin: Origin::Manifests,
        changes: Vec::new(),
        triggers: Vec::new(),
        complete: false,
        unread: 0,
        unavailable: false,
        stale: None,
        positions: None,
        suppressed: 0,
        problems: OrdSet::new(),
    }
}

/// Returns the update with everything that a root has.
pub(crate) fn first(objects: Vec<Sourced>, problems: OrdSet<Problem>) -> Update {
    Update { changes: vec![Change::everything(objects)], complete: true, problems, ..nothing() }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::Provenance;
    use rulec_compiler::name::NamespacedName;
    use rulec_compiler::object::{Object, Service};

    use super::*;

    /// A Service in a file of a root; `publish` makes two with one name differ.
    fn service(name: &str, file: &str, publish: bool) -> Sourced {
        let mut service = Service::new(NamespacedName::new("default", name));
        service.publish_not_ready = publish;
        Sourced { object: Object::Service(Arc::new(service)), provenance: Provenance(file.into()) }
    }

    fn problem(file: &str) -> OrdSet<Problem> {
        OrdSet::unit(Problem::of_file(&file.into(), Severity::Warning, "odd"))
    }

    fn missing() -> Update {
        Update { unavailable: true, problems: problem("b"), ..nothing() }
    }

    fn changed(change: Change, problems: OrdSet<Problem>) -> Update {
        Update { changes: vec![change], complete: true, problems, ..nothing() }
    }

    /// Returns each change as a word and the file that the object is from.
    fn words(update: &Update) -> Vec<String> {
        let from = |sourced: &Sourced| format!("{} {}", sourced.object.key(), sourced.provenance);
        let of = |change: &Change| match change {
            Change::Apply(sourced) => vec![format!("+{}", from(sourced))],
            Change::Remove(key) => vec![format!("-{key}")],
            Change::Replace { objects, .. } => {
                std::iter::once("=".to_owned()).chain(objects.iter().map(from)).collect()
            }
        };
        update.changes.iter().flat_map(of).collect()
    }

    #[test]
    fn nothing_is_passed_on_before_each_root_is_known() {
        let mut union = Union::new(2);
        let update = union.take(1, first(vec![service("web", "b/x", false)], OrdSet::new()));
        assert_eq!((words(&update), update.complete), (Vec::new(), false));
        let update = union.take(0, first(vec![service("db", "a/x", false)], OrdSet::new()));
        assert_eq!(words(&update), ["=", "Service default/db a/x", "Service default/web b/x"]);
        assert!(update.complete && update.unread == 0 && !update.unavailable);
    }

    #[test]
    fn a_missing_root_counts_as_an_unread_file_until_it_is_there() {
        let mut union = Union::new(2);
        let update = union.take(1, missing());
        assert!(!update.complete, "the other one is not known yet");
        let update = union.take(0, first(vec![service("db", "a/x", false)], problem("a/x")));
        assert_eq!(words(&update), ["=", "Service default/db a/x"]);
        assert!(update.complete && update.unread == 1 && update.unavailable);
        assert_eq!(update.problems.len(), 2);
        let update = union.take(1, first(vec![service("web", "b/x", false)], OrdSet::new()));
        assert_eq!(words(&update), ["+Service default/web b/x"]);
        assert!(update.unread == 0 && !update.unavailable);
        assert_eq!(update.problems, problem("a/x"));
    }

    #[test]
    fn without_any_root_nothing_is_complete() {
        let mut union = Union::new(2);
        for root in [0, 1, 0] {
            let update = union.take(root, missing());
            assert!(!update.complete && update.changes.is_empty());
        }
    }

    #[test]
    fn the_last_root_that_defines_an_object_takes_precedence() {
        let mut union = Union::new(3);
        let of = |file: &str| first(vec![service("web", file, false)], OrdSet::new());
        union.take(0, of("a/x"));
        union.take(2, first(Vec::new(), OrdSet::new()));
        let update = union.take(1, of("b/x"));
        assert_eq!(words(&update), ["=", "Service default/web b/x"]);
        let texts = |update: &Update| -> Vec<String> {
            update.problems.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            texts(&update),
            ["b/x: Service default/web: also defined in a/x; b/x takes precedence"]
        );
        // A change of the one that is overridden changes nothing.
        let change = Change::Apply(service("web", "a/x", true));
        assert_eq!(words(&union.take(0, changed(change, OrdSet::new()))), [""; 0]);
        let key = service("web", "", false).object.key();
        let update = union.take(1, changed(Change::Remove(key.clone()), OrdSet::new()));
        assert_eq!(words(&update), ["+Service default/web a/x"]);
        assert_eq!(texts(&update), [""; 0]);
        let update = union.take(0, changed(Change::Remove(key), OrdSet::new()));
        assert_eq!(words(&update), ["-Service default/web"]);
    }
}
