//! A node, two others, their pods and two clients from outside: one test's whole network.
//!
//! The pods have the addresses of [`address`]. A bridge in a namespace of its own joins the nodes
//! and the clients, so that no packet is bridged through the hooks of `node`. Pods hang on
//! their node as with routing CNIs: a host route to the pod, no gateway address on the node.
//!
//! Facts that tests lean on:
//! - Clients and the other nodes' pods have their default route via `node`, replies included, so
//!   that what the node translated comes back to it even if it did not masquerade.
//! - `node` has a default route to a machine that drops everything: packets to ClusterIPs reach
//!   the output hook, and time out if no rule takes them. That machine can tell what it got, see
//!   [`World::watch_gateway`].
//! - Nothing is checked or limited that a test could trip on: no reverse-path filter, no duplicate
//!   address detection, no redirects, no rate limit of ICMP errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::{array, fs};

use crate::namespace::{self, Namespace};
use crate::protocol::{Family, Protocol};

/// The addresses of a world, the same in all worlds.
pub mod address {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The node's address, which it also masquerades to.
    pub const NODE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 10), v6(0, 0, 0x10));
    /// The node's second address on the uplink; never chosen as a source.
    pub const NODE_SECOND: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 110), v6(0, 0, 0x110));
    /// The other node's address.
    pub const NB: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 11), v6(0, 0, 0x11));
    /// The third node's address.
    pub const NC: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 12), v6(0, 0, 0x12));
    /// The node's default gateway, which drops everything.
    pub const GATEWAY: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 1), v6(0, 0, 0x1));
    /// The first client outside the cluster.
    pub const CLIENT: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(203, 0, 113, 77), v6(0x113, 0, 0x77));
    /// The second client outside the cluster.
    pub const CLIENT2: (Ipv4Addr, Ipv6Addr) =
        (Ipv4Addr::new(203, 0, 113, 200), v6(0x113, 0, 0x200));

    /// The address of the node's pod `idx`: the first is `10.50.1.5` and `2001:db8:50:1::5`.
    #[must_use]
    pub fn pod(idx: usize) -> (Ipv4Addr, Ipv6Addr) {
        pod_at(1, host(idx))
    }

    /// The address of the other node's pod `idx`: the first is `10.50.2.5` and `2001:db8:50:2::5`.
    #[must_use]
    pub fn remote_pod(idx: usize) -> (Ipv4Addr, Ipv6Addr) {
        pod_at(2, host(idx))
    }

    /// The address of a node's pod: of node 1 and host 200, `10.50.1.200` and `2001:db8:50:1::200`.
    ///
    /// The digits are the same in both, from 10 on, too.
    #[must_use]
    pub fn pod_at(node: u8, host: u8) -> (Ipv4Addr, Ipv6Addr) {
        let digits = format!("{host}");
        let same = u16::from_str_radix(&digits, 16).expect("digits are hexadecimal digits");
        (Ipv4Addr::new(10, 50, node, host), v6(0x50, node.into(), same))
    }

    pub(super) fn host(idx: usize) -> u8 {
        u8::try_from(5 + idx).expect("a node has at most 250 pods")
    }

    const fn v6(net: u16, subnet: u16, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, net, subnet, 0, 0, 0, host)
    }
}

/// How many pods a world has.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorldSpec {
    /// Pods on the node under test.
    pub local_pods: usize,
    /// Pods on the other node.
    pub remote_pods: usize,
}

/// The pods of each node, by the last byte of their addresses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hosts<'a> {
    /// Pods on the node under test.
    pub node: &'a [u8],
    /// Pods on `nb`.
    pub nb: &'a [u8],
    /// Pods on `nc`.
    pub nc: &'a [u8],
}

/// The namespaces of a node-like network; see the [crate's picture](crate).
#[derive(Debug)]
pub struct World {
    /// The node under test: the rules go here.
    pub node: Namespace,
    /// The other node, a plain router.
    pub nb: Namespace,
    /// The third node, a plain router too.
    pub nc: Namespace,
    /// The first client outside the cluster.
    pub client: Namespace,
    /// The second client outside the cluster.
    pub client2: Namespace,
    pods: Vec<Pod>,
    remote_pods: Vec<Pod>,
    far_pods: Vec<Pod>,
    // The bridge and the default gateway.
    lan: Namespace,
}

impl World {
    /// Builds the network; all addresses are usable when it returns.
    ///
    /// # Panics
    ///
    /// When the kernel or `ip` refuses a part of it.
    #[must_use]
    pub fn new(spec: WorldSpec) -> Self {
        let hosts = |n: usize| (0..n).map(address::host).collect::<Vec<u8>>();
        let (node, nb) = (hosts(spec.local_pods), hosts(spec.remote_pods));
        Self::with_hosts(Hosts { node: &node, nb: &nb, nc: &[] })
    }

    /// Does as [`World::new`], with pods at chosen addresses and on all three nodes.
    ///
    /// # Panics
    ///
    /// As there.
    #[must_use]
    pub fn with_hosts(hosts: Hosts<'_>) -> Self {
        let of = |label: &'static str, number: u8, hosts: &[u8]| -> Vec<(String, _)> {
            let pod = |(idx, host): (usize, &u8)| {
                (format!("{label}{idx}"), address::pod_at(number, *host))
            };
            hosts.iter().enumerate().map(pod).collect()
        };
        let of_nodes =
            [of("pod", 1, hosts.node), of("remote", 2, hosts.nb), of("far", 3, hosts.nc)];
        let labels: Vec<&str> = ["lan", "node", "nb", "nc", "client", "client2"]
            .into_iter()
            .chain(of_nodes.iter().flatten().map(|(label, _)| label.as_str()))
            .collect();
        let mut namespaces = Namespace::create(&labels).into_iter();
        let mut next = || namespaces.next().expect("there is one namespace per label");
        let [lan, node, nb, nc, client, client2] = array::from_fn(|_| next());
        let [pods, remote_pods, far_pods] =
            of_nodes.map(|pods| pods.into_iter().map(|(_, ips)| Pod::new(next(), ips)).collect());

        let world = Self { node, nb, nc, client, client2, pods, remote_pods, far_pods, lan };
        world.configure();
        world
    }

    /// The node's pod `idx`.
    ///
    /// # Panics
    ///
    /// When the world was not asked for so many.
    #[must_use]
    pub fn pod(&self, idx: usize) -> &Pod {
        &self.pods[idx]
    }

    /// All pods of the node.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The other node's pod `idx`.
    ///
    /// # Panics
    ///
    /// When the world was not asked for so many.
    #[must_use]
    pub fn remote_pod(&self, idx: usize) -> &Pod {
        &self.remote_pods[idx]
    }

    /// All pods of the other node.
    #[must_use]
    pub fn remote_pods(&self) -> &[Pod] {
        &self.remote_pods
    }

    /// All pods of the third node.
    #[must_use]
    pub fn far_pods(&self) -> &[Pod] {
        &self.far_pods
    }

    /// Lets the default gateway note from now on which flows come to it.
    ///
    /// # Panics
    ///
    /// When nft fails.
    pub fn watch_gateway(&self) {
        let table = |family, address| {
            format!(
                "table {family} witness {{
                     set seen {{
                         type {address} . {address} . inet_proto . inet_service . inet_service
                         size 65535
                         flags dynamic
                     }}
                     chain seen {{
                         type filter hook prerouting priority raw
                         # Where bridges filter, what others send each other passes here, too.
                         ether daddr {GATEWAY_MAC} \
                             add @seen {{ {family} saddr . {family} daddr . meta l4proto . th sport \
                             . th dport }}
                     }}
                 }}
                "
            )
        };
        self.lan.nft(&(table("ip", "ipv4_addr") + &table("ip6", "ipv6_addr")));
    }

    /// Whether the default gateway has got a packet of this flow: the node has let it pass, and has
    /// changed neither address nor port of it.
    ///
    /// Only after [`World::watch_gateway`].
    ///
    /// # Panics
    ///
    /// When nft cannot be run.
    #[must_use]
    pub fn came_to_gateway(&self, protocol: Protocol, from: SocketAddr, to: SocketAddr) -> bool {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let flow = format!(
            "{{ {} . {} . {protocol} . {} . {} }}",
            from.ip(),
            to.ip(),
            from.port(),
            to.port()
        );
        let args = ["get", "element", &family.to_string(), "witness", "seen", &flow];
        self.lan.command("nft", args).output().expect("nft starts").status.success()
    }

    fn configure(&self) {
        let lan = &self.lan;
        let pods = || [&self.pods, &self.remote_pods, &self.far_pods].into_iter().flatten();
        // First of all: devices copy their settings from the namespace's defaults.
        let ends = pods().map(|pod| &pod.namespace);
        for end in [lan, &self.client, &self.client2].into_iter().chain(ends) {
            end.run(|| Settings::End.write());
        }
        for router in [&self.node, &self.nb, &self.nc] {
            router.run(|| Settings::Router.write());
        }

        // The bridge and its ports first, so that the other ends have a carrier when they come up.
        namespace::ip_batch(Some(lan), &self.lan_script());
        for (namespace, script) in [
            (&self.node, node_script(&self.pods)),
            (&self.nb, router_script(address::NB, &self.remote_pods)),
            (&self.nc, router_script(address::NC, &self.far_pods)),
            (&self.client, client_script(address::CLIENT)),
            (&self.client2, client_script(address::CLIENT2)),
        ] {
            namespace::ip_batch(Some(namespace), &script);
        }
        for pod in pods() {
            namespace::ip_batch(Some(&pod.namespace), &pod_script(pod));
        }
        for (router, pods) in [(&self.nb, &self.remote_pods), (&self.nc, &self.far_pods)] {
            if !pods.is_empty() {
                router.sh(&neighbours_script(pods));
            }
        }
    }

    fn lan_script(&self) -> String {
        let (v4, v6) = address::GATEWAY;
        let ports = [
            ("node", &self.node, "uplink"),
            ("nb", &self.nb, "uplink"),
            ("nc", &self.nc, "uplink"),
            ("client", &self.client, "eth0"),
            ("client2", &self.client2, "eth0"),
        ];
        let mut script = format!(
            "link set lo up
             link add br0 address {GATEWAY_MAC} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
             link set br0 up
             addr add {v4}/24 dev br0
             addr add {v6}/64 dev br0 nodad
            "
        );
        for (port, namespace, peer) in ports {
            script += &format!(
                "link add {port} type veth peer name {peer} netns {}
                 link set {port} master br0 up
                ",
                namespace.name()
            );
        }
        script
    }
}

/// A pod: a namespace with one address of each family.
#[derive(Debug)]
pub struct Pod {
    /// Where its processes run.
    pub namespace: Namespace,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Pod {
    fn new(namespace: Namespace, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Self {
        Self { namespace, v4, v6 }
    }

    /// Its address of the family.
    #[must_use]
    pub fn ip(&self, family: Family) -> IpAddr {
        family.of((self.v4, self.v6))
    }

    /// A port of the pod at its address of the family.
    #[must_use]
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}

impl Family {
    /// The address of this family, of a pair from [`address`].
    #[must_use]
    pub fn of(self, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }
}

/// What the kernel is told before a namespace has devices.
#[derive(Clone, Copy)]
enum Settings {
    End,
    Router,
}

impl Settings {
    /// Writes to `/proc/sys/net`, which shows the namespace of the thread that looks.
    fn write(self) {
        match self {
            Self::End => {}
            // Before the others: it sets some of them itself.
            Self::Router => {
                set("ipv4/ip_forward", "1");
                set("ipv6/conf/all/forwarding", "1");
            }
        }
        for scope in ["all", "default"] {
            set(&format!("ipv4/conf/{scope}/rp_filter"), "0");
            set(&format!("ipv4/conf/{scope}/send_redirects"), "0");
            set(&format!("ipv4/conf/{scope}/accept_redirects"), "0");
            set(&format!("ipv6/conf/{scope}/accept_dad"), "0");
            set(&format!("ipv6/conf/{scope}/accept_ra"), "0");
            set(&format!("ipv6/conf/{scope}/accept_redirects"), "0");
        }
        // The kernel has several limits of ICMP errors, which all look at this mask of types first.
        // IPv6 does not take an empty one: 255 is no type of error.
        set("ipv4/icmp_ratemask", "0");
        set("ipv6/icmp/ratemask", "255");
    }
}

fn set(name: &str, value: &str) {
    fs::write(Path::new("/proc/sys/net").join(name), value).expect("a kernel setting is written");
}

// By which the gateway tells what is sent to it from what it only bridges.
const GATEWAY_MAC: &str = "02:00:00:00:00:02";

// The node's end of every pod link has this address, and every pod knows it as its gateway's: the
// link needs no address on the node, nor ARP.
const POD_GATEWAY_MAC: &str = "02:00:00:00:00:01";

fn node_script(pods: &[Pod]) -> String {
    let (v4, v6) = address::NODE;
    let (second4, second6) = address::NODE_SECOND;
    let (gateway4, gateway6) = address::GATEWAY;
    let (nb4, nb6) = address::NB;
    let (nc4, nc6) = address::NC;
    // IPv4's second address of one network is secondary, so never a source; for IPv6, only
    // deprecation makes it so.
    let script = format!(
        "link set lo up
         link set uplink up
         addr add {v4}/24 dev uplink
         addr add {v6}/64 dev uplink nodad
         addr add {second4}/24 dev uplink
         addr add {second6}/64 dev uplink nodad preferred_lft 0
         route add default via {gateway4}
         route add default via {gateway6}
         route add 10.50.2.0/24 via {nb4}
         route add 2001:db8:50:2::/64 via {nb6}
         route add 10.50.3.0/24 via {nc4}
         route add 2001:db8:50:3::/64 via {nc6}
         route add 203.0.113.0/24 dev uplink
         route add 2001:db8:113::/64 dev uplink
        "
    );
    script + &pod_links(address::NODE, pods)
}

fn router_script((v4, v6): (Ipv4Addr, Ipv6Addr), pods: &[Pod]) -> String {
    let (node4, node6) = address::NODE;
    let script = format!(
        "link set lo up
         link set uplink up
         addr add {v4}/24 dev uplink
         addr add {v6}/64 dev uplink nodad
         route add default via {node4}
         route add default via {node6}
        "
    );
    script + &pod_links((v4, v6), pods)
}

/// Pods of one node talk to each other by way of the node under test, too: one of them may have been
/// reached through a Service there, and its answers must come back.
fn neighbours_script(pods: &[Pod]) -> String {
    let (node4, node6) = address::NODE;
    let rules: String =
        (0..pods.len()).map(|idx| format!("rule add iif pod{idx} lookup 100\n")).collect();
    format!(
        "ip -batch - <<END
{rules}route add default via {node4} table 100
END
ip -6 -batch - <<END
{rules}route add default via {node6} table 100
END
"
    )
}

fn pod_links((own4, own6): (Ipv4Addr, Ipv6Addr), pods: &[Pod]) -> String {
    let link = |(idx, Pod { namespace, v4, v6 }): (usize, &Pod)| {
        format!(
            "link add pod{idx} address {POD_GATEWAY_MAC} type veth peer name eth0 netns {}
             link set pod{idx} up
             route add {v4}/32 dev pod{idx} src {own4}
             route add {v6}/128 dev pod{idx} src {own6}
            ",
            namespace.name()
        )
    };
    pods.iter().enumerate().map(link).collect()
}

fn pod_script(pod: &Pod) -> String {
    let Pod { v4, v6, .. } = pod;
    format!(
        "link set lo up
         link set eth0 up
         addr add {v4}/32 dev eth0
         addr add {v6}/128 dev eth0 nodad
         neigh add 169.254.1.1 lladdr {POD_GATEWAY_MAC} dev eth0 nud permanent
         neigh add fe80::1 lladdr {POD_GATEWAY_MAC} dev eth0 nud permanent
         route add default via 169.254.1.1 dev eth0 onlink
         route add default via fe80::1 dev eth0
        "
    )
}

fn client_script((v4, v6): (Ipv4Addr, Ipv6Addr)) -> String {
    let (node4, node6) = address::NODE;
    format!(
        "link set lo up
         link set eth0 up
         addr add {v4}/32 dev eth0
         addr add {v6}/128 dev eth0 nodad
         route add 192.0.2.0/24 dev eth0
         route add 2001:db8::/64 dev eth0
         route add default via {node4}
         route add default via {node6}
        "
    )
}
