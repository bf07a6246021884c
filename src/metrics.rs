//! What is counted, for Prometheus: kube-proxy's metrics under kube-proxy's names, so that its
//! dashboards and alerts go on working, and our own under `rulec_`.
//!
//! What happens is counted as it happens. What there is, is looked up when somebody asks (`scrape`).

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
pub mod scrape;
pub mod slis;

pub use kube_proxy::KubeProxy;
pub use own::Own;
pub use slis::Slis;

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    /// kube-proxy's.
    pub kube_proxy: KubeProxy,
    /// Ours.
    pub own: Own,
    /// Those of `/metrics/slis`, and of nowhere else.
    pub slis: Slis,
    registry: Registry,
    slis_registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        let kube_proxy = KubeProxy::register(registry.sub_registry_with_prefix("kubeproxy"));
        let own = Own::register(registry.sub_registry_with_prefix("rulec"));
        let mut slis_registry = Registry::default();
        let slis = Slis::register(slis_registry.sub_registry_with_prefix("kubernetes"));
        Self { kube_proxy, own, slis, registry, slis_registry }
    }
}

impl Metrics {
    /// All metrics but those of checks, in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    ///
    /// None that is known of.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        plain(&self.registry)
    }

    /// The metrics of checks, in the same format.
    ///
    /// # Errors
    ///
    /// None that is known of.
    pub fn slis_text(&self) -> Result<String, std::fmt::Error> {
        plain(&self.slis_registry)
    }
}

fn plain(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(exposition::plain(&text))
}

/// The family that something concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabel {
    ip_family: &'static str,
}

impl FamilyLabel {
    fn of(family: Family) -> Self {
        Self { ip_family: family_name(family) }
    }
}

/// The source that something came from.
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

/// Brings a counter up to a total that somebody else counts.
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

/// A histogram with buckets of `first` seconds and its doubles.
fn doubling(first: f64, buckets: u16) -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(first, 2.0, buckets))
}

/// A number of things, as a gauge takes it.
fn amount(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A number of events, as a counter takes it.
fn events(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
