//! Tests of whole files.

use rulec_compiler::Settings;
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};

use super::{HEAD, errors, load, load_file, load_in, printed};
use crate::config::{ApiAccess, Loaded};

/// `config.conf` of the ConfigMap `kube-proxy`, as kubeadm writes it.
const KUBEADM: &str = r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

#[test]
fn the_configuration_of_kubeadm_is_read() {
    let options = ["--hostname-override", "node-1"];
    let Loaded { config, warnings, .. } = load_in(&options, Some(KUBEADM), false).unwrap();
    assert_eq!(
        printed(&warnings),
        ["proxy.conf:52: mode: is empty, which means iptables; rulec programs nftables instead, \
             with the settings of iptables; node ports answer on every address by default, never \
             on loopback"]
    );
    let usual = load(&["--hostname-override=node-1"], None).unwrap().config;
    let kubeconfig = Some("/var/lib/kube-proxy/kubeconfig.conf".into());
    let expected = crate::config::Config {
        api: Some(ApiAccess { kubeconfig, master: None }),
        settings: Settings {
            detect_local: DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]),
            node_port_addresses: NodePortAddresses::Cidrs(Vec::new()),
            drop_invalid: true,
            ..usual.settings.clone()
        },
        ..usual
    };
    assert_eq!(config, expected);
}

#[test]
fn a_configuration_may_be_json() {
    let compact = r#"{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration","mode":"nftables","conntrack":{"min":7},"nodePortAddresses":["10.0.0.0/8"]}"#;
    let with_tabs = compact.replace(',', ",\n\t").replace(':', "\t:\t");
    let with_tabs = with_tabs.replace("}", "\n\t}");
    // YAML does not allow DEL in a string, but JSON does.
    let not_yaml = compact.replacen("\"mode\"", "\"portRange\":\"\u{7f}\",\"mode\"", 1);
    let loaded = load(&[], Some(&not_yaml)).unwrap();
    assert_eq!(loaded.config.conntrack.min, 7);
    assert!(printed(&loaded.warnings)[0].starts_with("proxy.conf: portRange: has no effect"));
    for text in [compact, with_tabs.as_str()] {
        let Loaded { config, warnings, .. } = load(&[], Some(text)).unwrap();
        assert_eq!(printed(&warnings), [""; 0]);
        assert_eq!(config.conntrack.min, 7);
        let networks = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(config.settings.node_port_addresses, NodePortAddresses::Cidrs(networks));
    }
}

#[test]
fn unknown_fields_are_ignored_and_reported_with_their_lines() {
    let body = "mode: nftables\nnewField: 1\nconntrack:\n  min: 9\n  shiny:\n    deep: [1]\n'--healthz-port': 0\n";
    let Loaded { config, warnings, .. } = load_file(body).unwrap();
    assert_eq!(config.conntrack.min, 9);
    assert!(config.healthz.is_some());
    assert_eq!(
        printed(&warnings),
        [
            "proxy.conf:4: newField: unknown field, ignored",
            "proxy.conf:7: conntrack.shiny: unknown field, ignored",
            "proxy.conf:9: --healthz-port: unknown field, ignored",
        ]
    );
}

#[test]
fn the_last_of_duplicate_fields_takes_precedence() {
    let body = "mode: nftables\noomScoreAdj: 1\noomScoreAdj: 2\n";
    let Loaded { config, warnings, .. } = load_file(body).unwrap();
    assert_eq!(config.oom_score_adj, 2);
    let [warning] = printed(&warnings).try_into().unwrap();
    assert!(warning.starts_with("proxy.conf:5: "), "{warning}");
    assert!(
        warning.contains("oomScoreAdj") && warning.ends_with("the last one counts"),
        "{warning}"
    );
}

#[test]
fn an_invalid_file_is_refused_with_a_reason() {
    let other = HEAD.replace("v1alpha1", "v1");
    let long = format!("{HEAD}portRange: '{}'", "x".repeat(2 << 20));
    let deep = format!("{HEAD}featureGates: {}", "[".repeat(5000));
    let table = [
        ("", "proxy.conf: is empty"),
        ("# nothing\n", "proxy.conf: is empty"),
        ("- a\n", "proxy.conf: is not an object"),
        ("mode\n", "proxy.conf: is not an object"),
        ("mode: {}: x\n", "proxy.conf:1: is not YAML: "),
        ("a: 1\nb: [\n", "proxy.conf:"),
        ("{\"kind\": \n\t \"x\" 1}", "proxy.conf:2: is not JSON: "),
        (&long, "proxy.conf: is 2097"),
        (&deep, "proxy.conf:3: is not YAML: "),
        ("mode: nftables\n", "proxy.conf: apiVersion: is missing"),
        (
            &other,
            "proxy.conf:1: apiVersion: must be kubeproxy.config.k8s.io/v1alpha1, not \
             \"kubeproxy.config.k8s.io/v1\"",
        ),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: [KubeProxyConfiguration]\n",
            "proxy.conf:2: kind: must be KubeProxyConfiguration",
        ),
    ];
    for (text, expected) in table {
        let errors = errors(load(&[], Some(text)));
        let count = if expected.ends_with("apiVersion: is missing") { 2 } else { 1 };
        assert_eq!(errors.len(), count, "{errors:?}");
        assert!(
            errors[0].starts_with(expected),
            "{errors:?} for {:?}",
            &text[..text.len().min(80)]
        );
    }
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_file() {
    let body = "oomScoreAdj: 2000\nmode: userspace\nconntrack:\n  min: -1\n  udpTimeout: 5\n\
                nodePortAddresses:\n- 10.0.0.0/8\n- first\nipvs: no\n";
    let invalid = load_file(body).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "the configuration cannot be used:\n  \
         proxy.conf:3: oomScoreAdj: must be between -1000 and 1000, not 2000\n  \
         proxy.conf:4: mode: must be nftables, iptables, ipvs or empty, not \"userspace\"\n  \
         proxy.conf:6: conntrack.min: must not be less than 0, not -1\n  \
         proxy.conf:7: conntrack.udpTimeout: must be a duration such as 30s or 1h0m0s, not 5\n  \
         proxy.conf:10: nodePortAddresses[1]: \"first\" is neither a network such as \
         10.0.0.0/8 nor primary, localhost or all\n  \
         proxy.conf:11: ipvs: must be an object"
    );
}

#[test]
fn a_written_configuration_round_trips() {
    let bodies = [
        "",
        "mode: ipvs\nipvs: {syncPeriod: 1m, scheduler: lc}\n",
        "mode: nftables\nbindAddress: fd00::1\nnftables: {masqueradeBit: 0, masqueradeAll: true}\n",
        "mode: iptables\niptables: {masqueradeBit: 3, syncPeriod: 1500ms}\nclusterCIDR: 10.0.0.0/8,fd00::/8\n\
         nodePortAddresses: [primary]\nlogging: {verbosity: 4, format: json}\nhostnameOverride: 'yes'\n\
         conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s}\nmetricsBindAddress: 10.0.0.1\n",
    ];
    for body in bodies {
        let first = load_file(body).unwrap();
        let yaml = first.yaml().unwrap();
        let again = load(&[], Some(&yaml)).unwrap();
        assert_eq!(again.config, first.config, "{yaml}");
        assert_eq!(again.yaml().unwrap(), yaml);
    }
    let options = ["--kubeconfig=/k", "--node-name", "N", "--masquerade-bit=5", "--v=9"];
    let first = load(&options, None).unwrap();
    let again = load(&[], Some(&first.yaml().unwrap())).unwrap();
    assert_eq!(again.config, first.config);
    assert_eq!(printed(&again.warnings), [""; 0]);
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut body = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        let below = level - 1;
        let nine = vec![format!("*a{below}"); 9].join(",");
        body += &format!("a{level}: &a{level} [{nine}]\n");
    }
    let [error] = <[String; 1]>::try_from(errors(load_file(&body))).unwrap();
    assert!(error.contains("is not YAML: ") && error.contains("total_replayed_events"), "{error}");
    // Some are no harm.
    let few = "nodePortAddresses: &own [192.0.2.0/24]\nipvs: {excludeCIDRs: *own}\n";
    assert!(load_file(few).is_ok());
}
