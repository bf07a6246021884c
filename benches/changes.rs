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

mod kinds;
mod large;
mod other;
mod table;
mod world;

use std::time::{Duration, Instant};

use rulec_compiler::change::Change;
use rulec_compiler::name::NodeName;
use rulec_compiler::object::{ObjectKey, Service};
use rulec_compiler::settings::DetectLocal;
use rulec_compiler::{Delta, Settings};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Spent};
use rulec_testkit::{Namespace, require_root};

use crate::kinds::{
    ENDPOINTS, NODE, UNREADY, balanced, by_table, endpoints, exposed, hinted, hinted_elsewhere,
    in_turn, internal, local, moved, node, on_this_node, plain, put, reachable, restricted, slices,
    sticky, weights,
};
use crate::other::Other;
use crate::table::{machine, row, time};
use crate::world::{World, name, port};

/// How often each kind of change is made, and undone.
const ROUNDS: usize = 100;
/// How often again, while the kernel's processor time is measured.
const METERED: usize = 20;

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
