//! Lowers a route to a fragment, with as few moves of backends as possible.

use std::sync::Arc;

use super::fragment::{PortFragment, Slots, Target, Unserved};
use crate::net::Backend;
use crate::nft::element::Key;
use crate::nft::pick::MAX_AFFINITY_BACKENDS;
use crate::nft::set::View;
use crate::nft::slots::{self, Ids, Previous, Slot};
use crate::object::{Affinity, TrafficPolicy};
use crate::resolve::Route;
use crate::state::State;

/// Lowers a route. `old` is the port's previous fragment; without one, slots continue from `seed`,
/// the state of a kernel.
pub(super) fn lower(route: Route, old: Option<&PortFragment>, seed: &State) -> PortFragment {
    let affinity = match route.affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout } => Some(timeout),
    };
    let is_local = |policy| policy == TrafficPolicy::Local;
    let uses_local = is_local(route.internal) || is_local(route.external);
    let has_external = route.frontends.iter().any(|(_, rank)| rank.is_external());
    let uses_cluster = has_external || !is_local(route.internal);
    let balancing = route.ipvs.as_ref().map(|ipvs| ipvs.balancing);
    // IPVS has its own records of clients.
    let affinity_here = affinity.filter(|_| balancing.is_none());
    let room = if affinity_here.is_some() { MAX_AFFINITY_BACKENDS } else { usize::MAX };
    let assign = |backends: &[Backend], view| -> Arc<[Slot]> {
        let backends = &backends[..backends.len().min(room)];
        let ids = Ids::with(affinity_here);
        // A policy that was unused before starts from the slots of the other one: when a frontend
        // changes from one policy to the other, backends under both keep their slots.
        let before =
            old.and_then(|PortFragment { slots: Slots { cluster, local }, internal, .. }| {
                let slots = match view {
                    View::Cluster => cluster.as_ref().or(local.as_ref()),
                    View::Local => local.as_ref().or(cluster.as_ref()),
                };
                Some((slots?, Ids::with(internal.affinity)))
            });
        match before {
            Some((before, of)) => {
                let slots = slots::assign(Previous { slots: before, ids: of }, backends, ids);
                if *slots == **before { Arc::clone(before) } else { slots.into() }
            }
            None => {
                let (held, of) = seeded(&route, view, seed);
                slots::assign(Previous { slots: &held, ids: of }, backends, ids).into()
            }
        }
    };
    let slots = Slots {
        cluster: uses_cluster.then(|| assign(&route.cluster, View::Cluster)),
        local: uses_local.then(|| assign(&route.local, View::Local)),
    };
    let known = |target: Target, old: Option<&Arc<Target>>| match old {
        Some(old) if **old == target => Arc::clone(old),
        Some(_) | None => Arc::new(target),
    };
    let of = |policy: TrafficPolicy| match policy {
        TrafficPolicy::Cluster => (slots.cluster.clone().unwrap_or_default(), &route.cluster),
        TrafficPolicy::Local => (slots.local.clone().unwrap_or_default(), &route.local),
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
    let target = |(slots, backends): (Arc<[Slot]>, &Vec<Backend>)| {
        let is_dropped = route.has_endpoints && slots.is_empty();
        let unserved = if is_dropped { Unserved::Drop } else { Unserved::Reject };
        let left_out = backends.len() - slots.len();
        let (ipvs, local, sources) = (balancing, None, None);
        let serving = to_internal.clone();
        Target { affinity, slots, unserved, local, sources, left_out, ipvs, serving }
    };
    let internal = known(target(of(route.internal)), old.map(|old| &old.internal));
    let external = if has_external {
        let sources = route.sources.as_deref().map(Arc::from);
        let local = slots.local.clone().filter(|_| is_local(route.external));
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
        slots,
        depends_on_node: route.depends_on_node,
    }
}

/// Returns the slots that a kernel holds for a port under a policy, and their ids.
fn seeded(route: &Route, view: View, seed: &State) -> (Vec<Slot>, Ids) {
    let places = route.frontends.iter().filter_map(|(frontend, rank)| {
        let policy = if rank.is_external() { route.external } else { route.internal };
        match (view, policy, rank.is_external()) {
            (View::Cluster, TrafficPolicy::Cluster, _)
            | (View::Cluster, TrafficPolicy::Local, true)
            | (View::Local, TrafficPolicy::Local, false) => Some((View::Cluster, *frontend)),
            (View::Local, TrafficPolicy::Local, true) => Some((View::Local, *frontend)),
            (View::Cluster, TrafficPolicy::Local, false)
            | (View::Local, TrafficPolicy::Cluster, _) => None,
        }
    });
    // The slots of a frontend that another Service port has are used only if there are no own ones.
    let comment = route.port.comment();
    let own = places.clone().filter(|(_, frontend)| seed.owner(*frontend) == Some(&comment));
    let mut held = own.chain(places).map(|(view, frontend)| {
        let pick = seed.pick(view, frontend);
        let ids = Ids::with(pick.and_then(|pick| pick.affinity));
        (seed.slots(view, frontend), ids)
    });
    held.find(|(slots, _)| !slots.is_empty()).unwrap_or((Vec::new(), Ids::Positions))
}
