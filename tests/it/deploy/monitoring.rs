//! The dashboard and the alerts: they use existing metrics by their correct names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{list, read, string, yaml};
use crate::health::{EXPORTED, OF_TRAFFIC};

const DASHBOARD: &str = "deploy/monitoring/dashboard.json";
const ALERTS: &str = "deploy/monitoring/alerts.yaml";

/// Metrics of a relay that are used here. `relay::a_relay_that_is_cut_off_tells_its_nodes` reads them.
const OF_A_RELAY_ITSELF: [(&str, &str); 1] = [("rulec_relay_upstream_cut_off", "gauge")];

/// Returns the names of metrics in an expression, each with the text before it.
fn metrics(expression: &str) -> Vec<(&str, &str)> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
    let mut found = Vec::new();
    let mut at = 0;
    for word in expression.split(|letter| !is_word(letter)) {
        if ["rulec_", "kubeproxy_", "process_"].iter().any(|prefix| word.starts_with(prefix)) {
            found.push((&expression[..at], word));
        }
        at += word.len();
        at += expression[at..].chars().next().map_or(0, char::len_utf8);
    }
    found
}

/// Returns all expressions of alerts and panels.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let alerts = yaml(ALERTS).remove(0);
    let mut found: Vec<String> = list(&alerts, "/groups")
        .iter()
        .flat_map(|group| list(group, "/rules"))
        .map(|rule| string(rule, "/expr").to_owned())
        .collect();
    for panel in list(&dashboard, "/panels") {
        let targets = panel["targets"].as_array().into_iter().flatten();
        found.extend(targets.map(|target| string(target, "/expr").to_owned()));
    }
    found
}

#[test]
fn expressions_use_existing_metrics_according_to_their_type() {
    let types: BTreeMap<_, _> =
        EXPORTED.into_iter().chain(OF_TRAFFIC).chain(OF_A_RELAY_ITSELF).collect();
    for expression in expressions() {
        let mentioned = metrics(&expression);
        assert!(!mentioned.is_empty(), "{expression}");
        for (before, name) in mentioned {
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            let kind = types.get(base).unwrap_or_else(|| panic!("{base} in {expression}"));
            let is_rate = before.ends_with("rate(") || before.ends_with("increase(");
            let (bucket, rate) = (base != name, is_rate);
            let expected = match *kind {
                "counter" => (false, true),
                "histogram" => (true, true),
                _ => (false, false),
            };
            assert_eq!((bucket, rate), expected, "{kind} {name} in {expression}");
        }
    }
}

#[test]
fn every_alert_has_a_severity_and_a_description() {
    let alerts = yaml(ALERTS).remove(0);
    let mut names = BTreeSet::new();
    for rule in list(&alerts, "/groups").iter().flat_map(|group| list(group, "/rules")) {
        let name = string(rule, "/alert");
        assert!(names.insert(name.to_owned()), "{name} stands there twice");
        let severity = string(rule, "/labels/severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        for text in ["/annotations/summary", "/annotations/description"] {
            assert!(!string(rule, text).is_empty(), "{name}");
        }
    }
}

#[test]
fn the_panels_of_the_dashboard_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let variables: Vec<&str> = list(&dashboard, "/templating/list")
        .iter()
        .map(|variable| string(variable, "/name"))
        .collect();
    assert_eq!(variables, ["datasource", "instance"]);
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in list(&dashboard, "/panels") {
        let title = string(panel, "/title");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is another's");
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24, "{title} is outside of Grafana's grid");
        let cells = (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column)));
        assert!(cells.into_iter().all(|cell| taken.insert(cell)), "{title} covers another");
        if panel["type"] != "row" {
            assert!(!string(panel, "/description").is_empty(), "{title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}
