//! Metrics for Prometheus: kube-proxy's metrics under kube-proxy's names, so that its dashboards
//! and alerts still work, and our own under `rulec_`.
//!
//! Events are counted as they happen. The current state is looked up on each scrape (`scrape`).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use rulec_compiler::Origin;
use rulec_compiler::net::Family;
use rulec_compiler::object::Kind;
use rulec_sources::Severity;

pub mod exposition;
pub mod kube_proxy;
pub mod own;
mod process;
mod records;
mod relay;
pub mod scrape;
pub mod slis;
pub mod traffic;

pub use kube_proxy::KubeProxy;
pub use own::Own;
pub use slis::Slis;
pub use traffic::TrafficSeries;

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    /// kube-proxy's metrics.
    pub kube_proxy: KubeProxy,
    /// Our own metrics.
    pub own: Own,
    /// The metrics of `/metrics/slis` only.
    pub slis: Slis,
    /// The connections of Services, if they are counted.
    pub traffic: TrafficSeries,
    registry: Registry,
    slis_registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        let kube_proxy = KubeProxy::register(registry.sub_registry_with_prefix("kubeproxy"));
        let own = Own::register(registry.sub_registry_with_prefix("rulec"));
        let traffic = TrafficSeries::default();
        registry.register_collector(Box::new(traffic.clone()));
        let mut slis_registry = Registry::default();
        let slis = Slis::register(slis_registry.sub_registry_with_prefix("kubernetes"));
        Self { kube_proxy, own, slis, traffic, registry, slis_registry }
    }
}

impl Metrics {
    /// Returns all metrics except those of checks, in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// None are known.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        plain(&self.registry)
    }

    /// Returns the metrics of checks, in the same format.
    ///
    /// # Errors
    ///
    /// None are known.
    pub fn slis_text(&self) -> Result<String, std::fmt::Error> {
        plain(&self.slis_registry)
    }
}

fn plain(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(exposition::plain(&text))
}

/// The label for an IP family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabel {
    ip_family: &'static str,
}

impl FamilyLabel {
    fn of(family: Family) -> Self {
        Self { ip_family: family_name(family) }
    }
}

/// The label for a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

impl SourceLabel {
    fn of(origin: Origin) -> Self {
        Self { source: source_name(origin) }
    }
}

/// The values of `ip_family`, those of the API's IPFamily.
fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

/// The values of `source`.
fn source_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Kubelet => "kubelet",
        Origin::Podman => "podman",
        Origin::Manifests => "manifests",
        Origin::Api => "api",
        Origin::Kernel => "kernel",
    }
}

/// The values of `severity`.
fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// Raises a counter to a total that is counted elsewhere.
fn catch_up(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// The values of `kind`.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "Service",
        Kind::EndpointSlice => "EndpointSlice",
        Kind::Pod => "Pod",
        Kind::Node => "Node",
        Kind::ServiceCidr => "ServiceCIDR",
        Kind::InterfaceAddresses => "InterfaceAddresses",
    }
}

/// Returns a histogram with buckets of `first` seconds and its doubles.
fn doubling(first: f64, buckets: u16) -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(first, 2.0, buckets))
}

/// Converts a number of things for a gauge.
fn amount(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Converts a number of events for a counter.
fn events(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
