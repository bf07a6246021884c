//! Tests of kube-proxy's rules, one by one.

use std::net::SocketAddr;

use ipnet::IpNet;
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::net::Family;
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};

use super::{errors, load, load_file, printed};
use crate::config::Mode;

#[test]
fn an_invalid_field_is_refused_with_its_line() {
    let table = [
        (
            "mode: kernelspace",
            "3: mode: must be nftables, iptables, ipvs or empty, not \"kernelspace\"",
        ),
        ("bindAddress: nowhere", "3: bindAddress: \"nowhere\" is not an IP address"),
        (
            "healthzBindAddress: host:1",
            "3: healthzBindAddress: \"host:1\" is not an address and a port, as in 0.0.0.0:10256 or [::]:10256",
        ),
        ("healthzBindAddress: 1.2.3.4:0", "3: healthzBindAddress: \"1.2.3.4:0\" is not"),
        ("healthzBindAddress: 1.2.3.4:65536", "3: healthzBindAddress: \"1.2.3.4:65536\" is not"),
        ("metricsBindAddress: 1.2.3.4:+1", "3: metricsBindAddress: \"1.2.3.4:+1\" is not"),
        ("metricsBindAddress: '[1.2.3.4'", "3: metricsBindAddress: \"[1.2.3.4\" is not"),
        ("metricsBindAddress: ::1:x", "3: metricsBindAddress: \"::1:x\" is not"),
        ("oomScoreAdj: -1001", "3: oomScoreAdj: must be between -1000 and 1000, not -1001"),
        (
            "oomScoreAdj: 4294967296",
            "3: oomScoreAdj: must be a whole number of 32 bits, not 4294967296",
        ),
        ("oomScoreAdj: 1.5", "3: oomScoreAdj: must be a whole number of 32 bits, not 1.5"),
        (
            "iptables:\n  masqueradeBit: 32",
            "4: iptables.masqueradeBit: must be between 0 and 31, not 32",
        ),
        (
            "mode: nftables\nnftables:\n  masqueradeBit: -1",
            "5: nftables.masqueradeBit: must be between 0 and 31, not -1",
        ),
        ("nftables:\n  masqueradeBit: 32", "4: nftables.masqueradeBit: must be between 0 and 31"),
        ("iptables:\n  syncPeriod: -1s", "4: iptables.syncPeriod: -1s must be more than 0"),
        ("iptables:\n  minSyncPeriod: -1s", "4: iptables.minSyncPeriod: -1s must not be negative"),
        (
            "iptables:\n  minSyncPeriod: 31s\n  syncPeriod: 30s",
            "5: iptables.syncPeriod: 30s must not be less than minSyncPeriod, 31s",
        ),
        (
            "mode: nftables\nnftables:\n  syncPeriod: 500ms",
            "5: nftables.syncPeriod: 500ms must not be less than minSyncPeriod, 1s",
        ),
        ("mode: ipvs\nipvs:\n  syncPeriod: -1s", "5: ipvs.syncPeriod: -1s must be more than 0"),
        (
            "mode: ipvs\nipvs:\n  tcpFinTimeout: -1s",
            "5: ipvs.tcpFinTimeout: -1s must not be negative",
        ),
        (
            "mode: ipvs\nipvs:\n  scheduler: fastest",
            "5: ipvs.scheduler: \"fastest\" is not an IPVS scheduler, use one of rr, wrr, lc",
        ),
        (
            "mode: ipvs\nipvs:\n  excludeCIDRs:\n  - 10.0.0.0/8\n  - ten",
            "7: ipvs.excludeCIDRs[1]: \"ten\" is not a network such as 10.0.0.0/8",
        ),
        ("configSyncPeriod: -5m", "3: configSyncPeriod: must be more than 0"),
        (
            "configSyncPeriod: soon",
            "3: configSyncPeriod: \"soon\" is not a duration such as 30s, 1m30s or 24h0m0s",
        ),
        ("clientConnection:\n  burst: -1", "4: clientConnection.burst: must not be negative"),
        (
            "conntrack:\n  maxPerCore: -1",
            "4: conntrack.maxPerCore: must not be less than 0, not -1",
        ),
        ("conntrack:\n  min: -1", "4: conntrack.min: must not be less than 0, not -1"),
        (
            "conntrack:\n  tcpEstablishedTimeout: -1s",
            "4: conntrack.tcpEstablishedTimeout: -1s must not be negative",
        ),
        (
            "conntrack:\n  tcpCloseWaitTimeout: -1s",
            "4: conntrack.tcpCloseWaitTimeout: -1s must not be negative",
        ),
        ("conntrack:\n  udpTimeout: -1s", "4: conntrack.udpTimeout: -1s must not be negative"),
        (
            "conntrack:\n  udpStreamTimeout: -1s",
            "4: conntrack.udpStreamTimeout: -1s must not be negative",
        ),
        (
            "detectLocalMode: Magic",
            "3: detectLocalMode: must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix, not \"Magic\"",
        ),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface: must not be empty"),
        (
            "detectLocalMode: InterfaceNamePrefix",
            "detectLocal.interfaceNamePrefix: must not be empty",
        ),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal:\n  bridgeInterface: sixteen-letters-",
            "5: detectLocal.bridgeInterface: \"sixteen-letters-\" is longer than 15 bytes",
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal:\n  interfaceNamePrefix: a/b",
            "5: detectLocal.interfaceNamePrefix: '/' is not allowed in an interface name",
        ),
        ("clusterCIDR: ten", "3: clusterCIDR: \"ten\" is not a network such as 10.244.0.0/16"),
        ("clusterCIDR: 10.0.0.0/33", "3: clusterCIDR: \"10.0.0.0/33\" is not a network"),
        (
            "clusterCIDR: 10.0.0.0/8,11.0.0.0/8",
            "3: clusterCIDR: must be one network, or one of each family",
        ),
        (
            "clusterCIDR: fd00::/8,fc00::/8",
            "3: clusterCIDR: must be one network, or one of each family",
        ),
        (
            "clusterCIDR: 10.0.0.0/8,fd00::/8,fc00::/8",
            "3: clusterCIDR: must be one network, or one of each family",
        ),
        (
            "nodePortAddresses: [secondary]",
            "3: nodePortAddresses[0]: \"secondary\" is neither a network such as 10.0.0.0/8 nor primary, localhost or all",
        ),
        ("nodePortAddresses: [10.0.0.1]", "3: nodePortAddresses[0]: \"10.0.0.1\" is neither"),
        (
            "nodePortAddresses: [primary, primary]",
            "3: nodePortAddresses[1]: primary is there twice",
        ),
        ("nodePortAddresses: [1]", "3: nodePortAddresses: must be a list of strings; one is 1"),
        ("hostnameOverride: ' '", "3: hostnameOverride: must not be empty"),
        ("logging:\n  format: xml", "4: logging.format: must be text or json, not \"xml\""),
        ("logging:\n  verbosity: -1", "4: logging.verbosity: must not be less than 0, not -1"),
        ("featureGates:\n  A: 1", "3: featureGates: A must be true or false, not 1"),
    ];
    for (body, expected) in table {
        let errors = errors(load_file(body));
        let separator = if expected.starts_with(|c: char| c.is_ascii_digit()) { ":" } else { ": " };
        let expected = format!("proxy.conf{separator}{expected}");
        assert!(errors[0].starts_with(&expected), "{errors:?} for {body:?}");
        let once = errors.iter().filter(|error| **error == errors[0]).count();
        assert_eq!(once, 1, "{errors:?}");
    }
}

#[test]
fn an_invalid_flag_is_refused_by_its_name() {
    let table = [
        (
            &["--proxy-mode=userspace"][..],
            "--proxy-mode: must be nftables, iptables, ipvs or empty, not \"userspace\"",
        ),
        (&["--conntrack-min", "-1"], "--conntrack-min: must not be less than 0, not -1"),
        (
            &["--conntrack-min=many"],
            "--conntrack-min: must be a whole number of 32 bits, not \"many\"",
        ),
        (&["--config-sync-period=0"], "--config-sync-period: must be more than 0"),
        (&["--iptables-sync-period", "0s"], "--iptables-sync-period: 0s must be more than 0"),
        (&["--profiling=maybe"], "--profiling: must be true or false, not \"maybe\""),
        (&["--healthz-port=70000"], "--healthz-port: must be between 0 and 65535, not 70000"),
        (&["--nodeport-addresses=10.0.0.0/8,x"], "--nodeport-addresses: \"x\" is neither"),
        (&["--feature-gates=A"], "--feature-gates: must be names with true or false, not \"A\""),
        (&["--detect-local-mode=BridgeInterface"], "--pod-bridge-interface: must not be empty"),
        (
            &["--cluster-cidr=10.0.0.0/8,11.0.0.0/8"],
            "--cluster-cidr: must be one network, or one of each family",
        ),
        (&["--node-name= "], "--node-name: must not be empty"),
    ];
    for (options, expected) in table {
        let errors = errors(load(options, None));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(expected), "{errors:?}");
    }
}

#[test]
fn the_mode_selects_its_section_and_the_node_port_default() {
    let everywhere = || NodePortAddresses::Cidrs(Vec::new());
    let sections = "nftables: {masqueradeBit: 1, syncPeriod: 11s}\niptables: {masqueradeBit: 2, syncPeriod: 12s}\nipvs: {syncPeriod: 13s}\n";
    let table = [
        ("mode: nftables\n", Mode::Nftables, 1, 11, NodePortAddresses::Primary, None),
        (
            "mode: iptables\n",
            Mode::Nftables,
            2,
            12,
            everywhere(),
            Some("proxy.conf:3: mode: is iptables; "),
        ),
        ("mode: ''\n", Mode::Nftables, 2, 12, everywhere(), Some("proxy.conf:3: mode: is empty, ")),
        ("", Mode::Nftables, 2, 12, everywhere(), Some("proxy.conf: mode: is empty, ")),
        ("mode: ipvs\n", Mode::Ipvs, 2, 13, everywhere(), None),
    ];
    for (said, mode, bit, period, networks, note) in table {
        let loaded = load_file(&format!("{said}{sections}")).unwrap();
        let config = loaded.config;
        assert_eq!(config.mode, mode);
        assert_eq!(u8::from(config.settings.masquerade_bit), bit, "{said}");
        assert_eq!(config.sync_period.as_secs(), period, "{said}");
        assert_eq!(config.settings.node_port_addresses, networks, "{said}");
        let notes: Vec<String> = printed(&loaded.warnings)
            .into_iter()
            .filter(|text| text.contains(": mode: "))
            .collect();
        assert_eq!(notes.len(), usize::from(note.is_some()), "{notes:?}");
        assert!(note.is_none_or(|note| notes[0].starts_with(note)), "{notes:?}");
    }
}

#[test]
fn servers_listen_at_the_addresses_of_kube_proxy() {
    let addresses =
        |text: &str| -> Option<SocketAddr> { (!text.is_empty()).then(|| text.parse().unwrap()) };
    let table = [
        (&["--bind-address=10.0.0.1"][..], "0.0.0.0:10256", "127.0.0.1:10249"),
        (&["--bind-address=::"], "[::]:10256", "[::1]:10249"),
        (&["--bind-address=fd00::1"], "[::]:10256", "[::1]:10249"),
        (&["--healthz-bind-address=", "--metrics-bind-address="], "", ""),
        (
            &["--healthz-bind-address=10.0.0.1", "--metrics-bind-address=fd00::1"],
            "10.0.0.1:10256",
            "[fd00::1]:10249",
        ),
        (
            &["--healthz-bind-address=10.0.0.1:1", "--metrics-bind-address=[fd00::1]:2"],
            "10.0.0.1:1",
            "[fd00::1]:2",
        ),
        (&["--healthz-port=0", "--metrics-port=0"], "", ""),
        (&["--healthz-port=1", "--metrics-port=2"], "0.0.0.0:1", "127.0.0.1:2"),
        (&["--healthz-port=1", "--healthz-bind-address=10.0.0.1"], "10.0.0.1:1", "127.0.0.1:10249"),
        (
            &["--healthz-port=1", "--healthz-bind-address=10.0.0.1:3"],
            "10.0.0.1:3",
            "127.0.0.1:10249",
        ),
    ];
    for (options, healthz, metrics) in table {
        let loaded = load(options, None).unwrap();
        assert_eq!(loaded.config.healthz, addresses(healthz), "{options:?}");
        assert_eq!(loaded.config.metrics, addresses(metrics), "{options:?}");
        let deprecated = options.iter().filter(|option| option.contains("-port=")).count();
        assert_eq!(loaded.warnings.len(), deprecated, "{:?}", printed(&loaded.warnings));
    }
    let loaded = load(&["--metrics-port=0"], None).unwrap();
    assert_eq!(
        printed(&loaded.warnings),
        ["--metrics-port: is deprecated; use --metrics-bind-address"]
    );
    let loaded = load_file("mode: nftables\nhealthzBindAddress: ''\nbindAddress: '::'\n").unwrap();
    assert_eq!(loaded.config.healthz, addresses("[::]:10256"));
    assert!(loaded.config.settings.node_addresses.is_empty());
}

#[test]
fn a_family_without_a_network_serves_node_ports_everywhere() {
    let within =
        |text: &str| Some(text.split(',').map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>());
    let table = [
        ("10.0.0.0/8", within("10.0.0.0/8"), None),
        ("10.1.2.3/8,192.168.0.0/16", within("10.0.0.0/8,192.168.0.0/16"), None),
        ("fd00::/8", None, within("fd00::/8")),
        ("10.0.0.0/8,0.0.0.0/0,fd00::/8", None, within("fd00::/8")),
    ];
    for (said, v4, v6) in table {
        let loaded = load(&["--nodeport-addresses", said], None).unwrap();
        assert_eq!(loaded.config.settings.node_port_addresses.cidrs(Family::Ipv4), v4, "{said}");
        assert_eq!(loaded.config.settings.node_port_addresses.cidrs(Family::Ipv6), v6, "{said}");
    }
    for said in ["primary", ""] {
        let loaded = load(&["--nodeport-addresses", said], None).unwrap();
        assert_eq!(loaded.config.settings.node_port_addresses, NodePortAddresses::Primary);
    }
    let twice = ["--nodeport-addresses=10.0.0.0/8", "--nodeport-addresses=11.0.0.0/8"];
    let loaded = load(&twice, None).unwrap();
    assert_eq!(
        loaded.config.settings.node_port_addresses.cidrs(Family::Ipv4),
        within("10.0.0.0/8,11.0.0.0/8")
    );
}

/// KEP-6032.
#[test]
fn words_and_networks_of_node_port_addresses_add_up() {
    const FOUR: Family = Family::Ipv4;
    let selected = |said: &str| {
        let loaded = load(&["--nodeport-addresses", said], None).unwrap();
        assert_eq!(printed(&loaded.warnings), [""; 0], "{said}");
        loaded.config.settings.node_port_addresses
    };
    // Whether the primary address, every address and `localhost` are selected, in IPv4 and IPv6.
    let table = [
        ("primary", true, [false, false], [false, false]),
        ("localhost", false, [false, false], [true, true]),
        ("primary,localhost", true, [false, false], [true, true]),
        ("all", false, [true, true], [true, true]),
        ("primary,all", true, [true, true], [true, true]),
        // Networks say nothing about the other family, but words do.
        ("10.0.0.0/8", false, [false, true], [false, false]),
        ("10.0.0.0/8,localhost", false, [false, false], [true, true]),
        ("10.0.0.0/8,primary", true, [false, false], [false, false]),
        ("127.0.0.0/8", false, [false, true], [true, false]),
        ("127.0.0.1/32,::1/128", false, [false, false], [true, true]),
        // Wider networks and other loopback addresses do not mean it.
        ("0.0.0.0/0,::/0", false, [true, true], [false, false]),
        ("127.0.0.2/32", false, [false, true], [false, false]),
    ];
    for (said, primary, everywhere, localhost) in table {
        let it = selected(said);
        assert_eq!(it.has_primary(), primary, "{said}");
        let found = Family::ALL.map(|family| it.cidrs(family).is_none());
        assert_eq!(found, everywhere, "{said}");
        assert_eq!(Family::ALL.map(|family| it.has_localhost(family)), localhost, "{said}");
    }
    let named = selected("primary,10.0.0.0/8,localhost");
    let words: Vec<String> = named.words().collect();
    assert_eq!(words, ["primary", "10.0.0.0/8", "127.0.0.1/32", "::1/128"]);
    assert_eq!(named.cidrs(FOUR).map(|it| it.len()), Some(2));
    let in_ipvs = load(&["--proxy-mode=ipvs", "--nodeport-addresses=primary,localhost"], None);
    assert_eq!(
        printed(&in_ipvs.unwrap().warnings),
        ["--nodeport-addresses: node ports do not answer on localhost in mode ipvs"]
    );
}

#[test]
fn local_pods_are_detected_in_four_ways() {
    let network = |text: &str| text.parse::<IpNet>().unwrap();
    let table = [
        ("clusterCIDR: 10.1.2.3/16", DetectLocal::ClusterCidr(vec![network("10.1.0.0/16")])),
        (
            "clusterCIDR: fd00::/8,10.0.0.0/8",
            DetectLocal::ClusterCidr(vec![network("fd00::/8"), network("10.0.0.0/8")]),
        ),
        ("detectLocalMode: NodeCIDR", DetectLocal::NodeCidr),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            DetectLocal::Interface(InterfacePattern::named("cni0").unwrap()),
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: fifteen-letters}",
            DetectLocal::Interface(InterfacePattern::starting_with("fifteen-letters").unwrap()),
        ),
    ];
    for (body, expected) in table {
        assert_eq!(load_file(body).unwrap().config.settings.detect_local, expected);
    }
}

#[test]
fn zero_is_a_value_for_optional_fields() {
    let body = "mode: nftables\nconntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s}\noomScoreAdj: 0\n\
                nftables: {masqueradeBit: 0, syncPeriod: 0s}\n";
    let config = load_file(body).unwrap().config;
    assert_eq!((config.conntrack.max_per_core, config.conntrack.min), (0, 0));
    assert_eq!(config.conntrack.tcp_established_timeout, None);
    assert_eq!(config.oom_score_adj, 0);
    assert_eq!(config.settings.masquerade_bit.mark(), 1);
    assert_eq!(config.sync_period.as_secs(), 30);
}
