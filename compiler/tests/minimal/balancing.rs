//! The cost of changes of load balancing and of weights.

use std::collections::BTreeSet;

use rulec_compiler::Settings;
use rulec_compiler::frontend::View;
use rulec_compiler::load_balancing::{LoadBalancing, Weight};
use rulec_compiler::nft::maglev::TableSize;

use super::*;
use crate::support::applied;

/// Service default/web with a way of load balancing.
fn by(how: LoadBalancing) -> Object {
    web(|service| service.load_balancing = Some(how))
}

/// Slice web-2 of default/web, whose endpoints have a weight.
fn weighing(weight: u8, endpoints: &[Endpoint]) -> Object {
    let Ok(weight) = Weight::try_from(weight) else { panic!("{weight} is no weight") };
    let slice = EndpointSlice { weight, ..slice("web", "web-2", endpoints) };
    Object::EndpointSlice(Arc::new(slice))
}

/// Every endpoint moves to other maps, and the head leads to the turns.
#[test]
fn random_to_round_robin_takes_a_member_and_its_next_for_each_endpoint() {
    let random = [web(|_| ()), endpoints(&[at(1), at(2)])];
    let in_turn = [by(LoadBalancing::RoundRobin), endpoints(&[at(1), at(2)])];
    let there = ops(&random, &in_turn);
    let count = |ops: &[String], start: &str| ops.iter().filter(|op| op.starts_with(start)).count();
    for (start, expected) in [
        ("add member-groups", 1),
        ("add member-slots", 2),
        ("add members", 2),
        ("add next-members", 2),
        ("delete services", 1),
        ("add services", 1),
        ("delete endpoints", 2),
    ] {
        assert_eq!(count(&there, start), expected, "{start}: {there:?}");
    }
    assert_eq!(there.len(), 11, "{there:?}");
    let back = ops(&in_turn, &random);
    assert_eq!(back.len(), 11, "{back:?}");
    assert_eq!(count(&back, "delete next-members"), 2, "{back:?}");
}

/// The new endpoint, its place among the others, the slot, and the size in the code of the group;
/// the head stays.
#[test]
fn an_endpoint_more_that_takes_turns_takes_seven_operations() {
    let two = [by(LoadBalancing::RoundRobin), endpoints(&[at(1), at(2)])];
    let three = [by(LoadBalancing::RoundRobin), endpoints(&[at(1), at(2), at(3)])];
    let there = ops(&two, &three);
    assert_eq!(there.len(), 7, "{there:?}");
    assert!(!there.iter().any(|op| op.contains("services")), "{there:?}");
    let back = ops(&three, &two);
    assert_eq!(back.len(), 7, "{back:?}");
}

/// A slot for each unit of weight, and two for the head.
#[test]
fn a_weight_takes_as_many_slots() {
    let of = |weight| [web(|_| ()), endpoints(&[at(1)]), weighing(weight, &[at(2)])];
    assert_eq!(
        ops(&of(1), &of(3)),
        [
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.2 . 8080",
            "add endpoints 0:1000 . tcp . 3 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1404",
        ]
    );
    assert_eq!(
        ops(&of(3), &of(1)),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete endpoints 0:1000 . tcp . 2",
            "delete endpoints 0:1000 . tcp . 3",
        ]
    );
    // Without any weight it is not used, as if it were not ready.
    let unready = [web(|_| ()), endpoints(&[at(1)]), weighing(1, &[not_ready(2)])];
    assert_eq!(ops(&of(1), &of(0)), ops(&of(1), &unready));
    assert_eq!(ops(&of(0), &unready), [""; 0]);
}

/// Weights do not change who takes turns.
#[test]
fn a_weight_of_a_member_is_no_change() {
    let of =
        |weight| [by(LoadBalancing::RoundRobin), endpoints(&[at(1)]), weighing(weight, &[at(2)])];
    assert_eq!(ops(&of(1), &of(3)), [""; 0]);
}

/// A process that is killed after a table has become a random choice leaves the rest of the table:
/// no packet looks at it, and it says nothing about the backends.
#[test]
fn what_an_interrupted_change_leaves_of_a_table_is_no_backend() {
    let program =
        |objects: &[Object]| Program::compile(&model(objects), settings(), &State::default());
    let table = program(&[by(LoadBalancing::Maglev), endpoints(&[at(1), at(2), at(3)])]);
    let random = [web(|_| ()), endpoints(&[at(1), at(2)])];
    let model = model(&random);
    let wanted = Program::compile(&model, settings(), &table.state());
    let mut delta = Delta::between(&table, &wanted);
    for group in &mut delta.groups {
        group.ops.drop_retired();
    }
    let found = applied(&table.state(), &delta);
    let frontend = found.frontends_by_group().into_values().flatten().next();
    let Some(group) = frontend.and_then(|it| found.group(View::Cluster, it)) else { panic!() };
    let left: BTreeSet<IpAddr> = group.slots.iter().map(|slot| slot.backend.address).collect();
    assert_eq!(left, [at(1), at(2)].map(|it| it.address).into());
}

/// All slots of the table, the head, and the two endpoints that were drawn.
#[test]
fn random_to_maglev_takes_the_whole_table() {
    let slots = settings().maglev_table_size.slots() as usize;
    let random = [web(|_| ()), endpoints(&[at(1), at(2)])];
    let table = [by(LoadBalancing::Maglev), endpoints(&[at(1), at(2)])];
    let there = ops(&random, &table);
    let added = there.iter().filter(|op| op.starts_with("add endpoints")).count();
    assert!((slots - 2..=slots).contains(&added), "{added} slots were added");
    // The slots that were drawn are the first two of the table, or are replaced.
    assert_eq!(there.len(), added + 2 + (added + 2 - slots));
    // To hash something else, only the head changes.
    let by_source = [by(LoadBalancing::MaglevSource), endpoints(&[at(1), at(2)])];
    assert_eq!(
        ops(&table, &by_source),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1428",
        ]
    );
}

/// An endpoint more or less writes its own share of the table, and little else.
#[test]
fn an_endpoint_of_a_table_writes_little_more_than_its_share() {
    let maglev_table_size = TableSize::default();
    let slots = f64::from(maglev_table_size.slots());
    let endpoints_of = |count: u8| (1..=count).map(at).collect::<Vec<Endpoint>>();
    let program = |count: u8| {
        let objects = [by(LoadBalancing::Maglev), endpoints(&endpoints_of(count))];
        let settings = Settings { maglev_table_size, ..(*settings()).clone() };
        Program::compile(&model(&objects), Arc::new(settings), &State::default())
    };
    let mut fewer = program(1);
    for count in 2..=30_u8 {
        let more = program(count);
        let both = [(&fewer, &more), (&more, &fewer)];
        for (before, after) in both {
            let delta = Delta::between(before, after);
            let is_added = |op: &&Op| op.added().is_some();
            let (added, all) = (delta.ops().filter(is_added).count(), delta.ops().count());
            // Each slot that moves is deleted and added; nothing else changes.
            assert_eq!(all, 2 * added, "{count} endpoints");
            let most = 1.3 * slots / f64::from(count);
            assert!(added as f64 <= most, "{count} endpoints: {added} slots, at most {most}");
        }
        fewer = more;
    }
    // As every other delta: valid, and there is no smaller one.
    checked_delta(&program(7), &program(8));
}
