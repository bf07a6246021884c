//! The health of this node: what `/healthz`, `/livez` and `/readyz` answer.
//!
//! The rules are kube-proxy's. The proxy is healthy unless the kernel has been behind the sources
//! for too long; with nothing to do it stays healthy. `/healthz` also says whether load balancers
//! may send new connections to this node (KEP-3836): not once it is about to be removed. `/livez`
//! ignores that, since a restart would not help. `/readyz` is rulec's own: whether traffic that
//! needs the rules may start.
//!
//! Pure: the time comes from the caller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::net::Family;
use rulec_compiler::object::Node;
use serde::Serialize;

use crate::observe::http::HttpAnswer;

pub mod check;

/// The taint of a node that the cluster autoscaler is about to remove. Its effect does not matter.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The health of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// How long the kernel may be behind.
    pub staleness: Duration,
    /// Since when the kernel has been behind, if it is.
    pub behind_since: Option<Instant>,
    /// When the kernel last acknowledged something; at first, the start of the daemon.
    pub updated: Timestamp,
    /// Whether this node may get new connections from load balancers.
    pub is_eligible: bool,
    /// The steps that are missing until the first state of all sources is in the kernel.
    pub awaited: Vec<String>,
    /// The sources that are served from the state of an earlier run, and the time of that state.
    /// The node serves by it, so this does not affect health or readiness; it is only reported.
    pub stale: BTreeMap<Origin, Timestamp>,
}

/// Returns whether a node may get new connections. `is_known_elsewhere` says whether a node without
/// an object should have one.
pub fn is_eligible(node: Option<&Node>, is_known_elsewhere: bool) -> bool {
    match node {
        Some(node) => !node.deleting && !node.taints.iter().any(|taint| **taint == *TO_BE_DELETED),
        // With an API server, every node has an object, and a missing one means a removed node.
        // With manifests alone, most nodes have none, and no autoscaler removes them.
        None => !is_known_elsewhere,
    }
}

/// The body of `/healthz` and `/livez`, as kube-proxy's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<Family, Status>,
    /// Not in kube-proxy's body; present only if a source is stale.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stale_since: BTreeMap<Origin, Timestamp>,
}

/// The status of one family in the body.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    last_updated: Timestamp,
    healthy: bool,
}

impl Health {
    /// Creates the health of a daemon that starts now.
    pub fn new(staleness: Duration, wall: Timestamp) -> Self {
        Self {
            staleness,
            behind_since: None,
            updated: wall,
            is_eligible: true,
            awaited: vec!["the start of the daemon".to_owned()],
            stale: BTreeMap::new(),
        }
    }

    /// Returns whether the kernel has kept up with the sources.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.behind_since.is_none_or(|since| now.saturating_duration_since(since) < self.staleness)
    }

    /// Returns the answer of `/healthz`.
    pub fn healthz(&self, now: Instant, wall: Timestamp) -> HttpAnswer {
        let is_well = self.is_healthy(now) && self.is_eligible;
        self.answer(is_well, Some(self.is_eligible), now, wall)
    }

    /// Returns the answer of `/livez`.
    pub fn livez(&self, now: Instant, wall: Timestamp) -> HttpAnswer {
        self.answer(self.is_healthy(now), None, now, wall)
    }

    /// Returns the answer of `/readyz`.
    pub fn readyz(&self) -> HttpAnswer {
        if self.awaited.is_empty() {
            let stale = self.stale.iter();
            let stale = stale.map(|(origin, at)| format!("\nstale: the {origin}, as of {at:.0}"));
            return HttpAnswer::text(StatusCode::OK, format!("ok{}", stale.collect::<String>()));
        }
        let lines: Vec<String> =
            self.awaited.iter().map(|what| format!("waiting for {what}\n")).collect();
        HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, lines.concat())
    }

    fn answer(
        &self,
        is_well: bool,
        node_eligible: Option<bool>,
        now: Instant,
        wall: Timestamp,
    ) -> HttpAnswer {
        let healthy = self.is_healthy(now);
        // One transaction programs both families, so neither is ever ahead of the other.
        let status = Status { last_updated: self.updated, healthy };
        let body = Body {
            // As in kube-proxy, for clients that take an old time for a failure: if all is well,
            // the state is as of now.
            last_updated: if is_well { wall } else { self.updated },
            current_time: wall,
            node_eligible,
            healthy,
            status: Family::ALL.into_iter().map(|family| (family, status)).collect(),
            stale_since: self.stale.clone(),
        };
        let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        HttpAnswer::json(code, &body)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rulec_compiler::name::NodeName;
    use serde_json::{Value, json};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A daemon that has started, and the time since.
    struct Fixture {
        health: Health,
        start: Instant,
        passed: Duration,
    }

    impl Fixture {
        fn new() -> Self {
            let health = Health::new(MINUTE, Timestamp::UNIX_EPOCH);
            Self { health, start: Instant::now(), passed: Duration::ZERO }
        }

        fn now(&self) -> (Instant, Timestamp) {
            let wall = Timestamp::try_from(std::time::UNIX_EPOCH + self.passed).unwrap();
            (self.start + self.passed, wall)
        }

        fn healthz(&self) -> (u16, Value) {
            let (now, wall) = self.now();
            read(&self.health.healthz(now, wall))
        }

        fn livez(&self) -> (u16, Value) {
            let (now, wall) = self.now();
            read(&self.health.livez(now, wall))
        }
    }

    fn read(answer: &HttpAnswer) -> (u16, Value) {
        assert_eq!(answer.content_type, "application/json");
        (answer.code.as_u16(), serde_json::from_slice(&answer.body).unwrap())
    }

    fn node(taints: &[&str], deleting: bool) -> Node {
        Node {
            name: NodeName::from("na"),
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            zone: None,
            taints: taints.iter().map(|taint| Arc::from(*taint)).collect(),
            deleting,
        }
    }

    #[test]
    fn the_bodies_match_those_of_kube_proxy() {
        let mut world = Fixture::new();
        world.passed = Duration::from_millis(3_500);
        let status = json!({"lastUpdated": "1970-01-01T00:00:00Z", "healthy": true});
        let mut body = json!({
            "lastUpdated": "1970-01-01T00:00:03.5Z",
            "currentTime": "1970-01-01T00:00:03.5Z",
            "nodeEligible": true,
            "healthy": true,
            "status": {"IPv4": status, "IPv6": status},
        });
        assert_eq!(world.healthz(), (200, body.clone()));
        body.as_object_mut().unwrap().remove("nodeEligible");
        assert_eq!(world.livez(), (200, body));
    }

    #[test]
    fn an_idle_proxy_stays_healthy() {
        let mut world = Fixture::new();
        world.passed = MINUTE * 60 * 24 * 365;
        assert_eq!(world.healthz().0, 200);
    }

    #[test]
    fn health_fails_once_the_oldest_change_is_a_minute_old() {
        let mut world = Fixture::new();
        world.health.behind_since = Some(world.start);
        world.passed = MINUTE - Duration::from_nanos(1);
        assert_eq!((world.healthz().0, world.livez().0), (200, 200));
        world.passed = MINUTE;
        let (code, body) = world.healthz();
        assert_eq!(
            (code, &body["healthy"], &body["nodeEligible"]),
            (503, &json!(false), &json!(true))
        );
        assert_eq!(body["lastUpdated"], "1970-01-01T00:00:00Z");
        assert_eq!(body["currentTime"], "1970-01-01T00:01:00Z");
        assert_eq!(body["status"]["IPv6"]["healthy"], json!(false));
        assert_eq!(world.livez().0, 503);
        world.health.behind_since = None;
        assert_eq!((world.healthz().0, world.livez().0), (200, 200));
    }

    #[test]
    fn an_ineligible_node_fails_healthz_but_not_livez() {
        let mut world = Fixture::new();
        world.health.is_eligible = false;
        let (code, body) = world.healthz();
        assert_eq!(
            (code, &body["healthy"], &body["nodeEligible"]),
            (503, &json!(true), &json!(false))
        );
        let (code, body) = world.livez();
        assert_eq!((code, body.get("nodeEligible")), (200, None));
    }

    #[test]
    fn eligibility_depends_on_taints_and_deletion() {
        assert!(is_eligible(Some(&node(&[], false)), true));
        assert!(is_eligible(Some(&node(&["node.kubernetes.io/not-ready"], false)), true));
        assert!(!is_eligible(Some(&node(&["a", TO_BE_DELETED], false)), true));
        assert!(!is_eligible(Some(&node(&[], true)), true));
        assert!(!is_eligible(Some(&node(&[], true)), false));
        assert!(!is_eligible(None, true));
        assert!(is_eligible(None, false));
    }

    #[test]
    fn readyz_lists_what_it_waits_for() {
        let mut health = Fixture::new().health;
        health.awaited = vec!["the manifests".to_owned(), "the kernel".to_owned()];
        let answer = health.readyz();
        assert_eq!(answer.code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.body, "waiting for the manifests\nwaiting for the kernel\n");
        health.awaited.clear();
        assert_eq!((health.readyz().code, health.readyz().body), (StatusCode::OK, "ok".into()));
        health.stale.insert(Origin::Api, Timestamp::UNIX_EPOCH);
        let answer = health.readyz();
        assert_eq!(answer.code, StatusCode::OK, "it serves");
        assert_eq!(answer.body, "ok\nstale: the API server, as of 1970-01-01T00:00:00Z");
    }
}
