//! Changes that are large because many objects, ports or endpoints are concerned: each made some
//! times, and undone, beside a number of ordinary Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rulec_compiler::change::{Change, Sourced};
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{LabelKey, LabelValue, NamespacedName, NodeName};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::{
    ClusterIps, Conditions, Endpoint, EndpointSlice, Object, ObjectKey, Pod, PodAddresses, Service,
    ServicePort, SlicePort, TargetPort,
};
use rulec_sinks::NftSink;
use rulec_testkit::Namespace;

use crate::install;
use crate::kinds::{put, sticky};
use crate::other::Other;
use crate::table::{row, time};
use crate::world::{World, plain_service, port, sourced};

/// How often each change is made.
const TIMES: usize = 5;

/// Measures and prints the rows.
pub(crate) fn changes(services: usize, endpoints: usize) {
    let setup = format!("{services} services × {endpoints}");
    let namespace = Namespace::new("large");
    namespace.run(|| {
        let mut world = install(services);
        for many in [1_000, 8_000] {
            one_deployment(&mut world, &setup, services, many);
        }
        for (endpoints, addresses) in [(1_000, 5), (60_000, 5)] {
            large_service(&mut world, &setup, endpoints, addresses);
        }
        many_ports(&mut world, &setup, 1_000);
        new_timeouts(&mut world, &setup, 200);
    });
}

/// One Pod more and less of a Deployment that many Services select.
fn one_deployment(world: &mut World<NftSink>, setup: &str, first: usize, many: usize) {
    let services: Vec<usize> = (first..first + many).collect();
    let mut create: Vec<Change> = (0..10).map(|number| Change::Apply(pod(number))).collect();
    create.extend(services.iter().map(|number| {
        let service = Service { selector: labels(), ..plain_service(*number) };
        Change::Apply(sourced(Object::Service(Arc::new(service))))
    }));
    let remove = services.iter().map(|number| Change::Remove(service_key(*number)));
    let remove: Vec<Change> = remove.chain((0..10).map(|it| Change::Remove(pod_key(it)))).collect();
    let one = [vec![Change::Apply(pod(10))], vec![Change::Remove(pod_key(10))]];
    made(world, create);
    measure(world, &format!("one Pod ± of {many} Services"), setup, one);
    made(world, remove);
}

/// A Service with many endpoints at a number of addresses, all of it.
fn large_service(world: &mut World<NftSink>, setup: &str, endpoints: u32, addresses: u8) {
    let name = NamespacedName::new("default", "large");
    let service = Service {
        cluster_ips: ClusterIps { v4: Some(Ipv4Addr::new(10, 96, 0, 1)), v6: None },
        external_ips: (1..addresses).map(|it| Ipv4Addr::new(198, 51, 100, it).into()).collect(),
        ports: vec![service_port(80, Protocol::Tcp)],
        ..Service::new(name.clone())
    };
    let ports = [service_port(80, Protocol::Tcp)];
    let slice = large_slice(&name, &ports, endpoints);
    let objects = [Object::Service(Arc::new(service)), Object::EndpointSlice(Arc::new(slice))];
    let add = objects.map(|object| Change::Apply(sourced(object))).to_vec();
    let remove = vec![
        Change::Remove(ObjectKey::Service(name.clone())),
        Change::Remove(ObjectKey::EndpointSlice(name)),
    ];
    let what = format!("a Service of {endpoints} endpoints at {addresses} addresses ±");
    measure(world, &what, setup, [add, remove]);
}

/// One endpoint more and less of a Service with many UDP ports.
fn many_ports(world: &mut World<NftSink>, setup: &str, many: u16) {
    let name = NamespacedName::new("default", "ports");
    let ports: Vec<ServicePort> =
        (0..many).map(|it| service_port(10_000 + it, Protocol::Udp)).collect();
    let service = Service {
        cluster_ips: ClusterIps { v4: Some(Ipv4Addr::new(10, 96, 0, 2)), v6: None },
        ports: ports.clone(),
        ..Service::new(name.clone())
    };
    let with = |endpoints| {
        let slice = large_slice(&name, &ports, endpoints);
        vec![Change::Apply(sourced(Object::EndpointSlice(Arc::new(slice))))]
    };
    made(world, with(2));
    made(world, vec![Change::Apply(sourced(Object::Service(Arc::new(service))))]);
    let what = format!("endpoint ± of a Service of {many} UDP ports");
    measure(world, &what, setup, [with(3), with(2)]);
    made(world, vec![Change::Remove(ObjectKey::Service(name.clone()))]);
}

/// Session affinity on, with a new timeout for each of many Services; then changes of others.
fn new_timeouts(world: &mut World<NftSink>, setup: &str, many: usize) {
    let others = |world: &mut World<NftSink>| -> Vec<Duration> {
        let one = |number: usize| made(world, put(1_000 + number, |it| sticky(it, 10_800)));
        let mut times: Vec<Duration> = (0..50).map(one).collect();
        for number in 0..50 {
            made(world, put(1_000 + number, |it| it));
        }
        times.sort_unstable();
        times
    };
    let before = others(world);
    let start = processor_time();
    world.sink.meter();
    let (times, waited) = Other::during(|| {
        let one = |number: usize| {
            let timeout = 20_000 + u32::try_from(number).unwrap();
            made(world, put(number, |it| sticky(it, timeout)))
        };
        (0..many).map(one).collect::<Vec<Duration>>()
    });
    let processor = processor_time() - start;
    let spent = world.sink.spent();
    let after = others(world);
    let figure = format!(
        "**{}** in all (**{}** of a core, {} of it in the kernel, to compile included); longest \
         transaction in the kernel **{}**; another user waited {}; session affinity of another \
         Service took {} (p50) before and {} afterwards",
        time(times.iter().sum()),
        time(processor),
        time(spent.total),
        time(spent.longest),
        time(waited),
        time(before[before.len() / 2]),
        time(after[after.len() / 2])
    );
    row(&format!("{many} Services get {many} new timeouts, one by one"), setup, &figure);
}

/// Makes two opposite changes, and prints how long they took from the event to the acknowledgement.
fn measure(world: &mut World<NftSink>, what: &str, setup: &str, changes: [Vec<Change>; 2]) {
    let mut operations = 0;
    let mut longest = Duration::ZERO;
    let mut times = [Vec::new(), Vec::new()];
    let ((), waited) = Other::during(|| {
        for _ in 0..TIMES {
            for (changes, times) in changes.iter().zip(&mut times) {
                let (started, start) = (Instant::now(), processor_time());
                let delta = world.apply(changes.clone());
                let compiled = processor_time() - start;
                longest = longest.max(world.metered(&delta).longest);
                times.push((started.elapsed(), processor_time() - start, compiled));
                operations = delta.len();
            }
        }
    });
    let [there, back] = times.map(|mut times| {
        times.sort_unstable();
        let [(median, all, compiled), (most, ..)] = [times[TIMES / 2], times[TIMES - 1]];
        format!(
            "**{}** ({} at most; **{}** of a core, {} of it to compile)",
            time(median),
            time(most),
            time(all),
            time(compiled)
        )
    });
    let figure = format!(
        "there {there}, back {back}: {operations} operations; longest transaction in the kernel \
         **{}**; another user waited {}",
        time(longest),
        time(waited)
    );
    row(what, setup, &figure);
}

/// Returns the processor time of this thread: on a busy machine, it says more than the clock.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Makes a change, and returns how long the commit took.
fn made(world: &mut World<NftSink>, changes: Vec<Change>) -> Duration {
    let delta = world.apply(changes);
    let started = Instant::now();
    world.commit(&delta);
    started.elapsed()
}

fn labels() -> BTreeMap<LabelKey, LabelValue> {
    [("app".into(), "shared".into())].into()
}

fn pod(number: u8) -> Sourced {
    sourced(Object::Pod(Arc::new(Pod {
        key: pod_name(number),
        labels: labels(),
        node: Some(NodeName::from("nb")),
        addresses: PodAddresses::Own(vec![Ipv4Addr::new(10, 200, 0, 1 + number).into()]),
        ports: Vec::new(),
        conditions: Conditions::READY,
        host: None,
        weight: Weight::default(),
    })))
}

fn pod_name(number: u8) -> NamespacedName {
    NamespacedName::new("default", format!("pod-{number}").as_str())
}

fn pod_key(number: u8) -> ObjectKey {
    ObjectKey::Pod(pod_name(number))
}

fn service_key(number: usize) -> ObjectKey {
    ObjectKey::Service(crate::world::name(number))
}

fn service_port(number: u16, protocol: Protocol) -> ServicePort {
    ServicePort {
        name: format!("p{number}").as_str().into(),
        protocol,
        port: port(number),
        node_port: None,
        target: TargetPort::Number(port(8080)),
    }
}

/// Returns a slice for these ports, with endpoints on another node.
fn large_slice(name: &NamespacedName, ports: &[ServicePort], endpoints: u32) -> EndpointSlice {
    let endpoint = |number| Endpoint {
        node: Some(NodeName::from("nb")),
        ..Endpoint::ready(IpAddr::V4(Ipv4Addr::from(0x0a40_0000 + number)))
    };
    let port = |it: &ServicePort| SlicePort {
        name: it.name.clone(),
        protocol: it.protocol,
        port: it.port,
    };
    EndpointSlice {
        key: name.clone(),
        service: name.clone(),
        family: Family::Ipv4,
        ports: ports.iter().map(port).collect(),
        endpoints: (0..endpoints).map(endpoint).collect(),
        weight: Weight::default(),
    }
}
