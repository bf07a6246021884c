//! A client, a node and Pods to measure what the node's rules cost a packet, and the Services that
//! the rules are for.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use rulec_testkit::Namespace;

use crate::table::wait_for;

/// A client that is a Pod of the node: its connections are not masqueraded.
pub(crate) const POD_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 9);
/// A client outside the cluster.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// A machine behind the node that is no Service.
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// The networks of Pods.
pub(crate) const CLUSTER_CIDR: &str = "10.0.0.0/10";
/// The network of cluster addresses.
pub(crate) const SERVICE_CIDR: &str = "10.128.0.0/12";
/// The networks whose addresses of the node answer at node ports.
const NODE_NETWORK: &str = "192.0.2.0/24";
const NODE_PORTS: u16 = 30_000;
/// How many of the Services have a node port.
pub(crate) const WITH_NODE_PORT: usize = 1_000;

/// The endpoints of every Service.
pub(crate) const PODS: [SocketAddrV4; 3] = [
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 5), 8080),
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 6), 8080),
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 7), 8080),
];

/// The network namespaces.
pub(crate) struct Network {
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    /// Has the addresses of all Pods, and [`ELSEWHERE`].
    pub(crate) pods: Namespace,
}

impl Network {
    /// Creates a network whose client has this address.
    pub(crate) fn new(from: Ipv4Addr) -> Self {
        let [client, node, pods] = ["client", "node", "pods"].map(Namespace::new);
        let behind: Vec<Ipv4Addr> = PODS.iter().map(|pod| *pod.ip()).chain([ELSEWHERE]).collect();
        for (label, other, addresses) in
            [("client", &client, &[from][..]), ("pods", &pods, &behind)]
        {
            node.sh(&format!(
                "ip link add {label} type veth peer name eth0 netns {}
                 ip link set {label} up
                 ip addr add 169.254.1.1/32 dev {label}",
                other.name()
            ));
            other.sh("ip link set eth0 up");
            for address in addresses {
                other.sh(&format!("ip addr add {address}/32 dev eth0"));
                node.sh(&format!("ip route add {address} dev {label}"));
            }
            other.sh(&format!(
                "ip route add 169.254.1.1 dev eth0
                 ip route add default via 169.254.1.1 src {}",
                addresses[0]
            ));
        }
        // Entries of finished connections expire soon, so that all rounds are alike.
        node.sh(&format!(
            "ip addr add {NODE}/32 dev lo
             sysctl -qw net.ipv4.ip_forward=1
             sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=1
             sysctl -qw net.netfilter.nf_conntrack_udp_timeout=1
             sysctl -qw net.netfilter.nf_conntrack_udp_timeout_stream=1"
        ));
        Self { client, node, pods }
    }

    /// Lets the daemon program the node from manifests, with counters or without, and stops it: the
    /// rules stay.
    pub(crate) fn program(&self, traffic: &str, manifests: impl IntoIterator<Item = String>) {
        let directory = tempfile::tempdir().unwrap();
        let [files, log] = ["manifests", "log"].map(|name| directory.path().join(name));
        fs::create_dir(&files).unwrap();
        let cidr = format!(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: kubernetes}}\n\
             spec: {{cidrs: [{SERVICE_CIDR}]}}\n"
        );
        fs::write(files.join("service-cidr.yaml"), cidr).unwrap();
        for (number, text) in manifests.into_iter().enumerate() {
            fs::write(files.join(format!("{number}.yaml")), text).unwrap();
        }
        let args = ["run", "--node-name", "na", "--cluster-cidr", CLUSTER_CIDR];
        let mut command = self.node.command(env!("CARGO_BIN_EXE_rulec"), args);
        command.args(["--traffic", traffic, "--nodeport-addresses", NODE_NETWORK]);
        command.arg("--manifests").arg(&files);
        command.env("RULEC_SOCKET", "");
        let mut daemon = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        wait_for(&log, "in sync with all sources", 1);
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains("ERROR"), "{said}");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}

/// Returns one DNAT rule, which no proxy can do without.
pub(crate) fn one_rule() -> String {
    format!(
        "table ip floor {{
             chain prerouting {{
                 type nat hook prerouting priority dstnat
                 ip daddr {} meta l4proto {{ tcp, udp }} th dport {} dnat to {}
             }}
         }}",
        cluster_ip(0).ip(),
        cluster_ip(0).port(),
        PODS[0]
    )
}

pub(crate) fn cluster_ip(service: usize) -> SocketAddrV4 {
    SocketAddrV4::new(offset(Ipv4Addr::new(10, 128, 0, 0), service), 80)
}

pub(crate) fn balancer(service: usize) -> SocketAddrV4 {
    SocketAddrV4::new(offset(Ipv4Addr::new(198, 51, 0, 0), service), 80)
}

/// Returns the node port of one of the first [`WITH_NODE_PORT`] Services.
pub(crate) fn node_port(service: usize) -> SocketAddrV4 {
    SocketAddrV4::new(NODE, NODE_PORTS + u16::try_from(service % WITH_NODE_PORT).unwrap())
}

fn offset(base: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + u32::try_from(number).unwrap())
}

/// Returns a Service and its slice as YAML, for TCP and UDP, with more fields of its spec.
pub(crate) fn yaml(service: usize, more: &str) -> String {
    let endpoints: Vec<String> = PODS
        .iter()
        .map(|pod| {
            format!("{{addresses: [{}], nodeName: na, conditions: {{ready: true}}}}", pod.ip())
        })
        .collect();
    let mut text = without_endpoints(service, more);
    write!(
        text,
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: service-{service}-a, labels: {{kubernetes.io/service-name: service-{service}}}}}\n\
         addressType: IPv4\n\
         ports: [{{name: tcp, port: {0}, protocol: TCP}}, {{name: udp, port: {0}, protocol: UDP}}]\n\
         endpoints: [{1}]\n",
        PODS[0].port(),
        endpoints.join(", ")
    )
    .unwrap();
    text
}

/// Like [`yaml`], of a Service without endpoints.
pub(crate) fn without_endpoints(service: usize, more: &str) -> String {
    let (address, balancer) = (*cluster_ip(service).ip(), *balancer(service).ip());
    let node_port = if service < WITH_NODE_PORT {
        format!(", nodePort: {}", node_port(service).port())
    } else {
        String::new()
    };
    let ports: Vec<String> = ["TCP", "UDP"]
        .into_iter()
        .map(|protocol| {
            let name = protocol.to_lowercase();
            format!("{{name: {name}, protocol: {protocol}, port: 80{node_port}}}")
        })
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{service}}}\n\
         spec: {{type: LoadBalancer, allocateLoadBalancerNodePorts: false, clusterIP: {address}, \
         {more}{}ports: [{}]}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: {balancer}}}]}}}}\n",
        if more.is_empty() { "" } else { ", " },
        ports.join(", ")
    )
}
