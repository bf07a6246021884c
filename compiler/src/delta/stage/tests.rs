use std::net::IpAddr;
use std::num::NonZeroU16;

use super::*;
use crate::delta::Group;
use crate::ipvs::{self, Attributes, RealServer, Scheduling, VirtualServer};
use crate::net::{Backend, Family, Protocol};
use crate::nft::chain::ChainId;
use crate::nft::set::Scope;

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

fn pick(clients: Clients, backends: u32) -> Pick {
    Pick { clients, affinity: None, backends }
}

fn head(view: View, pick: Pick) -> Element {
    Element::new(Key::Service(view, frontend()), Value::Pick(pick))
}

/// The element of a frontend with so many backends.
fn code(backends: u32) -> Element {
    head(View::Cluster, pick(Clients::Kept, backends))
}

fn slot_of(view: View, slot: u32, last: u8) -> Element {
    Element::new(Key::Endpoint(view, frontend(), slot), Value::Backend(backend(last)))
}

fn slot(slot: u32, last: u8) -> Element {
    slot_of(View::Cluster, slot, last)
}

fn member(key: Key) -> Element {
    Element::new(key, Value::Present)
}

fn range(text: &str) -> Element {
    member(Key::SourceRange(frontend(), text.parse().unwrap()))
}

fn restriction() -> Element {
    member(Key::Firewalled(frontend()))
}

fn rejection() -> Element {
    member(Key::Reject(frontend()))
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
fn a_slot_is_deleted_after_the_pick_that_draws_it() {
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
fn the_local_view_is_deleted_after_what_leads_to_it() {
    let local = Op::delete(head(View::Local, pick(Clients::Kept, 1)));
    let local_slot = Op::delete(slot_of(View::Local, 0, 1));
    let flip = vec![
        Op::delete(head(View::Cluster, pick(Clients::Split, 1))),
        Op::add(head(View::Cluster, pick(Clients::Masqueraded, 1))),
        local.clone(),
        local_slot.clone(),
    ];
    assert_eq!(steps(&flip), [flip[..2].to_vec(), flip[2..].to_vec()]);
    let last = vec![local, local_slot];
    assert_eq!(steps(&last), [last[..1].to_vec(), last[1..].to_vec()]);
}

#[test]
fn ranges_are_deleted_after_the_restriction() {
    let open = vec![Op::delete(restriction()), Op::delete(range("10.0.0.0/8"))];
    assert_eq!(steps(&open), [open[..1].to_vec(), open[1..].to_vec()]);
    let fewer = vec![Op::delete(range("10.0.0.0/8"))];
    assert_eq!(steps(&fewer), [fewer]);
}

#[test]
fn ranges_are_added_before_the_restriction() {
    let (restrict, wide) = (Op::add(restriction()), Op::add(range("10.0.0.0/8")));
    // A new frontend is restricted from the start.
    let ops = vec![Op::add(code(1)), Op::add(slot(0, 1)), restrict.clone(), wide.clone()];
    assert_eq!(steps(&ops), [ops[3..].to_vec(), ops[..3].to_vec()]);
    let more = vec![wide.clone()];
    assert_eq!(steps(&more), [more]);
    // In a new table, no packet waits.
    assert_eq!(Staged::of_service(ops.clone(), Tables::New, false).at(Stage::Switch), ops);
    // Ranges that others have left there may overlap.
    let ops = vec![Op::delete(range("10.0.0.0/9")), restrict, wide];
    assert_eq!(steps(&ops), [ops]);
}

#[test]
fn a_service_is_deleted_in_one_step() {
    let ops = vec![Op::delete(code(1)), Op::delete(slot(0, 1))];
    assert_eq!(steps(&ops), [ops]);
}

#[test]
fn a_restricted_service_is_deleted_in_one_step_too() {
    let restriction = [Op::delete(restriction()), Op::delete(range("10.0.0.0/8"))];
    let rejected = Op::delete(rejection());
    for served in [vec![Op::delete(code(1)), Op::delete(slot(0, 1))], vec![rejected.clone()]] {
        let ops = [served, restriction.to_vec()].concat();
        assert_eq!(steps(&ops), [ops]);
    }
    // The end of a rejection is a different case.
    let ops = [vec![rejected, Op::add(code(1))], restriction.to_vec()].concat();
    let [rejected, code, restriction, range] = [0, 1, 2, 3].map(|index| ops[index].clone());
    assert_eq!(steps(&ops), [vec![code, restriction], vec![rejected, range]]);
}

#[test]
fn a_chain_is_complete_before_it_is_used_and_deleted_after_its_users() {
    let chain = ChainId::Pick(Scope::Address, View::Cluster, pick(Clients::Kept, 3));
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
    head(View::Cluster, Pick::by_ipvs(Clients::Kept))
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
    let flip =
        [Op::delete(head(View::Cluster, pick(Clients::Kept, 3))), Op::add(ours()), Op::add(vip())];
    let ops = [&flip[..], &complete()].concat();
    assert_eq!(steps(&ops), [complete().to_vec(), flip.to_vec()]);
}

#[test]
fn ipvs_is_complete_before_a_table_is_replaced() {
    let rules = [Op::delete(vip()), Op::add(ours())];
    let ops = [&rules[..], &complete()].concat();
    let staged = Staged::of_service(ops, Tables::Replaced, true);
    assert_eq!(staged.stages(), [&complete()[..], &rules, &[]]);
}

/// The operations on IPVS may be elsewhere in the delta, and another table may be new.
#[test]
fn rules_of_a_virtual_server_are_deleted_after_every_change_of_ipvs() {
    let rules = vec![Op::delete(ours()), Op::delete(vip())];
    for tables in [Tables::Live, Tables::New] {
        let staged = Staged::of_service(rules.clone(), tables, true);
        assert_eq!(staged.at(Stage::Retire), rules, "{tables:?}");
        let staged = Staged::of_service(rules.clone(), tables, false);
        assert_eq!(staged.at(Stage::Switch), rules, "{tables:?}: without IPVS");
    }
}

/// A kernel refuses a range that overlaps one that still exists.
#[test]
fn a_range_makes_room_for_one_that_overlaps_it_in_ipvs_mode_too() {
    let ranges = [Op::delete(range("10.0.0.0/9")), Op::add(range("10.0.0.0/8"))];
    let real = Op::from(ipvs::Op::DeleteReal(server(), backend(2)));
    let ops = [&ranges[..], &[real]].concat();
    assert_eq!(steps(&ops), [ops]);
}

/// Clients that were not allowed are not let in while IPVS still serves.
#[test]
fn a_restriction_is_lifted_at_once_unless_its_virtual_server_is_deleted() {
    let open = [Op::delete(restriction()), Op::delete(range("10.0.0.0/8"))];
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
