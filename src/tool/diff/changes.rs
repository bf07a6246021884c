//! The changes of each Service in terms of Services: frontends and backends.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::{Backend, Family};

use super::change::{Change, Kind, Move, Sources};
use super::comparison::Comparison;
use super::fields::Difference;
use super::reason::Reasons;
use super::seen::{Fate, Seen};
use super::unread::Unread;
use super::unseen;
use super::what::What;

/// Returns the changes of each Service that changes.
pub(super) fn all(comparison: &Comparison) -> BTreeMap<NamespacedName, Vec<Change>> {
    let mut reasons = Reasons::of(comparison);
    let mut found = Found {
        comparison,
        reasons: &mut reasons,
        restrictions: comparison.restrictions(),
        of_frontends: BTreeMap::new(),
        of_backends: BTreeMap::new(),
    };
    for frontend in comparison.affected() {
        found.look(frontend);
    }
    found.refused();
    let mut changes = found.finish();
    for group in &comparison.delta.groups {
        let service = comparison.meant_service(&group.service);
        changes.entry(service).or_insert_with_key(|service| {
            let reason = reasons.repair(service);
            vec![Change { kind: What::Repaired.into(), frontends: Vec::new(), reason }]
        });
    }
    unseen::add(comparison, &mut changes);
    let unread = Unread::of(comparison);
    changes.retain(|service, of_service| {
        of_service.retain(|change| !unread.explains(service, change));
        !of_service.is_empty()
    });
    changes
}

/// Returns what a change of the fate of connections means, each for all clients or for some.
fn fates(old: Fate, new: Fate) -> &'static [(What, &'static str)] {
    use What::{FrontendDropped, FrontendRejected, FrontendServed, FrontendUnservedHere};
    match (old, new) {
        (Fate::Refused, Fate::Refused)
        | (Fate::Dropped, Fate::Dropped)
        | (Fate::DroppedFromOutside, Fate::DroppedFromOutside)
        | (Fate::Served, Fate::Served) => &[],
        (_, Fate::Refused) => &[(FrontendRejected, "")],
        (Fate::Refused, Fate::Dropped) => &[(FrontendUnservedHere, "")],
        (_, Fate::Dropped) => &[(FrontendDropped, "")],
        (Fate::Served, Fate::DroppedFromOutside) => &[(FrontendDropped, FROM_OUTSIDE)],
        (_, Fate::DroppedFromOutside) => {
            &[(FrontendServed, ""), (FrontendUnservedHere, FROM_OUTSIDE)]
        }
        (Fate::DroppedFromOutside, Fate::Served) => &[(FrontendServed, FROM_OUTSIDE)],
        (_, Fate::Served) => &[(FrontendServed, "")],
    }
}

/// What was found so far. Frontends with the same change, and those that a backend comes or goes
/// at, are named together.
struct Found<'a, 'b> {
    comparison: &'a Comparison,
    reasons: &'b mut Reasons<'a>,
    /// Who could connect to load balancers of Services.
    restrictions: BTreeMap<(NamespacedName, Family), BTreeSet<IpNet>>,
    of_frontends: BTreeMap<(NamespacedName, Kind, String), Vec<String>>,
    of_backends: BTreeMap<(PortKey, Family), BTreeMap<AtBackend, Vec<String>>>,
}

/// What happens to a backend, and under which traffic policy that asks for endpoints of this node.
type AtBackend = (What, Backend, Option<&'static str>);

impl Found<'_, '_> {
    fn look(&mut self, frontend: Frontend) {
        let comparison = self.comparison;
        let see = |state| {
            let mut seen = Seen::of(state, frontend)?;
            seen.owner = seen.owner.map(|comment| comparison.meant(&comment));
            Some(seen)
        };
        let (old, new) = (see(&comparison.old), see(&comparison.new));
        // An element of others, which names no Service, is an operation of the base.
        let owner = |seen: &Option<Seen>| seen.as_ref().and_then(|seen| seen.owner.clone());
        let (before, after) = (owner(&old), owner(&new));
        match (&old, &new) {
            (None, None) => {}
            (None, Some(new)) => {
                self.tell(after.as_ref(), What::FrontendAdded, frontend, "");
                let (what, clients) = match new.fate() {
                    Fate::Refused => (Some(What::FrontendUnserved), ""),
                    Fate::Dropped => (Some(What::FrontendUnservedHere), ""),
                    Fate::DroppedFromOutside => (Some(What::FrontendUnservedHere), FROM_OUTSIDE),
                    Fate::Served => (None, ""),
                };
                if let Some(what) = what {
                    self.tell(after.as_ref(), what, frontend, clients);
                }
                self.compare_restrictions(after.as_ref(), frontend, new);
            }
            (Some(_), None) => self.tell(before.as_ref(), What::FrontendRemoved, frontend, ""),
            (Some(old), Some(new)) => self.compare(frontend, old, new),
        }
        let is_left = new.is_none() || service(before.as_ref()) != service(after.as_ref());
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let Some(owner) = after.or(before) else { return };
        let none = BTreeSet::new();
        let views = [
            (false, &old.backends, &new.backends),
            (true, old.local.as_ref().unwrap_or(&none), new.local.as_ref().unwrap_or(&none)),
        ];
        let policy = |outside| self.reasons.local_policy(&owner.service, frontend, outside);
        let policies = [false, true].map(policy);
        let of_owner = self.of_backends.entry((owner, frontend.family())).or_default();
        for ((is_outside, old, new), policy) in views.into_iter().zip(policies) {
            let clients = if is_outside { FROM_OUTSIDE } else { "" };
            let mut note = |what, backend: &Backend| {
                let at = of_owner.entry((what, *backend, policy)).or_default();
                at.push(format!("{frontend}{clients}"));
            };
            new.difference(old).for_each(|backend| note(What::BackendAdded, backend));
            // They leave with their frontend, whose reason applies: they may still be ready.
            if !is_left {
                old.difference(new).for_each(|backend| note(What::BackendRemoved, backend));
            }
        }
    }

    /// Compares a frontend that is there before and after.
    fn compare(&mut self, frontend: Frontend, old: &Seen, new: &Seen) {
        let (before, after) = (old.owner.as_ref(), new.owner.as_ref());
        let is_moved = service(before) != service(after);
        if let (Some(from), Some(to), true) = (before, after, is_moved) {
            let moved = Some(Move { from: from.service.clone(), to: to.service.clone() });
            let kind = Kind { moved, ..What::FrontendMoved.into() };
            let reason = self.reasons.frontend(to, &kind, frontend);
            for service in [&from.service, &to.service] {
                let key = (service.clone(), kind.clone(), reason.clone());
                self.of_frontends.entry(key).or_default().push(frontend.to_string());
            }
        }
        let told = fates(old.fate(), new.fate());
        for (what, clients) in told {
            self.tell(after, *what, frontend, clients);
        }
        let sources = Sources { from: old.sources.clone(), to: new.sources.clone() };
        let of_sources = sources.what();
        if let Some(what) = of_sources {
            let kind = Kind { sources: Some(sources), ..what.into() };
            self.tell_with(after, kind, frontend, "");
        }
        // Another Service has its own ways.
        let mut different = if is_moved { Vec::new() } else { old.differences(new) };
        if of_sources.is_none() && old.sources != new.sources {
            let sources = Sources { from: old.sources.clone(), to: new.sources.clone() };
            let [from, to] = sources.texts();
            different.push(Difference::new("spec.loadBalancerSourceRanges", from, to));
        }
        if !different.is_empty() && told.is_empty() {
            let kind = Kind { fields: different, ..What::FrontendAltered.into() };
            self.tell_with(after, kind, frontend, "");
        }
    }

    /// Compares the clients of a new frontend with those that load balancers of its Service had: a
    /// new address must not hide that there are no source ranges any more.
    fn compare_restrictions(&mut self, owner: Option<&PortKey>, frontend: Frontend, new: &Seen) {
        let (Some(of), Frontend::Address { address, .. }) = (owner, frontend) else { return };
        let Some((service, _)) = self.comparison.to.service(&of.service) else { return };
        if !service.load_balancer_vips.contains(&address) {
            return;
        }
        let key = (of.service.clone(), frontend.family());
        let Some(old) = self.restrictions.get(&key) else { return };
        let sources = Sources { from: Some(old.clone()), to: new.sources.clone() };
        if let Some(what) = sources.what() {
            let kind = Kind { sources: Some(sources), ..what.into() };
            self.tell_with(owner, kind, frontend, "");
        }
    }

    /// Tells of claims that lose and did not before.
    fn refused(&mut self) {
        let comparison = self.comparison;
        for (loser, frontend, holder) in comparison.newly_refused() {
            let held = Seen::of(&comparison.old, frontend).and_then(|seen| seen.owner);
            let before = held.map(|comment| comparison.meant(&comment).service);
            // Otherwise the holder takes over what it had, which is told already.
            if before.as_ref() != Some(&loser.service) || holder.service == loser.service {
                let kind =
                    Kind { holder: Some(holder.service.clone()), ..What::FrontendRefused.into() };
                self.tell_with(Some(loser), kind, frontend, "");
            }
        }
    }

    fn tell(&mut self, owner: Option<&PortKey>, what: What, frontend: Frontend, clients: &str) {
        self.tell_with(owner, what.into(), frontend, clients);
    }

    fn tell_with(
        &mut self,
        owner: Option<&PortKey>,
        kind: Kind,
        frontend: Frontend,
        clients: &str,
    ) {
        let Some(owner) = owner else { return };
        let reason = self.reasons.frontend(owner, &kind, frontend);
        let key = (owner.service.clone(), kind, reason);
        self.of_frontends.entry(key).or_default().push(format!("{frontend}{clients}"));
    }

    fn finish(self) -> BTreeMap<NamespacedName, Vec<Change>> {
        let mut changes: BTreeMap<NamespacedName, Vec<Change>> = BTreeMap::new();
        for ((service, kind, reason), frontends) in self.of_frontends {
            changes.entry(service).or_default().push(Change { kind, frontends, reason });
        }
        let all = self.of_backends.into_iter().filter(|(_, backends)| !backends.is_empty());
        for ((owner, family), backends) in all {
            let known = self.reasons.backends(&owner, family);
            // The same reason may apply under several policies.
            let mut told: BTreeMap<(What, Backend, String), Vec<String>> = BTreeMap::new();
            for ((what, backend, policy), frontends) in backends {
                let is_added = what == What::BackendAdded;
                let reason =
                    if is_added { known.added(backend) } else { known.removed(backend, policy) };
                told.entry((what, backend, reason)).or_default().extend(frontends);
            }
            let of_service = changes.entry(owner.service.clone()).or_default();
            of_service.extend(told.into_iter().map(|((what, backend, reason), frontends)| {
                let kind = Kind { backend: Some(backend), ..what.into() };
                Change { kind, frontends, reason }
            }));
        }
        changes
    }
}

/// What follows the name of a frontend if only these clients are meant.
const FROM_OUTSIDE: &str = " from outside";

fn service(owner: Option<&PortKey>) -> Option<&NamespacedName> {
    owner.map(|owner| &owner.service)
}
