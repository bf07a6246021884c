//! The connections of Services and endpoints, as they were read last.
//!
//! There may be more of them than a time series database should get from a node. So the number of
//! series is limited, and another metric says how many are left out.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rulec_compiler::nft::traffic::Traffic;

use crate::observe::traffic::{PortTraffic, TrafficReport};

/// The number of series of Service ports, and that of endpoints.
const SERIES: usize = 10_000;

/// The last report, if connections are counted.
#[derive(Clone, Debug, Default)]
pub struct TrafficSeries(Arc<Mutex<Reading>>);

#[derive(Debug, Default)]
struct Reading {
    report: Option<TrafficReport>,
    has_failed: bool,
}

impl TrafficSeries {
    /// Sets the report. Without one, there are no series; the first of several failures is logged.
    pub(super) fn set(&self, report: anyhow::Result<TrafficReport>) {
        let mut held = self.lock();
        let failed_before = std::mem::replace(&mut held.has_failed, report.is_err());
        if let (Err(error), false) = (&report, failed_before) {
            let error = format!("{error:#}");
            tracing::warn!(error, "cannot count connections; metrics lack them");
        }
        held.report = report.ok();
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the labels of a Service port.
fn labels(port: &PortTraffic) -> [(&'static str, &str); 3] {
    let PortTraffic { namespace, service, port, .. } = port;
    [("namespace", namespace), ("service", service), ("port", port)]
}

impl Collector for TrafficSeries {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let held = self.lock();
        let Some(TrafficReport { ports, losses, counted, .. }) = &held.report else {
            return Ok(());
        };
        let of_ports = ports.iter().map(|port| (labels(port), port.connections));
        let help = "New connections to a Service port, also those that policy has dropped";
        let mut left_out = put(&mut to, "rulec_service_connections", help, of_ports)?;
        let of_endpoints = ports.iter().flat_map(|port| {
            let [namespace, service, name] = labels(port);
            port.endpoints.iter().map(move |it| {
                ([namespace, service, name, ("endpoint", &*it.endpoint)], it.connections)
            })
        });
        if *counted == Traffic::Endpoints {
            let help = "New connections to an endpoint of a Service port";
            left_out += put(&mut to, "rulec_endpoint_connections", help, of_endpoints)?;
        }
        let help = "Series of connections that are left out because there are too many";
        let gauge = ConstGauge::new(super::amount(left_out));
        let name = "rulec_traffic_series_left_out";
        gauge.encode(to.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        let help = "Times that counters of connections may have gone unread with their elements";
        let counter = ConstCounter::new(*losses);
        let name = "rulec_traffic_losses";
        counter.encode(to.encode_descriptor(name, help, None, MetricType::Counter)?)
    }
}

/// Encodes counters in their order, as far as the limit allows, and returns how many it does not.
fn put<L: EncodeLabelSet>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    mut series: impl Iterator<Item = (L, u64)>,
) -> Result<usize, fmt::Error> {
    let mut encoder: MetricEncoder<'_> =
        to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (label, connections) in series.by_ref().take(SERIES) {
        ConstCounter::new(connections).encode(encoder.encode_family(&label)?)?;
    }
    Ok(series.count())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::observe::metrics::Metrics;
    use crate::observe::traffic::EndpointTraffic;

    fn port(service: &str, endpoints: usize) -> PortTraffic {
        let endpoint = |n| EndpointTraffic { endpoint: format!("10.0.0.{n}:80"), connections: 1 };
        PortTraffic {
            namespace: "default".to_owned(),
            service: service.to_owned(),
            port: "http".to_owned(),
            connections: 7,
            endpoints: (0..endpoints).map(endpoint).collect(),
        }
    }

    fn text(ports: Vec<PortTraffic>) -> String {
        let metrics = Metrics::default();
        metrics.traffic.set(Ok(TrafficReport {
            api_version: String::new(),
            kind: String::new(),
            time: Timestamp::UNIX_EPOCH,
            node: String::new(),
            counted: Traffic::Endpoints,
            losses: 2,
            ports,
        }));
        metrics.text().unwrap()
    }

    #[test]
    fn ports_and_endpoints_are_counters() {
        let text = text(vec![port("web", 1)]);
        for line in [
            "# TYPE rulec_service_connections_total counter",
            "rulec_service_connections_total{namespace=\"default\",service=\"web\",port=\"http\"} 7",
            "rulec_endpoint_connections_total{namespace=\"default\",service=\"web\",port=\"http\",\
             endpoint=\"10.0.0.0:80\"} 1",
            "rulec_traffic_series_left_out 0",
            "rulec_traffic_losses_total 2",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
    }

    #[test]
    fn there_are_no_more_series_than_the_limit() {
        let text = text(vec![port("web", SERIES + 3)]);
        let endpoints = text.lines().filter(|it| it.starts_with("rulec_endpoint_connections"));
        assert_eq!(endpoints.count(), SERIES);
        assert!(text.contains("rulec_traffic_series_left_out 3\n"));
    }

    #[test]
    fn without_counters_there_are_no_series() {
        assert!(!Metrics::default().text().unwrap().contains("connections_total{"));
    }
}
