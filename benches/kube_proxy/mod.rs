//! A table of the shape that kube-proxy's nftables mode gives its rules, written from its
//! documentation (KEP-3866 and kubernetes.io): a verdict map of all frontends leads to a chain for
//! each Service port, a random number leads on to a chain for each endpoint, and maps of verdicts
//! stand for Services without endpoints and for firewalls.

use std::fmt::Write as _;

use crate::network::{
    CLUSTER_CIDR, NODE, PODS, SERVICE_CIDR, WITH_NODE_PORT, balancer, cluster_ip, node_port,
};

/// Returns a table for the Services in `served`, for those without endpoints in `unserved`, and with
/// firewalls for those in `restricted`.
pub(crate) fn table(
    served: impl Iterator<Item = usize> + Clone,
    unserved: impl Iterator<Item = usize> + Clone,
    restricted: impl Iterator<Item = usize> + Clone,
) -> String {
    let all = served.clone().chain(unserved.clone()).chain(restricted.clone());
    let with_endpoints = served.chain(restricted.clone());
    let mut maps = Maps::default();
    let mut chains = String::new();
    for service in all {
        write!(maps.cluster_ips, "{}, ", cluster_ip(service).ip()).unwrap();
    }
    for service in with_endpoints {
        for protocol in ["tcp", "udp"] {
            let name = format!("{service}-{protocol}");
            maps.frontends(service, protocol, &name);
            chains += &service_chains(service, protocol, &name);
        }
    }
    for service in unserved {
        for protocol in ["tcp", "udp"] {
            for frontend in [cluster_ip(service), balancer(service)] {
                let key = format!("{} . {protocol} . {}", frontend.ip(), frontend.port());
                write!(maps.no_endpoint_services, "{key} : goto reject-chain, ").unwrap();
            }
        }
    }
    for service in restricted {
        for protocol in ["tcp", "udp"] {
            let frontend = balancer(service);
            let key = format!("{} . {protocol} . {}", frontend.ip(), frontend.port());
            write!(maps.firewall_ips, "{key} : goto firewall-{service}-{protocol}, ").unwrap();
            let rules = "ip saddr { 203.0.113.0/24, 198.18.0.0/15 } return\ndrop";
            writeln!(chains, "chain firewall-{service}-{protocol} {{\n{rules}\n}}").unwrap();
        }
    }
    format!("table ip kube-proxy {{\n{}{chains}{CHAINS}}}\n", maps.text())
        .replace("NODE", &NODE.to_string())
        .replace("SERVICE-CIDR", SERVICE_CIDR)
}

/// The elements of the maps.
#[derive(Default)]
struct Maps {
    cluster_ips: String,
    service_ips: String,
    service_nodeports: String,
    no_endpoint_services: String,
    firewall_ips: String,
}

impl Maps {
    fn frontends(&mut self, service: usize, protocol: &str, name: &str) {
        for (frontend, chain) in [(cluster_ip(service), "service"), (balancer(service), "external")]
        {
            let key = format!("{} . {protocol} . {}", frontend.ip(), frontend.port());
            write!(self.service_ips, "{key} : goto {chain}-{name}, ").unwrap();
        }
        if service < WITH_NODE_PORT {
            let port = node_port(service).port();
            write!(self.service_nodeports, "{protocol} . {port} : goto external-{name}, ").unwrap();
        }
    }

    fn text(&self) -> String {
        const FRONTEND: &str = "ipv4_addr . inet_proto . inet_service : verdict";
        const PORT: &str = "inet_proto . inet_service : verdict";
        let mut text = String::new();
        for (kind, name, of, elements) in [
            ("set", "cluster-ips", "ipv4_addr", &self.cluster_ips[..]),
            ("set", "nodeport-ips", "ipv4_addr", "NODE"),
            ("map", "service-ips", FRONTEND, &self.service_ips),
            ("map", "service-nodeports", PORT, &self.service_nodeports),
            ("map", "no-endpoint-services", FRONTEND, &self.no_endpoint_services),
            ("map", "no-endpoint-nodeports", PORT, ""),
            ("map", "firewall-ips", FRONTEND, &self.firewall_ips),
        ] {
            let elements = elements.trim_end_matches(", ");
            let elements = if elements.is_empty() {
                String::new()
            } else {
                format!("elements = {{ {elements} }}")
            };
            writeln!(text, "{kind} {name} {{\ntype {of}\n{elements}\n}}").unwrap();
        }
        text
    }
}

/// Returns the chains of one Service port.
fn service_chains(service: usize, protocol: &str, name: &str) -> String {
    let frontend = cluster_ip(service);
    let mut text = String::new();
    let mut choices = Vec::new();
    for (number, pod) in PODS.iter().enumerate() {
        let (ip, port) = (pod.ip(), pod.port());
        writeln!(
            text,
            "chain endpoint-{name}-{number} {{
                 ip saddr {ip} jump mark-for-masquerade
                 meta l4proto {protocol} dnat to {ip}:{port}
             }}"
        )
        .unwrap();
        choices.push(format!("{number} : goto endpoint-{name}-{number}"));
    }
    writeln!(
        text,
        "chain service-{name} {{
             ip daddr {} {protocol} dport {} ip saddr != {CLUSTER_CIDR} jump mark-for-masquerade
             numgen random mod {} vmap {{ {} }}
         }}
         chain external-{name} {{
             jump mark-for-masquerade
             goto service-{name}
         }}",
        frontend.ip(),
        frontend.port(),
        choices.len(),
        choices.join(", ")
    )
    .unwrap();
    text
}

/// What does not depend on Services.
const CHAINS: &str = "
chain filter-prerouting {
    type filter hook prerouting priority -110
    ct state new jump firewall-check
}
chain filter-input {
    type filter hook input priority -110
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
}
chain filter-forward {
    type filter hook forward priority -110
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
}
chain filter-output {
    type filter hook output priority -110
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
}
chain filter-output-post-dnat {
    type filter hook output priority -90
    ct state new jump cluster-ips-check
}
chain nat-prerouting {
    type nat hook prerouting priority dstnat
    jump services
}
chain nat-output {
    type nat hook output priority -100
    jump services
}
chain nat-postrouting {
    type nat hook postrouting priority srcnat
    jump masquerading
}
chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}
chain service-endpoints-check {
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
}
chain nodeport-endpoints-check {
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}
chain firewall-check {
    ip daddr . meta l4proto . th dport vmap @firewall-ips
}
chain cluster-ips-check {
    ip daddr @cluster-ips reject
    ip daddr { SERVICE-CIDR } drop
}
chain reject-chain {
    reject
}
chain mark-for-masquerade {
    meta mark set meta mark | 0x4000
}
chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set meta mark ^ 0x4000
    masquerade fully-random
}
";
