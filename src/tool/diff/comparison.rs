//! Two states, and the operations that lead from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::ipvs::VirtualServer;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::nft::{self, GroupId, Key};
use rulec_compiler::{Delta, Frontend, Op, Program, State};

use super::refused::{self, Refused};
use crate::tool::input::Side;

/// A comparison.
pub(super) struct Comparison {
    pub(super) from: Side,
    pub(super) to: Side,
    /// The states of both sides.
    pub(super) old: State,
    pub(super) new: State,
    /// The frontends that lead to each group, on both sides.
    frontends: [BTreeMap<(Family, GroupId), Vec<Frontend>>; 2],
    /// The Services of each side, if its objects are not known.
    pub(super) owners: [BTreeSet<NamespacedName>; 2],
    /// The claims that lose on each side, as far as its objects are known.
    pub(super) refused: [Option<Refused>; 2],
    pub(super) delta: Delta,
    /// What the new side compiles to, if it is manifests.
    program: Option<Program>,
}

impl Comparison {
    pub(super) fn new(mut from: Side, mut to: Side) -> anyhow::Result<Self> {
        // What both have has the same numbers: those of a state that is given, or else of the old
        // one.
        let given = to.state.take();
        let (old, before) = match from.state.take() {
            Some(old) => {
                let refused = refused::in_state(&from, &old)?;
                (old, refused)
            }
            None => {
                let seed = given.as_ref().cloned().unwrap_or_default();
                let program = from.compile(&seed)?;
                (program.state(), Some(refused::of(&program)))
            }
        };
        let (new, after, delta, program) = match given {
            Some(new) => {
                let refused = refused::in_state(&to, &new)?;
                let delta = Delta::between_states(&old, &new);
                (new, refused, delta, None)
            }
            None => {
                let program = to.compile(&old)?;
                let refused = Some(refused::of(&program));
                let delta = Delta::reconcile(&old, &program);
                (program.state(), refused, delta, Some(program))
            }
        };
        let refused = [before, after];
        let frontends = [&old, &new].map(State::frontends_by_group);
        let mut comparison = Self {
            from,
            to,
            old,
            new,
            frontends,
            owners: Default::default(),
            refused,
            delta,
            program,
        };
        comparison.owners =
            [(&comparison.from, &comparison.old), (&comparison.to, &comparison.new)].map(
                |(side, state)| match &side.model {
                    Some(_) => BTreeSet::new(),
                    None => comparison.owners_in(state),
                },
            );
        Ok(comparison)
    }

    /// Returns the program of the new side; `None` if its objects are not known.
    pub(super) fn wanted(&self) -> anyhow::Result<Option<Program>> {
        match (&self.program, &self.to.model) {
            (Some(program), _) => Ok(Some(program.clone())),
            (None, Some(_)) => self.to.compile(&self.new).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Compares two states that are known, with the operations between them and the claims that lose
    /// in each.
    pub(super) fn of_states(
        sides: [Side; 2],
        states: [State; 2],
        refused: [Refused; 2],
        delta: Delta,
    ) -> Self {
        let ([from, to], [old, new]) = (sides, states);
        let frontends = [&old, &new].map(State::frontends_by_group);
        let owners = Default::default();
        let refused = refused.map(Some);
        Self { from, to, old, new, frontends, owners, refused, delta, program: None }
    }

    /// Returns the frontends that the operations may concern.
    pub(super) fn affected(&self) -> BTreeSet<Frontend> {
        let mut affected = BTreeSet::new();
        for op in self.delta.ops() {
            if let Some(element) = op.element() {
                affected.extend(element.key.frontend());
                affected.extend(self.frontends_of(element.key));
            }
            if let Some(op) = op.as_ipvs() {
                affected.extend(op.server().map(VirtualServer::frontend));
            }
            // Its elements go with it.
            if let Op::Nft(nft::Op::DeleteTable(family)) = op {
                affected.extend(frontends_in(&self.old, *family));
            }
        }
        affected
    }

    /// Returns the frontends that lead to the group of a key, on either side.
    fn frontends_of(&self, key: Key) -> impl Iterator<Item = Frontend> {
        let group = key.group().map(|group| (key.family(), group));
        let sides = self.frontends.iter().filter_map(move |side| side.get(&group?));
        sides.flatten().copied()
    }

    /// Returns the Service port that a comment in a kernel refers to.
    pub(super) fn meant(&self, comment: &PortKey) -> PortKey {
        let meant = self.to.meant(comment);
        if meant == *comment { self.from.meant(comment) } else { meant }
    }

    /// Returns the Service that a delta names.
    pub(super) fn meant_service(&self, service: &NamespacedName) -> NamespacedName {
        let meant = [&self.to, &self.from].into_iter().find_map(|side| side.long_name(service));
        meant.unwrap_or(service).clone()
    }

    /// Returns whether a Service is there before, and after.
    pub(super) fn presence(&self, service: &NamespacedName) -> [bool; 2] {
        let [before, after] = &self.owners;
        [(&self.from, before), (&self.to, after)].map(|(side, owners)| match &side.model {
            Some(model) => model.service(service).is_some(),
            None => owners.contains(service),
        })
    }

    /// Returns the Services that have a frontend in a state.
    fn owners_in(&self, state: &State) -> BTreeSet<NamespacedName> {
        let held = state.tables.values().flat_map(|table| table.elements.values());
        let owners = held.filter_map(|held| Some(&held.owner.as_ref()?.service));
        owners.map(|owner| self.meant_service(owner)).collect()
    }

    /// Returns the claims that lose, and did not before, each with the port that has the frontend.
    pub(super) fn newly_refused(
        &self,
    ) -> impl Iterator<Item = (&Arc<PortKey>, Frontend, &Arc<PortKey>)> {
        let [before, after] = &self.refused;
        let both = before.as_ref().zip(after.as_ref());
        both.into_iter().flat_map(|(before, after)| {
            let new = after.iter().filter(|(claim, _)| !before.contains_key(*claim));
            new.map(|((loser, frontend), holder)| (loser, *frontend, holder))
        })
    }

    /// Returns the claims that lose on the new side, if nobody knows whether they did before: a kernel
    /// has no objects.
    pub(super) fn standing_refused(&self) -> Option<&Refused> {
        let [before, after] = &self.refused;
        after.as_ref().filter(|_| before.is_none())
    }

    /// Returns the networks that may connect to load balancers of a Service in the old state; `None`
    /// if all may, or if it has none.
    pub(super) fn restrictions(&self) -> BTreeMap<(NamespacedName, Family), BTreeSet<IpNet>> {
        let mut found = BTreeMap::new();
        for (family, table) in &self.old.tables {
            let owner = |frontend| {
                let keys = [Key::Service(frontend), Key::Reject(frontend)];
                keys.iter().find_map(|key| table.elements.get(key)?.owner.as_deref())
            };
            for key in table.elements.keys() {
                let Key::Firewalled(frontend) = *key else { continue };
                let Some(owner) = owner(frontend) else { continue };
                let sources = self.old.sources(frontend).into_iter().flatten().collect();
                found.insert((self.meant(owner).service, *family), sources);
            }
        }
        found
    }

    /// Returns the mark that the rules of the new state use.
    pub(super) fn mark(&self) -> u32 {
        self.to.settings.masquerade_bit.mark()
    }
}

/// Returns the frontends that a table holds.
fn frontends_in(state: &State, family: Family) -> impl Iterator<Item = Frontend> {
    let elements = state.tables.get(&family).into_iter().flat_map(|table| table.elements.keys());
    elements.filter_map(|key| key.frontend())
}
