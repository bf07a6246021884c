//! The addresses of virtual servers, on a device and as routes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rulec_compiler::ipvs::{Op, RealServer, Scheduler, State};
use rulec_compiler::net::Protocol;
use rulec_sinks::ipvs::{Addresses, Device, Ipvs, Options};
use rulec_testkit::Namespace;

use super::{VIPS, backend, done, open, plain, server};
use crate::support::eventually;

fn with_routes() -> Ipvs {
    let options = Options { addresses: Addresses::LocalRoutes, ..Options::default() };
    Ipvs::open(options).unwrap()
}

/// Returns a thousand addresses of each family.
fn thousands() -> Vec<IpAddr> {
    let numbers = || (0..1_000_u16).map(|number| (number.to_be_bytes(), number));
    let v4 = numbers().map(|([high, low], _)| IpAddr::from(Ipv4Addr::new(10, 96, high, low)));
    let v6 = numbers()
        .map(|(_, number)| IpAddr::from(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 1, number)));
    v4.chain(v6).collect()
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn the_device_exists_from_the_first_address_until_cleanup() {
    let namespace = Namespace::new("device");
    let vips = VIPS.map(|vip| vip.parse::<IpAddr>().unwrap());
    namespace.run(|| {
        let mut ipvs = open();
        let mut model = State::default();
        assert_eq!(ipvs.read().unwrap(), model);
        assert!(!namespace.sh("ip link").contains("kube-ipvs0"), "reading creates no device");

        done(&mut ipvs, &mut model, &vips.map(Op::Bind));
        let device = namespace.sh("ip -details addr show dev kube-ipvs0");
        assert!(device.contains("dummy") && device.contains(",UP"), "{device}");
        assert!(device.contains("inet 10.96.0.10/32 scope host"), "{device}");
        assert!(device.contains("inet6 fd00:96::a/128 scope global"), "{device}");
        assert!(!device.contains("tentative"), "usable at once: {device}");
        for vip in VIPS {
            let route = namespace.sh(&format!("ip route get {vip}"));
            assert!(route.starts_with("local "), "{route}");
        }
        let beside = namespace.sh("ip -6 route show");
        assert!(!beside.contains("fd00:96::a"), "one route is enough: {beside}");

        // Packets that leave via a device without an address must not have the address of a
        // Service.
        namespace.sh("ip link add bare type dummy
             ip link set bare up
             ip route add 198.51.100.0/24 dev bare");
        let route = namespace.sh("ip route get 198.51.100.7");
        assert!(route.contains("dev bare") && !route.contains("src 10.96."), "{route}");

        // Addresses on the device that are not single addresses are not ours, and neither are those
        // on other devices.
        namespace.sh("ip addr add 192.0.2.1/24 dev kube-ipvs0
             ip addr add 192.0.2.2/32 dev lo
             ip addr add fd00:97::1/64 dev kube-ipvs0");
        assert_eq!(ipvs.read().unwrap(), model);

        // The device is set down, or deleted: both are repaired with the next address.
        namespace.sh("ip link set kube-ipvs0 down");
        let more: IpAddr = "10.96.0.11".parse().unwrap();
        assert!(ipvs.apply(&[Op::Bind(more)]).unwrap().is_empty());
        assert!(namespace.sh("ip link show kube-ipvs0").contains(",UP"));
        namespace.sh("ip link delete kube-ipvs0");
        assert!(ipvs.read().unwrap().is_empty());
        assert_eq!(ipvs.apply(&[Op::Unbind(vips[0])]).unwrap().len(), 1);
        let mut model = State::default();
        done(&mut ipvs, &mut model, &[Op::Bind(vips[0]), Op::Bind(vips[1]), Op::Unbind(vips[0])]);
        assert_eq!(model.bound, BTreeSet::from([vips[1]]));

        ipvs.cleanup().unwrap();
        assert!(!namespace.sh("ip link").contains("kube-ipvs0"));
        ipvs.cleanup().unwrap();
        assert!(ipvs.read().unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn a_device_with_another_name_can_be_created_in_advance() {
    let namespace = Namespace::new("named");
    let device: Device = "services".parse().unwrap();
    namespace.run(|| {
        let options = Options { device, ..Options::default() };
        let mut ipvs = Ipvs::open(options).unwrap();
        ipvs.prepare().unwrap();
        ipvs.prepare().unwrap();
        assert!(namespace.sh("ip -details link show services").contains("dummy"));
        assert!(ipvs.read().unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn thousands_of_operations_are_applied_in_one_call() {
    let [on_device, as_routes] = ["device", "routes"].map(Namespace::new);
    let mut ops: Vec<Op> = thousands().into_iter().map(Op::Bind).collect();
    for (address, number) in thousands().iter().zip(0..) {
        let server = server(&address.to_string(), Protocol::Tcp, 80);
        ops.push(Op::AddServer(server, plain(Scheduler::Rr)));
        let pod = match address {
            IpAddr::V4(_) => format!("10.244.{}.{}", number / 200, number % 200 + 1),
            IpAddr::V6(_) => format!("2001:db8:50:1::{number:x}"),
        };
        for port in [8080, 8081] {
            ops.push(Op::AddReal(server, backend(&pod, port), RealServer::ACTIVE));
        }
    }
    for (namespace, open) in [(&on_device, open as fn() -> Ipvs), (&as_routes, with_routes)] {
        namespace.run(|| {
            let mut ipvs = open();
            let mut model = State::default();
            done(&mut ipvs, &mut model, &ops);
            // The kernel continues a dump by counting the virtual servers of all namespaces
            // (`ip_vs_genl_dump_services`, Linux 6.1): if other tests change theirs meanwhile, a
            // dump misses some.
            eventually("all of it is listed", || {
                namespace.sh("ipvsadm -Sn").lines().count() == 6_000
            });
            let all = namespace
                .sh("ip addr show dev lo; ip addr show dev kube-ipvs0 2>/dev/null || true
                 ip route show table local proto 114; ip -6 route show table local proto 114");
            assert_eq!(all.lines().filter(|line| line.contains("10.96.")).count(), 1_000);
            assert_eq!(all.lines().filter(|line| line.contains("fd00:96::1:")).count(), 1_000);

            let mut away: Vec<Op> = thousands().into_iter().map(Op::Unbind).collect();
            away.extend(model.servers.keys().map(|server| Op::DeleteServer(*server)));
            done(&mut ipvs, &mut model, &away);
            assert!(model.is_empty());
        });
    }
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn remains_of_either_binding_method_are_removed() {
    let namespace = Namespace::new("earlier");
    let vip: IpAddr = VIPS[0].parse().unwrap();
    let vip6: IpAddr = VIPS[1].parse().unwrap();
    namespace.run(|| {
        assert!(open().apply(&[Op::Bind(vip)]).unwrap().is_empty());
        let mut routes = with_routes();
        assert!(routes.apply(&[Op::Bind(vip6)]).unwrap().is_empty());
        assert_eq!(routes.read().unwrap().bound, BTreeSet::from([vip6]));
        routes.cleanup().unwrap();
        assert!(open().read().unwrap().is_empty() && routes.read().unwrap().is_empty());
        assert!(!namespace.sh("ip link").contains("kube-ipvs0"));
    });
}
