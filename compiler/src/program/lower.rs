//! Lowers a route to a fragment, with as few moves of backends as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fragment::{Groups, PortFragment, Target, Unserved};
use super::numbers::Numbers;
use crate::frontend::{Frontend, PortKey, View};
use crate::load_balancing::{LoadBalancing, Weights};
use crate::net::{Backend, Family, Protocol};
use crate::nft::code::Clients;
use crate::nft::element::Key;
use crate::nft::group::{Choice, Group};
use crate::nft::maglev::{self, Hash, Maglev};
use crate::nft::size::Size;
use crate::nft::slots::{self, Previous};
use crate::object::{Affinity, TrafficPolicy};
use crate::resolve::{Rank, Route};
use crate::state::State;

/// Lowers a route. `old` is the port's previous fragment; without one, groups continue from `seed`,
/// the state of a kernel.
pub(super) fn lower(
    route: Route,
    old: Option<&PortFragment>,
    seed: &Seed<'_>,
    numbers: &mut Numbers,
) -> PortFragment {
    let affinity = match route.affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout } => Some(timeout),
    };
    let is_local = |policy| policy == TrafficPolicy::Local;
    let uses_local = is_local(route.internal) || is_local(route.external);
    let has_external = route.frontends.iter().any(|(_, rank)| rank.is_external());
    let uses_cluster = has_external || !is_local(route.internal);
    let balancing = route.ipvs.as_ref().map(|ipvs| ipvs.balancing);
    // A policy that was unused before starts from the group of the other one: when a frontend
    // changes from one policy to the other, backends under both keep their slots.
    let [cluster, local] = match old {
        Some(PortFragment { groups: Groups { cluster, local }, frontends, .. }) => {
            // A group leads to members in one protocol. With another protocol, it is a new group:
            // packets of the old one may still be led to this.
            let is_same = protocol(frontends) == protocol(&route.frontends);
            let moved = |to: &Option<Group>, from: &Option<Group>, is_left: bool| {
                let start = |from: &Group, is_left: bool| Group {
                    id: from.id.filter(|_| is_left && is_same),
                    ..from.clone()
                };
                let own = to.as_ref().map(|to| start(to, true));
                own.or_else(|| from.as_ref().map(|from| start(from, is_left)))
            };
            [moved(cluster, local, !uses_local), moved(local, cluster, !uses_cluster)]
        }
        None => [View::Cluster, View::Local].map(|view| seed.group(&route, view, numbers)),
    };
    // IPVS has its own records of clients, and its own ways of balancing.
    let timeout = affinity.filter(|_| balancing.is_none());
    let choice = if balancing.is_none() { choice(&route) } else { Choice::Random };
    let (of_slots, of_reals) = match balancing {
        None => (route.weights, Weights::default()),
        Some(_) => (Some(Weights::default()), route.weights.unwrap_or_default()),
    };
    let mut group = |before: Option<Group>, backends: &[Backend]| {
        let asked = Asked { backends, weights: of_slots.as_ref(), choice, timeout };
        lower_group(before.unwrap_or_default(), &asked, route.family, numbers)
    };
    let groups = Groups {
        cluster: uses_cluster.then(|| group(cluster, &route.cluster)),
        local: uses_local.then(|| group(local, &route.local)),
    };
    let known = |target: Target, old: Option<&Arc<Target>>| match old {
        Some(old) if **old == target => Arc::clone(old),
        Some(_) | None => Arc::new(target),
    };
    let of = |policy: TrafficPolicy| match policy {
        TrafficPolicy::Cluster => (groups.cluster.clone().unwrap_or_default(), &route.cluster),
        TrafficPolicy::Local => (groups.local.clone().unwrap_or_default(), &route.local),
    };
    let serving = |serving: Option<Vec<Backend>>, old: Option<&Arc<Target>>| {
        let serving = serving?;
        let old = old.and_then(|old| old.serving.as_ref()).filter(|old| ***old == *serving);
        Some(old.map_or_else(|| serving.into(), Arc::clone))
    };
    let to_internal = serving(route.serving_internal, old.map(|old| &old.internal));
    let to_external = match serving(route.serving, old.map(|old| &old.external)) {
        same if same == to_internal => to_internal.clone(),
        other => other,
    };
    let target = |(group, backends): (Group, &Vec<Backend>)| {
        let is_dropped = route.has_endpoints && group.slots.is_empty();
        let unserved = if is_dropped { Unserved::Drop } else { Unserved::Reject };
        let left_out = backends.len().saturating_sub(group.room());
        let (ipvs, local, sources) = (balancing, None, None);
        let serving = to_internal.clone();
        let weights = of_reals.clone();
        Target { affinity, group, unserved, local, sources, left_out, ipvs, weights, serving }
    };
    let internal = known(target(of(route.internal)), old.map(|old| &old.internal));
    let external = if has_external {
        let sources = route.sources.as_deref().map(Arc::from);
        let local = groups.local.clone().filter(|_| is_local(route.external));
        let target = target(of(TrafficPolicy::Cluster));
        let mut target = Target { sources, serving: to_external, ..target };
        // If there are no endpoints, clients from outside are rejected like all others.
        target.local = local.filter(|_| route.has_endpoints);
        let old = old.map(|old| &old.external);
        if target == *internal { Arc::clone(&internal) } else { known(target, old) }
    } else {
        Arc::clone(&internal)
    };
    let hairpin = route.hairpin.into_iter().map(Key::Hairpin);
    let vips = route.ipvs.into_iter().flat_map(|ipvs| ipvs.vips).map(Key::Vip);
    let members = hairpin.chain([Key::ClusterIp(route.cluster_ip)]).chain(vips);
    let mut members: Box<[Key]> = members.collect();
    members.sort_unstable();
    PortFragment {
        port: match old {
            Some(old) if old.port == route.port => Arc::clone(&old.port),
            Some(_) | None => route.port,
        },
        family: route.family,
        frontends: route.frontends.into_boxed_slice(),
        members,
        internal,
        external,
        groups,
        depends_on_node: route.depends_on_node,
    }
}

/// What a group is asked to be.
struct Asked<'a> {
    backends: &'a [Backend],
    /// `None` if only the shares that they had are known.
    weights: Option<&'a Weights>,
    choice: Choice,
    timeout: Option<u32>,
}

/// Returns the group that is asked for. `before` is the group so far.
fn lower_group(before: Group, asked: &Asked<'_>, family: Family, numbers: &mut Numbers) -> Group {
    let Asked { backends, weights, choice, timeout } = *asked;
    let id = before.id.or_else(|| numbers.take(family));
    // A group has a place in a map from its first backend on. It keeps the place when it is empty
    // for a moment, since the records of its clients are there; a new group has no records.
    let class = before.id.and(before.affinity).map(|class| class.id);
    let has_place = class.is_some() || !backends.is_empty();
    let affinity = timeout
        .filter(|_| has_place)
        .and_then(|timeout| numbers.class(family, timeout, id?, class));
    let group = Group { id, choice, affinity, ..Group::default() };
    let backends = &backends[..backends.len().min(group.room())];
    let previous = Previous { slots: &before.slots, ids: before.ids() };
    let counts = counts(&group, backends, weights);
    let is_table = matches!(choice, Choice::Maglev(_));
    let is_like_before = before.choice == choice
        && match weights {
            Some(_) => is_table && before.filled_with.as_deref() == Some(&counts),
            None => has_backends(&before, backends),
        };
    let filled_with = match &before.filled_with {
        Some(known) if is_like_before => Some(Arc::clone(known)),
        Some(_) | None => (is_table && weights.is_some()).then(|| counts.as_slice().into()),
    };
    let group = Group { filled_with, ..group };
    if is_like_before && before.ids() == group.ids() {
        return Group { slots: before.slots, ..group };
    }
    let places = match choice {
        _ if is_like_before => before.slots.iter().map(|slot| slot.backend).collect(),
        Choice::Random | Choice::RoundRobin => slots::assign(previous, &counts),
        Choice::Maglev(table) => maglev::fill(table.size, &counts),
    };
    let slots = slots::numbered(previous, places, group.ids());
    let slots = if *slots == *before.slots { before.slots } else { slots.into() };
    Group { slots, ..group }
}

/// Returns the protocol of a port, if it claims a frontend.
fn protocol(frontends: &[(Frontend, Rank)]) -> Option<Protocol> {
    frontends.first().map(|(frontend, _)| frontend.protocol())
}

/// Returns true if these are the backends of a group.
fn has_backends(group: &Group, backends: &[Backend]) -> bool {
    let own: BTreeSet<Backend> = group.slots.iter().map(|slot| slot.backend).collect();
    own.iter().eq(backends)
}

fn choice(route: &Route) -> Choice {
    let size = route.maglev_table_size;
    match route.load_balancing {
        LoadBalancing::Random => Choice::Random,
        LoadBalancing::RoundRobin => Choice::RoundRobin,
        LoadBalancing::Maglev => Choice::Maglev(Maglev { hash: Hash::Connection, size }),
        LoadBalancing::MaglevSource => Choice::Maglev(Maglev { hash: Hash::Source, size }),
    }
}

/// Returns the share of each backend: the number of its slots, or its weight in a table. If weights
/// ask for more slots than there are sizes for, all backends count the same, and so do those that
/// take turns.
fn counts(group: &Group, backends: &[Backend], weights: Option<&Weights>) -> Vec<(Backend, u32)> {
    let weight = |backend: &Backend| weights.map_or(1, |weights| weights.of(*backend).get().into());
    let total: usize = backends.iter().map(|backend| weight(backend) as usize).sum();
    let is_table = matches!(group.choice, Choice::Maglev(_));
    let is_weighted = !group.is_in_turns() && (is_table || total <= Size::MAX_SLOTS);
    let count = |backend: &Backend| if is_weighted { weight(backend) } else { 1 };
    backends.iter().map(|backend| (*backend, count(backend))).collect()
}

/// The state of a kernel, from which groups continue.
pub(super) struct Seed<'a> {
    state: &'a State,
    /// The frontends that each Service port has there, according to comments.
    frontends: BTreeMap<(Family, &'a PortKey), Vec<Frontend>>,
}

impl<'a> Seed<'a> {
    /// Returns the seed in a state.
    pub(super) fn of(state: &'a State) -> Self {
        let mut frontends: BTreeMap<(Family, &PortKey), Vec<Frontend>> = BTreeMap::new();
        for (key, held) in state.tables.values().flat_map(|table| &table.elements) {
            if let (Key::Service(frontend), Some(owner)) = (key, &held.owner) {
                frontends.entry((frontend.family(), owner)).or_default().push(*frontend);
            }
        }
        Self { state, frontends }
    }

    /// Returns the group that the kernel holds for a port under a policy. Only a group of the
    /// port's own has a number.
    fn group(&self, route: &Route, view: View, numbers: &mut Numbers) -> Option<Group> {
        let Self { state, frontends } = self;
        let comment = route.port.comment();
        let place = |frontend: Frontend, is_external: bool| {
            let policy = if is_external { route.external } else { route.internal };
            match (view, policy, is_external) {
                (View::Cluster, TrafficPolicy::Cluster, _)
                | (View::Cluster, TrafficPolicy::Local, true)
                | (View::Local, TrafficPolicy::Local, false) => Some((View::Cluster, frontend)),
                // The group of the cluster address leads to the local one, too.
                (View::Local, TrafficPolicy::Local, true)
                | (View::Local, TrafficPolicy::Cluster, false) => Some((View::Local, frontend)),
                (View::Cluster, TrafficPolicy::Local, false)
                | (View::Local, TrafficPolicy::Cluster, true) => None,
            }
        };
        let of_route =
            route.frontends.iter().filter_map(|(it, rank)| place(*it, rank.is_external()));
        let is_own = |frontend: Frontend| state.owner(frontend) == Some(&comment);
        let own = of_route.clone().filter(|(_, frontend)| is_own(*frontend));
        // All its frontends may have changed, such as the port or the address.
        let others = frontends.get(&(route.family, &*comment)).into_iter().flatten();
        let others = others.filter_map(|frontend| {
            let code = state.code(*frontend)?;
            place(*frontend, code.clients != Clients::Internal)
        });
        // The slots of a frontend that another port has are used only if there are no own ones.
        own.chain(others).chain(of_route).find_map(|(view, frontend)| {
            let group = state.group(view, frontend)?;
            let is_own =
                is_own(frontend) && Some(frontend.protocol()) == protocol(&route.frontends);
            let id = group.id.filter(|id| is_own && numbers.claim(route.family, *id));
            Some(Group { id, ..group })
        })
    }
}
