use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::*;
use crate::delta::Group;
use crate::ipvs::{self, Attributes, RealServer, Scheduling, VirtualServer};
use crate::net::{Backend, Family, Protocol};
use crate::nft::chain::ChainId;
use crate::nft::code::{Affinity, Class, Clients, Code};
use crate::nft::length::Lengths;
use crate::nft::size::Size;

fn port() -> NonZeroU16 {
    NonZeroU16::new(80).unwrap()
}

fn server() -> VirtualServer {
    VirtualServer { address: [10, 96, 0, 1].into(), protocol: Protocol::Tcp, port: port() }
}

fn frontend() -> Frontend {
    server().frontend()
}

fn backend(last: u8) -> Backend {
    Backend { address: IpAddr::from([10, 244, 0, last]), port: port() }
}

fn group(number: u32) -> GroupId {
    GroupId::new(number).unwrap()
}

fn head(clients: Clients, class: Class) -> Element {
    let code = Code { group: group(1), clients, class };
    Element::new(Key::Service(frontend()), Value::Code(code))
}

fn random(backends: usize) -> Class {
    Class::Random(Size::of(backends).unwrap())
}

/// The element of a frontend with so many backends.
fn code(backends: usize) -> Element {
    head(Clients::Internal, random(backends))
}

fn slot_of(number: u32, slot: u32, last: u8) -> Element {
    let key = Key::Endpoint(Family::Ipv4, group(number), Protocol::Tcp, slot);
    Element::new(key, Value::Backend(backend(last)))
}

fn slot(slot: u32, last: u8) -> Element {
    slot_of(1, slot, last)
}

fn member(key: Key) -> Element {
    Element::new(key, Value::Present)
}

const WIDE: &str = "10.0.0.0/8";
const NARROW: &str = "10.1.0.0/16";

fn range(text: &str) -> Element {
    member(Key::SourceRange(frontend(), text.parse().unwrap()))
}

fn restriction(ranges: &[&str]) -> Element {
    let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Element::new(Key::Firewalled(frontend()), Value::Lengths(Lengths::of(&ranges)))
}

fn rejection() -> Element {
    member(Key::Reject(frontend()))
}

fn whole(tables: Tables, with_ipvs: bool) -> Whole {
    Whole { tables, with_ipvs, ..Whole::default() }
}

fn delta(ops: &[Op]) -> Delta {
    let group = Group::new(NamespacedName::new("default", "web"), ops.to_vec());
    Delta { groups: vec![group], ..Delta::default() }
}

/// Returns the operations of each step, for a Service with these operations.
fn steps(ops: &[Op]) -> Vec<Vec<Op>> {
    delta(ops).steps().map(|step| step.ops().cloned().collect()).collect()
}

#[test]
fn an_added_endpoint_is_one_step() {
    let ops = vec![Op::delete(code(2)), Op::add(code(3)), Op::add(slot(2, 3))];
    assert_eq!(steps(&ops), [ops]);
}

#[test]
fn a_slot_is_deleted_after_the_code_that_leads_to_it() {
    let ops = vec![
        Op::delete(code(3)),
        Op::add(code(2)),
        Op::delete(slot(0, 1)),
        Op::add(slot(0, 3)),
        Op::delete(slot(2, 3)),
    ];
    assert_eq!(steps(&ops), [ops[..4].to_vec(), ops[4..].to_vec()]);
}

#[test]
fn a_replaced_endpoint_is_one_step() {
    let ops = vec![Op::delete(slot(0, 1)), Op::add(slot(0, 9))];
    assert_eq!(steps(&ops), [ops]);
}

#[test]
fn a_rejection_is_deleted_after_the_backends_are_added() {
    let ops = vec![Op::delete(rejection()), Op::add(code(1)), Op::add(slot(0, 1))];
    assert_eq!(steps(&ops), [ops[1..].to_vec(), ops[..1].to_vec()]);
}

/// A change from policy Local to policy Cluster, and the removal of the only local endpoint.
#[test]
fn the_local_group_is_deleted_after_what_leads_to_it() {
    let code = Code { group: group(2), clients: Clients::Kept, class: random(1) };
    let key = Key::LocalGroup(Family::Ipv4, group(1));
    let local = Op::delete(Element::new(key, Value::Code(code)));
    let local_slot = Op::delete(slot_of(2, 0, 1));
    let flip = vec![
        Op::delete(head(Clients::Split, random(1))),
        Op::add(head(Clients::Masqueraded, random(1))),
        local.clone(),
        local_slot.clone(),
    ];
    assert_eq!(steps(&flip), [flip[..2].to_vec(), flip[2..].to_vec()]);
    // If the frontends stay split, their clients from outside shall be dropped.
    let last = vec![local, local_slot];
    let split = Whole { split: [(Family::Ipv4, group(1))].into(), ..Whole::default() };
    let staged = Staged::of_service(last.clone(), &split);
    assert_eq!(staged.stages(), [&[], &last[..1], &last[1..]]);
}

#[test]
fn ranges_are_deleted_after_the_restriction() {
    let open = vec![Op::delete(restriction(&[WIDE])), Op::delete(range(WIDE))];
    assert_eq!(steps(&open), [open[..1].to_vec(), open[1..].to_vec()]);
    let fewer = vec![Op::delete(range(WIDE))];
    assert_eq!(steps(&fewer), [fewer]);
}

/// Clients from outside get one backend more: nothing leads elsewhere.
#[test]
fn ranges_are_replaced_in_steps_while_a_local_group_grows() {
    let local = |slots| {
        let code = Code { group: group(2), clients: Clients::Kept, class: random(slots) };
        Element::new(Key::LocalGroup(Family::Ipv4, group(1)), Value::Code(code))
    };
    let [old, new] = [Op::delete(range(WIDE)), Op::add(range(NARROW))];
    let grown = [Op::delete(local(2)), Op::add(local(3))];
    let ops = [&grown[..], &[old.clone(), new.clone()]].concat();
    assert_eq!(steps(&ops), [vec![new], grown.to_vec(), vec![old]]);
}

#[test]
fn a_frontend_is_restricted_before_it_is_added() {
    let restricted = [Op::add(restriction(&[WIDE])), Op::add(range(WIDE))];
    let served = [Op::add(code(1)), Op::add(slot(0, 1))];
    let ops = [&served[..], &restricted].concat();
    assert_eq!(steps(&ops), [restricted.to_vec(), served.to_vec()]);
    let more = vec![Op::add(range(WIDE))];
    assert_eq!(steps(&more), [more]);
    // In a new table, no packet waits.
    assert_eq!(Staged::of_service(ops.clone(), &whole(Tables::New, false)).at(Stage::Switch), ops);
}

/// A client that may connect before and after finds one of its ranges at every moment.
#[test]
fn a_range_is_deleted_after_the_one_that_takes_its_place() {
    let ops = [
        Op::delete(restriction(&[WIDE])),
        Op::add(restriction(&[NARROW])),
        Op::delete(range(WIDE)),
        Op::add(range(NARROW)),
    ];
    let [delete, add, old, new] = ops.clone();
    let first = vec![delete, add, new];
    assert_eq!(steps(&ops), [first.clone(), vec![old.clone()]]);
    // Another number of backends makes no difference.
    let resized = [Op::delete(code(2)), Op::add(code(3))];
    let both = [&resized[..], &ops].concat();
    assert_eq!(steps(&both), [first, resized.to_vec(), vec![old]]);
}

/// Otherwise, the clients of one Service would reach the other.
#[test]
fn ranges_change_with_what_the_frontend_leads_to() {
    let moved = [Op::delete(head(Clients::Masqueraded, random(1))), Op::add(code(1))];
    let ranges = [
        Op::delete(restriction(&[WIDE])),
        Op::add(restriction(&[NARROW])),
        Op::delete(range(WIDE)),
        Op::add(range(NARROW)),
    ];
    let ops = [&moved[..], &ranges].concat();
    assert_eq!(steps(&ops), [ops]);
    // In either order of the sets.
    let rejected = Op::delete(rejection());
    let switched = [&[Op::add(code(1))], &ranges[..]].concat();
    let ops = [&[Op::add(code(1)), rejected.clone()], &ranges[..]].concat();
    assert_eq!(steps(&ops), [switched, vec![rejected]]);
}

/// Another Service may have taken over one of its frontends in the same step.
#[test]
fn the_group_of_a_service_is_deleted_after_its_frontends() {
    let ops = vec![Op::delete(code(1)), Op::delete(slot(0, 1))];
    assert_eq!(steps(&ops), [ops[..1].to_vec(), ops[1..].to_vec()]);
}

#[test]
fn the_restriction_of_a_frontend_goes_with_it() {
    let restriction = [Op::delete(restriction(&[WIDE])), Op::delete(range(WIDE))];
    let rejected = Op::delete(rejection());
    for served in [Op::delete(code(1)), rejected.clone()] {
        let ops = [vec![served], restriction.to_vec()].concat();
        assert_eq!(steps(&ops), [ops[..2].to_vec(), ops[2..].to_vec()]);
    }
    // The end of a rejection is a different case.
    let ops = [vec![rejected, Op::add(code(1))], restriction.to_vec()].concat();
    let [rejected, code, restriction, range] = [0, 1, 2, 3].map(|index| ops[index].clone());
    assert_eq!(steps(&ops), [vec![code, restriction], vec![rejected, range]]);
}

#[test]
fn a_chain_is_complete_before_it_is_used_and_deleted_after_its_users() {
    let chain = ChainId::Affinity(Affinity { timeout: 60, map: 1 });
    let add = Op::from(nft::Op::AddChain(Family::Ipv4, chain));
    let delete = Op::from(nft::Op::DeleteChain(Family::Ipv4, chain));
    let ops = vec![Op::delete(code(3)), Op::add(code(2)), Op::delete(slot(2, 3))];
    let shared = [(Stage::Prepare, add.clone()), (Stage::Retire, delete.clone())];
    let shared = Staged::of_all(shared.into_iter(), Tables::Live);
    let delta = Delta { shared, ..delta(&ops) };
    let steps: Vec<Vec<Op>> = delta.steps().map(|step| step.ops().cloned().collect()).collect();
    assert_eq!(steps, [vec![add], ops[..2].to_vec(), ops[2..].to_vec(), vec![delete]]);
}

// ---- IPVS ---------------------------------------------------------------------------------------

fn ours() -> Element {
    head(Clients::Internal, Class::Ipvs)
}

fn vip() -> Element {
    member(Key::Vip(server().address))
}

fn complete() -> [Op; 3] {
    let attributes = Attributes { scheduling: Scheduling::default(), persistence: None };
    [
        ipvs::Op::AddServer(server(), attributes).into(),
        ipvs::Op::AddReal(server(), backend(1), RealServer::ACTIVE).into(),
        ipvs::Op::Bind(server().address).into(),
    ]
}

#[test]
fn rules_for_a_new_virtual_server_are_in_its_step() {
    let ops = [&[Op::add(ours()), Op::add(vip())][..], &complete()].concat();
    assert_eq!(steps(&ops), [ops]);
}

#[test]
fn rules_of_a_virtual_server_are_deleted_after_it() {
    let rules = [Op::delete(ours()), Op::delete(vip())];
    let unbind = Op::from(ipvs::Op::Unbind(server().address));
    let delete = Op::from(ipvs::Op::DeleteServer(server()));
    let ops = [&rules[..], &[unbind.clone(), delete.clone()]].concat();
    assert_eq!(steps(&ops), [vec![unbind, delete], rules.to_vec()]);
}

#[test]
fn ipvs_is_complete_before_our_rules_stop_translating() {
    let flip = [Op::delete(code(3)), Op::add(ours()), Op::add(vip())];
    let ops = [&flip[..], &complete()].concat();
    assert_eq!(steps(&ops), [complete().to_vec(), flip.to_vec()]);
}

#[test]
fn ipvs_is_complete_before_a_table_is_replaced() {
    let rules = [Op::delete(vip()), Op::add(ours())];
    let ops = [&rules[..], &complete()].concat();
    let staged = Staged::of_service(ops, &whole(Tables::Replaced, true));
    assert_eq!(staged.stages(), [&complete()[..], &rules, &[]]);
}

/// The operations on IPVS may be elsewhere in the delta, and another table may be new.
#[test]
fn rules_of_a_virtual_server_are_deleted_after_every_change_of_ipvs() {
    let rules = vec![Op::delete(ours()), Op::delete(vip())];
    for tables in [Tables::Live, Tables::New] {
        let staged = Staged::of_service(rules.clone(), &whole(tables, true));
        assert_eq!(staged.at(Stage::Retire), rules, "{tables:?}");
        let staged = Staged::of_service(rules.clone(), &whole(tables, false));
        assert_eq!(staged.at(Stage::Switch), rules, "{tables:?}: without IPVS");
    }
}

#[test]
fn a_range_is_deleted_after_the_one_that_takes_its_place_in_ipvs_mode_too() {
    let [old, new] = [Op::delete(range(WIDE)), Op::add(range("11.0.0.0/8"))];
    let real = Op::from(ipvs::Op::DeleteReal(server(), backend(2)));
    let ops = [old.clone(), new.clone(), real.clone()];
    assert_eq!(steps(&ops), [vec![new], vec![real], vec![old]]);
}

/// Clients that were not allowed are not let in while IPVS still serves.
#[test]
fn a_restriction_is_lifted_at_once_unless_its_virtual_server_is_deleted() {
    let open = [Op::delete(restriction(&[WIDE])), Op::delete(range(WIDE))];
    let real = Op::from(ipvs::Op::DeleteReal(server(), backend(2)));
    let ops = [&open[..], std::slice::from_ref(&real)].concat();
    assert_eq!(steps(&ops), [vec![open[0].clone(), real], vec![open[1].clone()]]);
    let delete = Op::from(ipvs::Op::DeleteServer(server()));
    let rules = [&[Op::delete(ours())], &open[..]].concat();
    let ops = [&rules[..], std::slice::from_ref(&delete)].concat();
    assert_eq!(steps(&ops), [vec![delete], rules]);
}

#[test]
fn servers_are_complete_before_their_address_is_bound_and_deleted_after_it() {
    let [add, real, bind] = complete();
    let other = VirtualServer { address: [10, 96, 0, 2].into(), ..server() };
    let unbind = Op::from(ipvs::Op::Unbind(other.address));
    let delete = Op::from(ipvs::Op::DeleteServer(other));
    let shared = Staged::from(vec![delete.clone(), unbind.clone()]);
    let delta = Delta { shared, ..delta(&[bind.clone(), add.clone(), real.clone()]) };
    let steps: Vec<Step<'_>> = delta.steps().collect();
    let [step] = &steps[..] else { panic!("{steps:?}") };
    let found: Vec<Op> = step.on_ipvs().into_iter().map(|it| it.op.clone().into()).collect();
    assert_eq!(found, [add, real, bind, unbind, delete]);
}
