//! Rates of new connections, from two readings of their totals.

use std::collections::HashMap;

use jiff::Timestamp;
use rulec_compiler::nft::traffic::Traffic;
use serde::Serialize;

use crate::observe::status::API_VERSION;
use crate::observe::traffic::{EndpointTraffic, PortTraffic, TrafficReport};

/// The new connections of an interval, the busiest Service port first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rates {
    api_version: String,
    kind: String,
    /// The end of the interval.
    pub(super) time: Timestamp,
    /// Its length in seconds.
    pub(super) seconds: f64,
    pub(super) node: String,
    pub(super) counted: Traffic,
    pub(super) services: Vec<PortRate>,
}

/// The new connections to a Service port.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortRate {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    port: String,
    /// In a second; missing if that is not known, because it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<f64>,
    /// In all.
    pub(super) connections: u64,
    /// The busiest first.
    pub(super) endpoints: Vec<EndpointRate>,
}

/// The new connections to an endpoint, likewise.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointRate {
    pub(super) endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<f64>,
    pub(super) connections: u64,
}

impl PortRate {
    /// Returns the name as it is printed everywhere.
    pub(super) fn name(&self) -> String {
        let Self { namespace, name, port, .. } = self;
        let colon = if port.is_empty() { "" } else { ":" };
        format!("{namespace}/{name}{colon}{port}")
    }
}

impl Rates {
    /// Returns the rates between two readings.
    pub(super) fn between(before: &TrafficReport, now: &TrafficReport) -> Self {
        let seconds = now.time.duration_since(before.time).as_secs_f64();
        let key = |it: &PortTraffic| (it.namespace.clone(), it.service.clone(), it.port.clone());
        let mut old: HashMap<_, _> = before.ports.iter().map(|it| (key(it), it)).collect();
        let mut services: Vec<PortRate> =
            now.ports.iter().map(|port| of_port(old.remove(&key(port)), port, seconds)).collect();
        services.sort_by(|a, b| order(a.rate, b.rate).then(b.connections.cmp(&a.connections)));
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "Traffic".to_owned(),
            time: now.time,
            seconds,
            node: now.node.clone(),
            counted: now.counted,
            services,
        }
    }

    /// Returns whether the connections of endpoints are counted.
    pub(super) fn has_endpoints(&self) -> bool {
        self.counted == Traffic::Endpoints
    }

    /// Returns the rate of all Service ports together.
    pub(super) fn total(&self) -> f64 {
        self.services.iter().filter_map(|port| port.rate).sum()
    }
}

fn of_port(old: Option<&PortTraffic>, new: &PortTraffic, seconds: f64) -> PortRate {
    let PortTraffic { namespace, service, port, connections, endpoints } = new;
    let before: HashMap<&str, u64> = old
        .into_iter()
        .flat_map(|port| &port.endpoints)
        .map(|it| (&*it.endpoint, it.connections))
        .collect();
    let of = |EndpointTraffic { endpoint, connections }: &EndpointTraffic| EndpointRate {
        endpoint: endpoint.clone(),
        rate: rate(before.get(&**endpoint).copied(), *connections, seconds),
        connections: *connections,
    };
    let mut endpoints: Vec<EndpointRate> = endpoints.iter().map(of).collect();
    endpoints.sort_by(|a, b| order(a.rate, b.rate).then(b.connections.cmp(&a.connections)));
    PortRate {
        namespace: namespace.clone(),
        name: service.clone(),
        port: port.clone(),
        rate: rate(old.map(|it| it.connections), *connections, seconds),
        connections: *connections,
        endpoints,
    }
}

/// Returns a rate; `None` if it is not known: there was no total before, or one of another daemon.
fn rate(before: Option<u64>, now: u64, seconds: f64) -> Option<f64> {
    let more = now.checked_sub(before?)?;
    // No node makes 2^32 connections in an interval.
    (seconds > 0.0).then(|| f64::from(u32::try_from(more).unwrap_or(u32::MAX)) / seconds)
}

fn order(a: Option<f64>, b: Option<f64>) -> std::cmp::Ordering {
    b.unwrap_or(0.0).total_cmp(&a.unwrap_or(0.0))
}

/// Returns a rate as it is printed.
pub(super) fn shown(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate >= 100.0 => format!("{rate:.0}"),
        Some(rate) => format!("{rate:.1}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report of Service ports, each with the totals of its endpoints.
    pub(in super::super) fn report(
        seconds: i64,
        ports: &[(&str, &[(&str, u64)])],
    ) -> TrafficReport {
        let port = |(name, endpoints): &(&str, &[(&str, u64)])| PortTraffic {
            namespace: "default".to_owned(),
            service: (*name).to_owned(),
            port: "http".to_owned(),
            connections: endpoints.iter().map(|(_, n)| n).sum(),
            endpoints: endpoints
                .iter()
                .map(|(endpoint, connections)| EndpointTraffic {
                    endpoint: (*endpoint).to_owned(),
                    connections: *connections,
                })
                .collect(),
        };
        TrafficReport {
            api_version: API_VERSION.to_owned(),
            kind: "TrafficReport".to_owned(),
            time: Timestamp::from_second(seconds).unwrap(),
            node: "na".to_owned(),
            counted: Traffic::Endpoints,
            losses: 0,
            ports: ports.iter().map(port).collect(),
        }
    }

    #[test]
    fn the_busiest_comes_first_and_what_is_new_or_went_back_has_no_rate() {
        let before =
            report(0, &[("a", &[("x", 10), ("y", 10)]), ("b", &[("z", 5)]), ("c", &[("w", 9)])]);
        let now = report(
            2,
            &[
                ("a", &[("x", 11), ("y", 15)]),
                ("b", &[("z", 25)]),
                ("c", &[("w", 3)]),
                ("d", &[("v", 1)]),
            ],
        );
        let rates = Rates::between(&before, &now);
        let found: Vec<(String, String)> =
            rates.services.iter().map(|it| (it.name(), shown(it.rate))).collect();
        let expected = [("b", "10.0"), ("a", "3.0"), ("c", "-"), ("d", "-")];
        let expected =
            expected.map(|(name, rate)| (format!("default/{name}:http"), rate.to_owned()));
        assert_eq!(found, expected);
        let busiest: Vec<&str> =
            rates.services[1].endpoints.iter().map(|it| &*it.endpoint).collect();
        assert_eq!(busiest, ["y", "x"]);
        assert_eq!(shown(Some(rates.total())), "13.0");
    }
}
