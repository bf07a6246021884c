//! A packet on its way looks up each element as it is by then: what it has found in one step of a
//! delta leads somewhere in the next.

use rulec_compiler::oracle::Packet;

use super::packets::{fates, own};
use super::*;

/// Applies a delta step by step, and checks each pair of neighbours, and the fates of packets.
fn check_steps(old: &State, delta: &Delta, wanted: &Program) {
    // No packet passes through a table that does not exist yet, and a table that is replaced is
    // replaced at once.
    let is_new = delta.ops().any(|op| matches!(op, Op::Nft(nft::Op::AddTable(_))));
    let is_seen = !is_new && !delta.atomic;
    let new = wanted.state();
    let packets = packets([old, &new]);
    let mut before = old.clone();
    for step in delta.steps() {
        let ops =
            Delta { shared: step.ops().cloned().collect::<Vec<Op>>().into(), ..Delta::default() };
        let after = applied(&before, &ops);
        if is_seen {
            check_neighbours(&before, &after);
            for packet in &packets {
                let of = |state: &State| fates(state, packet, wanted.mark());
                let known: BTreeSet<_> = of(old).union(&of(&new)).copied().collect();
                let found = of(&after);
                assert!(found.is_subset(&known), "{packet:?}: {found:?}, neither of {known:?}");
            }
        }
        before = after;
    }
    assert_eq!(before, applied(old, delta), "the steps are the delta");
}

/// Returns packets to all frontends of the states, from outside and from this node.
fn packets(states: [&State; 2]) -> Vec<Packet> {
    let keys = states.into_iter().flat_map(|state| elements(state).into_keys());
    let frontends: BTreeSet<Frontend> = keys.filter_map(Key::frontend).collect();
    let packet = |frontend: Frontend, is_own: bool| {
        let family = frontend.family();
        let own = own().into_iter().find(|address| Family::of(*address) == family)?;
        let (destination, port) = match frontend {
            Frontend::Address { address, port, .. } => (address, port),
            Frontend::NodePort { port, .. } => (own, port),
        };
        let source = match (is_own, family) {
            (true, _) => own,
            (false, Family::Ipv4) => [192, 0, 2, 77].into(),
            (false, Family::Ipv6) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
        };
        let transport = Some((frontend.protocol(), port));
        Some(Packet { source, interface: None, destination, transport })
    };
    let all = frontends.into_iter().flat_map(|it| [packet(it, true), packet(it, false)]);
    all.flatten().collect()
}

/// Checks that a packet that has looked something up before a step meets no miss after it.
fn check_neighbours(before: &State, after: &State) {
    let is_served =
        |state: &State, frontend| elements_hold(state, Key::Service(View::Cluster, frontend));
    let pick = |state: &State, view, frontend| state.pick(view, frontend);
    let ranges = |state: &State, frontend: Frontend| -> BTreeSet<Key> {
        let keys = elements(state).into_keys();
        keys.filter(|key| matches!(key, Key::SourceRange(of, _) if *of == frontend)).collect()
    };
    for (key, Held { value, .. }) in elements(before) {
        match (key, value) {
            (Key::Service(view, frontend), Value::Pick(found)) => {
                let family = frontend.family();
                let chain = Key::Pick(family, Scope::of(frontend), view, found);
                assert!(elements_hold(after, chain), "{frontend}: no chain for its code");
                if !is_served(after, frontend) {
                    // All of it goes at once: it serves nobody any more.
                    continue;
                }
                if view == View::Local && pick(after, view, frontend).is_none() {
                    let clients = pick(after, View::Cluster, frontend).map(|it| it.clients);
                    let was_split = pick(before, View::Cluster, frontend)
                        .is_some_and(|it| it.clients == Clients::Split);
                    assert!(
                        !was_split || clients == Some(Clients::Split),
                        "{frontend}: clients from outside were sent to a view that is gone"
                    );
                    continue;
                }
                for slot in 0..found.backends {
                    let endpoint = |id| Key::Endpoint(view, frontend, id);
                    let Some(_) = found.affinity else {
                        assert!(elements_hold(after, endpoint(slot)), "{frontend}: slot {slot}");
                        continue;
                    };
                    let slot = Key::AffinitySlot(view, frontend, slot);
                    assert!(elements_hold(after, slot), "{frontend}: {slot:?}");
                    if let Some(Held { value: Value::Id(id), .. }) = elements(before).get(&slot) {
                        assert!(elements_hold(after, endpoint(*id)), "{frontend}: id {id}");
                    }
                }
            }
            (Key::Reject(frontend), _) if !is_served(before, frontend) => {
                // It came too early to be served: it must still be rejected.
                let is_rejected = elements_hold(after, key);
                assert!(!is_served(after, frontend) || is_rejected, "{frontend}: not rejected");
            }
            (Key::Firewalled(frontend), _) => {
                let is_lifted = !elements_hold(after, key) && is_served(after, frontend);
                let is_kept = ranges(before, frontend).is_subset(&ranges(after, frontend));
                assert!(!is_lifted || is_kept, "{frontend}: checked against ranges that are gone");
            }
            _ => {}
        }
    }
    for key in elements(after).into_keys() {
        let Key::Firewalled(frontend) = key else { continue };
        let (old, new) = (ranges(before, frontend), ranges(after, frontend));
        // Ranges that were left there may overlap the new ones: then all change at once.
        if !elements_hold(before, key) && old.is_subset(&new) {
            assert_eq!(old, new, "{frontend}: restricted before its clients are known");
        }
    }
}

proptest! {
    #![proptest_config(cases(24, seeds!("steps.txt")))]

    /// Between two steps of any delta, no packet meets a miss, and every packet is treated as
    /// before or as after.
    #[test]
    fn no_packet_meets_a_miss_between_two_steps((list, batches) in history()) {
        let mut daemon = Daemon::start(&list);
        let delta = Delta::reconcile(&State::default(), &daemon.program);
        check_steps(&State::default(), &delta, &daemon.program);
        for batch in &batches {
            let before = daemon.program.clone();
            daemon.apply(batch);
            daemon.retire_idle_picks();
            let state = before.state();
            check_steps(&state, &Delta::between(&before, &daemon.program), &daemon.program);
            check_steps(&state, &Delta::reconcile(&state, &daemon.program), &daemon.program);
        }
    }
}
