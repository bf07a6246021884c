//! IPVS on the real kernel: the programmed state is compared with `ipvsadm` and `ip`, and the
//! effect on connections is tested. Many kernels lack IPVS; `tests/vm/run ipvs` boots one that has
//! it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod balancing;
mod mode;
mod traffic;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use rulec::host::sysctl::{Adjustment, Arp, Sysctls};
use rulec_compiler::ipvs::{
    Attributes, Op, RealServer, Scheduler, SchedulerFlags, Scheduling, State, VirtualServer, text,
};
use rulec_compiler::net::{Backend, Protocol};
use rulec_sinks::ipvs::{Ipvs, OpenError, Options, SchedulerError};
use rulec_testkit::{Namespace, require_root};

/// Virtual addresses and pods, in both families.
const VIPS: [&str; 2] = ["10.96.0.10", "fd00:96::a"];
const PODS: [&str; 2] = ["10.244.1.5", "2001:db8:50:1::5"];

fn server(address: &str, protocol: Protocol, port: u16) -> VirtualServer {
    VirtualServer { address: address.parse().unwrap(), protocol, port: port.try_into().unwrap() }
}

fn backend(address: &str, port: u16) -> Backend {
    Backend { address: address.parse().unwrap(), port: port.try_into().unwrap() }
}

fn plain(scheduler: Scheduler) -> Attributes {
    Attributes { scheduling: Scheduling::new(scheduler), persistence: None }
}

fn open() -> Ipvs {
    Ipvs::open(Options::default()).unwrap()
}

/// Applies operations, which the kernel must not refuse, to the kernel and to a model.
fn done(ipvs: &mut Ipvs, model: &mut State, ops: &[Op]) {
    let refused = ipvs.apply(ops).unwrap();
    assert!(refused.is_empty(), "{refused:?} of {ops:?}");
    for op in ops {
        model.apply(op).unwrap();
    }
    assert_eq!(ipvs.read().unwrap(), *model);
}

/// Returns the output of `ipvsadm`, in a canonical order.
fn listing(namespace: &Namespace) -> BTreeSet<String> {
    let text = namespace.sh("ipvsadm -Sn; ipvsadm -Ln --thresholds");
    // With `--thresholds` there are no counts of connections. The widths of columns are ignored.
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

/// Loads operations with `ipvsadm`.
fn restore(namespace: &Namespace, ops: &[Op]) {
    let lines: Vec<String> = ops.iter().filter_map(text::command).collect();
    let mut child = namespace.command("ipvsadm", ["-R"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{lines:#?}");
}

/// Returns operations with both families, all protocols, times and flags, weights and thresholds.
fn everything() -> Vec<Op> {
    let mut ops = Vec::new();
    for (vip, pod) in VIPS.into_iter().zip(PODS) {
        for (protocol, port) in Protocol::ALL.into_iter().zip(80..) {
            let server = server(vip, protocol, port);
            ops.push(Op::AddServer(server, plain(Scheduler::Rr)));
            ops.push(Op::AddReal(server, backend(pod, 8080), RealServer::ACTIVE));
            ops.push(Op::AddReal(server, backend(pod, 8081), RealServer::draining(77)));
            let heavy = RealServer { weight: 65_535, threshold: None };
            ops.push(Op::AddReal(server, backend(pod, 8082), heavy));
        }
        let flags: SchedulerFlags = "sh-port,flag-3".parse().unwrap();
        for (port, scheduling, persistence) in [
            (90, Scheduling::new(Scheduler::Mh), None),
            (91, Scheduling { scheduler: Scheduler::Sh, flags }, Some(10_800)),
            (92, Scheduling::new(Scheduler::Wrr), Some(1)),
        ] {
            let server = server(vip, Protocol::Tcp, port);
            ops.push(Op::AddServer(server, Attributes { scheduling, persistence }));
        }
    }
    ops
}

#[test]
fn a_kernel_without_ipvs_is_recognised() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("absent");
    namespace.run(|| match Ipvs::open(Options::default()) {
        Ok(_) => assert!(Path::new("/sys/module/ip_vs").exists(), "opened, though it is absent"),
        Err(OpenError::Absent) => assert!(!Path::new("/proc/net/ip_vs").exists()),
        Err(error) => panic!("{error:?}"),
    });
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn operations_program_the_same_as_ipvsadm() {
    let [ours, theirs] = ["ours", "theirs"].map(Namespace::new);
    let ops = everything();
    let mut model = State::default();
    ours.run(|| done(&mut open(), &mut model, &ops));
    restore(&theirs, &ops);
    assert_eq!(listing(&ours), listing(&theirs));
    assert_eq!(theirs.run(|| open().read().unwrap()), model);

    // In place: each attribute is changed and changed back, and each weight.
    let web = server(VIPS[0], Protocol::Tcp, 80);
    let dns = server(VIPS[1], Protocol::Udp, 81);
    let sticky = Attributes { persistence: Some(600), ..plain(Scheduler::Wlc) };
    let pods = PODS.map(|pod| backend(pod, 8080));
    let ops = [
        Op::SetServer(web, sticky),
        Op::SetServer(dns, plain(Scheduler::Mh)),
        Op::SetReal(web, pods[0], RealServer::draining(i32::MAX.unsigned_abs())),
        Op::SetReal(dns, backend(PODS[1], 8081), RealServer::ACTIVE),
        Op::DeleteReal(dns, pods[1]),
        Op::DeleteServer(server(VIPS[0], Protocol::Sctp, 82)),
        Op::SetServer(server(VIPS[1], Protocol::Tcp, 91), plain(Scheduler::Rr)),
    ];
    ours.run(|| done(&mut open(), &mut model, &ops));
    restore(&theirs, &ops);
    assert_eq!(listing(&ours), listing(&theirs));
    let back = [
        Op::SetServer(web, plain(Scheduler::Rr)),
        Op::SetServer(dns, sticky),
        Op::SetReal(web, pods[0], RealServer::ACTIVE),
    ];
    ours.run(|| done(&mut open(), &mut model, &back));
    restore(&theirs, &back);
    assert_eq!(listing(&ours), listing(&theirs));

    let all = model.servers.keys().map(|server| Op::DeleteServer(*server)).collect::<Vec<_>>();
    ours.run(|| done(&mut open(), &mut model, &all));
    assert_eq!(listing(&ours), listing(&Namespace::new("empty")));
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn refused_operations_are_named_and_others_are_applied() {
    let namespace = Namespace::new("refused");
    let [web, dns, gone] = [80, 53, 9].map(|port| server(VIPS[0], Protocol::Tcp, port));
    let [pod, pod6] = PODS.map(|pod| backend(pod, 8080));
    let [one, two] = VIPS.map(|vip| vip.parse().unwrap());
    let ops = [
        Op::SetServer(web, plain(Scheduler::Rr)),
        Op::Bind(one),
        Op::AddServer(web, plain(Scheduler::Rr)),
        Op::AddServer(web, plain(Scheduler::Wlc)),
        Op::AddReal(web, pod, RealServer::ACTIVE),
        Op::AddReal(web, pod, RealServer::draining(1)),
        Op::Bind(one),
        Op::Unbind(two),
        Op::Bind(two),
        Op::AddReal(web, pod6, RealServer::ACTIVE),
        Op::AddReal(gone, pod, RealServer::ACTIVE),
        Op::SetReal(web, backend(PODS[0], 1), RealServer::ACTIVE),
        Op::DeleteReal(web, backend(PODS[0], 1)),
        Op::DeleteServer(gone),
        Op::AddServer(dns, plain(Scheduler::Rr)),
        Op::DeleteReal(dns, pod),
        Op::Unbind(one),
        Op::Unbind(one),
    ];
    let mut model = State::default();
    let mut expected = Vec::new();
    for (idx, op) in ops.iter().enumerate() {
        let mut next = model.clone();
        match next.apply(op) {
            Ok(()) => model = next,
            Err(_) => expected.push(idx),
        }
    }
    assert_eq!(expected.len(), 12);
    namespace.run(|| {
        let mut ipvs = open();
        let refused = ipvs.apply(&ops).unwrap();
        let places: Vec<usize> = refused.iter().map(|(idx, _)| *idx).collect();
        assert_eq!(places, expected, "{refused:?}");
        assert_eq!(ipvs.read().unwrap(), model);
        // The socket still works, and many refusals are not an error of the call.
        let many = vec![Op::DeleteServer(gone); 3_000];
        assert_eq!(ipvs.apply(&many).unwrap().len(), 3_000);
        assert_eq!(ipvs.read().unwrap(), model);
    });
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn foreign_virtual_servers_are_recognised() {
    let namespace = Namespace::new("others");
    namespace.sh("ipvsadm -A -f 17 -s rr
         ipvsadm -a -f 17 -r 10.244.1.5 -g
         ipvsadm -A -f 18 -6 -s rr
         ipvsadm -A -t 10.96.0.10:0 -s rr -p 60
         ipvsadm -A -u 10.96.0.11:53 -s rr -o
         ipvsadm -A -t 10.96.0.12:80 -s rr -p 60 -M 255.255.255.0
         ipvsadm -A -t 10.96.0.13:80 -s fo
         ipvsadm -A -t 10.96.0.14:80 -s wlc
         ipvsadm -a -t 10.96.0.14:80 -r 10.244.1.5:80 -i
         ipvsadm -a -t 10.96.0.14:80 -r 10.244.1.6:8080 -m -w 2 -x 9 -y 5
         ipvsadm -a -t 10.96.0.14:80 -r 10.244.1.7:8080 -m -w 2 -x 9");
    let state = namespace.run(|| open().read().unwrap());
    let shown: Vec<(String, bool)> = state
        .servers
        .iter()
        .map(|(server, held)| (server.to_string(), held.attributes.is_some()))
        .collect();
    let expected = [
        ("10.96.0.11:53/UDP", false),
        ("10.96.0.12:80/TCP", false),
        ("10.96.0.13:80/TCP", false),
        ("10.96.0.14:80/TCP", true),
    ];
    assert_eq!(shown, expected.map(|(server, is_ours)| (server.to_owned(), is_ours)));
    let reals = &state.servers[&server("10.96.0.14", Protocol::Tcp, 80)].reals;
    assert_eq!(reals[&backend("10.244.1.5", 80)], None, "a tunnel");
    assert_eq!(reals[&backend("10.244.1.6", 8080)], None, "a lower threshold");
    let real = RealServer { weight: 2, threshold: Some(9) };
    assert_eq!(reals[&backend("10.244.1.7", 8080)], Some(real));
    // All of them are changed in place to the form that rulec uses.
    namespace.run(|| {
        let mut ipvs = open();
        let odd = server("10.96.0.12", Protocol::Tcp, 80);
        let once = server("10.96.0.11", Protocol::Udp, 53);
        let tunnel = backend("10.244.1.5", 80);
        let attributes = plain(Scheduler::Rr);
        let ops = [
            Op::SetServer(odd, attributes),
            Op::SetServer(once, attributes),
            Op::SetReal(server("10.96.0.14", Protocol::Tcp, 80), tunnel, RealServer::ACTIVE),
        ];
        assert!(ipvs.apply(&ops).unwrap().is_empty());
        let state = ipvs.read().unwrap();
        assert_eq!(state.servers[&odd].attributes, Some(attributes));
        assert_eq!(state.servers[&once].attributes, Some(attributes));
        let reals = &state.servers[&server("10.96.0.14", Protocol::Tcp, 80)].reals;
        assert_eq!(reals[&tunnel], Some(RealServer::ACTIVE));
    });
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn schedulers_are_loaded_on_demand() {
    const LOADER: &str = "/proc/sys/kernel/modprobe";
    let namespace = Namespace::new("schedulers");
    // A scheduler whose module is not loaded.
    let unloaded = Scheduling::new(Scheduler::Nq);
    assert!(!Path::new("/sys/module/ip_vs_nq").exists());
    namespace.run(|| {
        let mut ipvs = open();
        let loader = fs::read_to_string(LOADER).unwrap();
        fs::write(LOADER, "/bin/false").unwrap();
        let error = ipvs.probe_scheduler(&unloaded).unwrap_err();
        let refused =
            ipvs.apply(&[Op::AddServer(server(VIPS[0], Protocol::Tcp, 80), plain(Scheduler::Nq))]);
        fs::write(LOADER, loader.trim()).unwrap();
        assert!(matches!(error, SchedulerError::Absent(Scheduler::Nq)), "{error:?}");
        assert_eq!(refused.unwrap().len(), 1);

        // The remains of a probe that was interrupted, with another scheduler.
        namespace.sh("ipvsadm -A -t 198.51.100.0:20000 -s rr");
        ipvs.probe_scheduler(&unloaded).unwrap();
        assert!(ipvs.read().unwrap().is_empty(), "nothing is left of it");

        // Every scheduler can be set, with every flag, and can replace every other one.
        let mut model = State::default();
        let all = server(VIPS[0], Protocol::Tcp, 80);
        done(&mut ipvs, &mut model, &[Op::AddServer(all, plain(Scheduler::Rr))]);
        for (scheduler, port) in Scheduler::ALL.into_iter().zip(1..) {
            let flags = SchedulerFlags::from_bits(u32::from(port) << 3);
            let attributes =
                Attributes { scheduling: Scheduling { scheduler, flags }, persistence: None };
            ipvs.probe_scheduler(&attributes.scheduling).unwrap();
            let server = server(VIPS[1], Protocol::Tcp, port);
            let ops = [Op::AddServer(server, attributes), Op::SetServer(all, attributes)];
            done(&mut ipvs, &mut model, &ops);
            let listing = namespace.sh("ipvsadm -Sn");
            assert_eq!(listing.matches(&format!(" -s {scheduler}")).count(), 2, "{listing}");
        }
        // A scheduler that is in use needs no probe, and so no loader of modules.
        fs::write(LOADER, "/bin/false").unwrap();
        let used = ipvs.probe_scheduler(&unloaded);
        fs::write(LOADER, loader.trim()).unwrap();
        used.unwrap();
    });
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn timeouts_of_zero_leave_the_current_ones() {
    let namespace = Namespace::new("timeouts");
    let shown = || namespace.sh("ipvsadm -Ln --timeout").trim().to_owned();
    namespace.run(|| {
        let mut ipvs = open();
        assert_eq!(shown(), "Timeout (tcp tcpfin udp): 900 120 300");
        ipvs.set_timeouts(0, 0, 0).unwrap();
        assert_eq!(shown(), "Timeout (tcp tcpfin udp): 900 120 300");
        ipvs.set_timeouts(0, 60, 0).unwrap();
        assert_eq!(shown(), "Timeout (tcp tcpfin udp): 900 60 300");
        ipvs.set_timeouts(86_400, 0, 77).unwrap();
        assert_eq!(shown(), "Timeout (tcp tcpfin udp): 86400 60 77");
        assert!(ipvs.set_timeouts(u32::MAX, 0, 0).is_err());
        assert_eq!(shown(), "Timeout (tcp tcpfin udp): 86400 60 77");
    });
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn the_settings_for_ipvs_apply_in_a_namespace() {
    let namespace = Namespace::new("settings");
    namespace.run(|| {
        let settings = Sysctls::default().apply_ipvs(Arp::Strict);
        assert_eq!(settings.len(), 6, "conn_reuse_mode is not set: {settings:?}");
        for setting in &settings {
            let Adjustment::Set { to, .. } = setting.outcome else { panic!("{setting:?}") };
            assert_eq!(to, setting.wanted);
        }
        let again = Sysctls::default().apply_ipvs(Arp::Strict);
        assert!(
            again.iter().all(|it| matches!(it.outcome, Adjustment::Already { .. })),
            "{again:?}"
        );
    });
}
