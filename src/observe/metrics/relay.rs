//! Metrics of a relay that this node follows. They exist only with one.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rulec_sources::RelayStatus;

use super::catch_up;
use super::kube_proxy::put;

/// There is one series, or none.
type Optional<M> = Labelled<[(&'static str, &'static str); 0], M>;

/// What is counted of a relay.
#[derive(Debug)]
pub(super) struct RelayMetrics {
    connected: Optional<Gauge>,
    replaced: Optional<Gauge>,
    connections: Optional<Counter>,
    errors: Optional<Counter>,
    received_bytes: Optional<Counter>,
    received_resources: Optional<Counter>,
    refused_resources: Optional<Counter>,
}

impl RelayMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            connected: put(
                to,
                "relay_connected",
                "Whether the relay is followed, and hears its API server",
                Labelled::default(),
            ),
            replaced: put(
                to,
                "relay_replaced",
                "Whether the API server has taken the place of the relay",
                Labelled::default(),
            ),
            connections: put(
                to,
                "relay_connections",
                "Connections that were made to the relay",
                Labelled::default(),
            ),
            errors: put(
                to,
                "relay_errors",
                "Failures to connect to the relay or to follow it",
                Labelled::default(),
            ),
            received_bytes: put(
                to,
                "relay_received_bytes",
                "Bytes of responses of the relay, before TLS",
                Labelled::default(),
            ),
            received_resources: put(
                to,
                "relay_received_resources",
                "Resources that the relay has sent, and has said to be gone",
                Labelled::default(),
            ),
            refused_resources: put(
                to,
                "relay_refused_resources",
                "Resources of the relay that could not be used",
                Labelled::default(),
            ),
        }
    }

    pub(super) fn set(&self, status: &RelayStatus) {
        let gauge = |metric: &Optional<Gauge>, is: bool| {
            metric.get_or_create(&[]).set(i64::from(is));
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
            catch_up(&metric.get_or_create(&[]), total);
        }
    }
}
