//! What each kind of change costs, in clusters of several sizes: `cargo bench --bench changes`.
//!
//! Every row is one kind of change of one object, made 200 times at different Services: the time
//! from the delta to the kernel's acknowledgement, how much of it is the kernel's, the longest
//! transaction in the kernel, and the longest that another user of nf_tables had to wait meanwhile.
//! The kernel's times are processor time, so a busy machine does not prolong them: another user
//! waits for one transaction, and for a processor. Compare rows of one run only. Needs root; everything happens in a network
//! namespace of its own.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod large;
mod other;
mod table;
mod world;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec_compiler::change::{Change, Sourced};
use rulec_compiler::load_balancing::{LoadBalancing, Weight};
use rulec_compiler::name::NodeName;
use rulec_compiler::object::{
    Affinity, Conditions, EndpointSlice, Hints, Node, Object, ObjectKey, Service, ServiceType,
    TrafficPolicy,
};
use rulec_compiler::settings::DetectLocal;
use rulec_compiler::{Delta, Settings};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Spent};
use rulec_testkit::{Namespace, require_root};

use crate::other::Other;
use crate::table::{machine, row, time};
use crate::world::{World, name, plain_service, port, slice, sourced};

/// How often each kind of change is made, and undone.
const ROUNDS: usize = 100;
/// How often again, while the kernel's processor time is measured.
const METERED: usize = 20;
/// The endpoints of each Service: a slot is drawn among 12.
const ENDPOINTS: usize = 10;
/// This node, and its zone.
const NODE: &str = "na";
const ZONE: &str = "here";

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    println!("\n## Kinds of changes\n");
    machine();
    println!("\n| what | setup | figure |\n|---|---|---|");
    for ranges in [1_000, 20_000, 100_000] {
        source_ranges(ranges);
    }
    for services in [1_000, 20_000, 100_000] {
        all_kinds(services);
    }
    large::changes(20_000, ENDPOINTS);
}

/// A Service before and after a change.
type Pair = fn(usize) -> [Vec<Change>; 2];

fn all_kinds(services: usize) {
    let kinds: [(&str, Pair); 22] = [
        ("endpoint ±, known number", |n| [endpoints(n, ENDPOINTS), endpoints(n, ENDPOINTS + 1)]),
        ("endpoint ±, 3 and 4", |n| [endpoints(n, 3), endpoints(n, 4)]),
        ("endpoint ±, 12 and 13", |n| [endpoints(n, 12), endpoints(n, 13)]),
        ("affinity on ±, known timeout", |n| [put(n, plain), put(n, |it| sticky(it, 10_800))]),
        ("affinity on ±, new timeout", |n| {
            let timeout = 11_000 + u32::try_from(n % 900).unwrap();
            [put(n, plain), put(n, |it| sticky(it, timeout))]
        }),
        ("endpoint not ready ±", |n| {
            [endpoints(n, ENDPOINTS), slices(n, |it| it.endpoints[0].conditions = UNREADY)]
        }),
        ("topology hints ±", |n| [slices(n, |_| ()), slices(n, hinted)]),
        ("hints of another zone", |n| [slices(n, hinted), slices(n, hinted_elsewhere)]),
        ("target port", |n| [slices(n, |_| ()), slices(n, |it| it.ports[0].port = port(9090))]),
        ("internal policy", |n| {
            [
                [slices(n, on_this_node), put(n, plain)].concat(),
                [slices(n, on_this_node), put(n, internal)].concat(),
            ]
        }),
        ("external policy", |n| [put(n, |it| exposed(it, n)), put(n, |it| local(exposed(it, n)))]),
        ("node port ±", |n| [put(n, plain), put(n, |it| exposed(it, n))]),
        ("external IP ±", |n| [put(n, plain), put(n, |it| reachable(it, n))]),
        ("load balancer's address ±", |n| {
            [put(n, |it| balanced(it, n, 1)), put(n, |it| balanced(it, n, 2))]
        }),
        ("load balancer with a source range ±", |n| {
            [put(n, plain), put(n, |it| restricted(it, n, 1))]
        }),
        ("source range ±", |n| {
            [put(n, |it| restricted(it, n, 1)), put(n, |it| restricted(it, n, 2))]
        }),
        ("weight of an endpoint, 1 and 3", |n| [weights(n, 1), weights(n, 3)]),
        ("load balancing random and Maglev", |n| [put(n, plain), put(n, by_table)]),
        ("endpoint ± of a Maglev Service", |n| {
            [
                [put(n, by_table), endpoints(n, ENDPOINTS)].concat(),
                [put(n, by_table), endpoints(n, ENDPOINTS + 1)].concat(),
            ]
        }),
        ("endpoint ± with round-robin", |n| {
            [
                [put(n, in_turn), endpoints(n, ENDPOINTS)].concat(),
                [put(n, in_turn), endpoints(n, ENDPOINTS + 1)].concat(),
            ]
        }),
        ("type and cluster address", |n| [put(n, plain), put(n, |it| moved(it, n))]),
        ("Service ±", |n| [put(n, plain), vec![Change::Remove(ObjectKey::Service(name(n)))]]),
    ];
    let namespace = Namespace::new("changes");
    let setup = format!("{services} services × {ENDPOINTS}");
    let mut worst = (Duration::ZERO, "");
    namespace.run(|| {
        let mut world = install(services);
        // One Service has the known timeout all the time.
        let known = world.apply(put(services - 1, |it| sticky(it, 10_800)));
        world.commit(&known);
        for (what, pair) in kinds {
            let (costs, waited) = Other::during(|| measure(&mut world, services, pair));
            let Costs { mut times, mut in_kernel, longest } = costs;
            times.sort_unstable();
            in_kernel.sort_unstable();
            let [median, p90] = [5, 9].map(|tenth| times[times.len() * tenth / 10]);
            let most = times[times.len() - 1];
            worst = worst.max((median, what));
            let figure = format!(
                "**{}** (p50), {} (p90), {} (most); {} in the kernel (p50), longest transaction \
                 **{}**; another user waited {}",
                time(median),
                time(p90),
                time(most),
                time(in_kernel[in_kernel.len() / 2]),
                time(longest),
                time(waited)
            );
            row(what, &setup, &figure);
        }
    });
    row("the worst of these", &setup, &format!("**{}** (p50): {}", time(worst.0), worst.1));
}

/// Programs an empty kernel.
fn install(services: usize) -> World<NftSink> {
    let settings = Settings {
        detect_local: DetectLocal::ClusterCidr(vec!["10.128.0.0/9".parse().unwrap()]),
        ..Settings::new(NodeName::from(NODE))
    };
    let mut sink = NftSink::open(Ownership::Shared, settings.masquerade_bit.mark()).unwrap();
    sink.meter();
    let mut world = World::install(sink, settings, services, ENDPOINTS);
    let setup = format!("{services} services × {ENDPOINTS}");
    let Spent { longest, total } = world.sink.spent();
    let figure = format!("**{}** of {} in all", time(longest), time(total));
    row("first install: the longest transaction in the kernel", &setup, &figure);
    let node = world.apply(vec![Change::Apply(node())]);
    world.commit(&node);
    world
}

/// Returns the Node of this machine.
fn node() -> Sourced {
    sourced(Object::Node(Arc::new(Node {
        name: NodeName::from(NODE),
        addresses: vec!["192.0.2.10".parse().unwrap()],
        pod_cidrs: Vec::new(),
        zone: Some(ZONE.into()),
        taints: Vec::new(),
        deleting: false,
    })))
}

/// The source ranges of each load balancer in `source_ranges`.
const RANGES: usize = 50;
/// The load balancers that go at once.
const GONE: usize = 200;

/// Measures changes among this many source ranges.
fn source_ranges(ranges: usize) {
    let balancers = ranges / RANGES;
    let gone = GONE.min(balancers);
    let namespace = Namespace::new("ranges");
    let setup = format!("{ranges} source ranges");
    namespace.run(|| {
        let settings = Settings {
            detect_local: DetectLocal::ClusterCidr(vec!["10.128.0.0/9".parse().unwrap()]),
            ..Settings::new(NodeName::from("na"))
        };
        let sink = NftSink::open(Ownership::Shared, settings.masquerade_bit.mark()).unwrap();
        let mut world = World::install(sink, settings, balancers, 1);
        let with = |service: usize, ranges: usize| put(service, |it| clients(it, service, ranges));
        let all = world.apply((0..balancers).flat_map(|service| with(service, RANGES)).collect());
        world.commit(&all);
        let (mut times, waited) = Other::during(|| {
            let mut times = Vec::new();
            for round in 0..ROUNDS {
                let service = round * 7 % balancers;
                for ranges in [RANGES - 1, RANGES] {
                    let delta = world.apply(with(service, ranges));
                    assert!(!delta.is_empty(), "a change has an effect");
                    let started = Instant::now();
                    world.commit(&delta);
                    times.push(started.elapsed());
                }
            }
            times
        });
        times.sort_unstable();
        let [median, most] = [times[times.len() / 2], times[times.len() - 1]];
        let figure = format!(
            "**{}** (p50), {} (most); another user waited {}",
            time(median),
            time(most),
            time(waited)
        );
        row("source range ±", &setup, &figure);
        let ((took, spent), waited) = Other::during(|| {
            let delta = world.apply((0..gone).flat_map(|service| put(service, plain)).collect());
            let started = Instant::now();
            let spent = world.metered(&delta);
            (started.elapsed(), spent)
        });
        let figure = format!(
            "**{}**; longest transaction in the kernel **{}**; another user waited {}",
            time(took),
            time(spent.longest),
            time(waited)
        );
        row(&format!("{gone} restricted load balancers less"), &setup, &figure);
    });
}

/// Returns a load balancer with this many source ranges, of several lengths.
fn clients(service: Service, number: usize, ranges: usize) -> Service {
    let range = |range: usize| {
        let number = u32::try_from(number * RANGES + range).unwrap();
        let prefix = [32, 28, 24][range % 3];
        let address = std::net::Ipv4Addr::from(0x1400_0000 + (number << 8));
        ipnet::Ipv4Net::new(address, prefix).unwrap().into()
    };
    Service { source_ranges: (0..ranges).map(range).collect(), ..restricted(service, number, 0) }
}

/// What changes of one kind have cost.
#[derive(Default)]
struct Costs {
    /// From the delta to the acknowledgement.
    times: Vec<Duration>,
    /// The kernel's processor time of some more.
    in_kernel: Vec<Duration>,
    /// The longest transaction of these.
    longest: Duration,
}

/// Makes a kind of change at different Services, and undoes it.
fn measure(world: &mut World<NftSink>, services: usize, pair: Pair) -> Costs {
    let mut costs = Costs::default();
    for round in 0..ROUNDS + METERED {
        // The last Service is left alone.
        let service = round * 7 % (services - 1);
        let [before, after] = pair(service);
        let start = world.apply(before.clone());
        world.commit(&start);
        for changes in [after, before] {
            let delta = world.apply(changes);
            assert!(!delta.is_empty(), "a change has an effect");
            if round < ROUNDS {
                let started = Instant::now();
                world.commit(&delta);
                costs.times.push(started.elapsed());
            } else {
                let spent = world.metered(&delta);
                costs.in_kernel.push(spent.total);
                costs.longest = costs.longest.max(spent.longest);
            }
        }
        let end: Delta = world.apply([put(service, plain), endpoints(service, ENDPOINTS)].concat());
        world.commit(&end);
        let idle = world.retire_idle();
        world.commit(&idle);
    }
    costs
}

fn endpoints(service: usize, endpoints: usize) -> Vec<Change> {
    vec![Change::Apply(slice(service, endpoints))]
}

/// The slice of a Service, changed.
fn slices(service: usize, change: impl FnOnce(&mut EndpointSlice)) -> Vec<Change> {
    let sourced = slice(service, ENDPOINTS);
    let Object::EndpointSlice(slice) = sourced.object else { panic!("it is a slice") };
    let mut changed = Arc::unwrap_or_clone(slice);
    change(&mut changed);
    vec![Change::Apply(self::sourced(Object::EndpointSlice(Arc::new(changed))))]
}

const UNREADY: Conditions = Conditions { ready: false, serving: false, terminating: false };

/// One endpoint is in a slice of its own, which has a weight.
fn weights(service: usize, weight: u8) -> Vec<Change> {
    let others = slices(service, |it| it.endpoints = it.endpoints.split_off(1));
    let Object::EndpointSlice(heavy) = slice(service, 1).object else { panic!("it is a slice") };
    let mut heavy = Arc::unwrap_or_clone(heavy);
    heavy.key.name = format!("service-{service}-heavy").as_str().into();
    heavy.weight = Weight::try_from(weight).unwrap();
    let heavy = Change::Apply(sourced(Object::EndpointSlice(Arc::new(heavy))));
    [others, vec![heavy]].concat()
}

fn by_table(service: Service) -> Service {
    Service { load_balancing: Some(LoadBalancing::Maglev), ..service }
}

fn in_turn(service: Service) -> Service {
    Service { load_balancing: Some(LoadBalancing::RoundRobin), ..service }
}

/// Half of the endpoints are for the zone of the node.
fn hinted(slice: &mut EndpointSlice) {
    hint(slice, 0);
}

/// The other half is.
fn hinted_elsewhere(slice: &mut EndpointSlice) {
    hint(slice, 1);
}

fn hint(slice: &mut EndpointSlice, odd: usize) {
    for (number, endpoint) in slice.endpoints.iter_mut().enumerate() {
        let zone = if number % 2 == odd { ZONE } else { "elsewhere" };
        endpoint.hints = Some(Box::new(Hints { zones: [zone.into()].into(), nodes: [].into() }));
    }
}

/// Some of the endpoints are on the node.
fn on_this_node(slice: &mut EndpointSlice) {
    for endpoint in slice.endpoints.iter_mut().take(2) {
        endpoint.node = Some(NodeName::from(NODE));
    }
}

fn internal(service: Service) -> Service {
    Service { internal_policy: TrafficPolicy::Local, ..service }
}

fn balanced(service: Service, number: usize, addresses: usize) -> Service {
    let balancers = (0..addresses).map(|it| external(number * 2 + it)).collect();
    Service { kind: ServiceType::LoadBalancer, load_balancer_vips: balancers, ..service }
}

fn put(service: usize, change: impl FnOnce(Service) -> Service) -> Vec<Change> {
    let changed = change(plain_service(service));
    vec![Change::Apply(sourced(Object::Service(Arc::new(changed))))]
}

fn plain(service: Service) -> Service {
    service
}

fn sticky(service: Service, timeout: u32) -> Service {
    Service { affinity: Affinity::ClientIp { timeout }, ..service }
}

fn exposed(mut service: Service, number: usize) -> Service {
    service.kind = ServiceType::NodePort;
    for it in &mut service.ports {
        it.node_port = Some(port(30_000 + u16::try_from(number % 2_700).unwrap()));
    }
    service
}

fn local(service: Service) -> Service {
    Service { external_policy: TrafficPolicy::Local, ..service }
}

fn external(number: usize) -> IpAddr {
    let number = u32::try_from(number).unwrap();
    IpAddr::from(std::net::Ipv4Addr::from(0xc612_0000 + number % 0x1_0000))
}

fn reachable(service: Service, number: usize) -> Service {
    Service { external_ips: vec![external(number)], ..service }
}

fn restricted(service: Service, number: usize, ranges: usize) -> Service {
    let all = ["192.0.2.0/24", "203.0.113.0/24"];
    Service {
        kind: ServiceType::LoadBalancer,
        load_balancer_vips: vec![external(number)],
        source_ranges: all.iter().take(ranges).map(|net| net.parse().unwrap()).collect(),
        ..service
    }
}

fn moved(mut service: Service, number: usize) -> Service {
    let number = u32::try_from(number).unwrap();
    service.cluster_ips.v4 = Some(std::net::Ipv4Addr::from(0x0afe_0000 + number % 0x1_0000));
    service
}
