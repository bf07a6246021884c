//! Metrics of a relay that this node follows. They exist only with one.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rulec_sources::RelayStatus;

use super::catch_up;
use super::kube_proxy::put;

/// By address of the relay: there is one series, or none.
type ByUrl<M> = Labelled<[(&'static str, String); 1], M>;

/// What is counted of a relay.
#[derive(Debug)]
pub(super) struct RelayMetrics {
    connected: ByUrl<Gauge>,
    replaced: ByUrl<Gauge>,
    connections: ByUrl<Counter>,
    errors: ByUrl<Counter>,
    received_bytes: ByUrl<Counter>,
    received_resources: ByUrl<Counter>,
    refused_resources: ByUrl<Counter>,
}

impl RelayMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            connected: put(
                to,
                "relay_source_connected",
                "Whether the relay is followed, and hears its API server",
                Labelled::default(),
            ),
            replaced: put(
                to,
                "relay_source_replaced",
                "Whether the API server has taken the place of the relay",
                Labelled::default(),
            ),
            connections: put(
                to,
                "relay_source_connections",
                "Connections that were made to the relay",
                Labelled::default(),
            ),
            errors: put(
                to,
                "relay_source_errors",
                "Failures to connect to the relay or to follow it",
                Labelled::default(),
            ),
            received_bytes: put(
                to,
                "relay_source_received_bytes",
                "Bytes of responses of the relay, before TLS",
                Labelled::default(),
            ),
            received_resources: put(
                to,
                "relay_source_received_resources",
                "Resources that the relay has sent, and has said to be gone",
                Labelled::default(),
            ),
            refused_resources: put(
                to,
                "relay_source_refused_resources",
                "Resources of the relay that could not be used",
                Labelled::default(),
            ),
        }
    }

    pub(super) fn set(&self, status: &RelayStatus) {
        let label = [("relay", status.url().to_owned())];
        let gauge = |metric: &ByUrl<Gauge>, is: bool| {
            metric.get_or_create(&label).set(i64::from(is));
        };
        gauge(&self.connected, status.is_connected());
        gauge(&self.replaced, status.is_replaced());
        for (metric, total) in [
            (&self.connections, status.connections()),
            (&self.errors, status.errors()),
            (&self.received_bytes, status.received()),
            (&self.received_resources, status.resources()),
            (&self.refused_resources, status.refused()),
        ] {
            catch_up(&metric.get_or_create(&label), total);
        }
    }
}
