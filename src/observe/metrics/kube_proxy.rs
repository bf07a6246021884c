//! kube-proxy's metrics that have a meaning here, with its names, types, labels and buckets
//! (kubernetes/pkg/proxy/metrics, 1.36).
//!
//! One transaction programs both families, so metrics with a label for the family have the same
//! value for both.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use rulec_compiler::net::Family;

use super::{FamilyLabel, amount, doubling, events, family_name};

type Seconds = Gauge<f64, AtomicU64>;
type Histograms = Labelled<FamilyLabel, Histogram, fn() -> Histogram>;

/// kube-proxy's metrics, prefix `kubeproxy_`.
#[derive(Debug)]
pub struct KubeProxy {
    sync: Histograms,
    full_sync: Histograms,
    partial_sync: Histograms,
    last_sync: Labelled<FamilyLabel, Seconds>,
    last_queued: Labelled<FamilyLabel, Seconds>,
    network_programming: Histograms,
    endpoint_changes_pending: Gauge,
    endpoint_changes: Counter,
    service_changes_pending: Gauge,
    service_changes: Counter,
    no_local_endpoints: Labelled<PolicyLabel, Gauge>,
    healthz: Labelled<CodeLabel, Counter>,
    livez: Labelled<CodeLabel, Counter>,
    sync_failures: Labelled<FamilyLabel, Counter>,
    cleanup_failures: Labelled<FamilyLabel, Counter>,
    conntrack_sync: Histograms,
    conntrack_deleted: Labelled<FamilyLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabel {
    traffic_policy: &'static str,
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

/// The number of ports that drop traffic because their policy is `Local` and no endpoint is on this
/// node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocal {
    /// For traffic to cluster addresses.
    pub internal: usize,
    /// For traffic from outside.
    pub external: usize,
}

impl KubeProxy {
    pub(super) fn register(to: &mut Registry) -> Self {
        let syncs = || Histograms::new_with_constructor(|| doubling(0.001, 15));
        let metrics = Self {
            sync: put(
                to,
                "sync_proxy_rules_duration_seconds",
                "Time from the start of a compilation to the kernel's acknowledgement",
                syncs(),
            ),
            full_sync: put(
                to,
                "sync_full_proxy_rules_duration_seconds",
                "The same, of commits whose delta starts from what was read from the kernel",
                syncs(),
            ),
            partial_sync: put(
                to,
                "sync_partial_proxy_rules_duration_seconds",
                "The same, of commits whose delta starts from the last acknowledged program",
                syncs(),
            ),
            last_sync: put(
                to,
                "sync_proxy_rules_last_timestamp_seconds",
                "When the kernel last came to hold the wanted program",
                Labelled::default(),
            ),
            last_queued: put(
                to,
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a source last sent an update",
                Labelled::default(),
            ),
            network_programming: put(
                to,
                "network_programming_duration_seconds",
                "Time from the change of a Pod or Service in the cluster to the kernel's \
                 acknowledgement",
                Histograms::new_with_constructor(|| Histogram::new(programming_buckets())),
            ),
            endpoint_changes_pending: put(
                to,
                "sync_proxy_rules_endpoint_changes_pending",
                "EndpointSlices and Pods whose last change the kernel has not acknowledged",
                Gauge::default(),
            ),
            endpoint_changes: put(
                to,
                "sync_proxy_rules_endpoint_changes",
                "Changes of EndpointSlices and Pods",
                Counter::default(),
            ),
            service_changes_pending: put(
                to,
                "sync_proxy_rules_service_changes_pending",
                "Services whose last change the kernel has not acknowledged",
                Gauge::default(),
            ),
            service_changes: put(
                to,
                "sync_proxy_rules_service_changes",
                "Changes of Services",
                Counter::default(),
            ),
            no_local_endpoints: put(
                to,
                // A gauge, despite its name.
                "sync_proxy_rules_no_local_endpoints_total",
                "Service ports with a Local policy and endpoints, none of which is on this node",
                Labelled::default(),
            ),
            healthz: put(to, "proxy_healthz", "Answers of /healthz by status", Labelled::default()),
            livez: put(to, "proxy_livez", "Answers of /livez by status", Labelled::default()),
            sync_failures: put(
                to,
                "sync_proxy_rules_nftables_sync_failures",
                "Times the kernel could not be read or programmed, or refused a Service",
                Labelled::default(),
            ),
            cleanup_failures: put(
                to,
                "sync_proxy_rules_nftables_cleanup_failures",
                "Always 0: stale objects are deleted in the same transactions as all changes",
                Labelled::default(),
            ),
            conntrack_sync: put(
                to,
                "conntrack_reconciler_sync_duration_seconds",
                "Time to find and delete flows that contradict the rules",
                syncs(),
            ),
            conntrack_deleted: put(
                to,
                "conntrack_reconciler_deleted_entries",
                "Flows that contradicted the rules and were deleted",
                Labelled::default(),
            ),
        };
        metrics.create();
        metrics
    }

    /// Creates every series, because a rate needs a first value.
    fn create(&self) {
        for family in Family::ALL {
            let label = FamilyLabel::of(family);
            for histograms in [
                &self.sync,
                &self.full_sync,
                &self.partial_sync,
                &self.network_programming,
                &self.conntrack_sync,
            ] {
                let _ = histograms.get_or_create(&label);
            }
            for counters in [&self.sync_failures, &self.cleanup_failures, &self.conntrack_deleted] {
                let _ = counters.get_or_create(&label);
            }
            for gauges in [&self.last_sync, &self.last_queued] {
                let _ = gauges.get_or_create(&label);
            }
            self.no_local(family, NoLocal::default());
        }
        for code in [200, 503] {
            let _ = self.healthz.get_or_create(&CodeLabel { code });
            let _ = self.livez.get_or_create(&CodeLabel { code });
        }
    }

    /// Notes a commit that the kernel acknowledged, with its duration, compilation included.
    pub fn synced(&self, took: Duration, is_full: bool) {
        let kind = if is_full { &self.full_sync } else { &self.partial_sync };
        for label in Family::ALL.map(FamilyLabel::of) {
            self.sync.get_or_create(&label).observe(took.as_secs_f64());
            kind.get_or_create(&label).observe(took.as_secs_f64());
        }
    }

    /// Notes that the kernel holds the wanted program as of now.
    pub fn up_to_date(&self, wall: Timestamp) {
        set_all(&self.last_sync, wall);
    }

    /// Notes an update from a source.
    pub fn queued(&self, wall: Timestamp) {
        set_all(&self.last_queued, wall);
    }

    /// Notes the time from the trigger that the endpoints controller noted on an EndpointSlice
    /// (annotation `endpoints.kubernetes.io/last-change-trigger-time`) to the acknowledgement.
    pub fn programmed(&self, family: Family, took: Duration) {
        let histogram = self.network_programming.get_or_create(&FamilyLabel::of(family));
        histogram.observe(took.as_secs_f64());
    }

    /// Counts changes of objects.
    pub fn changed(&self, services: usize, endpoints: usize) {
        self.service_changes.inc_by(events(services));
        self.endpoint_changes.inc_by(events(endpoints));
    }

    /// Sets how many changed objects the kernel has not acknowledged.
    pub fn pending(&self, services: usize, endpoints: usize) {
        self.service_changes_pending.set(amount(services));
        self.endpoint_changes_pending.set(amount(endpoints));
    }

    /// Sets how many ports of a family drop traffic at the moment.
    pub fn no_local(&self, family: Family, ports: NoLocal) {
        let ip_family = family_name(family);
        for (traffic_policy, count) in [("internal", ports.internal), ("external", ports.external)]
        {
            let label = PolicyLabel { traffic_policy, ip_family };
            self.no_local_endpoints.get_or_create(&label).set(amount(count));
        }
    }

    /// Counts an answer of `/healthz`.
    pub fn healthz(&self, code: StatusCode) {
        self.healthz.get_or_create(&CodeLabel { code: code.as_u16() }).inc();
    }

    /// Counts an answer of `/livez`.
    pub fn livez(&self, code: StatusCode) {
        self.livez.get_or_create(&CodeLabel { code: code.as_u16() }).inc();
    }

    /// Counts failures of the kernel.
    pub fn failed(&self, times: usize) {
        for label in Family::ALL.map(FamilyLabel::of) {
            self.sync_failures.get_or_create(&label).inc_by(events(times));
        }
    }

    /// Notes that flows of a family that contradicted the rules were deleted.
    pub fn flows_deleted(&self, family: Family, took: Duration, flows: u64) {
        let label = FamilyLabel::of(family);
        self.conntrack_sync.get_or_create(&label).observe(took.as_secs_f64());
        self.conntrack_deleted.get_or_create(&label).inc_by(flows);
    }
}

/// Registers a metric and returns it.
pub(super) fn put<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: M) -> M {
    to.register(name, help, metric.clone());
    metric
}

fn set_all(gauges: &Labelled<FamilyLabel, Seconds>, wall: Timestamp) {
    for label in Family::ALL.map(FamilyLabel::of) {
        gauges.get_or_create(&label).set(wall.as_duration().as_secs_f64());
    }
}

/// Returns kube-proxy's buckets of `network_programming_duration_seconds`: fine up to a minute,
/// coarse up to five.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let steps = |from: u32, step: usize, to: u32| (from..=to).step_by(step).map(f64::from);
    [0.25, 0.5]
        .into_iter()
        .chain(steps(1, 1, 59))
        .chain(steps(60, 5, 115))
        .chain(steps(120, 30, 300))
}
