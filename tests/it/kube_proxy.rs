//! Migration from kube-proxy and back: its remains are found and removed, and Services are served
//! at every step.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rulec_testkit::{
    Failure, Family, LongServer, Namespace, Options, Protocol, Server, World, WorldSpec, address,
    ask, flow_with, require_root,
};

use crate::daemon::{Daemon, Manifests};
use crate::support::{SETTINGS, eventually, file, listing, rulec, service, slice, with_flows};

/// A time limit that only an overloaded machine exceeds.
const PATIENT: Options = Options { source: None, timeout: Duration::from_secs(5) };

/// The command that warnings about kube-proxy recommend.
const REMEDY: &str = "rulec cleanup --kube-proxy";

/// Input for `iptables-nft-restore`: kube-proxy's chains for one Service, the kubelet's, and those
/// of an admin.
const IPTABLES: &str = "\
*mangle
:KUBE-PROXY-CANARY - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:MINE - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-FIREWALL
-A INPUT -p tcp --dport 2222 -j ACCEPT
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -j MINE
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A MINE -s 198.51.100.0/24 -j DROP
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -p tcp --dport 8443 -j MINE
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-B
-A KUBE-SVC-A -j KUBE-SEP-B
-A KUBE-SEP-B -j KUBE-MARK-MASQ
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination @1:8080
-A MINE -p tcp -j REDIRECT --to-ports 443
COMMIT
";

/// Creates the chains of kube-proxy's iptables mode in both families.
fn leave_iptables(namespace: &Namespace) {
    for (tool, endpoint) in [("iptables", "10.50.1.5"), ("ip6tables", "[2001:db8:50:1::5]")] {
        let rules = IPTABLES.replace("@1", endpoint);
        let rules = match tool {
            "ip6tables" => rules.replace("198.51.100.0/24", "2001:db8:5::/64"),
            _ => rules,
        };
        namespace.sh(&format!("{tool}-nft-restore --noflush <<'END'\n{rules}END"));
    }
}

/// Returns the output of `iptables-nft-save` without counters and comments.
fn saved(namespace: &Namespace) -> String {
    let all = namespace.sh("iptables-nft-save; ip6tables-nft-save");
    let lines = all.lines().filter(|line| !line.starts_with('#'));
    lines.fold(String::new(), |text, line| text + line.split(" [").next().unwrap() + "\n")
}

#[test]
fn only_iptables_chains_of_kube_proxy_are_removed() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("iptables-mode");
    leave_iptables(&namespace);
    let before = saved(&namespace);
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for table in ["nat", "filter", "mangle"] {
        for family in ["ip", "ip6"] {
            assert!(ran.stderr.contains(&format!("mode in table {family} {table}")), "{ran:?}");
        }
    }
    // Everything else is left, except for the rules that jump to these chains.
    let gone = [
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-POSTROUTING",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
        "KUBE-PROXY-CANARY",
        "KUBE-MARK-MASQ",
        "KUBE-SVC-A",
        "KUBE-SEP-B",
    ];
    let is_gone = |line: &str| gone.iter().any(|chain| line.contains(chain));
    let rest: Vec<&str> = before.lines().filter(|line| !is_gone(line)).collect();
    let after = saved(&namespace);
    assert_eq!(after.lines().collect::<Vec<_>>(), rest);
    for stays in ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "MINE", "2222"] {
        assert!(after.contains(stays), "{stays}:\n{after}");
    }
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert!(ran.stderr.contains("there was nothing to remove"), "{ran:?}");
}

#[test]
fn a_chain_needed_by_others_is_kept_and_reported() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("needed");
    leave_iptables(&namespace);
    namespace.sh("iptables-nft -t nat -N HOSTPORTS
         iptables-nft -t nat -A HOSTPORTS -p tcp --dport 81 -j KUBE-MARK-MASQ
         iptables-nft -t nat -A PREROUTING -j HOSTPORTS");
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("chain KUBE-MARK-MASQ stays: chain HOSTPORTS needs it"), "{ran:?}");
    let after = namespace.sh("iptables-nft-save -t nat");
    assert!(after.contains("-A HOSTPORTS -p tcp -m tcp --dport 81 -j KUBE-MARK-MASQ"), "{after}");
    assert!(after.contains("-A KUBE-MARK-MASQ -j MARK"), "{after}");
    assert!(!after.contains("KUBE-SERVICES") && !after.contains("KUBE-SEP-B"), "{after}");
}

#[test]
fn many_chains_are_removed_at_once() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("many-chains");
    let mut rules = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
    let services = 3000;
    for number in 0..services {
        let _ = write!(rules, ":KUBE-SVC-{number} - [0:0]\n:KUBE-SEP-{number} - [0:0]\n");
    }
    rules += "-A PREROUTING -j KUBE-SERVICES\n";
    for number in 0..services {
        let _ = write!(
            rules,
            "-A KUBE-SERVICES -d 10.96.{}.{} -j KUBE-SVC-{number}\n\
             -A KUBE-SVC-{number} -j KUBE-SEP-{number}\n\
             -A KUBE-SEP-{number} -j KUBE-MARK-MASQ\n",
            number / 250,
            number % 250,
        );
    }
    rules += "COMMIT\n";
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), rules).unwrap();
    namespace.sh(&format!("iptables-nft-restore < {}", script.path().display()));
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!namespace.nft_list().contains("KUBE-"));
}

#[test]
fn remains_of_kube_proxy_are_reported_at_start() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("told");
    let manifests = Manifests::of("");
    let log = |namespace: &Namespace| {
        let daemon = Daemon::start(namespace, &manifests.path(), &SETTINGS);
        daemon.stop()
    };
    assert!(!log(&namespace).contains("kube-proxy"));

    namespace.nft("add table ip kube-proxy\nadd table ip6 kube-proxy\n");
    leave_iptables(&namespace);
    // Only the name of the interface counts, and every kernel has this kind of interface.
    namespace.sh("ip link add kube-ipvs0 type bridge");
    let told = log(&namespace);
    for what in [
        "this node has table ip kube-proxy of kube-proxy's nftables mode",
        "this node has table ip6 kube-proxy of kube-proxy's nftables mode",
        "chains of kube-proxy's iptables or IPVS mode in table ip nat",
        "chains of kube-proxy's iptables or IPVS mode in table ip6 filter",
        "chains of kube-proxy's iptables or IPVS mode in table ip mangle",
        "this node has interface kube-ipvs0 of kube-proxy's IPVS mode",
    ] {
        let lines: Vec<&str> = told.lines().filter(|line| line.contains(what)).collect();
        assert_eq!(lines.len(), 1, "{what}:\n{told}");
        assert!(lines[0].contains(REMEDY), "{}", lines[0]);
    }

    // All of kube-proxy's remains are removed, and nothing of ours.
    let before = listing(&namespace);
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(listing(&namespace), before);
    assert!(!namespace.nft_list().contains("kube-proxy"), "{}", namespace.nft_list());
    assert!(!namespace.sh("ip -o link").contains("kube-ipvs0"));
    assert!(!log(&namespace).contains("kube-proxy"));
}

/// Returns whether the kernel has iptables' legacy back end, which newer kernels can omit. If so,
/// its table `nat` is registered from here on: the kernel does so when a table is first listed.
fn has_legacy(namespace: &Namespace) -> bool {
    let script = "(iptables-legacy -t nat -L; cat /proc/net/ip_tables_names) 2>/dev/null || true";
    namespace.sh(script).contains("nat")
}

#[test]
fn legacy_tables_are_reported_with_instructions() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("legacy");
    if !has_legacy(&namespace) {
        return;
    }
    let manifests = Manifests::of("");
    let log = Daemon::start(&namespace, &manifests.path(), &SETTINGS).stop();
    let command = "iptables-legacy-save | grep KUBE-";
    assert!(log.contains("this node has tables of iptables-legacy (ip nat)"), "{log}");
    let is_alarm = |line: &&str| line.contains("WARN") && line.contains("iptables");
    assert!(log.contains(command) && log.lines().find(is_alarm).is_none(), "{log}");
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains(command), "{ran:?}");
}

#[test]
fn a_table_owned_by_a_process_is_reported_with_its_owner() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("owned");
    // Tables have this flag since Linux 5.12. The shell keeps nft waiting for input, and so its
    // socket open.
    let mut owner = namespace
        .command(
            "sh",
            ["-c", "(echo 'add table ip kube-proxy { flags owner; }'; sleep 60) | nft -i"],
        )
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the table is there", || namespace.nft_list().contains("kube-proxy"));
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.stderr.contains("table ip kube-proxy is owned by another process (nft"), "{ran:?}");
    let _ = owner.kill();
    let _ = owner.wait();
}

/// Returns a table of kube-proxy's nftables mode for one Service with one endpoint, at its cluster
/// address and its node port.
fn nft_table(family: Family, endpoint: &str) -> String {
    let (ip, address_type, cluster_ip, node, pods) = match family {
        Family::V4 => ("ip", "ipv4_addr", "10.96.0.10", "192.0.2.10", "10.50.0.0/16"),
        Family::V6 => ("ip6", "ipv6_addr", "fd00:96::10", "2001:db8::10", "2001:db8:50::/48"),
    };
    format!(
        "table {ip} kube-proxy {{
            set cluster-ips {{ type {address_type}; elements = {{ {cluster_ip} }}; }}
            set nodeport-ips {{ type {address_type}; elements = {{ {node} }}; }}
            map service-ips {{
                type {address_type} . inet_proto . inet_service : verdict
                elements = {{ {cluster_ip} . tcp . 80 : goto service-web }}
            }}
            map service-nodeports {{
                type inet_proto . inet_service : verdict
                elements = {{ tcp . 30080 : goto external-web }}
            }}
            map no-endpoint-services {{ type {address_type} . inet_proto . inet_service : verdict; }}
            chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
            chain service-web {{ meta l4proto tcp dnat to {endpoint}; }}
            chain external-web {{ jump mark-for-masquerade; goto service-web; }}
            chain services {{
                {ip} daddr @cluster-ips {ip} saddr != {pods} jump mark-for-masquerade
                {ip} daddr . meta l4proto . th dport vmap @service-ips
                {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
            }}
            chain masquerading {{
                meta mark & 0x4000 == 0 return
                meta mark set meta mark ^ 0x4000
                masquerade fully-random
            }}
            chain service-endpoints-check {{
                {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
            }}
            chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
            chain nat-output {{ type nat hook output priority -100; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
            chain filter-forward {{
                type filter hook forward priority filter; ct state new jump service-endpoints-check
            }}
        }}
        "
    )
}

/// Returns kube-proxy's tables, which send to pod 0 of the node.
fn nft_tables(world: &World) -> String {
    let tables =
        Family::BOTH.map(|family| nft_table(family, &world.pod(0).at(family, 8080).to_string()));
    tables.concat()
}

fn cluster_ip(family: Family) -> SocketAddr {
    match family {
        Family::V4 => "10.96.0.10:80",
        Family::V6 => "[fd00:96::10]:80",
    }
    .parse()
    .unwrap()
}

fn node_port(family: Family) -> SocketAddr {
    SocketAddr::new(family.of(address::NODE), 30080)
}

/// Returns the Service of both proxies. rulec sends to pod 1, so that the answer shows the proxy.
fn manifests(world: &World) -> Manifests {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: na}\nstatus:\n  addresses:\n  \
                - {type: InternalIP, address: 192.0.2.10}\n  \
                - {type: InternalIP, address: '2001:db8::10'}\n";
    let mut documents = vec![node.to_owned()];
    for (family, name) in [(Family::V4, "web"), (Family::V6, "web6")] {
        let ip = cluster_ip(family).ip().to_string();
        let text = service(name, &ip, "  type: NodePort\n");
        documents.push(text.replace("targetPort: 8080", "targetPort: 8080\n      nodePort: 30080"));
        documents.push(slice(name, &[&world.pod(1).ip(family).to_string()]));
    }
    Manifests::of(&file(&documents))
}

/// Asserts which proxy serves the Service, on all ways to reach it.
#[track_caller]
fn served_by(world: &World, name: &str) {
    for family in Family::BOTH {
        for (from, to) in ways(world, family) {
            let answer = ask(from, Protocol::Tcp, to, PATIENT);
            assert_eq!(answer.unwrap().name, name, "{} -> {to}", from.name());
        }
    }
}

/// The ways: a Pod and the node to the cluster address, and a client outside to the node port.
fn ways(world: &World, family: Family) -> [(&Namespace, SocketAddr); 3] {
    [
        (&world.pod(2).namespace, cluster_ip(family)),
        (&world.node, cluster_ip(family)),
        (&world.client, node_port(family)),
    ]
}

#[test]
fn switching_proxies_back_and_forth_loses_no_connection() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 3, remote_pods: 0 });
    let _servers: Vec<Server> = ["kube-proxy", "rulec"]
        .into_iter()
        .zip(world.pods())
        .map(|(name, pod)| Server::start(&pod.namespace, name, &[(Protocol::Tcp, 8080)]))
        .collect();
    let manifests = manifests(&world);
    world.node.nft(&nft_tables(&world));
    served_by(&world, "kube-proxy");

    let ways: Vec<(&Namespace, SocketAddr, Options)> = Family::BOTH
        .into_iter()
        .flat_map(|family| ways(&world, family))
        .map(|(from, to)| (from, to, PATIENT))
        .collect();
    with_flows(&ways, |flows| there_and_back(&world, &manifests, flows));
}

/// Migrates from kube-proxy to rulec and back, and waits for some flows after each step.
fn there_and_back(world: &World, manifests: &Manifests, flows: &AtomicUsize) {
    let a_while = || {
        let before = flows.load(Ordering::Relaxed);
        eventually("there are flows", || flows.load(Ordering::Relaxed) > before + 60);
    };
    a_while();
    let daemon = Daemon::start(&world.node, &manifests.path(), &SETTINGS);
    // Of two NAT chains with the same priority, a flow meets the one that was registered last
    // first.
    served_by(world, "rulec");
    a_while();
    let ran = rulec(&world.node, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!world.node.nft_list().contains("kube-proxy"));
    served_by(world, "rulec");
    a_while();

    // The way back.
    world.node.nft(&nft_tables(world));
    served_by(world, "kube-proxy");
    a_while();
    daemon.stop();
    a_while();
    let ran = rulec(&world.node, &["cleanup"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!world.node.nft_list().contains("table ip rulec"));
    served_by(world, "kube-proxy");
    a_while();
}

#[test]
fn chains_of_iptables_mode_have_lower_precedence() {
    if !require_root() {
        return;
    }
    for (tool, is_removed) in [("iptables-nft", true), ("iptables-legacy", false)] {
        let world = World::new(WorldSpec { local_pods: 3, remote_pods: 0 });
        if tool == "iptables-legacy" && !has_legacy(&world.node) {
            continue;
        }
        let _servers: Vec<Server> = ["kube-proxy", "rulec"]
            .into_iter()
            .zip(world.pods())
            .map(|(name, pod)| Server::start(&pod.namespace, name, &[(Protocol::Tcp, 8080)]))
            .collect();
        world.node.sh(&format!(
            "{tool} -t nat -N KUBE-SERVICES
             for chain in PREROUTING OUTPUT; do {tool} -t nat -A $chain -j KUBE-SERVICES; done
             {tool} -t nat -A KUBE-SERVICES -d 10.96.0.10 -p tcp --dport 80 -j DNAT --to {}:8080",
            world.pod(0).v4,
        ));
        let asks = |name: &str| {
            for from in [&world.pod(2).namespace, &world.node] {
                let answer = ask(from, Protocol::Tcp, cluster_ip(Family::V4), PATIENT).unwrap();
                assert_eq!(answer.name, name, "{tool}");
            }
        };
        asks("kube-proxy");
        let manifests = manifests(&world);
        let _daemon = Daemon::start(&world.node, &manifests.path(), &SETTINGS);
        asks("rulec");
        let ran = rulec(&world.node, &["cleanup", "--kube-proxy"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        asks("rulec");
        let rules = world.node.sh(&format!("{tool}-save -t nat"));
        assert_eq!(!rules.contains("KUBE-SERVICES"), is_removed, "{rules}");
    }
}

#[test]
fn cluster_addresses_bound_by_ipvs_mode_are_served() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 3, remote_pods: 0 });
    let _server = Server::start(&world.pod(1).namespace, "rulec", &[(Protocol::Tcp, 8080)]);
    world.node.sh("ip link add kube-ipvs0 type bridge
         ip addr add 10.96.0.10/32 dev kube-ipvs0
         ip addr add fd00:96::10/128 dev kube-ipvs0 nodad
         ip link set kube-ipvs0 up");
    let manifests = manifests(&world);
    let _daemon = Daemon::start(&world.node, &manifests.path(), &SETTINGS);
    served_by(&world, "rulec");
    // The kernel would choose that address as the source of the node's own connections, to which no
    // Pod could reply.
    for family in Family::BOTH {
        let answer = ask(&world.node, Protocol::Tcp, cluster_ip(family), PATIENT).unwrap();
        assert_eq!(answer.source, family.of(address::NODE));
    }
    let ran = rulec(&world.node, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("removed interface kube-ipvs0"), "{ran:?}");
    served_by(&world, "rulec");
}

#[test]
fn connections_survive_the_switch_to_another_proxy() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 3, remote_pods: 0 });
    let _servers: Vec<LongServer> = ["kube-proxy", "rulec"]
        .into_iter()
        .zip(world.pods())
        .map(|(name, pod)| LongServer::start(&pod.namespace, name, 8080))
        .collect();
    let manifests = manifests(&world);
    let open = || {
        let ways = Family::BOTH.into_iter().flat_map(|family| ways(&world, family));
        let connect = |(from, to)| flow_with(from, to, PATIENT).unwrap();
        ways.map(connect).collect::<Vec<_>>()
    };
    world.node.nft(&nft_tables(&world));
    let mut old = open();
    let daemon = Daemon::start(&world.node, &manifests.path(), &SETTINGS);
    let mut new = open();
    let mut go_on = || {
        for (connections, name) in [(&mut old, "kube-proxy"), (&mut new, "rulec")] {
            for connection in connections {
                assert_eq!(connection.exchange("still").unwrap(), format!("{name} still"));
            }
        }
    };
    let ran = rulec(&world.node, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    go_on();

    // The way back.
    daemon.stop();
    world.node.nft(&nft_tables(&world));
    let ran = rulec(&world.node, &["cleanup"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    go_on();
}

#[test]
fn connections_fail_without_the_rules_of_any_proxy() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 3, remote_pods: 0 });
    let _server = LongServer::start(&world.pod(0).namespace, "kube-proxy", 8080);
    world.node.nft(&nft_tables(&world));
    let options = Options { timeout: Duration::from_millis(1200), ..PATIENT };
    let from = &world.pod(2).namespace;
    let mut connection = flow_with(from, cluster_ip(Family::V4), options).unwrap();
    assert_eq!(connection.exchange("once").unwrap(), "kube-proxy once");
    // This is why the next proxy must start first: with the last NAT chain, the kernel's
    // translation ends.
    let ran = rulec(&world.node, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(matches!(connection.exchange("twice"), Err(Failure::TimedOut)));
}

#[test]
fn cleanup_without_another_proxy_warns() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("nobody");
    namespace.nft("table ip kube-proxy { }");
    let ran = rulec(&namespace, &["cleanup", "--kube-proxy"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("rulec has not programmed this node"), "{ran:?}");
    assert!(ran.stderr.contains("removed table ip kube-proxy"), "{ran:?}");
}
