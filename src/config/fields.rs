//! Every field of `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1, as of Kubernetes
//! 1.36) and every flag of kube-proxy, and what becomes of it here.
//!
//! One table, so that the options, the reader of files, the warnings and docs/configuration.md
//! cannot disagree.

use crate::config::value::Kind;

/// A field, the flag that is the same, and its meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Its path in the file; a flag that has no field goes by its own name, dashes included.
    pub(crate) path: &'static str,
    /// The flag, without dashes; empty if there is none. Several fields can share one: it means the
    /// one of the proxy mode.
    pub(crate) flag: &'static str,
    pub(crate) kind: Kind,
    /// What it is if nobody says, as one would type it.
    pub(crate) default: &'static str,
    /// Whether zero in a file is a value. In most fields it stands for the default.
    pub(crate) zero: Zero,
    /// Whether the flag counts although there is a file.
    pub(crate) strong: bool,
    /// Whether today's kube-proxy does not know it any more.
    pub(crate) gone: bool,
    pub(crate) role: Role,
    /// What it does, for the documentation and `--help`.
    pub(crate) note: &'static str,
}

/// What a zero in a file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// Nothing was said.
    Unset,
    /// Zero. In Go, the field is a pointer.
    Value,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has an effect.
    Used,
    /// It has an effect under a condition; set without it, it is worth a warning.
    When(&'static str),
    /// It is accepted and checked, and has no effect, for a reason. Set to something else than its
    /// default, it is worth a warning.
    Ignored(&'static str),
}

const fn field(
    path: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    role: Role,
    note: &'static str,
) -> Field {
    Field { path, flag, kind, default, zero: Zero::Unset, strong: false, gone: false, role, note }
}

const fn ignored(
    path: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    reason: &'static str,
) -> Field {
    field(path, flag, kind, default, Role::Ignored(reason), "")
}

impl Field {
    const fn zero_counts(self) -> Self {
        Self { zero: Zero::Value, ..self }
    }

    const fn strong(self) -> Self {
        Self { strong: true, ..self }
    }

    const fn gone(self) -> Self {
        Self { gone: true, ..self }
    }

    /// Whether it can stand in a file.
    pub(crate) fn in_file(&self) -> bool {
        !self.path.starts_with("--")
    }
}

/// The field of a path.
pub(crate) fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// Whether fields lie below a path.
pub(crate) fn is_section(path: &str) -> bool {
    FIELDS
        .iter()
        .any(|field| field.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

const NFTABLES: Role = Role::When("mode is nftables");
const IPTABLES: Role = Role::When("mode is iptables or empty");
/// kube-proxy takes these for IPVS as well.
const MASQUERADE: Role = Role::When("mode is iptables, ipvs or empty");
const IPVS: Role = Role::When("mode is ipvs");
const WINDOWS: &str = "it is for Windows";
const USERSPACE: &str = "it was for the userspace proxy, which is gone";
const GONE: &str = "kube-proxy does not know it any more either";
const KLOG: &str = "rulec logs lines of its own to stderr, as they come";
const REQUESTS: &str = "rulec sends a few requests at its start, and then only watches";
const CONTENT: &str = "rulec asks for JSON";
const EVENTS: &str = "every change is programmed at once, at a cost of its own size";
const RELIST: &str = "a watch that misses something lists again by itself";

/// All of them, in the order of kube-proxy's type.
pub(crate) const FIELDS: &[Field] = &[
    ignored("featureGates", "feature-gates", Kind::Gates, "", "rulec has no feature gates"),
    field(
        "clientConnection.kubeconfig",
        "kubeconfig",
        Kind::Text,
        "",
        Role::Used,
        "how to reach the API server; without it, as Pods do",
    ),
    ignored("clientConnection.acceptContentTypes", "", Kind::Text, "", CONTENT),
    ignored(
        "clientConnection.contentType",
        "kube-api-content-type",
        Kind::Text,
        "application/vnd.kubernetes.protobuf",
        CONTENT,
    ),
    ignored("clientConnection.qps", "kube-api-qps", Kind::Number, "5", REQUESTS),
    ignored("clientConnection.burst", "kube-api-burst", Kind::Int, "10", REQUESTS),
    field(
        "logging.format",
        "logging-format",
        Kind::Text,
        "text",
        Role::Used,
        "`text` or `json`; `--log-format` comes first",
    )
    .strong(),
    ignored("logging.flushFrequency", "log-flush-frequency", Kind::Any, "5s", KLOG).strong(),
    field(
        "logging.verbosity",
        "v",
        Kind::Int,
        "0",
        Role::Used,
        "0 to 3 is `info`, 4 and 5 `debug`, more `trace`; `--log-level` comes first",
    )
    .strong(),
    ignored(
        "logging.vmodule",
        "vmodule",
        Kind::Any,
        "",
        "use --log-level, as in info,rulec_sources=debug",
    )
    .strong(),
    ignored("logging.options.text.splitStream", "log-text-split-stream", Kind::Bool, "false", KLOG)
        .strong(),
    ignored(
        "logging.options.text.infoBufferSize",
        "log-text-info-buffer-size",
        Kind::Any,
        "",
        KLOG,
    )
    .strong(),
    ignored("logging.options.json.splitStream", "log-json-split-stream", Kind::Bool, "false", KLOG)
        .strong(),
    ignored(
        "logging.options.json.infoBufferSize",
        "log-json-info-buffer-size",
        Kind::Any,
        "",
        KLOG,
    )
    .strong(),
    field(
        "hostnameOverride",
        "hostname-override",
        Kind::Text,
        "",
        Role::Used,
        "the name of this node, the host's by default; in lower case",
    )
    .strong(),
    field(
        "bindAddress",
        "bind-address",
        Kind::Text,
        "0.0.0.0",
        Role::Used,
        "the primary address of this node, unless it is unspecified; nothing is bound to it",
    ),
    field(
        "healthzBindAddress",
        "healthz-bind-address",
        Kind::Text,
        "0.0.0.0:10256",
        Role::Used,
        "where /healthz and /livez are served; `[::]:10256` if bindAddress is IPv6; an empty flag disables",
    ),
    field(
        "metricsBindAddress",
        "metrics-bind-address",
        Kind::Text,
        "127.0.0.1:10249",
        Role::Used,
        "where /metrics is served; `[::1]:10249` if bindAddress is IPv6; an empty flag disables",
    ),
    field(
        "--healthz-port",
        "healthz-port",
        Kind::Int,
        "10256",
        Role::Used,
        "deprecated: the port of a healthz address without one; 0 disables",
    ),
    field(
        "--metrics-port",
        "metrics-port",
        Kind::Int,
        "10249",
        Role::Used,
        "deprecated: the port of a metrics address without one; 0 disables",
    ),
    field(
        "bindAddressHardFail",
        "bind-address-hard-fail",
        Kind::Bool,
        "false",
        Role::Used,
        "whether an address that cannot be listened on is fatal",
    ),
    ignored(
        "enableProfiling",
        "profiling",
        Kind::Bool,
        "false",
        "there is no profiler of Go in it",
    ),
    ignored(
        "showHiddenMetricsForVersion",
        "show-hidden-metrics-for-version",
        Kind::Text,
        "",
        "no metric is hidden",
    ),
    field(
        "mode",
        "proxy-mode",
        Kind::Text,
        "nftables",
        Role::Used,
        "`nftables`; with `iptables` or, in a file, empty, nftables is programmed with the settings of iptables; `ipvs`: see docs/ipvs.md",
    )
    .zero_counts(),
    field(
        "iptables.masqueradeBit",
        "iptables-masquerade-bit",
        Kind::Int,
        "14",
        MASQUERADE,
        "the bit of the packet mark that asks for masquerading, 0 to 31",
    )
    .zero_counts(),
    field(
        "iptables.masqueradeAll",
        "masquerade-all",
        Kind::Bool,
        "false",
        MASQUERADE,
        "masquerade all traffic to cluster addresses, also that of Pods",
    ),
    ignored(
        "iptables.localhostNodePorts",
        "iptables-localhost-nodeports",
        Kind::Bool,
        "true",
        "node ports are not served on loopback addresses, as in kube-proxy's nftables mode",
    )
    .zero_counts(),
    field(
        "iptables.syncPeriod",
        "iptables-sync-period",
        Kind::Duration,
        "30s",
        IPTABLES,
        "health: a node is unhealthy if changes wait twice as long. Nothing is synchronised by the clock",
    ),
    ignored("iptables.minSyncPeriod", "iptables-min-sync-period", Kind::Duration, "1s", EVENTS),
    field(
        "ipvs.syncPeriod",
        "ipvs-sync-period",
        Kind::Duration,
        "30s",
        IPVS,
        "as iptables.syncPeriod",
    ),
    ignored("ipvs.minSyncPeriod", "ipvs-min-sync-period", Kind::Duration, "0s", EVENTS),
    field(
        "ipvs.scheduler",
        "ipvs-scheduler",
        Kind::Text,
        "rr",
        IPVS,
        "how a backend is chosen, unless the Service says otherwise: `rr`, `wrr`, `lc`, `wlc`, `lblc`, `lblcr`, `dh`, `sh`, `sed`, `nq` or `mh`",
    ),
    field(
        "ipvs.excludeCIDRs",
        "ipvs-exclude-cidrs",
        Kind::List,
        "",
        IPVS,
        "networks whose virtual servers and addresses are left alone",
    ),
    field(
        "ipvs.strictARP",
        "ipvs-strict-arp",
        Kind::Bool,
        "false",
        IPVS,
        "whether to set net.ipv4.conf.all.arp_ignore to 1 and arp_announce to 2",
    ),
    field(
        "ipvs.tcpTimeout",
        "ipvs-tcp-timeout",
        Kind::Duration,
        "0s",
        IPVS,
        "how long IPVS remembers an idle TCP connection; 0 leaves it alone",
    ),
    field(
        "ipvs.tcpFinTimeout",
        "ipvs-tcpfin-timeout",
        Kind::Duration,
        "0s",
        IPVS,
        "how long IPVS remembers a TCP connection after a FIN; 0 leaves it alone",
    ),
    field(
        "ipvs.udpTimeout",
        "ipvs-udp-timeout",
        Kind::Duration,
        "0s",
        IPVS,
        "how long IPVS remembers a UDP flow; 0 leaves it alone",
    ),
    field(
        "nftables.masqueradeBit",
        "iptables-masquerade-bit",
        Kind::Int,
        "14",
        NFTABLES,
        "as iptables.masqueradeBit; of the flags, `--masquerade-bit` is another name",
    )
    .zero_counts(),
    field(
        "nftables.masqueradeAll",
        "masquerade-all",
        Kind::Bool,
        "false",
        NFTABLES,
        "as iptables.masqueradeAll",
    ),
    field(
        "nftables.syncPeriod",
        "iptables-sync-period",
        Kind::Duration,
        "30s",
        NFTABLES,
        "as iptables.syncPeriod",
    ),
    ignored("nftables.minSyncPeriod", "iptables-min-sync-period", Kind::Duration, "1s", EVENTS),
    ignored("winkernel.networkName", "", Kind::Text, "", WINDOWS),
    ignored("winkernel.sourceVip", "", Kind::Text, "", WINDOWS),
    ignored("winkernel.enableDSR", "", Kind::Bool, "false", WINDOWS),
    ignored("winkernel.rootHnsEndpointName", "", Kind::Text, "", WINDOWS),
    ignored("winkernel.forwardHealthCheckVip", "", Kind::Bool, "false", WINDOWS),
    field(
        "detectLocalMode",
        "detect-local-mode",
        Kind::Text,
        "ClusterCIDR",
        Role::Used,
        "how to know local Pods: `ClusterCIDR`, `NodeCIDR`, `BridgeInterface` or `InterfaceNamePrefix`",
    ),
    field(
        "detectLocal.bridgeInterface",
        "pod-bridge-interface",
        Kind::Text,
        "",
        Role::When("detectLocalMode is BridgeInterface"),
        "the name of the bridge, 15 bytes at most",
    ),
    field(
        "detectLocal.interfaceNamePrefix",
        "pod-interface-name-prefix",
        Kind::Text,
        "",
        Role::When("detectLocalMode is InterfaceNamePrefix"),
        "the prefix, 15 bytes at most",
    ),
    field(
        "clusterCIDR",
        "cluster-cidr",
        Kind::Text,
        "",
        Role::When("detectLocalMode is ClusterCIDR"),
        "the addresses of Pods, one network of each family at the most, with a comma between",
    ),
    field(
        "nodePortAddresses",
        "nodeport-addresses",
        Kind::List,
        "",
        Role::Used,
        "the networks on whose addresses node ports answer, or `primary` alone. Of a family without one, every address does. By default `primary`, and every address if mode is iptables, ipvs or empty",
    ),
    field(
        "oomScoreAdj",
        "oom-score-adj",
        Kind::Int,
        "-999",
        Role::Used,
        "how eager the kernel is to kill this process for its memory, -1000 to 1000",
    )
    .zero_counts(),
    field(
        "conntrack.maxPerCore",
        "conntrack-max-per-core",
        Kind::Int,
        "32768",
        Role::Used,
        "nf_conntrack_max for each processor; 0 leaves it alone",
    )
    .zero_counts(),
    field(
        "conntrack.min",
        "conntrack-min",
        Kind::Int,
        "131072",
        Role::Used,
        "the least nf_conntrack_max",
    )
    .zero_counts(),
    field(
        "conntrack.tcpEstablishedTimeout",
        "conntrack-tcp-timeout-established",
        Kind::Duration,
        "24h0m0s",
        Role::Used,
        "nf_conntrack_tcp_timeout_established; 0 leaves it alone",
    )
    .zero_counts(),
    field(
        "conntrack.tcpCloseWaitTimeout",
        "conntrack-tcp-timeout-close-wait",
        Kind::Duration,
        "1h0m0s",
        Role::Used,
        "nf_conntrack_tcp_timeout_close_wait; 0 leaves it alone",
    )
    .zero_counts(),
    field(
        "conntrack.tcpBeLiberal",
        "conntrack-tcp-be-liberal",
        Kind::Bool,
        "false",
        Role::Used,
        "whether to set nf_conntrack_tcp_be_liberal",
    ),
    field(
        "conntrack.udpTimeout",
        "conntrack-udp-timeout",
        Kind::Duration,
        "0s",
        Role::Used,
        "nf_conntrack_udp_timeout; 0 leaves it alone",
    ),
    field(
        "conntrack.udpStreamTimeout",
        "conntrack-udp-timeout-stream",
        Kind::Duration,
        "0s",
        Role::Used,
        "nf_conntrack_udp_timeout_stream; 0 leaves it alone",
    ),
    ignored("configSyncPeriod", "config-sync-period", Kind::Duration, "15m0s", RELIST),
    ignored("portRange", "proxy-port-range", Kind::Text, "", USERSPACE),
    ignored("windowsRunAsService", "", Kind::Bool, "false", WINDOWS),
    ignored("udpIdleTimeout", "udp-timeout", Kind::Duration, "250ms", USERSPACE).gone(),
    ignored("resourceContainer", "resource-container", Kind::Text, "/kube-proxy", GONE).gone(),
];
