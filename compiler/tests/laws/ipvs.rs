//! The laws of IPVS mode, tested with random histories in which time passes.

use rulec_compiler::flows;
use rulec_compiler::ipvs::Draining;
use rulec_compiler::ipvs::{
    self, Attributes, RealServer, Scheduler, Scheduling, Server, VirtualServer,
};
use rulec_compiler::settings::{IpvsSettings, ProxyMode};

use super::support::with_excluded;
use super::*;

// ---- Initial state ------------------------------------------------------------------------------

/// Settings with IPVS mode.
pub(super) fn ipvs_settings() -> impl Strategy<Value = Settings> {
    let sh = Scheduling { scheduler: Scheduler::Sh, flags: "sh-port".parse().unwrap_or_default() };
    let scheduling = select(vec![Scheduling::default(), Scheduling::new(Scheduler::Mh), sh]);
    let some = nets(&["10.96.2.0/31", "10.96.9.0/24", "10.96.0.4/30", "fd00::9:0/112"]);
    let exclude = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(some, 1..=3)];
    let drain = select(&[0, 20, 600][..]);
    (any_settings(), scheduling, exclude, drain).prop_map(
        |(settings, scheduling, exclude, drain)| Settings {
            proxy_mode: ProxyMode::Ipvs(IpvsSettings { scheduling, exclude, drain }),
            ..settings
        },
    )
}

/// Returns a history of a node that knows some of its addresses, with the seconds before each
/// batch.
fn timed_history() -> impl Strategy<Value = (Vec<Object>, Vec<(u32, Vec<Change>)>)> {
    let batches = vec((0..15_u32, batch()), 1..=3);
    (list(), vec(surroundings(), 0..3), batches).prop_map(|(mut list, facts, batches)| {
        let facts = facts.into_iter().map(|object| (object.key(), object));
        list.extend(facts.collect::<BTreeMap<ObjectKey, Object>>().into_values());
        (list, batches)
    })
}

/// A daemon in IPVS mode, without a kernel.
#[derive(Clone)]
struct Node {
    model: Model,
    program: Program,
    ipvs: IpvsSettings,
    now: u32,
}

impl Node {
    fn start(list: &[Object], settings: Settings) -> Self {
        let (model, now) = (model(list), 1000);
        let ipvs = settings.ipvs().cloned().unwrap_or_default();
        let settings = Arc::new(settings);
        let program = Program::compile_at(&model, settings, &State::default(), now);
        Self { model, program, ipvs, now }
    }

    fn apply(&mut self, seconds: u32, batch: &[Change]) {
        self.now += seconds;
        let mut dirty = Dirty::default();
        for change in batch {
            dirty.merge(self.model.apply(Origin::Manifests, change.clone()));
        }
        self.program.set_clock(self.now);
        self.program.update(&self.model, &dirty);
    }

    /// Returns the program of another process that starts with the model and the state of a kernel.
    fn restarted(&self, found: &State, now: u32) -> Program {
        Program::compile_at(&self.model, Arc::clone(self.program.settings()), found, now)
    }

    fn fresh(&self) -> Program {
        self.restarted(&State::default(), self.now)
    }

    /// Returns the time for which a virtual server lets its real servers drain.
    fn drain(&self, server: VirtualServer) -> u32 {
        self.own_drain(server).unwrap_or(self.ipvs.drain)
    }

    /// Returns the same time, if the Service at the frontend sets it.
    fn own_drain(&self, server: VirtualServer) -> Option<u32> {
        let winner = self.program.winner(server.frontend());
        let service = winner.and_then(|winner| self.model.service(&winner.owner.service));
        service.and_then(|service| service.object.ipvs.drain)
    }
}

// ---- Desired state ------------------------------------------------------------------------------

/// Returns the virtual servers after a start from nothing, computed from the routes side by side.
fn expected_servers(node: &Node) -> BTreeMap<VirtualServer, Server> {
    let settings = node.program.settings();
    let mut claims: BTreeMap<VirtualServer, BTreeMap<(Rank, Arc<PortKey>), Server>> =
        BTreeMap::new();
    for service in node.model.services() {
        for route in resolve(&node.model, settings, &service.object.key) {
            let scheduling = service.object.ipvs.scheduling(node.ipvs.scheduling);
            let persistence = match route.affinity {
                Affinity::None => None,
                Affinity::ClientIp { timeout } => Some(timeout),
            };
            let attributes = Some(Attributes { scheduling, persistence });
            for (frontend, rank) in &route.frontends {
                let Some(server) = VirtualServer::of(*frontend) else {
                    panic!("{frontend} has no address");
                };
                let backends = match (rank.is_external(), route.internal, route.external) {
                    (true, _, TrafficPolicy::Local) if !route.local.is_empty() => &route.local,
                    (false, TrafficPolicy::Local, _) => &route.local,
                    _ => &route.cluster,
                };
                let threshold = service.object.ipvs.max_connections.map(NonZeroU32::get);
                let active = |backend: &Backend| {
                    let weight = must(route.weights.as_ref()).of(*backend).get().into();
                    (*backend, Some(RealServer { weight, threshold }))
                };
                let reals = backends.iter().map(active).collect();
                let claim = (*rank, Arc::clone(&route.port));
                claims.entry(server).or_default().insert(claim, Server { attributes, reals });
            }
        }
    }
    let first = |(server, claims): (VirtualServer, BTreeMap<_, Server>)| {
        Some((server, claims.into_values().next()?))
    };
    claims.into_iter().filter_map(first).collect()
}

/// Returns true if another Node has the address.
fn is_of_another(node: &Node, address: IpAddr) -> bool {
    let here = &node.program.settings().node_name;
    let all = node.model.objects().map(|sourced| sourced.object);
    let nodes = all.filter_map(|it| if let Object::Node(it) = it { Some(it) } else { None });
    let mut others = nodes.filter(|it| it.name != *here);
    others.any(|it| it.addresses.contains(&address))
}

/// Returns the addresses that are bound: cluster addresses, and those others that no interface and
/// no other Node has.
fn expected_bound(node: &Node) -> BTreeSet<IpAddr> {
    let held = node.model.interface_addresses();
    let held: Vec<IpAddr> = held.map(|entry| entry.object.addresses.clone()).unwrap_or_default();
    let exclude = &node.ipvs.exclude;
    let mut bound = BTreeSet::new();
    for service in node.model.services().map(|entry| &entry.object) {
        for family in Family::ALL.into_iter().filter(|_| !service.ports.is_empty()) {
            let Some(cluster_ip) = service.cluster_ips.of(family) else { continue };
            let others = service.load_balancer_vips.iter().chain(&service.external_ips);
            let others = others.filter(|it| Family::of(**it) == family && !held.contains(it));
            let others = others.filter(|it| !is_of_another(node, **it));
            bound.extend(others.copied().chain([cluster_ip]));
        }
    }
    bound.retain(|address| !exclude.iter().any(|net| net.contains(address)));
    bound
}

// ---- Draining -----------------------------------------------------------------------------------

fn active(server: &Server) -> BTreeSet<Backend> {
    server.active().collect()
}

/// Returns the draining real servers of a state, each with its end.
fn draining(state: &State) -> BTreeMap<Draining, u32> {
    let mut draining = BTreeMap::new();
    for (server, held) in &state.ipvs.servers {
        for (backend, real) in &held.reals {
            let Some(real) = *real else { panic!("{backend} of {server} is not ours") };
            match real.until() {
                Some(until) => {
                    assert_eq!(real.weight, 0, "{backend} of {server} has weight and a deadline");
                    draining.insert(Draining { server: *server, backend: *backend }, until);
                }
                None => assert!(real.weight > 0, "{backend} of {server}: {real:?}"),
            }
        }
    }
    draining
}

/// Returns the expected draining real servers after a batch, from what was served before and is
/// served now.
fn expected_draining(before: &State, node: &Node, now: &State) -> BTreeMap<Draining, u32> {
    let held = draining(before);
    let mut expected = BTreeMap::new();
    for (server, wanted) in &now.ipvs.servers {
        let Some(known) = before.ipvs.servers.get(server) else { continue };
        let (active, drain) = (active(wanted), node.drain(*server));
        for backend in known.reals.keys().filter(|it| !active.contains(it)) {
            let real = Draining { server: *server, backend: *backend };
            match held.get(&real) {
                // Those that already drain are limited too, and removed if the time is 0.
                Some(_) if drain == 0 => {}
                Some(until) => {
                    expected.insert(real, *until.min(&(node.now + drain)));
                }
                None if drain > 0 && server.protocol != Protocol::Udp => {
                    expected.insert(real, node.now + drain);
                }
                None => {}
            }
        }
    }
    expected
}

// ---- Damage -------------------------------------------------------------------------------------

/// Changes that others can make to IPVS.
#[derive(Clone, Debug)]
enum ForeignChange {
    RemoveServer(Index),
    AlterServer(Index, bool),
    RemoveReal(Index),
    AlterReal(Index, Option<u32>),
    AddReal(Index, u8, bool),
    AddServer(u8, u16),
    Unbind(Index),
    Bind(u8),
}

fn foreign_changes() -> impl Strategy<Value = Vec<ForeignChange>> {
    use ForeignChange::{
        AddReal, AddServer, AlterReal, AlterServer, Bind, RemoveReal, RemoveServer, Unbind,
    };
    let index = any::<Index>;
    let one = prop_oneof![
        2 => index().prop_map(RemoveServer),
        2 => (index(), any::<bool>()).prop_map(|(server, odd)| AlterServer(server, odd)),
        2 => index().prop_map(RemoveReal),
        2 => (index(), option::of(0..3_u32)).prop_map(|(real, weight)| AlterReal(real, weight)),
        2 => (index(), 0..9_u8, any::<bool>()).prop_map(|(server, d, odd)| AddReal(server, d, odd)),
        2 => (0..9_u8, 1..9_u16).prop_map(|(d, port)| AddServer(d, port)),
        1 => index().prop_map(Unbind),
        1 => (0..9_u8).prop_map(Bind),
    ];
    vec(one, 0..30)
}

impl ForeignChange {
    fn apply(&self, ipvs: &mut ipvs::State) {
        let servers: Vec<VirtualServer> = ipvs.servers.keys().copied().collect();
        let some = |index: &Index| (!servers.is_empty()).then(|| *index.get(&servers));
        // A real server of this virtual server, or of the next one that has any.
        let real = |ipvs: &ipvs::State, index: &Index| -> Option<(VirtualServer, Backend)> {
            let reals = ipvs
                .servers
                .iter()
                .flat_map(|(server, held)| held.reals.keys().map(|backend| (*server, *backend)));
            let reals: Vec<(VirtualServer, Backend)> = reals.collect();
            (!reals.is_empty()).then(|| *index.get(&reals))
        };
        match self {
            Self::RemoveServer(index) => {
                some(index).and_then(|server| ipvs.servers.remove(&server));
            }
            Self::AlterServer(index, is_odd) => {
                let Some(server) = some(index) else { return };
                let held = ipvs.servers.entry(server).or_default();
                let scheduling = Scheduling::new(Scheduler::Nq);
                let known = Attributes { scheduling, persistence: Some(7) };
                held.attributes = (!is_odd).then_some(known);
            }
            Self::RemoveReal(index) => {
                let Some((server, backend)) = real(ipvs, index) else { return };
                ipvs.servers.entry(server).or_default().reals.remove(&backend);
            }
            Self::AlterReal(index, weight) => {
                let Some((server, backend)) = real(ipvs, index) else { return };
                let altered = weight.map(|weight| RealServer { weight, threshold: None });
                ipvs.servers.entry(server).or_default().reals.insert(backend, altered);
            }
            Self::AddReal(index, d, is_odd) => {
                let Some(server) = some(index) else { return };
                let backend =
                    Backend { port: number(9), address: endpoint_address(server.family(), *d) };
                let added = (!is_odd).then_some(RealServer::ACTIVE);
                ipvs.servers.entry(server).or_default().reals.insert(backend, added);
            }
            Self::AddServer(d, port) => {
                let (server, held) = foreign(v4(77, *d), *port);
                ipvs.servers.insert(server, held);
            }
            Self::Unbind(index) => {
                let bound: Vec<IpAddr> = ipvs.bound.iter().copied().collect();
                if !bound.is_empty() {
                    ipvs.bound.remove(index.get(&bound));
                }
            }
            // An address on our device is ours, with everything that it serves.
            Self::Bind(d) => {
                ipvs.bound.insert(v4(78, *d));
                let (server, held) = foreign(v4(78, *d), 80);
                ipvs.servers.insert(server, held);
            }
        }
    }
}

/// Returns a virtual server of others.
fn foreign(address: IpAddr, port: u16) -> (VirtualServer, Server) {
    let server = VirtualServer { address, protocol: Protocol::Tcp, port: number(port) };
    let backend = Backend { address: endpoint_address(server.family(), 99), port: number(port) };
    (server, Server { attributes: None, reals: [(backend, None)].into() })
}

/// Returns virtual servers of others: at an address that is not ours, and at one in each excludable
/// network.
fn foreigners() -> Vec<(VirtualServer, Server)> {
    [v4(77, 100), v4(9, 1), v4(0, 5), v6(9, 9)].map(|address| foreign(address, 7)).to_vec()
}

/// Adds them, and returns those that are never touched: the addresses of the others are bound.
fn add_foreigners(state: &mut State, exclude: &[ipnet::IpNet]) -> Vec<(VirtualServer, Server)> {
    let is_left = |address: IpAddr| {
        exclude.iter().any(|net| net.contains(&address)) || !state.ipvs.bound.contains(&address)
    };
    let left = foreigners().into_iter().filter(|(server, _)| is_left(server.address)).collect();
    state.ipvs.servers.extend(foreigners());
    left
}

/// Checks that each of our virtual servers is known as ours after every operation on IPVS, and
/// after the rules of every step: a start that continues from there finds it. In excluded networks,
/// virtual servers stay when their Service goes.
fn check_ownership(old: &State, delta: &Delta, wanted: &Program) {
    let exclude = wanted.settings().ipvs().map_or(&[][..], |ipvs| &ipvs.exclude);
    let of = |state: &State| -> BTreeSet<VirtualServer> {
        let servers = state.ipvs.servers.keys();
        let ours = servers.filter(|server| state.is_ours(**server));
        let is_excluded = |address| exclude.iter().any(|net| net.contains(address));
        ours.filter(|server| !is_excluded(&server.address)).copied().collect()
    };
    let ours: BTreeSet<VirtualServer> = of(old).union(&of(&wanted.state())).copied().collect();
    let mut now = old.clone();
    for step in delta.steps() {
        let (rules, mut ipvs): (Vec<Op>, Vec<Op>) =
            step.ops().cloned().partition(|op| op.as_nft().is_some());
        ipvs.sort_by_key(|op| op.as_ipvs().map(ipvs::Op::turn));
        for ops in std::iter::once(rules).chain(ipvs.into_iter().map(|op| vec![op])) {
            now = applied(&now, &Delta { shared: ops.into(), ..Delta::default() });
            for server in now.ipvs.servers.keys().filter(|server| ours.contains(server)) {
                assert!(now.is_ours(*server), "{server} is left without an owner");
            }
        }
    }
}

// ---- Laws ---------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(cases(12, seeds!("ipvs.txt")))]

    /// The program matches the objects, and exactly what was served drains; every delta, by
    /// whichever method, is valid for a kernel, leads to the right state and is the smallest
    /// possible.
    #[test]
    fn ipvs_deltas_are_valid_and_minimal(
        (list, batches) in timed_history(),
        settings in ipvs_settings(),
        cuts in vec(any::<Index>(), 2),
    ) {
        let mut node = Node::start(&list, settings);
        checked_delta(&Program::new(Arc::clone(node.program.settings())), &node.program);
        for (seconds, batch) in &batches {
            let before = node.program.clone();
            node.apply(*seconds, batch);
            let (old, new) = (before.state(), node.program.state());
            let delta = checked_delta(&before, &node.program);
            for delta in [&delta, &Delta::reconcile(&old, &node.program)] {
                check_ownership(&old, delta, &node.program);
            }
            prop_assert_eq!(draining(&new), expected_draining(&old, &node, &new));
            prop_assert_eq!(node.program.draining().collect::<BTreeMap<_, _>>(), draining(&new));

            // A repair works from any interrupted state.
            for index in &cuts {
                let groups = delta.groups[..index.index(delta.groups.len() + 1)].to_vec();
                let mut head = Delta { groups, ..delta.clone() };
                head.shared.drop_retired();
                let found = applied(&old, &head);
                let wanted = with_excluded(&found, &node.program);
                check(&found, &Delta::reconcile(&found, &node.program), &wanted);
            }

            // Draining real servers are all that is left of the past.
            let mut retired = node.program.clone();
            for (real, _) in node.program.draining() {
                retired.retire_real(real);
            }
            let fresh = node.fresh();
            assert_same_meaning(&retired, &fresh);
            checked_delta(&node.program, &retired);
            let (retired, fresh) = (retired.state().ipvs, fresh.state().ipvs);
            prop_assert_eq!(&retired, &fresh);
            prop_assert_eq!(&fresh.servers, &expected_servers(&node));
            prop_assert_eq!(&fresh.bound, &expected_bound(&node));
        }
        let state = node.program.state();
        prop_assert!(Delta::between(&node.program, &node.program.clone()).is_empty());
        prop_assert!(Delta::reconcile(&state, &node.program).is_empty());
        prop_assert!(Delta::between_states(&state, &state).is_empty());
    }

    /// A server that is no longer wanted goes without a trace, and one that is wanted again needs
    /// only its weight: a change can be undone in the same way.
    #[test]
    fn ipvs_changes_can_be_undone((list, batches) in timed_history(), settings in ipvs_settings()) {
        let mut node = Node::start(&list, settings);
        for (seconds, batch) in &batches {
            let before = node.clone();
            node.apply(*seconds, batch);
            let there = node.program.clone();
            node.apply(*seconds, &[Change::everything(before.model.objects().collect())]);
            let delta = checked_delta(&there, &node.program);
            let drained: BTreeSet<Draining> = there.draining().map(|(real, _)| real).collect();
            let old = before.program.state().ipvs;
            for op in delta.ops() {
                let Op::Ipvs(op) = op else { continue };
                if let ipvs::Op::AddReal(server, backend, _) = op {
                    let real = Draining { server: *server, backend: *backend };
                    prop_assert!(!drained.contains(&real), "{:?}", op);
                }
                if let ipvs::Op::SetReal(server, backend, real) = op
                    && drained.contains(&Draining { server: *server, backend: *backend })
                {
                    prop_assert!(real.weight > 0, "{:?}", op);
                    prop_assert!(active(&old.servers[server]).contains(backend));
                }
            }
            node.apply(*seconds, batch);
        }
    }

    /// A process that starts with the state of another one continues with it and writes nothing.
    /// With another drain time, no end is later than that allows, or than the kernel was told.
    #[test]
    fn ipvs_draining_continues_across_a_restart(
        (list, batches) in timed_history(),
        settings in ipvs_settings(),
        later in 0..100_u32,
        drain in select(&[0, 20, 600][..]),
    ) {
        let mut node = Node::start(&list, settings);
        let mut other = Settings::clone(node.program.settings());
        if let ProxyMode::Ipvs(ipvs) = &mut other.proxy_mode {
            ipvs.drain = drain;
        }
        let other = Arc::new(other);
        for (seconds, batch) in &batches {
            node.apply(*seconds, batch);
            let state = node.program.state();
            let now = node.now + later;
            let restarted = node.restarted(&state, now);
            prop_assert_eq!(draining(&restarted.state()), draining(&state));
            let delta = checked_delta(&node.program, &restarted);
            prop_assert!(delta.is_empty(), "{:?}", delta);
            prop_assert!(flows::Suspects::between(&node.program, &restarted).is_empty());

            let restarted = Program::compile_at(&node.model, Arc::clone(&other), &state, now);
            let allowed = |(real, until): (Draining, u32)| {
                let drain = node.own_drain(real.server).unwrap_or(drain);
                (drain > 0).then_some((real, until.min(now + drain)))
            };
            let expected: BTreeMap<Draining, u32> =
                node.program.draining().filter_map(allowed).collect();
            prop_assert_eq!(draining(&restarted.state()), expected);
            // Only draining that was changed since then is new.
            let delta = Delta::reconcile(&state, &restarted);
            check(&state, &delta, &restarted.state());
            let is_real = |op: &Op| matches!(op, Op::Ipvs(ipvs::Op::SetReal(..) | ipvs::Op::DeleteReal(..)));
            prop_assert!(delta.ops().all(is_real), "{:?}", delta);
            prop_assert!(flows::Suspects::between(&node.program, &restarted).is_empty());
        }
    }

    /// After any changes by others, the desired state can be reached, and virtual servers of others
    /// stay as they are.
    #[test]
    fn ipvs_damage_is_repaired(
        (list, batches) in timed_history(),
        settings in ipvs_settings(),
        damages in damages(),
        foreign_changes in foreign_changes(),
    ) {
        let mut node = Node::start(&list, settings);
        for (seconds, batch) in &batches {
            node.apply(*seconds, batch);
        }
        let mut found = damaged(&node.program.state(), &damages);
        foreign_changes.iter().for_each(|it| it.apply(&mut found.ipvs));
        let left = add_foreigners(&mut found, &node.ipvs.exclude);
        for program in [node.program.clone(), node.restarted(&found, node.now + 5)] {
            let mut wanted = with_excluded(&found, &program);
            // Those of others are at other addresses, and not at bound ones.
            let is_others = |server: &VirtualServer| {
                let mut aliens = (0..9).flat_map(|d| [v4(77, d), v4(78, d)]);
                let is_alien = aliens.any(|address| address == server.address);
                is_alien && !found.ipvs.bound.contains(&server.address)
            };
            let others = found.ipvs.servers.iter().filter(|(server, _)| is_others(server));
            wanted.ipvs.servers.extend(others.map(|(server, held)| (*server, held.clone())));
            wanted.ipvs.servers.extend(left.iter().cloned());
            check(&found, &Delta::reconcile(&found, &program), &wanted);
            for (server, held) in &left {
                prop_assert_eq!(wanted.ipvs.servers.get(server), Some(held));
            }
        }
    }

    /// A node that has used our own rules can switch to IPVS.
    #[test]
    fn ipvs_mode_takes_over_from_nftables_mode(list in list(), settings in ipvs_settings()) {
        let node = Node::start(&list, settings);
        let settings = Settings::clone(node.program.settings());
        let rules = Settings { proxy_mode: ProxyMode::Nftables, ..settings };
        let rules = Program::compile(&node.model, Arc::new(rules), &State::default());
        checked_delta(&rules, &node.restarted(&rules.state(), 0));
        let mut found = rules.state();
        found.ipvs.servers.extend(foreigners());
        let program = node.restarted(&found, 5);
        prop_assert_eq!(program.draining().count(), 0);
        let mut wanted = program.state();
        wanted.ipvs.servers.extend(foreigners());
        check(&found, &Delta::reconcile(&found, &program), &wanted);
    }

    /// A Service whose change is refused is reverted.
    #[test]
    fn ipvs_reverts_a_refused_service(
        (list, batches) in timed_history(),
        settings in ipvs_settings(),
        index in any::<Index>(),
    ) {
        let mut node = Node::start(&list, settings);
        for (seconds, batch) in &batches {
            let before = node.program.clone();
            node.apply(*seconds, batch);
            let delta = Delta::between(&before, &node.program);
            if delta.groups.is_empty() {
                continue;
            }
            let service = delta.groups[index.index(delta.groups.len())].service.clone();
            let mut restored = node.program.clone();
            restored.restore(&service, &before);
            checked_delta(&before, &restored);
            checked_delta(&node.program, &restored);

            // A real server that the kernel never held does not drain there, and no end is later
            // than the kernel was told.
            let mut partial = delta;
            partial.groups.retain(|group| group.service != service);
            partial.shared.drop_retired();
            let found = applied(&before.state(), &partial);
            restored.drain_as_held(&found.ipvs);
            let held = draining(&found);
            for (real, until) in restored.draining() {
                let Draining { server, backend } = real;
                prop_assert!(found.ipvs.servers[&server].reals.contains_key(&backend));
                prop_assert!(held.get(&real).is_none_or(|held| until <= *held));
            }
            let wanted = with_excluded(&found, &restored);
            check(&found, &Delta::reconcile(&found, &restored), &wanted);
        }
    }
}

// ---- Fixed cases --------------------------------------------------------------------------------

fn mode_ipvs(drain: u32) -> Settings {
    let ipvs = IpvsSettings { drain, ..IpvsSettings::default() };
    Settings { proxy_mode: ProxyMode::Ipvs(ipvs), ..Settings::new(NodeName::from(HERE)) }
}

/// Returns the only virtual server at an address.
fn server_at(address: IpAddr) -> VirtualServer {
    VirtualServer { address, protocol: Protocol::Tcp, port: number(80) }
}

fn backend(d: u8) -> Backend {
    Backend { address: v4(1, d), port: number(8080) }
}

/// If a frontend passes to another Service, its previous real servers drain, whatever the names.
#[test]
fn real_servers_drain_when_a_frontend_changes_owner() {
    for names in [["a", "b"], ["b", "a"]] {
        let mut old = plain("default", names[0], 1);
        let mut new = plain("default", names[1], 2);
        old.external_ips = vec![v4(9, 1)];
        let mut node = Node::start(&objects(&[(&old, &[1, 2]), (&new, &[2, 3])]), mode_ipvs(60));
        std::mem::swap(&mut old.external_ips, &mut new.external_ips);
        let before = node.program.clone();
        node.apply(5, &[replacement(&objects(&[(&old, &[1, 2]), (&new, &[2, 3])]))]);
        let left = node.program.draining().collect::<Vec<_>>();
        let gone = Draining { server: server_at(v4(9, 1)), backend: backend(1) };
        assert_eq!(left, [(gone, 1065)], "{names:?}");
        checked_delta(&before, &node.program);
    }
}

/// If a Service shortens its drain time while a backend drains, the end comes nearer at once, and a
/// restart finds the same end. With a drain time of 0, the backend is removed.
#[test]
fn a_shorter_drain_time_applies_at_once_and_after_a_restart() {
    let service = |drain| {
        let mut service = plain("default", "web", 1);
        service.ipvs.drain = drain;
        service
    };
    let real = Draining { server: server_at(v4(0, 1)), backend: backend(2) };
    let told = |node: &Node| node.program.draining().collect::<Vec<_>>();
    let replaced = |drain, endpoints: &[u8]| replacement(&objects(&[(&service(drain), endpoints)]));

    let mut node = Node::start(&objects(&[(&service(Some(900)), &[1, 2])]), mode_ipvs(600));
    node.apply(8, &[replaced(Some(900), &[1])]);
    assert_eq!(told(&node), [(real, 1908)]);
    // A longer time does not apply to real servers that already drain.
    node.apply(1, &[replaced(Some(1000), &[1])]);
    assert_eq!(told(&node), [(real, 1908)]);
    node.apply(35, &[replaced(None, &[1])]);
    assert_eq!(told(&node), [(real, 1644)]);

    let state = node.program.state();
    let restarted = node.restarted(&state, 1100);
    assert!(Delta::reconcile(&state, &restarted).is_empty());

    // Nor does it if a process reads it at its start.
    let mut found = state.clone();
    let reals = &mut found.ipvs.servers.get_mut(&real.server).unwrap().reals;
    reals.insert(real.backend, Some(RealServer::draining(1908)));
    let restarted = node.restarted(&found, 1044);
    assert_eq!(restarted.draining().collect::<Vec<_>>(), [(real, 1644)]);

    let before = node.program.clone();
    node.apply(1, &[replaced(Some(0), &[1])]);
    assert_eq!(told(&node), []);
    checked_delta(&before, &node.program);
}

/// UDP flows to an endpoint that is gone are stale, and so are those from before a frontend
/// existed; a node port has them at each address.
#[test]
fn ipvs_udp_flows_to_removed_endpoints_are_stale() {
    let udp = |endpoints: &[u8]| {
        let mut service = plain("default", "dns", 1);
        service.kind = ServiceType::NodePort;
        service.ports[0].protocol = Protocol::Udp;
        service.ports[0].node_port = Some(number(30_053));
        let mut objects = objects(&[(&service, endpoints)]);
        for object in &mut objects {
            if let Object::EndpointSlice(slice) = object {
                Arc::make_mut(slice).ports[0].protocol = Protocol::Udp;
            }
        }
        objects
    };
    let at = |addresses: Vec<IpAddr>, mut list: Vec<Object>| {
        list.push(Object::InterfaceAddresses(Arc::new(InterfaceAddresses {
            addresses,
            ..InterfaceAddresses::default()
        })));
        list
    };
    let frontend = |address: IpAddr, port: u16| Frontend::Address {
        address,
        protocol: Protocol::Udp,
        port: number(port),
    };
    let cluster = frontend(v4(0, 1), 80);
    let udp_of = |suspects: flows::Suspects| {
        assert!(suspects.came.is_empty() && suspects.lost.is_empty());
        (suspects.udp.all, suspects.udp.frontends.into_iter().collect::<Vec<Frontend>>())
    };
    let settings =
        || Settings { node_port_addresses: NodePortAddresses::Cidrs(Vec::new()), ..mode_ipvs(60) };
    let (one, two) = (vec![v4(2, 1)], vec![v4(2, 1), v4(2, 2)]);
    let ports = [frontend(v4(2, 1), 30_053), frontend(v4(2, 2), 30_053)];

    let mut node = Node::start(&at(two.clone(), udp(&[1, 2])), settings());
    let before = node.program.clone();
    node.apply(1, &[replacement(&at(two.clone(), udp(&[1])))]);
    let found = flows::Suspects::between(&before, &node.program);
    assert_eq!(udp_of(found), (false, vec![cluster, ports[0], ports[1]]));
    let rules = flows::Rules::new(&node.program, BTreeSet::new(), BTreeSet::new());
    let everywhere = flows::Which { all: true, ..flows::Which::default() };
    for (to, port) in [(v4(0, 1), 80), (v4(2, 1), 30_053), (v4(2, 2), 30_053)] {
        for gone in [1, 2] {
            let Backend { address, port: target } = backend(gone);
            let answers = SocketAddr::new(address, target.get());
            let destination = SocketAddr::new(to, port);
            let flow = flows::Flow { protocol: Protocol::Udp, destination, answers };
            assert_eq!(rules.contradict(&flow, &everywhere), gone == 2, "{flow:?}");
        }
    }
    assert_eq!(node.program.draining().count(), 0, "there is no connection to keep");

    // If nothing has changed, nothing is stale.
    let state = node.program.state();
    let restarted = node.restarted(&state, 2000);
    assert!(flows::Suspects::between(&node.program, &restarted).is_empty());
    assert!(Delta::reconcile(&state, &restarted).is_empty());

    // With one more address, earlier flows to that address are stale.
    let mut node = Node::start(&at(one, udp(&[1, 2])), settings());
    let before = node.program.clone();
    node.apply(1, &[replacement(&at(two, udp(&[1, 2])))]);
    assert_eq!(udp_of(flows::Suspects::between(&before, &node.program)), (false, vec![ports[1]]));
}

/// Case 110: a restart finds weight 0 at a real server that it wants.
#[test]
fn a_wanted_real_server_regains_its_weight_after_a_restart() {
    let service = plain("default", "web", 1);
    let node = Node::start(&objects(&[(&service, &[1, 2])]), mode_ipvs(60));
    let mut found = node.program.state();
    for real in found.ipvs.servers.get_mut(&server_at(v4(0, 1))).unwrap().reals.values_mut() {
        *real = Some(RealServer::draining(9));
    }
    let restarted = node.restarted(&found, 1001);
    let delta = Delta::reconcile(&found, &restarted);
    check(&found, &delta, &node.program.state());
    assert_eq!(delta.len(), 2);
}

/// Case 108: a virtual server of others is not touched, even if its frontend is excluded and its
/// address is bound.
#[test]
fn a_foreign_virtual_server_is_left_alone() {
    let service = plain("default", "web", 1);
    let node = Node::start(&objects(&[(&service, &[1])]), mode_ipvs(60));
    let mut found = node.program.state();
    let (server, held) = foreign("198.18.7.7".parse().unwrap(), 55);
    found.ipvs.servers.insert(server, held);
    assert!(Delta::reconcile(&found, &node.program).is_empty());

    // At a cluster address, others have nothing to serve unless that address is excluded.
    let (server, held) = foreign(v4(0, 1), 55);
    found.ipvs.servers.insert(server, held);
    let delta = Delta::reconcile(&found, &node.program);
    let ops: Vec<&Op> = delta.ops().collect();
    assert_eq!(ops, [&Op::Ipvs(ipvs::Op::DeleteServer(server))]);
    let mut settings = mode_ipvs(60);
    if let ProxyMode::Ipvs(ipvs) = &mut settings.proxy_mode {
        ipvs.exclude = nets(&["10.96.0.0/24"]);
    }
    let excluding = Program::compile(&node.model, Arc::new(settings), &found);
    let delta = Delta::reconcile(&found, &excluding);
    let is_ipvs = |op: &Op| matches!(op, Op::Ipvs(_));
    assert_eq!(delta.ops().filter(|op| is_ipvs(op)).count(), 0, "{delta:?}");
}

/// A limit that others gave to one real server is not spread to all while the Service is unread.
#[test]
fn a_limit_of_one_real_server_is_not_kept() {
    let service = plain("default", "web", 1);
    let node = Node::start(&objects(&[(&service, &[1, 2])]), mode_ipvs(600));
    let untouched = node.program.state();
    let limited = |reals: &[u8]| {
        let mut found = untouched.clone();
        let server = found.ipvs.servers.get_mut(&server_at(v4(0, 1))).unwrap();
        for real in reals {
            let limit = RealServer { threshold: Some(1), ..RealServer::ACTIVE };
            server.reals.insert(backend(*real), Some(limit));
        }
        let model = Model::default();
        let settings = Arc::clone(node.program.settings());
        let mut program = Program::compile(&model, settings, &found);
        program.keep(&model, &found);
        program.state().ipvs.servers[&server_at(v4(0, 1))].clone()
    };
    let wanted = untouched.ipvs.servers[&server_at(v4(0, 1))].clone();
    assert_eq!(limited(&[1]), wanted);
    let threshold = |server: &Server| {
        server.reals.values().flatten().filter_map(|real| real.threshold).collect::<Vec<u32>>()
    };
    assert_eq!(threshold(&limited(&[1, 2])), [1, 1]);
}
