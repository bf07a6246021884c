//! The reverse path filter, which only `explain` can know of.

use rulec_testkit::{Options, Protocol, ask, require_root};

use super::{Fault, RANGES, Small, WEB, web};
use crate::daemon::{Daemon, Manifests};
use crate::support::{SETTINGS, eventually};

#[test]
fn explain_names_a_filter_that_drops_a_client() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    // A client that sends by one link, and to which another one leads.
    let client = &small.pods[1];
    small.node.sh(&format!(
        "ip link add back type veth peer name eth1 netns {}
         ip addr add 192.0.2.1/24 dev back
         ip link set back up
         ip route add 203.0.113.7 via 192.0.2.7
         sysctl -qw net.ipv4.conf.pod2.rp_filter=1",
        client.name()
    ));
    client.sh("ip addr add 192.0.2.7/24 dev eth1
               ip addr add 203.0.113.7/32 dev lo
               ip link set eth1 up");
    let connects = || {
        let options =
            Options { source: Some("203.0.113.7:0".parse().unwrap()), ..Options::default() };
        ask(client, Protocol::Tcp, WEB.parse().unwrap(), options).is_ok()
    };
    let manifests = Manifests::of(&web());
    let args = [&SETTINGS[..], &RANGES].concat();
    let _daemon = Daemon::start(&small.node, &manifests.path(), &args);
    let fault = Fault {
        what: "rp_filter drops packets of 203.0.113.7 that arrive on pod2, since the route to it \
               leads to back",
        command: "sysctl -w net/ipv4/conf/pod2/rp_filter=2",
        asked: &[WEB, "--from", "203.0.113.7", "--interface", "pod2"],
    };
    assert!(!connects() && fault.is_explained(&small.node));
    let elsewhere =
        Fault { asked: &[WEB, "--from", "203.0.113.7", "--interface", "back"], ..fault };
    assert!(!elsewhere.is_explained(&small.node), "there it would be right");
    small.node.sh(fault.command);
    eventually("the client connects", connects);
    assert!(!fault.is_explained(&small.node));
}
