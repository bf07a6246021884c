//! Packets that conntrack classifies as invalid, and so does not translate.

use std::net::SocketAddr;

use rulec_testkit::{
    Connection, Family, LongServer, Namespace, flow_with, require_root, send_invalid_segment,
};

use super::{Sender, Site, cluster_ip, endpoints, packets, service};
use crate::support::eventually;

const PORT: u16 = 7070;

fn web() -> String {
    service("web", 10, "ports: [{name: long, port: 70}]")
        + &endpoints("web", "[{name: long, port: 7070}]", &["a"])
}

/// Counts packets from the port of the backend, and resets that are sent to it.
fn watch(client: &Namespace) {
    client.nft(&format!(
        "table inet watch {{
             counter arrived {{
             }}
             counter refused {{
             }}
             chain arriving {{
                 type filter hook prerouting priority 0
                 tcp sport {PORT} counter name arrived
             }}
             chain leaving {{
                 type filter hook output priority 0
                 tcp dport {PORT} tcp flags & rst == rst counter name refused
             }}
         }}\n"
    ));
}

/// Returns a connection of the client to the backend, after the backend has sent an invalid segment
/// to the client's address.
fn after_an_invalid_segment(site: &Site, family: Family) -> Connection {
    let to = cluster_ip(family, 10, 70);
    let mut connection =
        flow_with(Sender::Client.of(&site.world), to, Sender::Client.options(family)).unwrap();
    assert_eq!(connection.exchange("before").unwrap(), "a before");
    let pod = site.world.pod(0);
    let client = connection.source();
    assert_eq!(client.ip(), Sender::Client.ip(family), "sources are kept without a cluster CIDR");
    let backend: SocketAddr = pod.at(family, PORT);
    send_invalid_segment(&pod.namespace, backend, client);
    // Later packets on the same path arrive after the segment.
    assert_eq!(connection.exchange("after").unwrap(), "a after");
    connection
}

#[test]
fn invalid_segments_are_forwarded_unless_drop_invalid_is_set() {
    if !require_root() {
        return;
    }
    let kept: [(&[&'static str], u64); 4] = [
        (&[], 1),
        (&["--drop-invalid"], 0),
        (&["--proxy-mode", "iptables"], 0),
        (&["--proxy-mode", "iptables", "--drop-invalid=false"], 1),
    ];
    for (args, expected) in kept {
        let site = Site::start_with(args, &web());
        let _long = LongServer::start(site.backend("a"), "a", PORT);
        let client = Sender::Client.of(&site.world);
        watch(client);
        for (nth, family) in (1..).zip(Family::BOTH) {
            let _open = after_an_invalid_segment(&site, family);
            assert_eq!(packets(client, "watch", "arrived"), expected * nth, "{args:?}, {family:?}");
            if expected > 0 {
                // The client resets a connection from a peer that it does not know.
                eventually("it is answered with a reset", || {
                    packets(client, "watch", "refused") == nth
                });
            }
            assert_eq!(packets(client, "watch", "refused"), expected * nth, "{args:?}, {family:?}");
        }
    }
}
