//! Shared by the test binaries: basic objects, and the checks that every delta must pass.

mod objects;

use std::collections::BTreeMap;
use std::net::IpAddr;

use rulec_compiler::Frontend;
use rulec_compiler::ipvs;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::nft::{self, ChainId, Key, SetId};
use rulec_compiler::state::Held;
use rulec_compiler::{Delta, Op, Program, State};

pub(crate) use objects::*;

/// Returns the elements of a state, of both families.
pub(crate) fn elements(state: &State) -> BTreeMap<Key, Held> {
    let tables = state.tables.values();
    tables.flat_map(|table| &table.elements).map(|(key, held)| (*key, held.clone())).collect()
}

/// Applies the delta to the strict reference kernel and returns the resulting state.
pub(crate) fn applied(before: &State, delta: &Delta) -> State {
    let mut state = before.clone();
    if let Err(violation) = state.apply(delta) {
        panic!("the kernel would refuse {violation}");
    }
    state
}

/// Checks a delta between two states: it is valid for a kernel, leads to the right state, touches
/// no more elements than necessary, and changes each frontend in one transaction, so that none is
/// ever half changed.
pub(crate) fn check(before: &State, delta: &Delta, after: &State) {
    assert_eq!(applied(before, delta), *after, "the delta does not lead to what is wanted");
    check_minimal(before, delta, after);
    check_minimal_ipvs(&before.ipvs, delta, &after.ipvs);
    check_frontends_are_whole(delta);
    check_intervals(before, delta);
    check_rules(delta);
}

/// Checks that a chain whose rules are not ours is flushed before it is filled: a kernel would
/// append.
fn check_rules(delta: &Delta) {
    let mut empty: Vec<(Family, ChainId)> = Vec::new();
    for op in delta.ops() {
        let Some(op) = op.as_nft() else { continue };
        if let nft::Op::AddChain(family, chain) | nft::Op::FlushChain(family, chain) = op {
            empty.push((*family, *chain));
        } else if let nft::Op::FillChain(family, chain) = op {
            assert!(empty.contains(&(*family, *chain)), "{chain} is filled but may not be empty");
        }
    }
}

/// Checks for the minimum of operations: a deletion for each element that is gone or has changed,
/// an addition for each that is new or has changed. An element cannot be changed in place.
fn check_minimal(before: &State, delta: &Delta, after: &State) {
    let families: Vec<Family> = delta.ops().filter_map(replaced).collect();
    let (mut before, after) = (elements(before), elements(after));
    before.retain(|key, _| !families.contains(&key.family()));

    let gone = before.iter().filter(|(key, held)| after.get(key) != Some(held));
    let come = after.iter().filter(|(key, held)| before.get(key) != Some(held));
    let mut gone: Vec<Key> = gone.map(|(key, _)| *key).collect();
    let mut come: Vec<Key> = come.map(|(key, _)| *key).collect();
    let (mut deleted, mut added) = (Vec::new(), Vec::new());
    for op in delta.ops() {
        deleted.extend(op.deleted().map(|element| element.key));
        added.extend(op.added().map(|element| element.key));
    }
    for keys in [&mut gone, &mut come, &mut deleted, &mut added] {
        keys.sort_unstable();
    }
    assert_eq!(deleted, gone, "not the fewest deletions");
    assert_eq!(added, come, "not the fewest additions");
}

/// Checks for the minimum of operations on IPVS: equal things are not touched, changed things are
/// changed in place, and a virtual server takes its real servers with it.
fn check_minimal_ipvs(before: &ipvs::State, delta: &Delta, after: &ipvs::State) {
    let mut fewest: Vec<ipvs::Op> = Vec::new();
    for server in before.servers.keys().filter(|it| !after.servers.contains_key(it)) {
        fewest.push(ipvs::Op::DeleteServer(*server));
    }
    for (server, wanted) in &after.servers {
        let held = before.servers.get(server);
        let nothing = ipvs::Server::default();
        let reals = &held.unwrap_or(&nothing).reals;
        if let Some(attributes) = wanted.attributes {
            match held {
                None => fewest.push(ipvs::Op::AddServer(*server, attributes)),
                Some(held) if held.attributes != wanted.attributes => {
                    fewest.push(ipvs::Op::SetServer(*server, attributes));
                }
                Some(_) => {}
            }
        }
        for backend in reals.keys().filter(|it| !wanted.reals.contains_key(it)) {
            fewest.push(ipvs::Op::DeleteReal(*server, *backend));
        }
        for (backend, real) in &wanted.reals {
            let Some(wanted) = *real else { continue };
            match reals.get(backend) {
                None => fewest.push(ipvs::Op::AddReal(*server, *backend, wanted)),
                Some(held) if held != real => {
                    fewest.push(ipvs::Op::SetReal(*server, *backend, wanted));
                }
                Some(_) => {}
            }
        }
    }
    fewest.extend(before.bound.difference(&after.bound).copied().map(ipvs::Op::Unbind));
    fewest.extend(after.bound.difference(&before.bound).copied().map(ipvs::Op::Bind));
    let sorted = |ops: Vec<ipvs::Op>| -> Vec<String> {
        let mut lines: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
        lines.sort_unstable();
        lines
    };
    let ops =
        delta.ops().filter_map(|op| if let Op::Ipvs(op) = op { Some(op.clone()) } else { None });
    assert_eq!(sorted(ops.collect()), sorted(fewest), "not the fewest operations on IPVS");
}

/// Returns the frontend that an operation belongs to, if any.
fn frontend(op: &Op) -> Option<Frontend> {
    if let Op::Ipvs(op) = op {
        return op.server().map(ipvs::VirtualServer::frontend);
    }
    op.element()?.key.frontend()
}

fn check_frontends_are_whole(delta: &Delta) {
    let mut groups: BTreeMap<Frontend, &NamespacedName> = BTreeMap::new();
    for group in &delta.groups {
        for frontend in group.ops.iter().filter_map(frontend) {
            let first = *groups.entry(frontend).or_insert(&group.service);
            assert_eq!(first, &group.service, "{frontend} is changed in two transactions");
        }
    }
    // Operations outside the groups may prepare for groups, but must not touch a served frontend.
    for element in delta.shared.iter().filter_map(Op::element) {
        if let Some(frontend) = element.key.frontend() {
            assert!(!groups.contains_key(&frontend), "{frontend} is changed outside its group");
        }
    }
}

/// Checks that no interval overlaps with one that still exists: nf_tables refuses it.
fn check_intervals(before: &State, delta: &Delta) {
    let range = |key: &Key| {
        let (Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net)) = key
        else {
            return None;
        };
        Some((key.set(), *net))
    };
    let mut nets: Vec<(SetId, ipnet::IpNet)> = elements(before).keys().filter_map(range).collect();
    for op in delta.ops() {
        if let Some(family) = replaced(op) {
            nets.retain(|(_, net)| Family::of(net.addr()) != family);
        }
        let Some((set, net)) = op.element().and_then(|element| range(&element.key)) else {
            continue;
        };
        nets.retain(|held| *held != (set, net));
        if op.added().is_some() {
            let overlaps = |(of, held): &&(SetId, ipnet::IpNet)| {
                *of == set && (held.contains(&net) || net.contains(held))
            };
            assert_eq!(nets.iter().find(overlaps), None, "{net} overlaps when it is added");
            nets.push((set, net));
        }
    }
}

/// Returns the family whose table the operation deletes.
fn replaced(op: &Op) -> Option<Family> {
    if let Op::Nft(nft::Op::DeleteTable(family)) = op { Some(*family) } else { None }
}

/// Returns the delta between two programs, checked, and compares the other ways of finding it.
pub(crate) fn checked_delta(old: &Program, new: &Program) -> Delta {
    let (before, after) = (old.state(), new.state());
    let delta = Delta::between(old, new);
    check(&before, &delta, &after);
    check(&before, &Delta::reconcile(&before, new), &with_excluded(&before, new));
    check(&before, &Delta::between_states(&before, &after), &after);
    delta
}

/// Returns the state of a kernel after it was brought to a program: the program's, and the virtual
/// servers and addresses in excluded networks, whose owners are unknown.
pub(crate) fn with_excluded(found: &State, wanted: &Program) -> State {
    let mut state = wanted.state();
    let Some(ipvs) = wanted.settings().ipvs() else { return state };
    let is_excluded = |address: &IpAddr| ipvs.exclude.iter().any(|net| net.contains(address));
    for (server, held) in found.ipvs.servers.iter().filter(|(it, _)| is_excluded(&it.address)) {
        state.ipvs.servers.entry(*server).or_insert_with(|| held.clone());
    }
    state.ipvs.bound.extend(found.ipvs.bound.iter().filter(|it| is_excluded(it)));
    state
}
