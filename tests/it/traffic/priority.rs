//! `skb->priority`, which classifies packets for the queueing disciplines of a node: rulec uses it
//! as a register while it looks up a Service, and leaves it alone in all other packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rulec_testkit::{Family, Namespace, require_root};

use super::{Sender, Site, cluster_ip, endpoints, packets, service};

/// The port of packets that are to no Service.
const OTHER: u16 = 9999;

/// The number of flows, each of one packet. Only the first packet of a flow passes NAT.
const FLOWS: u64 = 30;

fn web() -> String {
    service("web", 10, "ports: [{name: u, protocol: UDP, port: 53, targetPort: 8080}]")
        + &endpoints("web", "[{name: u, protocol: UDP, port: 8080}]", &["c"])
}

/// Classifies packets as a user may do, and counts them as they leave.
fn classify(node: &Namespace) {
    node.nft(&format!(
        "table inet classes {{
             counter kept {{
             }}
             counter cleared {{
             }}
             chain classify {{
                 type route hook output priority mangle
                 meta l4proto udp meta priority set 1:7
             }}
             chain leaving {{
                 type filter hook postrouting priority 200
                 udp dport {OTHER} meta priority 1:7 counter name kept
                 udp dport 8080 meta priority 0:0 counter name cleared
             }}
         }}\n"
    ));
}

fn send(node: &Namespace, family: Family, to: SocketAddr) {
    let unspecified: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    node.run(|| {
        // All are open at once, so that no two have the same port and are one flow.
        let sockets: Vec<UdpSocket> =
            (0..FLOWS).map(|_| UdpSocket::bind((unspecified, 0)).unwrap()).collect();
        for socket in &sockets {
            socket.send_to(b"?", to).unwrap();
        }
    });
}

#[test]
fn the_priority_of_packets_to_no_service_is_kept() {
    if !require_root() {
        return;
    }
    let site = Site::start(&web());
    let node = &site.world.node;
    for family in Family::BOTH {
        classify(node);
        send(node, family, SocketAddr::new(Sender::Client.ip(family), OTHER));
        assert_eq!(packets(node, "classes", "kept"), FLOWS, "{family:?}: to no Service");
        send(node, family, cluster_ip(family, 10, 53));
        assert_eq!(packets(node, "classes", "cleared"), FLOWS, "{family:?}: no slot is left in it");
        node.sh("nft delete table inet classes");
    }
}
