//! What nodes do not use, as they have said it.
//!
//! A refusal holds until the node says otherwise, or until the resources that it is about were sent
//! again and were accepted. It outlives the connection: a node that is away for a moment still does
//! not use them. Time comes from the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec_compiler::name::NodeName;

/// How long a node that has gone is remembered.
const FORGET: Duration = Duration::from_secs(3600);

/// How many nodes are remembered.
const NODES: usize = 16_384;

/// How many resources of a node and a type are remembered. If more are refused, these stand for
/// them.
const NAMES: usize = 1_000;

/// What is said about the kernel of a node.
const KERNEL: &str = "kernel";

/// Why a node does not use a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The type of the resource, and what the node says.
    pub reason: String,
}

#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<NodeName, OfNode>);

#[derive(Debug, Default)]
struct OfNode {
    subjects: BTreeMap<String, Held>,
    /// Since when the node has been away.
    gone: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    reason: String,
    /// The resources that it is about.
    names: BTreeSet<Arc<str>>,
}

impl Refusals {
    /// Notes that a node refuses a response with these resources. If the reason names some of them,
    /// it is about these, and otherwise about all.
    pub(crate) fn refuse(
        &mut self,
        node: &NodeName,
        subject: &str,
        (message, reason): (&str, String),
        sent: &[Arc<str>],
    ) {
        let is_named = |name: &&Arc<str>| message.contains(&format!(" {name}: "));
        let mut names: BTreeSet<_> = sent.iter().filter(is_named).take(NAMES).cloned().collect();
        if names.is_empty() {
            names = sent.iter().take(NAMES).cloned().collect();
        }
        let Some(of_node) = self.entry(node) else { return };
        if let Some(before) = of_node.subjects.remove(subject) {
            let room = NAMES.saturating_sub(names.len());
            names.extend(before.names.into_iter().take(room));
        }
        of_node.subjects.insert(subject.to_owned(), Held { reason, names });
    }

    /// Notes that a node uses a response with these resources.
    pub(crate) fn accept(&mut self, node: &NodeName, subject: &str, sent: &[Arc<str>]) {
        let Some(of_node) = self.0.get_mut(node) else { return };
        if let Some(held) = of_node.subjects.get_mut(subject) {
            for name in sent {
                held.names.remove(name);
            }
            if held.names.is_empty() {
                of_node.subjects.remove(subject);
            }
        }
        self.tidy(node);
    }

    /// Notes what a node says of its kernel.
    pub(crate) fn hear_of_kernel(&mut self, node: &NodeName, reason: Option<String>) {
        match reason {
            Some(reason) => {
                let Some(of_node) = self.entry(node) else { return };
                let held = Held { reason, names: BTreeSet::new() };
                of_node.subjects.insert(KERNEL.to_owned(), held);
            }
            None => {
                let Some(of_node) = self.0.get_mut(node) else { return };
                of_node.subjects.remove(KERNEL);
                self.tidy(node);
            }
        }
    }

    /// Notes that a node has come back.
    pub(crate) fn came(&mut self, node: &NodeName) {
        if let Some(of_node) = self.0.get_mut(node) {
            of_node.gone = None;
        }
    }

    /// Notes that a node has gone. What it refuses is forgotten if it stays away.
    pub(crate) fn went(&mut self, node: &NodeName, now: Instant) {
        self.forget(now);
        if let Some(of_node) = self.0.get_mut(node) {
            of_node.gone = Some(now);
        }
    }

    /// Returns what nodes do not use now, by node and subject.
    pub(crate) fn all(&mut self, now: Instant) -> BTreeMap<NodeName, BTreeMap<String, Refusal>> {
        self.forget(now);
        let of = |(subject, held): (&String, &Held)| {
            (subject.clone(), Refusal { reason: held.reason.clone() })
        };
        let all = self.0.iter();
        all.map(|(node, it)| (node.clone(), it.subjects.iter().map(of).collect())).collect()
    }

    fn forget(&mut self, now: Instant) {
        let is_gone = |at: Instant| now.saturating_duration_since(at) >= FORGET;
        self.0.retain(|_, of_node| !of_node.gone.is_some_and(is_gone));
    }

    /// Returns what is held of a node, if there is room: one that has gone makes room.
    fn entry(&mut self, node: &NodeName) -> Option<&mut OfNode> {
        if self.0.len() >= NODES && !self.0.contains_key(node) {
            let gone = self.0.iter().filter_map(|(node, it)| Some((it.gone?, node)));
            let longest = gone.min().map(|(_, node)| node.clone())?;
            self.0.remove(&longest);
        }
        Some(self.0.entry(node.clone()).or_default())
    }

    fn tidy(&mut self, node: &NodeName) {
        if self.0.get(node).is_some_and(|it| it.subjects.is_empty()) {
            self.0.remove(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: &str = "Service";

    fn names(all: &[&str]) -> Vec<Arc<str>> {
        all.iter().map(|name| Arc::from(*name)).collect()
    }

    fn subjects(refusals: &mut Refusals, now: Instant) -> Vec<String> {
        let all = refusals.all(now).into_iter();
        all.flat_map(|(node, of)| of.into_keys().map(move |it| format!("{node}: {it}"))).collect()
    }

    fn refuse(refusals: &mut Refusals, node: &str, message: &str, sent: &[&str]) {
        let reason = (message, message.to_owned());
        refusals.refuse(&NodeName::from(node), SERVICES, reason, &names(sent));
    }

    #[test]
    fn a_refusal_ends_when_its_resources_were_sent_again_and_accepted() {
        let (mut refusals, now, a) = (Refusals::default(), Instant::now(), NodeName::from("a"));
        let message = "Service default/web: no; Service default/dns: no";
        refuse(&mut refusals, "a", message, &["default/web", "default/dns", "default/other"]);
        for accepted in [&["default/other"][..], &["default/web", "default/new"]] {
            refusals.accept(&a, SERVICES, &names(accepted));
            assert_eq!(subjects(&mut refusals, now), ["a: Service"]);
        }
        refusals.accept(&a, "EndpointSlice", &names(&["default/dns"]));
        assert_eq!(subjects(&mut refusals, now), ["a: Service"]);
        refusals.accept(&a, SERVICES, &names(&["default/dns"]));
        assert!(refusals.0.is_empty());
    }

    #[test]
    fn a_refusal_that_names_nothing_is_about_all_that_was_sent() {
        let (mut refusals, now, a) = (Refusals::default(), Instant::now(), NodeName::from("a"));
        refuse(&mut refusals, "a", "no", &["default/web", "default/dns"]);
        refusals.accept(&a, SERVICES, &names(&["default/web"]));
        assert_eq!(subjects(&mut refusals, now), ["a: Service"]);
        refusals.accept(&a, SERVICES, &names(&["default/dns"]));
        assert!(refusals.0.is_empty());
    }

    #[test]
    fn a_node_that_stays_away_is_forgotten_and_one_that_returns_is_not() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        for node in ["a", "b"] {
            refuse(&mut refusals, node, "no", &["default/web"]);
            refusals.went(&NodeName::from(node), start);
        }
        refusals.came(&NodeName::from("b"));
        refusals.hear_of_kernel(&NodeName::from("b"), Some("no".to_owned()));
        let before = start + FORGET - Duration::from_secs(1);
        assert_eq!(subjects(&mut refusals, before), ["a: Service", "b: Service", "b: kernel"]);
        refusals.hear_of_kernel(&NodeName::from("b"), None);
        assert_eq!(subjects(&mut refusals, start + FORGET), ["b: Service"]);
    }

    #[test]
    fn nodes_and_names_are_bounded() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let many: Vec<String> = (0..NAMES + 5).map(|it| format!("default/{it}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        refuse(&mut refusals, "n0", "no", &many);
        refuse(&mut refusals, "n0", "no", &["default/new"]);
        assert_eq!(refusals.0[&NodeName::from("n0")].subjects[SERVICES].names.len(), NAMES);
        for node in 1..NODES {
            refuse(&mut refusals, &format!("n{node}"), "no", &["default/web"]);
        }
        refuse(&mut refusals, "more", "no", &["default/web"]);
        assert!(!refusals.0.contains_key(&NodeName::from("more")), "there is no room");
        refusals.went(&NodeName::from("n7"), now);
        refuse(&mut refusals, "more", "no", &["default/web"]);
        assert!(refusals.0.contains_key(&NodeName::from("more")));
        assert!(!refusals.0.contains_key(&NodeName::from("n7")));
    }
}
