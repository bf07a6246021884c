//! Node ports on selected addresses of the node, which are added and removed while the daemon runs.

use std::net::{IpAddr, SocketAddr};

use rulec_testkit::{
    Answer, Failure, Family, Namespace, Options, Protocol, Server, address, ask, require_root,
};

use super::{HTTP, NODE, PATIENCE, Seen, Sender, Site, endpoints, service};
use crate::support::{eventually, rulec};

/// Returns a Service with a node port and one Pod, and a Node object that must not matter here.
fn web() -> String {
    let spec = "
        type: NodePort
        ports: [{name: http, port: 80, nodePort: 30080}]";
    service("web", 10, spec) + &endpoints("web", HTTP, &["a"]) + NODE
}

/// Starts a process that listens on all of the node's addresses at the node port's number: it
/// answers clients that the Service does not serve.
fn squatter(site: &Site) -> Server {
    Server::start(&site.world.node, "squatter", &[(Protocol::Tcp, 30080)])
}

/// Returns the name of the server at the node port of an address; `None` if there is none, as at an
/// address that was added after the servers started.
fn answered_by(site: &Site, ip: IpAddr) -> Option<String> {
    let to = SocketAddr::new(ip, 30080);
    match Sender::Client.ask(&site.world, Protocol::Tcp, to) {
        Ok(Answer { name, .. }) => Some(name),
        Err(Failure::TimedOut | Failure::Unreachable | Failure::Refused) => None,
        Err(other) => panic!("{to}: {other:?}"),
    }
}

/// Returns an address that is added to the node later.
fn later(family: Family) -> IpAddr {
    match family {
        Family::V4 => "192.0.2.120",
        Family::V6 => "2001:db8::120",
    }
    .parse()
    .unwrap()
}

#[test]
fn a_node_port_is_on_the_selected_addresses() {
    if !require_root() {
        return;
    }
    // The second address of the node, the addresses added later, in both families, and a loopback
    // address that is not that of `localhost`.
    let networks = "192.0.2.110/31,192.0.2.120/32,127.0.0.2/32,\
                    2001:db8::110/127,2001:db8::120/128";
    let mut site = Site::start_with(&["--nodeport-addresses", networks], &web());
    let _squatter = squatter(&site);
    for family in Family::BOTH {
        let second = SocketAddr::new(family.of(address::NODE_SECOND), 30080);
        for sender in Sender::ALL {
            site.served(sender, Protocol::Tcp, second, &["a"], Seen::Masqueraded);
        }
        // Not in the networks, though the Node object has it.
        assert_eq!(answered_by(&site, family.of(address::NODE)).as_deref(), Some("squatter"));
        let loopback = match family {
            Family::V4 => "127.0.0.1:30080",
            Family::V6 => "[::1]:30080",
        };
        let options = Options { timeout: PATIENCE, ..Options::default() };
        let answer = ask(&site.world.node, Protocol::Tcp, loopback.parse().unwrap(), options);
        assert_eq!(answer.unwrap().name, "squatter");
    }

    // The node port is available at an added address within moments, and no longer after its
    // removal.
    for family in Family::BOTH {
        let ip = later(family);
        let (bits, nodad) = if family == Family::V4 { (24, "") } else { (64, "nodad") };
        site.world.node.sh(&format!("ip addr add {ip}/{bits} dev uplink {nodad}"));
        eventually("the node port is on the new address", || {
            answered_by(&site, ip).as_deref() == Some("a")
        });
        // `diff` takes the added address into account, too.
        site.settle();
        site.world.node.sh(&format!("ip addr del {ip}/{bits} dev uplink"));
        let gone = format!(" {ip} ");
        eventually("the address is gone from the rules", || {
            !site.world.node.nft_list().replace(',', " ").contains(&gone)
        });
        site.settle();
    }
    for family in Family::BOTH {
        let second = SocketAddr::new(family.of(address::NODE_SECOND), 30080);
        site.served(Sender::Client, Protocol::Tcp, second, &["a"], Seen::Masqueraded);
    }
}

#[test]
fn only_addresses_that_receive_packets_count() {
    if !require_root() {
        return;
    }
    let mut site = Site::start_with(&["--nodeport-addresses", "2001:db8::/64"], &web());
    let held = |site: &Site, ip: &str| site.world.node.nft_list().contains(ip);
    // The second address is deprecated, and counts nevertheless.
    assert!(held(&site, "2001:db8::110"));
    // An address that another host on the link has, which duplicate address detection finds out.
    site.world.client.sh("ip addr add 2001:db8::130/128 dev eth0 nodad");
    site.world.node.sh(
        "sysctl -qw net.ipv6.conf.uplink.accept_dad=1 net.ipv6.conf.uplink.dad_transmits=1
         ip addr add 2001:db8::130/64 dev uplink
         ip addr add 2001:db8::131/64 dev uplink",
    );
    let state = |site: &Site| site.world.node.sh("ip -6 addr show dev uplink");
    eventually("the kernel finds one duplicate", || state(&site).contains("dadfailed"));
    eventually("the other address is used", || held(&site, "2001:db8::131"));
    assert!(!held(&site, "2001:db8::130"), "{}", state(&site));
    site.settle();
}

#[test]
fn lost_address_announcements_are_recovered() {
    if !require_root() {
        return;
    }
    let networks = "198.18.0.0/15,2001:db8::/64";
    let mut site = Site::start_with(&["--nodeport-addresses", networks], &web());
    // While it is stopped, the daemon cannot read announcements, and the kernel does not buffer so
    // many.
    site.daemon.signal("STOP");
    let batch: String =
        (0..4000).map(|n| format!("addr add 198.18.{}.{}/32 dev lo\n", n / 250, n % 250)).collect();
    site.world.node.sh(&format!("ip -batch - <<END\n{batch}END"));
    let drops = site.world.node.sh("awk '$2 == 0 && $9 > 0' /proc/net/netlink");
    assert!(!drops.is_empty(), "no announcement was lost");
    site.daemon.signal("CONT");
    let held = |site: &Site| site.world.node.nft_list().matches("198.18.").count();
    // The daemon lists the addresses again before its next periodic list.
    let world = &site.world;
    let all = site.daemon.wait_until(|_| world.node.nft_list().matches("198.18.").count() == 4000);
    assert!(all, "only {} addresses are there", held(&site));
    // All of them are removed at once.
    world.node.sh("ip addr flush dev lo to 198.18.0.0/15");
    let none = site.daemon.wait_until(|_| !world.node.nft_list().contains("198.18."));
    assert!(none, "{} addresses are still there", held(&site));
}

#[test]
fn a_family_without_a_network_answers_everywhere() {
    if !require_root() {
        return;
    }
    let site = Site::start_with(&["--nodeport-addresses", "192.0.2.110/32"], &web());
    let _squatter = squatter(&site);
    for (ip, by) in [
        (Family::V4.of(address::NODE), "squatter"),
        (Family::V4.of(address::NODE_SECOND), "a"),
        (Family::V6.of(address::NODE), "a"),
        (Family::V6.of(address::NODE_SECOND), "a"),
    ] {
        assert_eq!(answered_by(&site, ip).as_deref(), Some(by), "{ip}");
    }
}

#[test]
fn invalid_networks_are_refused() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("networks");
    for wrong in ["192.0.2.1", "primary,primary", "192.0.2.0/33", "everywhere"] {
        let ran =
            rulec(&namespace, &["run", "--manifests", "/nowhere", "--nodeport-addresses", wrong]);
        assert_eq!(ran.status, 3, "{wrong}: {ran:?}");
        assert!(ran.stderr.contains("--nodeport-addresses"), "{wrong}: {ran:?}");
    }
}
