//! All fields of `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1, as of Kubernetes 1.36)
//! and all flags of kube-proxy, and their effect in rulec.
//!
//! They are in one table, so that the options, the reader of files, the warnings and
//! docs/configuration.md cannot disagree.

use crate::config::value::FieldType;

/// A field, the equivalent flag, and its meaning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Its path in the file; a flag without a field has its own name here, dashes included.
    pub(crate) path: &'static str,
    /// The flag, without dashes; empty if there is none. Several fields can share a flag: it sets
    /// the one of the proxy mode.
    pub(crate) flag: &'static str,
    pub(crate) kind: FieldType,
    /// The default, as one would type it.
    pub(crate) default: &'static str,
    /// Whether zero in a file is a value. In most fields it means the default.
    pub(crate) zero: Zero,
    /// Whether the flag has an effect although there is a file.
    pub(crate) strong: bool,
    /// Whether current versions of kube-proxy have removed it.
    pub(crate) gone: bool,
    pub(crate) role: Role,
    /// Its effect, for the documentation and `--help`.
    pub(crate) note: &'static str,
}

/// The meaning of a zero in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// The field is not set.
    Unset,
    /// Zero. In Go, the field is a pointer.
    Value,
}

/// The effect of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has an effect.
    Used,
    /// It has an effect under a condition; setting it otherwise causes a warning.
    When(&'static str),
    /// It is accepted and checked, but has no effect, for the given reason. A value other than the
    /// default causes a warning.
    Ignored(&'static str),
}

const fn field(
    path: &'static str,
    flag: &'static str,
    kind: FieldType,
    default: &'static str,
    role: Role,
    note: &'static str,
) -> Field {
    Field { path, flag, kind, default, zero: Zero::Unset, strong: false, gone: false, role, note }
}

const fn ignored(
    path: &'static str,
    flag: &'static str,
    kind: FieldType,
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

    /// Returns whether it can be in a file.
    pub(crate) fn in_file(&self) -> bool {
        !self.path.starts_with("--")
    }
}

/// Returns the field of a path.
pub(crate) fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// Returns whether there are fields below a path.
pub(crate) fn is_section(path: &str) -> bool {
    FIELDS
        .iter()
        .any(|field| field.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

const NFTABLES: Role = Role::When("mode is nftables");
const IPTABLES: Role = Role::When("mode is iptables or empty");
/// kube-proxy uses these for IPVS as well.
const MASQUERADE: Role = Role::When("mode is iptables, ipvs or empty");
const IPVS: Role = Role::When("mode is ipvs");
const WINDOWS: &str = "only for Windows";
const USERSPACE: &str = "only for the userspace proxy, which no longer exists";
const GONE: &str = "removed from kube-proxy, too";
const KLOG: &str = "rulec writes its own log lines to stderr, as they occur";
const REQUESTS: &str = "rulec sends a few requests at its start, then only watches";
const CONTENT: &str = "rulec requests JSON";
const EVENTS: &str = "every change is programmed at once, at a cost proportional to it";
const RELIST: &str = "a watch that may have missed changes lists again by itself";

/// All fields, in the order of kube-proxy's type.
pub(crate) const FIELDS: &[Field] = &[
    ignored("featureGates", "feature-gates", FieldType::Gates, "", "rulec has no feature gates"),
    field(
        "clientConnection.kubeconfig",
        "kubeconfig",
        FieldType::Text,
        "",
        Role::Used,
        "the address and credentials of the API server; by default, a Pod's service account",
    ),
    ignored("clientConnection.acceptContentTypes", "", FieldType::Text, "", CONTENT),
    ignored(
        "clientConnection.contentType",
        "kube-api-content-type",
        FieldType::Text,
        "application/vnd.kubernetes.protobuf",
        CONTENT,
    ),
    ignored("clientConnection.qps", "kube-api-qps", FieldType::Number, "5", REQUESTS),
    ignored("clientConnection.burst", "kube-api-burst", FieldType::Int, "10", REQUESTS),
    field(
        "logging.format",
        "logging-format",
        FieldType::Text,
        "text",
        Role::Used,
        "`text` or `json`; `--log-format` takes precedence",
    )
    .strong(),
    ignored("logging.flushFrequency", "log-flush-frequency", FieldType::Any, "5s", KLOG).strong(),
    field(
        "logging.verbosity",
        "v",
        FieldType::Int,
        "0",
        Role::Used,
        "0 to 3 is `info`, 4 and 5 `debug`, more `trace`; `--log-level` takes precedence",
    )
    .strong(),
    ignored(
        "logging.vmodule",
        "vmodule",
        FieldType::Any,
        "",
        "use --log-level, such as info,rulec_sources=debug",
    )
    .strong(),
    ignored(
        "logging.options.text.splitStream",
        "log-text-split-stream",
        FieldType::Bool,
        "false",
        KLOG,
    )
    .strong(),
    ignored(
        "logging.options.text.infoBufferSize",
        "log-text-info-buffer-size",
        FieldType::Any,
        "",
        KLOG,
    )
    .strong(),
    ignored(
        "logging.options.json.splitStream",
        "log-json-split-stream",
        FieldType::Bool,
        "false",
        KLOG,
    )
    .strong(),
    ignored(
        "logging.options.json.infoBufferSize",
        "log-json-info-buffer-size",
        FieldType::Any,
        "",
        KLOG,
    )
    .strong(),
    field(
        "hostnameOverride",
        "hostname-override",
        FieldType::Text,
        "",
        Role::Used,
        "the name of this node, in lower case; by default that of the host",
    )
    .strong(),
    field(
        "bindAddress",
        "bind-address",
        FieldType::Text,
        "0.0.0.0",
        Role::Used,
        "the primary address of this node, unless it is unspecified; nothing is bound to it",
    ),
    field(
        "healthzBindAddress",
        "healthz-bind-address",
        FieldType::Text,
        "0.0.0.0:10256",
        Role::Used,
        "the address of /healthz and /livez; `[::]:10256` if bindAddress is IPv6; an empty flag \
         disables the server",
    ),
    field(
        "metricsBindAddress",
        "metrics-bind-address",
        FieldType::Text,
        "127.0.0.1:10249",
        Role::Used,
        "the address of /metrics; `[::1]:10249` if bindAddress is IPv6; an empty flag disables the \
         server",
    ),
    field(
        "--healthz-port",
        "healthz-port",
        FieldType::Int,
        "10256",
        Role::Used,
        "deprecated: the port of a healthz address without one; 0 disables the server",
    ),
    field(
        "--metrics-port",
        "metrics-port",
        FieldType::Int,
        "10249",
        Role::Used,
        "deprecated: the port of a metrics address without one; 0 disables the server",
    ),
    field(
        "bindAddressHardFail",
        "bind-address-hard-fail",
        FieldType::Bool,
        "false",
        Role::Used,
        "whether it is fatal if an address cannot be bound",
    ),
    ignored("enableProfiling", "profiling", FieldType::Bool, "false", "rulec has no Go profiler"),
    ignored(
        "showHiddenMetricsForVersion",
        "show-hidden-metrics-for-version",
        FieldType::Text,
        "",
        "no metric is hidden",
    ),
    field(
        "mode",
        "proxy-mode",
        FieldType::Text,
        "nftables",
        Role::Used,
        "`nftables` or `ipvs` (see docs/ipvs.md); `iptables`, or empty in a file, programs \
         nftables with the settings of iptables",
    )
    .zero_counts(),
    field(
        "iptables.masqueradeBit",
        "iptables-masquerade-bit",
        FieldType::Int,
        "14",
        MASQUERADE,
        "the bit of the packet mark that requests masquerading, 0 to 31",
    )
    .zero_counts(),
    field(
        "iptables.masqueradeAll",
        "masquerade-all",
        FieldType::Bool,
        "false",
        MASQUERADE,
        "masquerade all traffic to cluster addresses, including that of Pods",
    ),
    ignored(
        "iptables.localhostNodePorts",
        "iptables-localhost-nodeports",
        FieldType::Bool,
        "true",
        "`nodePortAddresses` decides, by its word `localhost`",
    )
    .zero_counts(),
    field(
        "iptables.syncPeriod",
        "iptables-sync-period",
        FieldType::Duration,
        "30s",
        IPTABLES,
        "the node is unhealthy if changes wait twice as long; no other effect",
    ),
    ignored(
        "iptables.minSyncPeriod",
        "iptables-min-sync-period",
        FieldType::Duration,
        "1s",
        EVENTS,
    ),
    field(
        "ipvs.syncPeriod",
        "ipvs-sync-period",
        FieldType::Duration,
        "30s",
        IPVS,
        "as iptables.syncPeriod",
    ),
    ignored("ipvs.minSyncPeriod", "ipvs-min-sync-period", FieldType::Duration, "0s", EVENTS),
    field(
        "ipvs.scheduler",
        "ipvs-scheduler",
        FieldType::Text,
        "rr",
        IPVS,
        "how a backend is chosen, unless the Service says otherwise: `rr`, `wrr`, `lc`, `wlc`, \
         `lblc`, `lblcr`, `dh`, `sh`, `sed`, `nq` or `mh`",
    ),
    field(
        "ipvs.excludeCIDRs",
        "ipvs-exclude-cidrs",
        FieldType::List,
        "",
        IPVS,
        "networks whose virtual servers and addresses are left alone",
    ),
    field(
        "ipvs.strictARP",
        "ipvs-strict-arp",
        FieldType::Bool,
        "false",
        IPVS,
        "whether to set net.ipv4.conf.all.arp_ignore to 1 and arp_announce to 2",
    ),
    field(
        "ipvs.tcpTimeout",
        "ipvs-tcp-timeout",
        FieldType::Duration,
        "0s",
        IPVS,
        "the timeout of idle TCP connections in IPVS; 0 keeps the kernel's setting",
    ),
    field(
        "ipvs.tcpFinTimeout",
        "ipvs-tcpfin-timeout",
        FieldType::Duration,
        "0s",
        IPVS,
        "the timeout of TCP connections in IPVS after a FIN; 0 keeps the kernel's setting",
    ),
    field(
        "ipvs.udpTimeout",
        "ipvs-udp-timeout",
        FieldType::Duration,
        "0s",
        IPVS,
        "the timeout of UDP flows in IPVS; 0 keeps the kernel's setting",
    ),
    field(
        "nftables.masqueradeBit",
        "iptables-masquerade-bit",
        FieldType::Int,
        "14",
        NFTABLES,
        "as iptables.masqueradeBit; the flag is also called `--masquerade-bit`",
    )
    .zero_counts(),
    field(
        "nftables.masqueradeAll",
        "masquerade-all",
        FieldType::Bool,
        "false",
        NFTABLES,
        "as iptables.masqueradeAll",
    ),
    field(
        "nftables.syncPeriod",
        "iptables-sync-period",
        FieldType::Duration,
        "30s",
        NFTABLES,
        "as iptables.syncPeriod",
    ),
    ignored(
        "nftables.minSyncPeriod",
        "iptables-min-sync-period",
        FieldType::Duration,
        "1s",
        EVENTS,
    ),
    ignored("winkernel.networkName", "", FieldType::Text, "", WINDOWS),
    ignored("winkernel.sourceVip", "", FieldType::Text, "", WINDOWS),
    ignored("winkernel.enableDSR", "", FieldType::Bool, "false", WINDOWS),
    ignored("winkernel.rootHnsEndpointName", "", FieldType::Text, "", WINDOWS),
    ignored("winkernel.forwardHealthCheckVip", "", FieldType::Bool, "false", WINDOWS),
    field(
        "detectLocalMode",
        "detect-local-mode",
        FieldType::Text,
        "ClusterCIDR",
        Role::Used,
        "how packets of local Pods are recognised: `ClusterCIDR`, `NodeCIDR`, `BridgeInterface` or \
         `InterfaceNamePrefix`",
    ),
    field(
        "detectLocal.bridgeInterface",
        "pod-bridge-interface",
        FieldType::Text,
        "",
        Role::When("detectLocalMode is BridgeInterface"),
        "the name of the bridge, 15 bytes at most",
    ),
    field(
        "detectLocal.interfaceNamePrefix",
        "pod-interface-name-prefix",
        FieldType::Text,
        "",
        Role::When("detectLocalMode is InterfaceNamePrefix"),
        "the prefix, 15 bytes at most",
    ),
    field(
        "clusterCIDR",
        "cluster-cidr",
        FieldType::Text,
        "",
        Role::When("detectLocalMode is ClusterCIDR"),
        "the addresses of Pods, at most one network per family, separated by a comma",
    ),
    field(
        "nodePortAddresses",
        "nodeport-addresses",
        FieldType::List,
        "",
        Role::Used,
        "the addresses that node ports answer on: those in networks, and the words `primary`, \
         `localhost` (connections of the node itself) and `all` (with localhost). Networks without \
         a word leave every address to a family that has none among them. The default is \
         `primary`, or every address but localhost if mode is iptables, ipvs or empty",
    ),
    field(
        "oomScoreAdj",
        "oom-score-adj",
        FieldType::Int,
        "-999",
        Role::Used,
        "how readily the kernel kills this process when memory is short, -1000 to 1000",
    )
    .zero_counts(),
    field(
        "conntrack.maxPerCore",
        "conntrack-max-per-core",
        FieldType::Int,
        "32768",
        Role::Used,
        "nf_conntrack_max per processor; 0 keeps the kernel's setting",
    )
    .zero_counts(),
    field(
        "conntrack.min",
        "conntrack-min",
        FieldType::Int,
        "131072",
        Role::Used,
        "the minimum of nf_conntrack_max",
    )
    .zero_counts(),
    field(
        "conntrack.tcpEstablishedTimeout",
        "conntrack-tcp-timeout-established",
        FieldType::Duration,
        "24h0m0s",
        Role::Used,
        "nf_conntrack_tcp_timeout_established; 0 keeps the kernel's setting",
    )
    .zero_counts(),
    field(
        "conntrack.tcpCloseWaitTimeout",
        "conntrack-tcp-timeout-close-wait",
        FieldType::Duration,
        "1h0m0s",
        Role::Used,
        "nf_conntrack_tcp_timeout_close_wait; 0 keeps the kernel's setting",
    )
    .zero_counts(),
    field(
        "conntrack.tcpBeLiberal",
        "conntrack-tcp-be-liberal",
        FieldType::Bool,
        "false",
        Role::Used,
        "whether to set nf_conntrack_tcp_be_liberal",
    ),
    field(
        "conntrack.udpTimeout",
        "conntrack-udp-timeout",
        FieldType::Duration,
        "0s",
        Role::Used,
        "nf_conntrack_udp_timeout; 0 keeps the kernel's setting",
    ),
    field(
        "conntrack.udpStreamTimeout",
        "conntrack-udp-timeout-stream",
        FieldType::Duration,
        "0s",
        Role::Used,
        "nf_conntrack_udp_timeout_stream; 0 keeps the kernel's setting",
    ),
    ignored("configSyncPeriod", "config-sync-period", FieldType::Duration, "15m0s", RELIST),
    ignored("portRange", "proxy-port-range", FieldType::Text, "", USERSPACE),
    ignored("windowsRunAsService", "", FieldType::Bool, "false", WINDOWS),
    ignored("udpIdleTimeout", "udp-timeout", FieldType::Duration, "250ms", USERSPACE).gone(),
    ignored("resourceContainer", "resource-container", FieldType::Text, "/kube-proxy", GONE).gone(),
];
