//! The cost of changes of traffic policies, topology and source ranges.
//!
//! The comments explain the numbers of operations: a changed head (the element with the code of a
//! frontend) is two, since an element cannot be changed in place; an added or removed endpoint is
//! one for each group that has it. Up to eight endpoints, each number is a size of its own, and the
//! heads of all frontends of the group have it. Under external policy Local, one more element leads
//! clients from outside to the local group, with the size of that.

use super::*;

// ---- External policy Local ----------------------------------------------------------------------

/// Nine: one for the hairpin, one for each group, and two each for the heads of the cluster address
/// and the VIP, and for the element that leads to the local group.
#[test]
fn a_local_endpoint_takes_nine_operations() {
    let one = [web(outside_local), endpoints(&[local(1), at(2)])];
    let two = [web(outside_local), endpoints(&[local(1), at(2), local(3)])];
    assert_eq!(
        ops(&one, &two),
        [
            "add hairpin 10.0.0.3 . 10.0.0.3",
            "delete local-groups 0:1000",
            "add local-groups 0:1000 : 0:2002",
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.3 . 8080",
            "add endpoints 0:2000 . tcp . 1 : 10.0.0.3 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c03",
        ]
    );
    assert_eq!(
        ops(&two, &one),
        [
            "delete hairpin 10.0.0.3 . 10.0.0.3",
            "delete local-groups 0:1000",
            "add local-groups 0:1000 : 0:2001",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c02",
            "delete endpoints 0:1000 . tcp . 2",
            "delete endpoints 0:2000 . tcp . 1",
        ]
    );
}

/// Five: one for the group, and two each for the heads of the cluster address and the VIP. The
/// group of clients from outside does not change.
#[test]
fn a_remote_endpoint_takes_five_operations() {
    let one = [web(outside_local), endpoints(&[local(1), at(2)])];
    let two = [web(outside_local), endpoints(&[local(1), at(2), at(3)])];
    assert_eq!(
        ops(&one, &two),
        [
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.3 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c03",
        ]
    );
    assert_eq!(
        ops(&two, &one),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c02",
            "delete endpoints 0:1000 . tcp . 2",
        ]
    );
}

/// Eight: as for any endpoint of this node, except that the element that leads to the local group
/// is added or removed, which is one operation. The health check for load balancers does not
/// concern the kernel.
#[test]
fn readiness_of_the_only_local_endpoint_takes_eight_operations() {
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
            "delete local-groups 0:1000",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1401",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c01",
            "delete endpoints 0:1000 . tcp . 1",
            "delete endpoints 0:2000 . tcp . 0",
        ]
    );
    assert_eq!(
        ops(&unready, &ready),
        [
            "add hairpin 10.0.0.2 . 10.0.0.2",
            "add local-groups 0:1000 : 0:2001",
            "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
            "add endpoints 0:2000 . tcp . 0 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c02",
        ]
    );
}

/// None: it continues to serve in both groups, since neither has another endpoint.
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

/// Five: it leaves the group of both frontends, where another endpoint is ready; the local group
/// has no other endpoint. Its removal takes three more: the local group, and the hairpin.
#[test]
fn the_last_local_endpoint_terminates_in_five_operations_and_ends_in_three() {
    let with = |endpoints: &[Endpoint]| [web(outside_local), self::endpoints(endpoints)];
    let (ready, terminating) = (with(&[at(1), local(2)]), with(&[at(1), local_terminating(2)]));
    assert_eq!(
        ops(&ready, &terminating),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1401",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c01",
            "delete endpoints 0:1000 . tcp . 1",
        ]
    );
    assert_eq!(
        ops(&terminating, &with(&[at(1)])),
        [
            "delete hairpin 10.0.0.2 . 10.0.0.2",
            "delete local-groups 0:1000",
            "delete endpoints 0:2000 . tcp . 0",
        ]
    );
}

/// Two for the head, which now distinguishes clients, and the local group: what leads to it, and
/// two endpoints. The other group stays, since Pods still use it; the cluster address is not
/// affected.
#[test]
fn external_policy_local_takes_two_operations_and_the_local_group() {
    let backends = || endpoints(&[at(1), local(2), local(3)]);
    let cluster = [web(balanced), backends()];
    let local = [web(outside_local), backends()];
    assert_eq!(
        ops(&cluster, &local),
        [
            "add local-groups 0:1000 : 0:2002",
            "add endpoints 0:2000 . tcp . 0 : 10.0.0.3 . 8080",
            "add endpoints 0:2000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c03",
        ]
    );
    assert_eq!(
        ops(&local, &cluster),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1803",
            "delete local-groups 0:1000",
            "delete endpoints 0:2000 . tcp . 0",
            "delete endpoints 0:2000 . tcp . 1",
        ]
    );
}

/// Without a local endpoint nothing leads to the local group; without any endpoint, not even the
/// head changes.
#[test]
fn external_policy_without_local_endpoints_takes_at_most_two_operations() {
    let none_here = || endpoints(&[at(1), at(2)]);
    let (cluster, local) = ([web(balanced), none_here()], [web(outside_local), none_here()]);
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c02",
        ]
    );
    assert_eq!(
        ops(&local, &cluster),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1802",
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
        // An endpoint that topology excludes from the one group would be in the local one.
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
            "delete endpoints 0:1000 . tcp . 0",
            "add endpoints 0:1000 . tcp . 0 : 10.0.0.3 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete endpoints 0:1000 . tcp . 2",
        ]
    );
    assert_eq!(
        history(&[&cluster, &local, &cluster]),
        [
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.1 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
        ]
    );
    assert_eq!(
        history(&[&cluster, &local, &cluster, &local]),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete endpoints 0:1000 . tcp . 2",
        ]
    );
}

/// The VIP has all endpoints under both policies, and shares its group with the cluster address
/// under policy Cluster. So that group does not change: the cluster address gets one of its own,
/// and the way back takes as many operations as the way there.
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
            "add endpoints 0:2000 . tcp . 0 : 10.0.0.3 . 8080",
            "add endpoints 0:2000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2402",
        ]
    );
    assert_eq!(
        history(&[&cluster, &local, &cluster]),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
            "delete endpoints 0:2000 . tcp . 0",
            "delete endpoints 0:2000 . tcp . 1",
        ]
    );
}

/// Two for the head, which now means drop, and one for each endpoint. Without any endpoint,
/// connections are rejected under both policies.
#[test]
fn internal_policy_without_local_endpoints_removes_all_endpoints() {
    let none_here = || endpoints(&[at(1), at(2)]);
    let (cluster, local) = ([web(|_| ()), none_here()], [web(inside_local), none_here()]);
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:17fe",
            "delete endpoints 0:1000 . tcp . 0",
            "delete endpoints 0:1000 . tcp . 1",
        ]
    );
    assert_eq!(
        ops(&local, &cluster),
        [
            "add endpoints 0:1000 . tcp . 0 : 10.0.0.1 . 8080",
            "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
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
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:17fe",
            "delete reject-services 10.96.0.1 . tcp . 80",
        ]
    );
}

// ---- Session affinity under Local ---------------------------------------------------------------

/// Two for each head, and for the element that leads to the local group. Each group takes one for
/// its size, and three for each backend: its slot, its member, and the endpoint without affinity.
/// The removal costs the same.
#[test]
fn affinity_under_external_policy_local_changes_each_group() {
    let sticky_local = |service: &mut Service| {
        outside_local(service);
        sticky(service);
    };
    let backends = || endpoints(&[at(1), local(2)]);
    let (none, sticky) = ([web(outside_local), backends()], [web(sticky_local), backends()]);
    let on = [
        "delete local-groups 0:1000",
        "add local-groups 0:1000 : 0:2040",
        "add member-groups 0:1000 : 0:1002",
        "add member-groups 0:2000 : 0:2001",
        "add member-slots 0:1000 . 0 : 0:1d6c",
        "add member-slots 0:1000 . 1 : 0:192d",
        "add member-slots 0:2000 . 0 : 0:292d",
        "add members 0:192d . tcp : 10.0.0.2 . 8080",
        "add members 0:1d6c . tcp : 10.0.0.1 . 8080",
        "add members 0:292d . tcp : 10.0.0.2 . 8080",
        "delete services 10.96.0.1 . tcp . 80",
        "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1440",
        "delete services 192.0.2.1 . tcp . 80",
        "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c40",
        "delete endpoints 0:1000 . tcp . 0",
        "delete endpoints 0:1000 . tcp . 1",
        "delete endpoints 0:2000 . tcp . 0",
    ];
    assert_eq!(ops(&none, &sticky), on);
    let off = [
        "delete local-groups 0:1000",
        "add local-groups 0:1000 : 0:2001",
        "add endpoints 0:1000 . tcp . 0 : 10.0.0.1 . 8080",
        "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
        "add endpoints 0:2000 . tcp . 0 : 10.0.0.2 . 8080",
        "delete services 10.96.0.1 . tcp . 80",
        "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
        "delete services 192.0.2.1 . tcp . 80",
        "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c02",
        "delete member-groups 0:1000",
        "delete member-groups 0:2000",
        "delete member-slots 0:1000 . 0",
        "delete member-slots 0:1000 . 1",
        "delete member-slots 0:2000 . 0",
        "delete members 0:192d . tcp",
        "delete members 0:1d6c . tcp",
        "delete members 0:292d . tcp",
    ];
    assert_eq!(on.len(), off.len());
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
            "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
        ]
    );
    assert_eq!(
        ops(&with("z1"), &with("z2")),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1401",
            "delete endpoints 0:1000 . tcp . 1",
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
        ["delete endpoints 0:1000 . tcp . 0", "add endpoints 0:1000 . tcp . 0 : 10.0.0.2 . 8080"]
    );
    // If the node is in no zone, or in one without hints, all endpoints are used: a head and an
    // endpoint.
    for elsewhere in [node(&[]), node_in("z3")] {
        assert_eq!(
            ops(&with(node_in("z1")), &with(elsewhere)),
            [
                "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
                "delete services 10.96.0.1 . tcp . 80",
                "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
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
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.3 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
        ]
    );
}

/// Clients from outside reach a local endpoint whatever its zone.
#[test]
fn topology_does_not_affect_the_local_group() {
    let with = |zone| {
        let backends = endpoints(&[hinted(local(1), "z1"), hinted(local(2), zone)]);
        [node_in("z1"), web(outside_local), backends]
    };
    assert_eq!(
        ops(&with("z1"), &with("z2")),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1401",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1c01",
            "delete endpoints 0:1000 . tcp . 1",
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
            "add firewalled 192.0.2.1 . tcp . 80 : 0:80",
            "add source-ranges 0:80 . 192.0.2.1 . tcp . 80 . 10.0.0.0",
        ]
    );
    assert_eq!(
        ops(&one, &open),
        [
            "delete firewalled 192.0.2.1 . tcp . 80",
            "delete source-ranges 0:80 . 192.0.2.1 . tcp . 80 . 10.0.0.0",
        ]
    );
    assert_eq!(ops(&one, &at_vip(&["10.0.0.0/8", "0.0.0.0/0"])).len(), 2, "unrestricted");
    assert_eq!(ops(&one, &at_vip(&["2001:db8::/32"])).len(), 2, "no range of that family");
}

/// One, if there is another range of that length; if not, its length is noted at the frontend.
#[test]
fn another_source_range_takes_one_operation() {
    let (one, two) = (at_vip(&["10.0.0.0/9"]), at_vip(&["10.0.0.0/9", "10.128.0.0/9"]));
    assert_eq!(ops(&one, &two), ["add source-ranges 0:100 . 192.0.2.1 . tcp . 80 . 10.128.0.0"]);
    assert_eq!(ops(&two, &one), ["delete source-ranges 0:100 . 192.0.2.1 . tcp . 80 . 10.128.0.0"]);
    let third = at_vip(&["10.0.0.0/9", "10.128.0.0/9", "203.0.113.0/24"]);
    assert_eq!(
        ops(&two, &third),
        [
            "delete firewalled 192.0.2.1 . tcp . 80",
            "add firewalled 192.0.2.1 . tcp . 80 : 80:100",
            "add source-ranges 80:0 . 192.0.2.1 . tcp . 80 . 203.0.113.0",
        ]
    );
}

/// A wider range replaces all those in it, and a range within a wider one is left out.
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
            "delete firewalled 192.0.2.1 . tcp . 80",
            "add firewalled 192.0.2.1 . tcp . 80 : 0:80",
            "add source-ranges 0:80 . 192.0.2.1 . tcp . 80 . 10.0.0.0",
            "delete source-ranges 0:8000 . 192.0.2.1 . tcp . 80 . 10.1.0.0",
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
        ops(&with(&["192.0.2.0/24"]), &with(&["192.0.2.0/24", "203.0.113.0/24"])),
        [
            "add source-ranges 80:0 . 192.0.2.1 . tcp . 80 . 203.0.113.0",
            "add source-ranges 80:0 . 192.0.2.1 . tcp . 9100 . 203.0.113.0",
            "add source-ranges 80:0 . 192.0.2.2 . tcp . 80 . 203.0.113.0",
            "add source-ranges 80:0 . 192.0.2.2 . tcp . 9100 . 203.0.113.0",
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
            "delete firewalled 192.0.2.1 . tcp . 80",
            "add firewalled 192.0.2.1 . tcp . 80 : c000:0",
            "add source-ranges 8000:0 . 192.0.2.1 . tcp . 80 . 192.0.2.1",
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

/// The head; twice that when the number changes, since it is part of the key.
#[test]
fn a_node_port_takes_one_operation() {
    let with = |port| at_node_port(port, TrafficPolicy::Cluster);
    assert_eq!(
        ops(&with(None), &with(Some(30080))),
        ["add nodeports tcp . 30080 comment \"default/web:http\" : 0:1801"]
    );
    assert_eq!(ops(&with(Some(30080)), &with(None)), ["delete nodeports tcp . 30080"]);
    assert_eq!(ops(&with(Some(30080)), &with(Some(30081))).len(), 2);
}

/// The head, and the local group, which no other frontend leads to: the element that leads there,
/// and an endpoint. A change of the number does not concern the group.
#[test]
fn the_only_node_port_under_external_policy_local_comes_with_the_local_group() {
    let with = |port| at_node_port(port, TrafficPolicy::Local);
    assert_eq!(
        ops(&with(None), &with(Some(30080))),
        [
            "add local-groups 0:1000 : 0:2001",
            "add endpoints 0:2000 . tcp . 0 : 10.0.0.1 . 8080",
            "add nodeports tcp . 30080 comment \"default/web:http\" : 0:1c01",
        ]
    );
    assert_eq!(
        ops(&with(Some(30080)), &with(None)),
        [
            "delete nodeports tcp . 30080",
            "delete local-groups 0:1000",
            "delete endpoints 0:2000 . tcp . 0",
        ]
    );
    assert_eq!(ops(&with(Some(30080)), &with(Some(30081))).len(), 2);
}
