//! What the page shows, that nothing in it becomes markup, and that it ends somewhere.

use std::num::NonZeroU16;
use std::time::Duration;

use jiff::Timestamp;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::ServiceType;
use rulec_compiler::{Frontend, Origin};

use super::super::frontend::{From, FrontendView, Outcome, PathView};
use super::super::node::Programmed;
use super::super::port::{EndpointView, PortView, Reason};
use super::super::service::ServiceView;
use super::list::{LISTED, Level};
use super::parts::LINES;
use super::*;
use crate::observe::metrics::Metrics;
use crate::observe::status::{LastError, RefusedService};
use crate::observe::traffic::course::{Busiest, MINUTE, MINUTES, Minute};

/// Makes each text of a page: as the test wants it.
type Text<'a> = &'a mut dyn FnMut(&'static str) -> String;

fn frontend(text: Text<'_>) -> FrontendView {
    let port = NonZeroU16::new(30080).unwrap();
    let paths = vec![PathView { clients: From::All, outcome: Outcome::Backend, backends: vec![] }];
    FrontendView {
        frontend: Frontend::NodePort { family: Family::Ipv4, protocol: Protocol::Tcp, port },
        affinity: None,
        load_balancing: None,
        name: text("frontend"),
        field: None,
        policy: None,
        taken_by: None,
        paths,
    }
}

fn endpoint(used: bool, text: Text<'_>) -> EndpointView {
    let reason = Reason { policy: None, reason: text("reason") };
    EndpointView {
        endpoint: text("endpoint"),
        object: Some(text("object")),
        node: Some(text("endpoint's node")),
        used,
        unused: if used { vec![] } else { vec![reason] },
        ..EndpointView::default()
    }
}

fn service(text: Text<'_>) -> ServiceView {
    let key = NamespacedName::new("default", "web");
    let port = PortView {
        key: PortKey { service: key.clone(), port: "http".into() },
        name: text("port"),
        protocol: Some(Protocol::Tcp),
        port: NonZeroU16::new(80),
        node_port: None,
        family: Family::Ipv4,
        frontends: vec![frontend(text)],
        endpoints: vec![endpoint(true, text)],
    };
    ServiceView {
        key,
        namespace: text("namespace"),
        name: text("name"),
        kind: Some(ServiceType::ClusterIP),
        source: Some(Origin::Manifests),
        from: Some(text("from")),
        cluster_ips: vec![[10, 96, 0, 1].into()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        internal_traffic_policy: None,
        external_traffic_policy: None,
        session_affinity_seconds: None,
        load_balancing: Some(text("load balancing")),
        source_ranges: vec![],
        connections: None,
        refused: None,
        notes: vec![],
        ports: vec![port],
    }
}

/// What a change says.
const COLUMNS: [&str; 6] = ["change", "time", "took", "operations", "what", "why"];

/// A page with everything that it can have.
fn page(text: Text<'_>) -> Page {
    let mut status = Status::for_test();
    let time: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
    (status.time, status.started, status.process) = (time, time, 1);
    status.node = text("node");
    status.version = text("version");
    status.mode = text("mode");
    status.healthy = false;
    status.problems = vec![text("problem")];
    status.node_findings = vec![text("finding")];
    let error = |message: String| Some(LastError { time, message, lasts: false });
    status.kernel.last_error = error(text("kernel's error"));
    for source in &mut status.sources {
        (source.since, source.last_heard) = (Some(time), Some(time));
        source.problems = vec![text("source's problem")];
        source.last_error = error(text("source's error"));
    }
    let mut spoilt = service(text);
    spoilt.refused =
        Some(RefusedService { service: String::new(), error: text("refusal"), attempts: 2 });
    spoilt.notes = vec![text("note")];
    spoilt.ports[0].endpoints.push(endpoint(false, text));
    let mut taken = frontend(text);
    taken.taken_by = Some(text("taker"));
    spoilt.ports[0].frontends.push(taken);
    let programmed = Programmed {
        mode: "nftables",
        interface_addresses: vec![],
        node_port_addresses: vec![text("node port addresses")],
        node_ports_at: vec![],
        detect_local: text("detect local"),
        masquerade_all: false,
        load_balancing: "random",
        notes: vec![text("node's note")],
    };
    let node = NodeView {
        name: text("node's name"),
        is_this: true,
        source: Some(Origin::Manifests),
        from: Some(text("node's from")),
        addresses: vec![],
        zone: Some(text("zone")),
        pod_cidrs: vec![],
        taints: vec![text("taint")],
        deleting: true,
        programmed: Some(programmed),
    };
    let metrics = Metrics::default();
    metrics.own.acknowledged(Duration::from_micros(700), 3);
    metrics.own.acknowledged(Duration::from_millis(3), 1);
    let metrics = metrics.text().unwrap();
    Page {
        status,
        is_acknowledged: false,
        node: Ok(node),
        list: List::ordered(vec![service(text), spoilt], 2),
        changes: vec![COLUMNS.map(&mut *text)],
        durations: HISTOGRAMS.map(|(name, label, ..)| Durations::read(&metrics, name, label)),
        traffic: Some(Ok(traffic(text))),
    }
}

/// Three minutes, and a busy Service beside others.
fn traffic(text: Text<'_>) -> Traffic {
    let minute = |n: i64, rate| {
        let to = Timestamp::from_second(1_796_040_000 + 60 * n).unwrap();
        Minute { to, passed: MINUTE, rate }
    };
    let busy = NamespacedName::new("default", &*text("busy"));
    let idle = NamespacedName::new("default", "idle");
    Traffic {
        minutes: vec![minute(0, 0.0), minute(1, 1234.5), minute(2, 17.25)],
        busiest: Busiest { seconds: 59.6, services: vec![(busy, 123.4), (idle, 0.25)] },
    }
}

/// Returns the text of a document, if each element ends where it should, and only elements and
/// attributes occur that the page needs.
fn checked(document: &str) -> String {
    let mut open: Vec<&str> = Vec::new();
    let mut found = String::new();
    let mut rest = document.strip_prefix("<!DOCTYPE html>").expect("a document of HTML");
    while let Some((text, tag)) = rest.split_once('<') {
        found.push_str(text.trim_end());
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{name} ends where it began");
            if ["p", "tr", "summary", "div", "h2", "h3", "figcaption", "svg"].contains(&name) {
                found.push('\n');
            } else if name == "style" {
                assert_eq!(text, STYLE);
                found.truncate(found.len() - STYLE.trim_end().len());
            } else {
                found.push(' ');
            }
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.bytes().all(|it| it.is_ascii_alphanumeric()), "{name:?} is an element");
        assert!(!["script", "img", "link", "iframe", "object", "base"].contains(&name), "{name}");
        let mut values = attributes.split('"');
        while let Some(attribute) = values.next().filter(|it| !it.is_empty()) {
            let attribute = attribute.trim().strip_suffix('=').expect("a value has quotes");
            let is_plain = |it: u8| it.is_ascii_alphanumeric() || it == b'-';
            assert!(attribute.bytes().all(is_plain), "{attribute:?} is an attribute");
            assert!(!attribute.starts_with("on") && attribute != "src", "{attribute}");
            let value = values.next().expect("a value");
            assert!(attribute != "href" || value == crate::observe::page::PAGE, "{value}");
        }
        if !is_empty {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0], "all elements end");
    let lines = found.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// The texts of the page, without its markup.
#[test]
fn the_page_shows_what_is_known() {
    let page = page(&mut |name| format!("({name})"));
    insta::assert_snapshot!(checked(&page.document(&Wanted::default())));
}

#[test]
fn nothing_that_comes_from_objects_becomes_markup() {
    let mut names = Vec::new();
    let hostile = |name: &str| format!("\"'/><script>{name}</script><p onclick=\"&\u{202e}");
    let page = page(&mut |name| {
        names.push(name);
        hostile(name)
    });
    let wanted = Wanted { name: hostile("wanted"), namespace: hostile("wanted namespace") };
    let document = page.document(&wanted);
    checked(&document);
    assert!(!document.contains("<script") && !document.contains('\u{202e}'));
    names.extend(["wanted", "wanted namespace"]);
    assert!(names.len() > 30, "all texts are hostile: {}", names.len());
    for name in names.iter().filter(|name| **name != "reason") {
        let name = name.replace('\'', "&#39;");
        let escaped = format!("&quot;&#39;/&gt;&lt;script&gt;{name}&lt;/script&gt;&lt;p onclick=");
        assert!(document.contains(&escaped), "{name} is not shown");
    }
    let reason = "no: &quot;&#39;/&gt;&lt;script&gt;reason&lt;/script&gt;";
    assert!(document.contains(reason), "the reason of the endpoint that is not used");
}

#[test]
fn services_with_something_wrong_come_first_and_the_rest_is_counted() {
    let mut text = |name: &'static str| name.to_owned();
    let many = LISTED + 50;
    let services = (0..many).map(|n| {
        let mut service = service(&mut text);
        service.key = NamespacedName::new("default", format!("web-{n:04}").as_str());
        service.name = service.key.name.to_string();
        match n {
            240 => service.ports[0].endpoints[0].used = false,
            241 => service.notes = vec!["odd".to_owned()],
            242 => service.ports[0].frontends[0].taken_by = Some("other".to_owned()),
            0 => service.ports.clear(),
            _ => {}
        }
        service
    });
    let list = List::ordered(services.collect(), many);
    let first: Vec<(Level, &str)> =
        list.services.iter().map(|(level, it)| (*level, &*it.name)).take(4).collect();
    assert_eq!(
        first,
        [
            (Level::Bad, "web-0240"),
            (Level::Bad, "web-0242"),
            (Level::Odd, "web-0241"),
            (Level::Good, "web-0001")
        ]
    );
    assert_eq!((list.services.len(), list.matching), (LISTED, many));
    assert_eq!(list.levels, [2, 1, many - 4, 1]);
    let text = checked(&Page { list, ..page(&mut text) }.document(&Wanted::default()));
    assert!(text.contains("250 Services: 2 fail, 1 to look at, 246 work, 1 not served"), "{text}");
    assert!(text.contains("50 Services more: only 200 are listed"), "{text}");
}

#[test]
fn of_many_endpoints_those_that_are_not_used_come_first() {
    let mut text = |name: &'static str| name.to_owned();
    let mut service = service(&mut text);
    let used = endpoint(true, &mut text);
    service.ports[0].endpoints = vec![used; LINES + 30];
    service.ports[0].endpoints.push(endpoint(false, &mut |name| format!("last {name}")));
    let list = List::ordered(vec![service], 1);
    let text = checked(&Page { list, ..page(&mut text) }.document(&Wanted::default()));
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what}: {text}"));
    assert!(at("last endpoint no: last reason") < at("endpoint yes"));
    assert!(text.contains("and 31 more"), "{text}");
}

/// Returns the text of the plots of connections.
fn plots(of: Option<Result<Traffic, String>>) -> String {
    let page = Page { traffic: of, ..page(&mut |name| name.to_owned()) };
    let text = checked(&page.document(&Wanted::default()));
    let after = text.split_once("New connections").map_or("", |(_, after)| after);
    after.split_once("2 Services").map_or("", |(plots, _)| plots).trim().to_owned()
}

#[test]
fn connections_that_are_not_counted_have_no_plots() {
    assert_eq!(plots(None), "");
    let failed = plots(Some(Err("no buffer".to_owned())));
    assert!(failed.starts_with("cannot be read: no buffer\nServices"), "{failed}");
    let none = Traffic { minutes: vec![], busiest: Busiest::default() };
    let none = plots(Some(Ok(none)));
    assert!(none.contains("nothing yet: the first minute is not over"), "{none}");
    assert!(none.contains("none had a new connection"), "{none}");
}

/// Each bar is a minute, also if an interval is longer or a little shorter.
#[test]
fn the_bars_of_connections_are_minutes() {
    let mut minutes = Vec::new();
    let mut to = 1_796_040_000;
    for (seconds, rate) in [(60_i64, 1.0), (58, 2.0), (180, 3.0), (61, 4.0), (121, 5.0)] {
        to += seconds;
        let passed = Duration::from_secs(seconds.unsigned_abs());
        minutes.push(Minute { to: Timestamp::from_second(to).unwrap(), passed, rate });
    }
    let busiest = Busiest::default();
    let text = plots(Some(Ok(Traffic { minutes, busiest })));
    let titles = text.split("until ").skip(1).filter_map(|it| it.split_once(" a second"));
    let rates: Vec<&str> = titles.filter_map(|(it, _)| it.rsplit(' ').next()).collect();
    assert_eq!(rates, ["1.0", "2.0", "3.0", "3.0", "3.0", "4.0", "5.0", "5.0"], "{text}");
    assert!(text.contains("5.0 a second in the last 2 minutes · 5.0 at the most"), "{text}");
}

#[test]
fn the_plots_of_connections_end_somewhere() {
    let to = |n: usize| Timestamp::from_second(60 * n as i64).unwrap();
    let minutes = (0..MINUTES).map(|n| Minute { to: to(n), passed: MINUTE, rate: n as f64 });
    let name = |n: u32| format!("{}-{n:02}", "long".repeat(15));
    let services = (0..30).map(|n| (NamespacedName::new("default", &*name(n)), 30.0));
    let busiest = Busiest { seconds: 60.0, services: services.collect() };
    let text = plots(Some(Ok(Traffic { minutes: minutes.collect(), busiest })));
    assert!(text.contains("59.0 a second in the last minute · 59.0 at the most"), "{text}");
    assert!(text.contains("8 of 30 Services with new connections"), "{text}");
    assert!(text.contains("-53 min") && text.contains("-5 min"), "{text}");
    let drawn = text.matches("…").count();
    assert_eq!(drawn, 8, "their ends, which differ: {text}");
    assert!(text.contains(&format!("default/{}: 30.0 a second", name(7))), "in a title: {text}");
    assert!(!text.contains(&name(8)), "{text}");
}
