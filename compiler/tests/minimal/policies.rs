//! The cost of changes of traffic policies, topology and source ranges.
//!
//! The comments explain the numbers of operations: a changed head (the element with the pick code)
//! is two, since an element cannot be changed in place; an added or removed slot is one. All of
//! this is needed once for each frontend that leads to the endpoint, and once more for the local
//! view of an external frontend that does.

use super::*;

// ---- External policy Local ----------------------------------------------------------------------

/// Ten: one for the hairpin, and three (a head, a slot) each for the cluster address and for both
/// views of the VIP, since clients from outside and from inside reach the endpoint.
#[test]
fn a_local_endpoint_takes_ten_operations() {
    let one = [web(outside_local), endpoints(&[local(1), at(2)])];
    let two = [web(outside_local), endpoints(&[local(1), at(2), local(3)])];
    assert_eq!(
        ops(&one, &two),
        [
            "add hairpin 10.0.0.3 . 10.0.0.3",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:3",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:2 : 10.0.0.3 . 8080",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:3",
            "add endpoints 192.0.2.1 . tcp . 80 . 0:2 : 10.0.0.3 . 8080",
            "delete local-services 192.0.2.1 . tcp . 80",
            "add local-services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "add local-endpoints 192.0.2.1 . tcp . 80 . 0:1 : 10.0.0.3 . 8080",
        ]
    );
    assert_eq!(
        ops(&two, &one),
        [
            "delete hairpin 10.0.0.3 . 10.0.0.3",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:2",
            "delete local-services 192.0.2.1 . tcp . 80",
            "add local-services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:2",
            "delete endpoints 192.0.2.1 . tcp . 80 . 0:2",
            "delete local-endpoints 192.0.2.1 . tcp . 80 . 0:1",
        ]
    );
}

/// Six: three for the cluster address, three for the VIP's cluster view, which Pods use. The view
/// of clients from outside does not change.
#[test]
fn a_remote_endpoint_takes_six_operations() {
    let one = [web(outside_local), endpoints(&[local(1), at(2)])];
    let two = [web(outside_local), endpoints(&[local(1), at(2), at(3)])];
    assert_eq!(
        ops(&one, &two),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:3",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:2 : 10.0.0.3 . 8080",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:3",
            "add endpoints 192.0.2.1 . tcp . 80 . 0:2 : 10.0.0.3 . 8080",
        ]
    );
    assert_eq!(
        ops(&two, &one),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:2",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:2",
            "delete endpoints 192.0.2.1 . tcp . 80 . 0:2",
        ]
    );
}

/// Nine: as for any endpoint of this node, except that the head of the local view is added or
/// removed, which is one operation. The health check for load balancers does not concern the
/// kernel.
#[test]
fn readiness_of_the_only_local_endpoint_takes_nine_operations() {
    let with_check = || {
        web(|service| {
            outside_local(service);
            service.health_check_node_port = Some(number(32000));
        })
    };
    let not_ready_here = Endpoint { node: Some(NodeName::from(HERE)), ..not_ready(2) };
    let ready = [with_check(), endpoints(&[at(1), local(2)])];
    let unready = [with_check(), endpoints(&[at(1), not_ready_here])];
    assert_eq!(
        ops(&ready, &unready),
        [
            "delete hairpin 10.0.0.2 . 10.0.0.2",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:1",
            "delete local-services 192.0.2.1 . tcp . 80",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:1",
            "delete endpoints 192.0.2.1 . tcp . 80 . 0:1",
            "delete local-endpoints 192.0.2.1 . tcp . 80 . none",
        ]
    );
    assert_eq!(
        ops(&unready, &ready),
        [
            "add hairpin 10.0.0.2 . 10.0.0.2",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:1 : 10.0.0.2 . 8080",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:2",
            "add endpoints 192.0.2.1 . tcp . 80 . 0:1 : 10.0.0.2 . 8080",
            "add local-services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1",
            "add local-endpoints 192.0.2.1 . tcp . 80 . none : 10.0.0.2 . 8080",
        ]
    );
}

/// None: it continues to serve in both views, since neither has another endpoint.
#[test]
fn termination_of_the_only_endpoint_takes_no_operation() {
    let both = |service: &mut Service| {
        outside_local(service);
        inside_local(service);
    };
    for policies in [outside_local, inside_local, both] {
        let before = [web(policies), endpoints(&[local(1)])];
        let after = [web(policies), endpoints(&[local_terminating(1)])];
        assert_eq!(ops(&before, &after), [""; 0]);
        assert_eq!(ops(&after, &before), [""; 0]);
    }
}

/// Six: it leaves the cluster view of both frontends, where another endpoint is ready; the local
/// view has no other endpoint. Its removal takes three more: the local view, and the hairpin.
#[test]
fn the_last_local_endpoint_terminates_in_six_operations_and_ends_in_three() {
    let with = |endpoints: &[Endpoint]| [web(outside_local), self::endpoints(endpoints)];
    let (ready, terminating) = (with(&[at(1), local(2)]), with(&[at(1), local_terminating(2)]));
    assert_eq!(
        ops(&ready, &terminating),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:1",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:1",
            "delete endpoints 192.0.2.1 . tcp . 80 . 0:1",
        ]
    );
    assert_eq!(
        ops(&terminating, &with(&[at(1)])),
        [
            "delete hairpin 10.0.0.2 . 10.0.0.2",
            "delete local-services 192.0.2.1 . tcp . 80",
            "delete local-endpoints 192.0.2.1 . tcp . 80 . none",
        ]
    );
}

/// Two for the head, which now distinguishes clients, and the local view: a head and two slots. The
/// slots of the cluster view stay, since Pods still use them; the cluster address is not affected.
#[test]
fn external_policy_local_takes_two_operations_and_the_local_view() {
    let backends = || endpoints(&[at(1), local(2), local(3)]);
    let cluster = [web(balanced), backends()];
    let local = [web(outside_local), backends()];
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:3",
            "add local-services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "add local-endpoints 192.0.2.1 . tcp . 80 . none : 10.0.0.3 . 8080",
            "add local-endpoints 192.0.2.1 . tcp . 80 . 0:1 : 10.0.0.2 . 8080",
        ]
    );
    assert_eq!(
        ops(&local, &cluster),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 2000:3",
            "delete local-services 192.0.2.1 . tcp . 80",
            "delete local-endpoints 192.0.2.1 . tcp . 80 . none",
            "delete local-endpoints 192.0.2.1 . tcp . 80 . 0:1",
        ]
    );
}

/// Without a local endpoint there is no local view; without any endpoint, not even the head
/// changes.
#[test]
fn external_policy_without_local_endpoints_takes_at_most_two_operations() {
    let none_here = || endpoints(&[at(1), at(2)]);
    let (cluster, local) = ([web(balanced), none_here()], [web(outside_local), none_here()]);
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:2",
        ]
    );
    assert_eq!(
        ops(&local, &cluster),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 2000:2",
        ]
    );
    assert_eq!(ops(&[web(balanced)], &[web(outside_local)]), [""; 0]);
    assert_eq!(ops(&[web(outside_local)], &[web(balanced)]), [""; 0]);
}

/// The policy applies to no traffic: the Service has no frontend for clients from outside.
#[test]
fn external_policy_without_external_frontends_takes_no_operation() {
    let with = |policy: TrafficPolicy| {
        let service = move |service: &mut Service| {
            service.kind = ServiceType::NodePort;
            service.external_policy = policy;
        };
        // An endpoint that topology excludes from the cluster view would be in the local one.
        [node_in("z1"), web(service), endpoints(&[hinted(local(1), "z2"), hinted(at(2), "z1")])]
    };
    let (cluster, local) = (with(TrafficPolicy::Cluster), with(TrafficPolicy::Local));
    assert_eq!(ops(&cluster, &local), [""; 0]);
    assert_eq!(ops(&local, &cluster), [""; 0]);
}

// ---- Internal policy Local ----------------------------------------------------------------------

/// From three endpoints to two of them: two for the head and, since the removed endpoint is not in
/// the last slot, a deletion and a move. On the way back, the last slot is added: backends under
/// both policies do not move.
#[test]
fn internal_policy_changes_only_the_head_and_differing_slots() {
    let backends = || endpoints(&[at(1), local(2), local(3)]);
    let cluster = [web(|_| ()), backends()];
    let local = [web(inside_local), backends()];
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "delete endpoints 10.96.0.1 . tcp . 80 . none",
            "add endpoints 10.96.0.1 . tcp . 80 . none : 10.0.0.3 . 8080",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:2",
        ]
    );
    assert_eq!(
        history(&[&cluster, &local, &cluster]),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:3",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:2 : 10.0.0.1 . 8080",
        ]
    );
    assert_eq!(
        history(&[&cluster, &local, &cluster, &local]),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:2",
        ]
    );
}

/// The VIP has all endpoints under both policies, and shares its slot assignment with the cluster
/// address under policy Cluster. So its slots do not change, and the way back takes as many
/// operations as the way there.
#[test]
fn internal_policy_leaves_external_frontends_alone() {
    let backends = || endpoints(&[at(1), local(2), local(3)]);
    let inside = |service: &mut Service| {
        balanced(service);
        inside_local(service);
    };
    let (cluster, local) = ([web(balanced), backends()], [web(inside), backends()]);
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "delete endpoints 10.96.0.1 . tcp . 80 . none",
            "add endpoints 10.96.0.1 . tcp . 80 . none : 10.0.0.3 . 8080",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:2",
        ]
    );
    assert_eq!(
        history(&[&cluster, &local, &cluster]),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:3",
            "delete endpoints 10.96.0.1 . tcp . 80 . none",
            "add endpoints 10.96.0.1 . tcp . 80 . none : 10.0.0.1 . 8080",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:2 : 10.0.0.3 . 8080",
        ]
    );
}

/// Two for the head, which now means drop, and one for each slot. Without any endpoint, connections
/// are rejected under both policies.
#[test]
fn internal_policy_without_local_endpoints_removes_all_slots() {
    let none_here = || endpoints(&[at(1), at(2)]);
    let (cluster, local) = ([web(|_| ()), none_here()], [web(inside_local), none_here()]);
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 6000:0",
            "delete endpoints 10.96.0.1 . tcp . 80 . none",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:1",
        ]
    );
    assert_eq!(
        ops(&local, &cluster),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "add endpoints 10.96.0.1 . tcp . 80 . none : 10.0.0.1 . 8080",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:1 : 10.0.0.2 . 8080",
        ]
    );
    assert_eq!(ops(&[web(|_| ())], &[web(inside_local)]), [""; 0]);
}

/// None: no frontend leads to it. (The first endpoint anywhere turns a rejection into a drop: two.)
#[test]
fn a_remote_endpoint_takes_no_operation_under_internal_policy_local() {
    let with = |endpoints: &[Endpoint]| [web(inside_local), self::endpoints(endpoints)];
    assert_eq!(ops(&with(&[local(1)]), &with(&[local(1), at(2)])), [""; 0]);
    assert_eq!(ops(&with(&[at(1)]), &with(&[at(1), at(2)])), [""; 0]);
    assert_eq!(
        ops(&with(&[]), &with(&[at(1)])),
        [
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 6000:0",
            "delete reject-services 10.96.0.1 . tcp . 80",
        ]
    );
}

// ---- Session affinity under Local ---------------------------------------------------------------

/// Two for each head, and three for each slot: its id, and the endpoint, which moves from the
/// slot's key to that of the id. There are three heads and five slots. The removal costs the same:
/// without affinity, the slot itself is the key.
#[test]
fn affinity_under_external_policy_local_changes_each_view() {
    let sticky_local = |service: &mut Service| {
        outside_local(service);
        sticky(service);
    };
    let backends = || endpoints(&[at(1), local(2)]);
    let (none, sticky) = ([web(outside_local), backends()], [web(sticky_local), backends()]);
    let view = |frontend: &str, prefix: &str, heads: [&str; 2], slots: &[(&str, &str, &str)]| {
        let mut on = vec![
            format!("delete {prefix}services {frontend}"),
            format!("add {prefix}services {frontend} comment \"default/web:http\" : {}", heads[1]),
        ];
        let mut off = vec![
            format!("delete {prefix}services {frontend}"),
            format!("add {prefix}services {frontend} comment \"default/web:http\" : {}", heads[0]),
        ];
        let id = |(slot, id, _): &(&str, &str, &str)| {
            format!("{prefix}affinity-slots {frontend} . {slot} : {id}")
        };
        let at = |key: &str, backend: &str| {
            format!("add {prefix}endpoints {frontend} . {key} : {backend} . 8080")
        };
        let not_at = |key: &str| format!("delete {prefix}endpoints {frontend} . {key}");
        on.extend(slots.iter().map(|slot| format!("add {}", id(slot))));
        on.extend(slots.iter().map(|(_, id, backend)| at(id, backend)));
        let on_late: Vec<String> = slots.iter().map(|(slot, ..)| not_at(slot)).collect();
        let no_id = |(slot, ..): &(&str, &str, &str)| {
            format!("delete {prefix}affinity-slots {frontend} . {slot}")
        };
        off.extend(slots.iter().map(|(slot, _, backend)| at(slot, backend)));
        // Packets that were on their way look these up.
        let mut off_late: Vec<String> = slots.iter().map(no_id).collect();
        off_late.extend(slots.iter().map(|(_, id, _)| not_at(id)));
        ([on, on_late], [off, off_late])
    };
    let both = [("none", "1d08:6d6c", "10.0.0.1"), ("0:1", "f843:92d", "10.0.0.2")];
    let here = [("none", "f843:92d", "10.0.0.2")];
    let (cluster, outside) = ("10.96.0.1 . tcp . 80", "192.0.2.1 . tcp . 80");
    let views = [
        view(cluster, "", ["0:2", "8000:a002"], &both),
        view(outside, "", ["4000:2", "c000:a002"], &both),
        view(outside, "local-", ["0:1", "8000:a001"], &here),
    ];
    let staged = |of: &dyn Fn(usize) -> [Vec<String>; 2]| {
        let [first, second, third] = [0, 1, 2].map(of);
        let stages = [0, 1].map(|at| [&*first[at], &*second[at], &*third[at]].concat());
        stages.concat()
    };
    assert_eq!(ops(&none, &sticky), staged(&|view| views[view].0.clone()));
    let off = staged(&|view| views[view].1.clone());
    assert_eq!(off.len(), 3 * 2 + 5 * 3);
    assert_eq!(ops(&sticky, &none), off, "affinity from the start");
    assert_eq!(history(&[&none, &sticky, &none]), off, "affinity added later");
}

// ---- Topology -----------------------------------------------------------------------------------

/// Three, as for any endpoint that is added or removed.
#[test]
fn changing_the_zone_of_an_endpoint_takes_three_operations() {
    let with = |zone| {
        let backends = [hinted(at(1), "z1"), hinted(at(2), zone), hinted(at(3), "z2")];
        [node_in("z1"), web(|_| ()), endpoints(&backends)]
    };
    assert_eq!(
        ops(&with("z2"), &with("z1")),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:1 : 10.0.0.2 . 8080",
        ]
    );
    assert_eq!(
        ops(&with("z1"), &with("z2")),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:1",
        ]
    );
}

/// Two: another backend at the same slot; the head stays as it is.
#[test]
fn changing_the_zone_of_the_node_takes_two_operations_per_slot() {
    let with =
        |node: Object| [node, web(|_| ()), endpoints(&[hinted(at(1), "z1"), hinted(at(2), "z2")])];
    assert_eq!(
        ops(&with(node_in("z1")), &with(node_in("z2"))),
        [
            "delete endpoints 10.96.0.1 . tcp . 80 . none",
            "add endpoints 10.96.0.1 . tcp . 80 . none : 10.0.0.2 . 8080",
        ]
    );
    // If the node is in no zone, or in one without hints, all endpoints are used: a head and a
    // slot.
    for elsewhere in [node(&[]), node_in("z3")] {
        assert_eq!(
            ops(&with(node_in("z1")), &with(elsewhere)),
            [
                "delete services 10.96.0.1 . tcp . 80",
                "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2",
                "add endpoints 10.96.0.1 . tcp . 80 . 0:1 : 10.0.0.2 . 8080",
            ]
        );
    }
}

/// Hints apply only if all endpoints have them: the excluded ones are added, each in a slot of its
/// own.
#[test]
fn removing_a_hint_adds_the_excluded_endpoints() {
    let with = |second: Endpoint| {
        let backends = [hinted(at(1), "z1"), second, hinted(at(3), "z2")];
        [node_in("z1"), web(|_| ()), endpoints(&backends)]
    };
    assert_eq!(
        ops(&with(hinted(at(2), "z1")), &with(at(2))),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:3",
            "add endpoints 10.96.0.1 . tcp . 80 . 0:2 : 10.0.0.3 . 8080",
        ]
    );
}

/// Clients from outside reach a local endpoint whatever its zone.
#[test]
fn topology_does_not_affect_the_local_view() {
    let with = |zone| {
        let backends = endpoints(&[hinted(local(1), "z1"), hinted(local(2), zone)]);
        [node_in("z1"), web(outside_local), backends]
    };
    assert_eq!(
        ops(&with("z1"), &with("z2")),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 4000:1",
            "delete endpoints 10.96.0.1 . tcp . 80 . 0:1",
            "delete endpoints 192.0.2.1 . tcp . 80 . 0:1",
        ]
    );
}

// ---- Source ranges ------------------------------------------------------------------------------

fn at_vip(ranges: &[&str]) -> [Object; 2] {
    [web(restricted(ranges)), endpoints(&[at(1)])]
}

/// Two: the restriction, and the allowed network. No element that leads to endpoints changes.
#[test]
fn the_first_and_the_last_source_range_take_two_operations() {
    let (open, one) = (at_vip(&[]), at_vip(&["10.0.0.0/8"]));
    assert_eq!(
        ops(&open, &one),
        [
            "add source-ranges 192.0.2.1 . tcp . 80 . 10.0.0.0/8",
            "add firewalled 192.0.2.1 . tcp . 80",
        ]
    );
    assert_eq!(
        ops(&one, &open),
        [
            "delete firewalled 192.0.2.1 . tcp . 80",
            "delete source-ranges 192.0.2.1 . tcp . 80 . 10.0.0.0/8",
        ]
    );
    assert_eq!(ops(&one, &at_vip(&["10.0.0.0/8", "0.0.0.0/0"])).len(), 2, "unrestricted");
    assert_eq!(ops(&one, &at_vip(&["2001:db8::/32"])).len(), 2, "no range of that family");
}

/// One, also if there is another range.
#[test]
fn another_source_range_takes_one_operation() {
    let (one, two) = (at_vip(&["10.0.0.0/9"]), at_vip(&["10.0.0.0/9", "10.128.0.0/9"]));
    assert_eq!(ops(&one, &two), ["add source-ranges 192.0.2.1 . tcp . 80 . 10.128.0.0/9"]);
    assert_eq!(ops(&two, &one), ["delete source-ranges 192.0.2.1 . tcp . 80 . 10.128.0.0/9"]);
    let third = at_vip(&["10.0.0.0/9", "10.128.0.0/9", "203.0.113.0/24"]);
    assert_eq!(ops(&two, &third), ["add source-ranges 192.0.2.1 . tcp . 80 . 203.0.113.0/24"]);
}

/// A kernel takes no overlapping ranges: a wider range replaces all those in it, and a range within
/// a wider one is left out.
#[test]
fn a_source_range_within_another_takes_no_operation() {
    let wide = at_vip(&["10.0.0.0/8"]);
    let both = at_vip(&["10.0.0.0/8", "10.1.0.0/16"]);
    assert_eq!(ops(&wide, &both), [""; 0]);
    assert_eq!(ops(&both, &wide), [""; 0]);
    let narrow = at_vip(&["10.1.0.0/16"]);
    assert_eq!(
        ops(&narrow, &both),
        [
            "delete source-ranges 192.0.2.1 . tcp . 80 . 10.1.0.0/16",
            "add source-ranges 192.0.2.1 . tcp . 80 . 10.0.0.0/8",
        ]
    );
}

/// One for each VIP and port.
#[test]
fn a_source_range_takes_one_operation_per_vip_and_port() {
    let with = |ranges: &[&str]| {
        let restricted = restricted(ranges);
        let service = |service: &mut Service| {
            restricted(service);
            service.load_balancer_vips = vec![external(1), external(2)];
            service.ports.push(service_port("metrics", 9100));
            service.ports[0].node_port = Some(number(30080));
            service.external_ips = vec![external(3)];
        };
        [web(service), endpoints(&[at(1)])]
    };
    assert_eq!(
        ops(&with(&["10.0.0.0/8"]), &with(&["10.0.0.0/8", "203.0.113.0/24"])),
        [
            "add source-ranges 192.0.2.1 . tcp . 80 . 203.0.113.0/24",
            "add source-ranges 192.0.2.1 . tcp . 9100 . 203.0.113.0/24",
            "add source-ranges 192.0.2.2 . tcp . 80 . 203.0.113.0/24",
            "add source-ranges 192.0.2.2 . tcp . 9100 . 203.0.113.0/24",
        ]
    );
}

/// A node that is allowed may connect with the VIP as its source: one for each VIP, at each
/// frontend. Other addresses of the node change nothing.
#[test]
fn an_allowed_node_adds_the_vip_as_a_source_range() {
    let with = |d: u8| {
        let [service, slice] = at_vip(&["172.16.0.0/31"]);
        [node(&[IpAddr::from([172, 16, 0, d])]), service, slice]
    };
    let found = ops(&with(2), &with(1));
    assert_eq!(
        found,
        [
            "add node-ips 172.16.0.1",
            "delete node-ips 172.16.0.2",
            "add source-ranges 192.0.2.1 . tcp . 80 . 192.0.2.1/32",
        ]
    );
    assert_eq!(ops(&with(0), &with(1)), ["delete node-ips 172.16.0.0", "add node-ips 172.16.0.1"]);
}

// ---- Node ports ---------------------------------------------------------------------------------

fn at_node_port(port: Option<u16>, policy: TrafficPolicy) -> [Object; 2] {
    let service = move |service: &mut Service| {
        service.kind = ServiceType::NodePort;
        service.external_policy = policy;
        service.ports[0].node_port = port.map(number);
    };
    [web(service), endpoints(&[local(1)])]
}

/// A head and a slot; twice that when the number changes, since it is part of the key.
#[test]
fn a_node_port_changes_only_its_own_elements() {
    let with = |port| at_node_port(port, TrafficPolicy::Cluster);
    assert_eq!(
        ops(&with(None), &with(Some(30080))),
        [
            "add nodeports tcp . 30080 comment \"default/web:http\" : 2000:1",
            "add nodeport-endpoints tcp . 30080 . none : 10.0.0.1 . 8080",
        ]
    );
    assert_eq!(
        ops(&with(Some(30080)), &with(None)),
        ["delete nodeports tcp . 30080", "delete nodeport-endpoints tcp . 30080 . none"]
    );
    assert_eq!(ops(&with(Some(30080)), &with(Some(30081))).len(), 4);
}

/// The same in each view.
#[test]
fn a_node_port_under_external_policy_local_has_elements_in_each_view() {
    let with = |port| at_node_port(port, TrafficPolicy::Local);
    assert_eq!(
        ops(&with(None), &with(Some(30080))),
        [
            "add nodeports tcp . 30080 comment \"default/web:http\" : 4000:1",
            "add nodeport-endpoints tcp . 30080 . none : 10.0.0.1 . 8080",
            "add local-nodeports tcp . 30080 comment \"default/web:http\" : 0:1",
            "add local-nodeport-endpoints tcp . 30080 . none : 10.0.0.1 . 8080",
        ]
    );
    assert_eq!(
        ops(&with(Some(30080)), &with(None)),
        [
            "delete nodeports tcp . 30080",
            "delete nodeport-endpoints tcp . 30080 . none",
            "delete local-nodeports tcp . 30080",
            "delete local-nodeport-endpoints tcp . 30080 . none",
        ]
    );
    assert_eq!(ops(&with(Some(30080)), &with(Some(30081))).len(), 8);
}
