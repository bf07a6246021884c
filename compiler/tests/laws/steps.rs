//! A packet on its way looks up each element as it is by then: what it has found in one step of a
//! delta leads somewhere in the next.

use ipnet::IpNet;
use rulec_compiler::nft::length::Length;
use rulec_compiler::oracle::{Packet, Verdict};

use super::packets::{fates, own};
use super::reference::Fate;
use super::*;

/// Applies a delta step by step, and checks each pair of neighbours, and the fates of packets.
fn check_steps(old: &State, delta: &Delta, wanted: &Program) {
    // No packet passes through a table that does not exist yet, and a table that is replaced is
    // replaced at once.
    let is_new = delta.ops().any(|op| matches!(op, Op::Nft(nft::Op::AddTable(_))));
    let is_seen = !is_new && !delta.atomic;
    let new = wanted.state();
    let frontends = touched([old, &new], delta);
    let passage = Passage::between([old, &new], &frontends, wanted.mark());
    let mut before = old.clone();
    for step in delta.steps() {
        let ops =
            Delta { shared: step.ops().cloned().collect::<Vec<Op>>().into(), ..Delta::default() };
        let after = applied(&before, &ops);
        if is_seen {
            check_neighbours(&before, &after);
            check_restrictions([old, &new], &before, &after);
            passage.check(&after);
        }
        before = after;
    }
    assert_eq!(before, applied(old, delta), "the steps are the delta");
}

/// Returns the frontends of either state that a delta changes, or whose groups it changes.
fn touched(states: [&State; 2], delta: &Delta) -> BTreeSet<Frontend> {
    let keys = || delta.ops().filter_map(|op| Some(op.element()?.key));
    let groups: BTreeSet<(Family, GroupId)> =
        keys().filter_map(|key| Some((key.family(), key.group()?))).collect();
    let all = states.into_iter().flat_map(|state| elements(state).into_keys());
    let leads = |frontend: &Frontend| {
        let codes = states
            .into_iter()
            .flat_map(|state| View::ALL.map(|view| state.code_for(view, *frontend)));
        let mut led = codes.filter_map(|code| Some((frontend.family(), code?.group)));
        led.any(|group| groups.contains(&group))
    };
    let led = all.filter_map(Key::frontend).filter(leads);
    keys().filter_map(Key::frontend).chain(led).collect()
}

/// The packets that may be sent while one state becomes another, and their fates.
pub(super) struct Passage {
    packets: Vec<(Packet, BTreeSet<Fate>)>,
    mark: u32,
}

impl Passage {
    /// Returns packets to these frontends, with the fates that they have in either state. If the
    /// group of a frontend changes while it comes or goes, it is served by any backend that the
    /// group has in either state; and if facts of the node change, with its own address or without.
    pub(super) fn between(states: [&State; 2], frontends: &BTreeSet<Frontend>, mark: u32) -> Self {
        let mut backends: BTreeMap<(Family, GroupId), BTreeSet<Backend>> = BTreeMap::new();
        for (key, held) in states.into_iter().flat_map(elements) {
            if let (Some(group), Value::Backend(backend)) = (key.group(), held.value) {
                backends.entry((key.family(), group)).or_default().insert(backend);
            }
        }
        let is_other_node = facts(states[0]) != facts(states[1]);
        let cidrs: BTreeSet<IpNet> = states
            .into_iter()
            .flat_map(|state| elements(state).into_keys())
            .filter_map(|key| if let Key::ServiceCidr(range) = key { Some(range) } else { None })
            .collect();
        let known = |(frontend, packet): (Frontend, Packet)| {
            let fates: BTreeSet<Fate> =
                states.into_iter().flat_map(|state| fates(state, &packet, mark)).collect();
            let codes = states
                .into_iter()
                .flat_map(|state| View::ALL.map(|view| state.code_for(view, frontend)));
            let groups: BTreeSet<GroupId> = codes.filter_map(|code| Some(code?.group)).collect();
            let of_groups = groups.iter().flat_map(|group| {
                backends.get(&(frontend.family(), *group)).into_iter().flatten().copied()
            });
            let of_groups: Vec<Backend> = of_groups.collect();
            let is_backend = |fate: &Fate| matches!(fate.0, Verdict::Backend(_));
            let mut served: BTreeSet<Fate> = fates.iter().copied().filter(is_backend).collect();
            // A backend in a range of cluster addresses is not reached, but the one that takes its
            // place may be.
            let is_hidden =
                of_groups.iter().any(|it| cidrs.iter().any(|range| range.contains(&it.address)));
            if is_hidden {
                let either = [true, false].into_iter();
                served.extend(of_groups.iter().flat_map(|it| {
                    either.clone().map(|is_masqueraded| (Verdict::Backend(*it), is_masqueraded))
                }));
            }
            let served: Vec<Fate> = served
                .iter()
                .flat_map(|(_, is_masqueraded)| {
                    let either = [*is_masqueraded, *is_masqueraded != is_other_node];
                    of_groups.iter().flat_map(move |it| {
                        // A backend that connects to itself is masqueraded.
                        let or_itself = *is_masqueraded || it.address == packet.source;
                        let all = either.into_iter().chain([or_itself]);
                        all.map(|is_masqueraded| (Verdict::Backend(*it), is_masqueraded))
                    })
                })
                .collect();
            let hidden = Some((Verdict::Drop, false)).filter(|_| is_hidden && is_other_node);
            (packet, fates.into_iter().chain(served).chain(hidden).collect())
        };
        Self { packets: packets(frontends).into_iter().map(known).collect(), mark }
    }

    /// Checks the fates of the packets in a state in between.
    pub(super) fn check(&self, state: &State) {
        for (packet, known) in &self.packets {
            let found = fates(state, packet, self.mark);
            assert!(found.is_subset(known), "{packet:?}: {found:?}, none of {known:?}");
        }
    }
}

/// Returns the facts of the node, which say who is masqueraded.
fn facts(state: &State) -> BTreeSet<Key> {
    let keys = state.tables.values().flat_map(|table| table.elements.keys().copied());
    keys.filter(|key| {
        matches!(
            key,
            Key::UnmasqueradedSource(_)
                | Key::UnmasqueradedInterface(..)
                | Key::PodSource(_)
                | Key::PodInterface(..)
                | Key::ServiceCidr(_)
                | Key::NodeIp(_)
        )
    })
    .collect()
}

/// Returns packets to these frontends, from outside and from this node.
fn packets(frontends: &BTreeSet<Frontend>) -> Vec<(Frontend, Packet)> {
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
        Some((frontend, Packet { source, interface: None, destination, transport }))
    };
    let all = frontends.iter().flat_map(|it| [packet(*it, true), packet(*it, false)]);
    all.flatten().collect()
}

/// Returns the code for clients from outside, if they have one.
fn state_local(state: &State, frontend: Frontend) -> Option<Code> {
    let is_split = state.code(frontend)?.clients == Clients::Split;
    state.code_for(View::Local, frontend).filter(|_| is_split)
}

/// Checks that a packet that has looked something up before a step meets no miss after it.
pub(super) fn check_neighbours(before: &State, after: &State) {
    let is_served = |state: &State, frontend| elements_hold(state, Key::Service(frontend));
    let held = elements(before);
    // The groups whose clients from outside are treated in their own way after the step.
    let split: BTreeSet<(Family, GroupId)> = elements(after)
        .into_iter()
        .filter_map(|(key, held)| {
            let Value::Code(Code { group, clients: Clients::Split, .. }) = held.value else {
                return None;
            };
            Some((key.family(), group))
        })
        .collect();
    // What a frontend led to before the step is still there after it.
    let check_group = |frontend: Frontend, Code { group, class, .. }: Code| {
        let (family, protocol) = (frontend.family(), frontend.protocol());
        // If a slot may be empty, another one is drawn.
        let slots = |draw: Draw| match draw {
            Draw::Random(size) => 0..size.filled().unwrap_or(size.slots()),
            Draw::Maglev(table) => 0..table.size.slots(),
        };
        let mut keys: Vec<Key> = Vec::new();
        match (class, Draw::try_from(class)) {
            (_, Ok(draw)) => {
                keys.extend(slots(draw).map(|it| Key::Endpoint(family, group, protocol, it)));
            }
            (Class::Affinity(_) | Class::RoundRobin, _) => {
                let drawn = Key::MemberGroup(family, group);
                keys.push(drawn);
                let drawn = held.get(&drawn).map(|held| held.value);
                let Some(Value::Code(Code { class: drawn, .. })) = drawn else {
                    panic!("{frontend}: {drawn:?}");
                };
                let draw = must(Draw::try_from(drawn).ok());
                for slot in slots(draw).map(|it| Key::MemberSlot(family, group, it)) {
                    keys.push(slot);
                    let Some(Value::Member(member)) = held.get(&slot).map(|held| held.value) else {
                        panic!("{frontend}: {slot:?}");
                    };
                    keys.push(Key::Member(family, member, protocol));
                }
            }
            (_, Err(())) => {}
        }
        for key in keys {
            assert!(elements_hold(after, key), "{frontend}: {key:?} is gone");
        }
    };
    let ranges = |state: &State, frontend: Frontend| -> BTreeSet<Key> {
        let keys = state.tables.values().flat_map(|table| table.elements.keys().copied());
        keys.filter(|key| matches!(key, Key::SourceRange(of, _) if *of == frontend)).collect()
    };
    for (key, Held { value, .. }) in held.clone() {
        match (key, value) {
            (Key::Service(frontend), Value::Code(code)) => {
                let class = Key::Class(frontend.family(), code.class);
                assert!(elements_hold(after, class), "{frontend}: no chain for its code");
                check_group(frontend, code);
                let Some(local) = state_local(before, frontend) else { continue };
                check_group(frontend, local);
                // If clients from outside are to be dropped, the element goes; if they are to
                // be served like all others, it stays for those that were sent there. (A frontend
                // that passes to another Service at that moment drops those, too.)
                let is_kept = elements_hold(after, Key::LocalGroup(frontend.family(), code.group));
                let is_split = split.contains(&(frontend.family(), code.group));
                assert!(is_kept || is_split, "{frontend}: the local group is gone");
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
}

/// Checks that a packet that is in the middle of its lookups when a step takes effect is neither
/// let in nor kept out by mistake.
fn check_restrictions([old, new]: [&State; 2], before: &State, after: &State) {
    let held = [before, after].map(elements);
    let ranges_of = |state: &BTreeMap<Key, Held>| {
        let mut ranges: BTreeMap<Frontend, Vec<IpNet>> = BTreeMap::new();
        for key in state.keys() {
            if let Key::SourceRange(frontend, range) = key {
                ranges.entry(*frontend).or_default().push(*range);
            }
        }
        ranges
    };
    let ranges = held.each_ref().map(ranges_of);
    let [of_before, of_after] = held;
    for key in of_after.into_keys().filter(|key| !elements_hold(before, *key)) {
        let Key::Firewalled(frontend) = key else { continue };
        let is_other = is_turned(before, after, frontend) && after.code(frontend).is_some();
        assert!(!is_other, "{frontend}: served by another group before it is restricted");
    }
    for (key, held) in of_before {
        let (Key::Firewalled(frontend), Value::Lengths(lengths)) = (key, held.value) else {
            continue;
        };
        let [of_before, of_after] =
            ranges.each_ref().map(|it| it.get(&frontend).cloned().unwrap_or_default());
        // Only a range that goes can be missed.
        let is_less = of_before.iter().any(|range| !of_after.contains(range));
        if !is_less || is_turned(old, new, frontend) {
            continue;
        }
        let clients: BTreeSet<IpAddr> =
            of_before.iter().chain(&of_after).map(IpNet::addr).collect();
        let sources = [old, new].map(|state| state.sources(frontend));
        let may_connect = |client: &IpAddr| {
            let is_let_in = |ranges: &Vec<IpNet>| ranges.iter().any(|it| it.contains(client));
            sources.iter().all(|ranges| ranges.as_ref().is_none_or(is_let_in))
        };
        let used: Vec<Length> = Length::all().filter(|it| lengths.contains(*it)).collect();
        for client in clients.iter().filter(|it| may_connect(it)) {
            let found = |held: &[IpNet]| -> Vec<bool> {
                let own = held.iter().filter(|range| range.contains(client));
                let own: Vec<Length> = own.filter_map(|range| Length::of(*range)).collect();
                used.iter().map(|length| own.contains(length)).collect()
            };
            let (of_before, of_after) = (found(&of_before), found(&of_after));
            // A packet looks for one length after the other; the step takes effect between any two.
            for seen in 0..=used.len() {
                let mut either = of_before.iter().take(seen).chain(of_after.iter().skip(seen));
                assert!(either.any(|it| *it), "{frontend}: {client} is kept out in between");
            }
        }
    }
}

/// Returns true if a frontend leads elsewhere in one state than in the other, or treats clients in
/// another way; a change of the number of backends is not enough.
fn is_turned(old: &State, new: &State, frontend: Frontend) -> bool {
    let treatment = |state: &State| {
        let Code { group, clients, class } = state.code(frontend)?;
        let class = if let Class::Random(_) = class { None } else { Some(class) };
        Some((group, clients, class))
    };
    let local = |state: &State| {
        let all = state.tables.values().flat_map(|table| &table.elements);
        let local = all.filter(|(key, _)| matches!(key, Key::LocalGroup(..)));
        let resized = |value: Value| {
            if let Value::Code(Code { group, clients, class: Class::Random(_) }) = value {
                (Some((group, clients)), None)
            } else {
                (None, Some(value))
            }
        };
        local.map(|(key, held)| (*key, resized(held.value))).collect::<Vec<_>>()
    };
    let is_rejected = |state| elements_hold(state, Key::Reject(frontend));
    treatment(old) != treatment(new)
        || is_rejected(old) != is_rejected(new)
        || local(old) != local(new)
}

proptest! {
    #![proptest_config(cases(6, seeds!("steps.txt")))]

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
            daemon.retire_idle();
            let state = before.state();
            check_steps(&state, &Delta::between(&before, &daemon.program), &daemon.program);
            check_steps(&state, &Delta::reconcile(&state, &daemon.program), &daemon.program);
        }
    }
}
