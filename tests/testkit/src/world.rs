//! The whole network of one test: a node, two other nodes, their pods and two clients from outside.
//!
//! The pods have the addresses in [`address`]. A bridge in its own namespace joins the nodes and
//! the clients, so that no bridged packet passes the hooks of `node`. Pods are attached to their
//! node as with routing CNIs: a host route to the pod, and no gateway address on the node.
//!
//! Properties that tests rely on:
//! - Clients and the other nodes' pods have their default route via `node`, also for replies, so
//!   that packets which the node translated return to it even if it did not masquerade.
//! - `node` has a default route to a machine that drops everything: packets to ClusterIPs reach the
//!   output hook, and time out if no rule matches them. That machine can report what it received,
//!   see [`World::watch_gateway`].
//! - Kernel checks and limits that could disturb a test are off: reverse-path filter, duplicate
//!   address detection, redirects, rate limit of ICMP errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::{array, fs};

use crate::namespace::{self, Namespace};
use crate::protocol::{Family, Protocol};

/// The addresses of a world, the same in all worlds.
pub mod address {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// The node's address, and the source of its masqueraded packets.
    pub const NODE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 10), v6(0, 0, 0x10));
    /// The node's second address on the uplink; the kernel never chooses it as a source.
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

    /// Returns the address of the node's pod `idx`: the first is `10.50.1.5` and
    /// `2001:db8:50:1::5`.
    #[must_use]
    pub fn pod(idx: usize) -> (Ipv4Addr, Ipv6Addr) {
        pod_at(1, host(idx))
    }

    /// Returns the address of the other node's pod `idx`: the first is `10.50.2.5` and
    /// `2001:db8:50:2::5`.
    #[must_use]
    pub fn remote_pod(idx: usize) -> (Ipv4Addr, Ipv6Addr) {
        pod_at(2, host(idx))
    }

    /// Returns the address of a pod: for node 1 and host 200, `10.50.1.200` and
    /// `2001:db8:50:1::200`.
    ///
    /// Both addresses are written with the same digits, also for hosts of two or three digits.
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

/// The number of pods on each node.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorldSpec {
    /// Pods on the node under test.
    pub local_pods: usize,
    /// Pods on the other node.
    pub remote_pods: usize,
}

/// The pods of each node, as the last bytes of their addresses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hosts<'a> {
    /// Pods on the node under test.
    pub node: &'a [u8],
    /// Pods on `nb`.
    pub nb: &'a [u8],
    /// Pods on `nc`.
    pub nc: &'a [u8],
}

/// The namespaces of the network; see the [crate's picture](crate).
#[derive(Debug)]
pub struct World {
    /// The node under test: tests load their rules here.
    pub node: Namespace,
    /// The other node, which only routes.
    pub nb: Namespace,
    /// The third node, which only routes.
    pub nc: Namespace,
    /// The first client outside the cluster.
    pub client: Namespace,
    /// The second client outside the cluster.
    pub client2: Namespace,
    pods: Vec<Pod>,
    remote_pods: Vec<Pod>,
    far_pods: Vec<Pod>,
    // Holds the bridge and the default gateway.
    lan: Namespace,
}

impl World {
    /// Builds the network; all addresses can be used when this returns.
    ///
    /// # Panics
    ///
    /// When the kernel or `ip` refuses a part of the network.
    #[must_use]
    pub fn new(spec: WorldSpec) -> Self {
        let hosts = |n: usize| (0..n).map(address::host).collect::<Vec<u8>>();
        let (node, nb) = (hosts(spec.local_pods), hosts(spec.remote_pods));
        Self::with_hosts(Hosts { node: &node, nb: &nb, nc: &[] })
    }

    /// Like [`World::new`], with pods at chosen addresses and on all three nodes.
    ///
    /// # Panics
    ///
    /// As [`World::new`].
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

    /// Returns the node's pod `idx`.
    ///
    /// # Panics
    ///
    /// When the world has no such pod.
    #[must_use]
    pub fn pod(&self, idx: usize) -> &Pod {
        &self.pods[idx]
    }

    /// Returns all pods of the node.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Returns the other node's pod `idx`.
    ///
    /// # Panics
    ///
    /// When the world has no such pod.
    #[must_use]
    pub fn remote_pod(&self, idx: usize) -> &Pod {
        &self.remote_pods[idx]
    }

    /// Returns all pods of the other node.
    #[must_use]
    pub fn remote_pods(&self) -> &[Pod] {
        &self.remote_pods
    }

    /// Returns all pods of the third node.
    #[must_use]
    pub fn far_pods(&self) -> &[Pod] {
        &self.far_pods
    }

    /// Makes the default gateway record the flows that it receives from now on.
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

    /// Returns whether the default gateway has received a packet of this flow: the node has
    /// forwarded it, and changed neither its addresses nor its ports.
    ///
    /// Call [`World::watch_gateway`] first.
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
        // Before any devices exist: they copy their settings from the namespace's defaults.
        let ends = pods().map(|pod| &pod.namespace);
        for end in [lan, &self.client, &self.client2].into_iter().chain(ends) {
            end.run(|| Settings::End.write());
        }
        for router in [&self.node, &self.nb, &self.nc] {
            router.run(|| Settings::Router.write());
        }

        // The bridge and its ports first, so that the other ends have a carrier when they are set
        // up.
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
    /// The namespace in which the pod's processes run.
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

    /// Returns the pod's address of the family.
    #[must_use]
    pub fn ip(&self, family: Family) -> IpAddr {
        family.of((self.v4, self.v6))
    }

    /// Returns the socket address of a port at the pod's address of the family.
    #[must_use]
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}

impl Family {
    /// Selects the address of this family from a pair in [`address`].
    #[must_use]
    pub fn of(self, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
        }
    }
}

/// The kernel settings of a namespace, written before it has devices.
#[derive(Clone, Copy)]
enum Settings {
    End,
    Router,
}

impl Settings {
    /// Writes to `/proc/sys/net`, which shows the namespace of the calling thread.
    fn write(self) {
        match self {
            Self::End => {}
            // Before the settings below: it changes some of them itself.
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
        // All of the kernel's limits of ICMP errors check this mask of types first. IPv6 does not
        // accept an empty mask: 255 is not the type of an error.
        set("ipv4/icmp_ratemask", "0");
        set("ipv6/icmp/ratemask", "255");
    }
}

fn set(name: &str, value: &str) {
    fs::write(Path::new("/proc/sys/net").join(name), value).expect("a kernel setting is written");
}

// Tells packets sent to the gateway from packets that it only bridges.
const GATEWAY_MAC: &str = "02:00:00:00:00:02";

// The node's end of every pod link has this address, and every pod has it as its gateway's: the
// link needs neither an address on the node nor ARP.
const POD_GATEWAY_MAC: &str = "02:00:00:00:00:01";

fn node_script(pods: &[Pod]) -> String {
    let (v4, v6) = address::NODE;
    let (second4, second6) = address::NODE_SECOND;
    let (gateway4, gateway6) = address::GATEWAY;
    let (nb4, nb6) = address::NB;
    let (nc4, nc6) = address::NC;
    // For IPv4, a second address in one network is secondary, and the kernel does not choose it as
    // a source; for IPv6, it must be deprecated for that.
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

/// Returns the script that routes packets between pods of one node through the node under test,
/// too: a pod may have been reached through a Service there, and its answers must return through
/// it.
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
