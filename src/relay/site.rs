//! `/metrics`, `/readyz` and `/livez` of a relay.

use std::sync::Arc;

use hyper::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use rulec_relay::Topic;
use rulec_relay_server::{Relay, Tokens};

use super::upstream::Held;
use crate::observe::http::{HttpAnswer, Site};

/// Whether nodes are served: what the probes of a kubelet ask for.
#[derive(Clone, Debug)]
pub(super) struct HealthSite(pub(super) Arc<Held>);

impl Site for HealthSite {
    async fn answer(&self, path: &str, _: &str) -> HttpAnswer {
        match path {
            // A relay that knows nothing yet must get no nodes, but a restart would not help it.
            "/healthz" | "/readyz" if !self.0.is_complete() => {
                let message = "the sources have not delivered\n";
                HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, message)
            }
            "/healthz" | "/readyz" | "/livez" => HttpAnswer::text(StatusCode::OK, "ok\n"),
            _ => HttpAnswer::not_found(),
        }
    }
}

/// The numbers, and the same as at a [`HealthSite`]. They name nodes.
#[derive(Clone, Debug)]
pub(super) struct RelaySite {
    health: HealthSite,
    registry: Arc<Registry>,
}

impl RelaySite {
    pub(super) fn new(relay: Relay, held: Arc<Held>, tokens: Option<Arc<Tokens>>) -> Self {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("rulec_relay");
        own.register_collector(Box::new(Numbers { relay, held: held.clone(), tokens }));
        Self { health: HealthSite(held), registry: Arc::new(registry) }
    }
}

impl Site for RelaySite {
    async fn answer(&self, path: &str, query: &str) -> HttpAnswer {
        match path {
            "/metrics" => {
                let mut text = String::new();
                match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
                    Ok(()) => HttpAnswer {
                        content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                        ..HttpAnswer::text(StatusCode::OK, text)
                    },
                    Err(error) => {
                        HttpAnswer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                    }
                }
            }
            _ => self.health.answer(path, query).await,
        }
    }
}

/// The numbers, looked up on each scrape.
#[derive(Debug)]
struct Numbers {
    relay: Relay,
    held: Arc<Held>,
    tokens: Option<Arc<Tokens>>,
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.relay.stats();
        let counters = [
            ("streams", "How often a node has begun to follow", stats.streams()),
            ("resources", "Resources sent, and resources said to be gone", stats.resources()),
            ("sent_bytes", "Bytes of responses, before TLS", stats.bytes()),
            ("batches", "Batches of changes sent to nodes", stats.batches()),
            ("refusals", "Times that a node has refused something", stats.rejections()),
            ("turned_away", "Connections that did not prove to be a node's", stats.turned_away()),
            (
                "crowded_out",
                "Connections closed because there were too many, or too many strangers'",
                stats.crowded_out(),
            ),
            ("replaced", "Streams ended by a newer one of the same node", stats.replaced()),
            ("overdue", "Streams whose node did not read or answer in time", stats.overdue()),
            ("publications", "States that nodes were to be sent", self.held.publications()),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        let refusals = stats.refusals();
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let gauges = [
            ("connections", "Connections that there are", self.relay.connections() as u64),
            ("nodes", "Nodes that follow now", stats.nodes()),
            ("nodes_refusing", "Nodes that do not use something now", refusals.len() as u64),
            (
                "upstream_cut_off",
                "Whether nothing is heard from the API server",
                self.held.is_cut_off().into(),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = gauge(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        if let Some(tokens) = &self.tokens {
            let reviews = Family::<[(&str, &str); 1], Counter>::default();
            for (outcome, count) in [
                ("accepted", tokens.accepted()),
                ("refused", tokens.refused()),
                ("unavailable", tokens.unavailable()),
            ] {
                reviews.get_or_create(&[("outcome", outcome)]).inc_by(count);
            }
            let help = "Reviews of tokens that the API server was asked for";
            reviews.encode(encoder.encode_descriptor(
                "token_reviews",
                help,
                None,
                reviews.metric_type(),
            )?)?;
        }
        let objects = Family::<[(&str, String); 1], Gauge>::default();
        for topic in Topic::ALL {
            let count = i64::try_from(self.held.count(topic)).unwrap_or(i64::MAX);
            objects.get_or_create(&[("kind", topic.to_string())]).set(count);
        }
        let help = "Objects that nodes are served with";
        objects.encode(encoder.encode_descriptor(
            "objects",
            help,
            None,
            objects.metric_type(),
        )?)?;
        let refusing = Family::<[(&str, String); 1], Gauge>::default();
        for (node, subjects) in &refusals {
            let count = i64::try_from(subjects.len()).unwrap_or(i64::MAX);
            refusing.get_or_create(&[("node", node.to_string())]).set(count);
        }
        let help = "What a node does not use now: types of resources, and its kernel";
        refusing.encode(encoder.encode_descriptor(
            "refusing",
            help,
            None,
            refusing.metric_type(),
        )?)
    }
}
