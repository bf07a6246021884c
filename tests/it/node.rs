//! The node itself: what is wrong with it is said, with a command that mends it, and the route of
//! `--service-route`. Each test makes the fault, and runs the command that the message names.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bridge;
mod firewall;
mod forwarding;
mod reverse_path;
mod route;

use std::net::SocketAddr;
use std::path::Path;

use rulec_testkit::{Failure, Namespace, Options, Protocol, Server, ask};

use crate::daemon::{Daemon, Manifests};
use crate::support::{Ran, SETTINGS, eventually, file, rulec, service, slice};

/// A node without a default route, and Pods on its bridge `br0` or, in their own networks, each on
/// a veth pair.
struct Small {
    node: Namespace,
    pods: Vec<Namespace>,
}

/// The addresses of Pods: `10.50.1.5` and so on, with the node at `10.50.1.1`.
const POD: &str = "10.50.1.5";
const POD_V6: &str = "2001:db8:50:1::5";

/// The addresses of the Service in these tests, within the ranges of [`RANGES`].
const WEB: &str = "10.96.0.10:80";
const WEB_V6: &str = "[fd00:96::a]:80";
const RANGES: [&str; 2] = ["--service-cidr", "10.96.0.0/16,fd00:96::/112"];

impl Small {
    /// Makes a node that forwards, with two Pods in networks of their own.
    fn routed() -> Self {
        let small = Self::unconnected();
        for (number, pod) in (1..).zip(&small.pods) {
            let (name, v6) = (pod.name(), format!("2001:db8:50:{number}"));
            small.node.sh(&format!(
                "ip link add pod{number} type veth peer name eth0 netns {name}
                 ip addr add 10.50.{number}.1/24 dev pod{number}
                 ip addr add {v6}::1/64 dev pod{number} nodad
                 ip link set pod{number} up"
            ));
            Self::address(pod, &format!("10.50.{number}"), &v6, 5);
        }
        small.forwards();
        small
    }

    /// Makes a node that forwards, with two Pods on its bridge `br0`.
    fn bridged() -> Self {
        let small = Self::unconnected();
        small.node.sh("ip link add br0 type bridge mcast_snooping 0
             ip addr add 10.50.1.1/24 dev br0
             ip addr add 2001:db8:50:1::1/64 dev br0 nodad
             ip link set br0 up");
        for (number, pod) in (1..).zip(&small.pods) {
            small.node.sh(&format!(
                "ip link add pod{number} type veth peer name eth0 netns {}
                 ip link set pod{number} master br0 up",
                pod.name()
            ));
            Self::address(pod, "10.50.1", "2001:db8:50:1", 4 + number);
        }
        small.forwards();
        small
    }

    /// Makes the namespaces, in which addresses can be used at once.
    fn unconnected() -> Self {
        let [node, pod1, pod2] = ["node", "pod1", "pod2"].map(Namespace::new);
        for namespace in [&node, &pod1, &pod2] {
            namespace.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0");
        }
        Self { node, pods: vec![pod1, pod2] }
    }

    /// Gives a Pod its addresses, and a default route to the node.
    fn address(pod: &Namespace, v4: &str, v6: &str, host: u8) {
        pod.sh(&format!(
            "ip addr add {v4}.{host}/24 dev eth0
             ip addr add {v6}::{host}/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via {v4}.1
             ip route add default via {v6}::1"
        ));
    }

    /// Makes the node forward. ICMP errors come at once, not at most one a second.
    fn forwards(&self) {
        self.node.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
    }

    /// Starts a server in each Pod; its name is `pod1` or `pod2`.
    fn serve(&self) -> Vec<Server> {
        let ports = [(Protocol::Tcp, 8080), (Protocol::Udp, 8080)];
        let pods = (1..).zip(&self.pods);
        pods.map(|(number, pod)| Server::start(pod, &format!("pod{number}"), &ports)).collect()
    }
}

/// The manifests of a Service `web` with both families and protocols, whose endpoint is the first
/// Pod.
fn web() -> String {
    let both =
        "  clusterIPs: [\"10.96.0.10\", \"fd00:96::a\"]\n  ipFamilyPolicy: PreferDualStack\n";
    let udp =
        |text: String, before: &str, line: &str| text.replace(before, &format!("{line}{before}"));
    let service = service("web", "10.96.0.10", both);
    let service = format!(
        "{service}    - name: dgram\n      protocol: UDP\n      port: 80\n      targetPort: 8080\n"
    );
    let with_udp = |text: String| {
        let text = text.replace("nodeName: nb", "nodeName: na");
        udp(text, "endpoints:", "  - name: dgram\n    protocol: UDP\n    port: 8080\n")
    };
    file(&[service, with_udp(slice("web", &[POD])), with_udp(slice("web", &[POD_V6]))])
}

/// Connects from a namespace to the Service, and returns who answered or how it failed.
fn connect(from: &Namespace, protocol: Protocol, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    match ask(from, protocol, to, Options::default()) {
        Ok(answer) => answer.name,
        Err(failure @ Failure::Other(_)) => panic!("{failure:?}"),
        Err(failure) => failure.to_string(),
    }
}

/// Connects over each family, and returns the answers.
fn connect_both(from: &Namespace) -> Vec<String> {
    [WEB, WEB_V6].map(|to| connect(from, Protocol::Tcp, to)).to_vec()
}

/// Asks `rulec explain` about packets to the Service.
fn explain(node: &Namespace, to: &str, more: &[&str]) -> Ran {
    rulec(node, &[&["explain", to], &SETTINGS[..], &RANGES, more].concat())
}

/// A fault of the node: what is said of it, where the last text in backquotes mends it.
#[derive(Clone, Copy)]
struct Fault<'a> {
    /// What is wrong, without the command.
    what: &'a str,
    /// The command.
    command: &'a str,
    /// The question to `rulec explain` that it is an answer to.
    asked: &'a [&'a str],
}

impl Fault<'_> {
    /// Returns whether `rulec explain` names it.
    fn is_explained(&self, node: &Namespace) -> bool {
        let ran = explain(node, self.asked[0], &self.asked[1..]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
        let line = ran.stdout.lines().find(|line| line.contains(self.what));
        if let Some(line) = line {
            assert!(line.ends_with(&format!("`{}`", self.command)), "{line}");
        }
        line.is_some()
    }
}

/// Starts a daemon that names the faults, once, as `explain` does; mends them with the commands,
/// and starts again, when nothing is said any more. `is_broken` tells whether connections fail.
fn says_and_mends(node: &Namespace, faults: &[Fault<'_>], is_broken: impl Fn() -> bool) {
    let manifests = Manifests::of(&web());
    let (path, args) = (manifests.path(), [&SETTINGS[..], &RANGES].concat());
    let mut daemon = Daemon::start(node, &path, &args);
    for fault in faults {
        daemon.wait_for(fault.what);
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(fault.what)).unwrap();
        assert!(line.ends_with(&format!("`{}`", fault.command)), "{line}");
        assert!(fault.is_explained(node), "{}", fault.what);
    }
    assert!(is_broken());
    // Nothing is said again after a change or a reload.
    let before = daemon.log().lines().filter(|line| line.contains("WARN")).count();
    let more = file(&[service("more", "10.96.0.11", ""), slice("more", &["10.50.1.5"])]);
    daemon.after(|| manifests.write("more.yaml", &more));
    daemon.signal("HUP");
    daemon.wait_for("reload requested");
    assert_eq!(daemon.log().lines().filter(|line| line.contains("WARN")).count(), before);
    for fault in faults {
        node.command("sh", ["-c", fault.command]).output().unwrap();
    }
    for fault in faults {
        assert!(!fault.is_explained(node), "{}", fault.what);
    }
    eventually("connections work", || !is_broken());
    daemon.stop();
    let log = log_of_a_look(node, &path, &args);
    for fault in faults {
        assert!(!log.contains(fault.what), "{log}");
    }
}

/// Starts a daemon, and returns its log once it has looked at the node.
fn log_of_a_look(node: &Namespace, manifests: &Path, args: &[&str]) -> String {
    let level = ["--log-level", "info,rulec::daemon::node_look=debug"];
    let mut daemon = Daemon::start(node, manifests, &[args, &level].concat());
    daemon.wait_for("looked at this node");
    daemon.stop()
}
