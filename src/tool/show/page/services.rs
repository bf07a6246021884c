//! The Services of the page: one line each, which opens to its frontends, its endpoints and why some
//! of them are not used.

use rulec_compiler::plural::counted;

use super::super::port::{EndpointView, PortView};
use super::super::service::ServiceView;
use super::super::table::joined;
use super::super::text::{fate, policy, ports, reasons, used_all_the_same};
use super::html::Html;
use super::list::{LISTED, Level, List};
use super::parts::{facts, paragraphs, table};
use crate::observe::page::{PAGE, Wanted};

/// How many Services with something wrong are open at first.
const OPEN: usize = 10;

/// Adds the section.
pub(super) fn services(html: &mut Html, list: &List, wanted: &Wanted) {
    html.element("section", &[("id", &"services")], |html| {
        html.leaf("h2", &[], "Services");
        form(html, wanted);
        html.element("p", &[("class", &"note")], |html| html.text(summary(list, wanted)));
        let is_only = list.services.len() == 1;
        for (n, (level, service)) in list.services.iter().enumerate() {
            let is_open = is_only || (*level == Level::Bad && n < OPEN);
            one(html, *level, service, is_open);
        }
        let left_out = list.matching - list.services.len();
        if left_out > 0 {
            let what = counted(left_out as u64, "Service");
            let text = format!(
                "{what} more: only {LISTED} are listed, those with something wrong first. Search \
                 for the others."
            );
            html.leaf("p", &[("class", &"more")], text);
        }
    });
}

fn summary(list: &List, wanted: &Wanted) -> String {
    let of_all = if *wanted == Wanted::default() {
        counted(list.all as u64, "Service")
    } else {
        format!("{} of {}", list.matching, counted(list.all as u64, "Service"))
    };
    let levels = Level::ALL.into_iter().zip(list.levels);
    let levels = levels.filter(|(_, count)| *count > 0);
    let words: Vec<String> =
        levels.map(|(level, count)| format!("{count} {}", level.words())).collect();
    if words.is_empty() { of_all } else { format!("{of_all}: {}", words.join(", ")) }
}

fn form(html: &mut Html, wanted: &Wanted) {
    html.element("form", &[("method", &"get"), ("action", &PAGE)], |html| {
        let Wanted { name, namespace } = wanted;
        for (name, value, label) in
            [("q", name, "Name, address or :port"), ("namespace", namespace, "Namespace")]
        {
            html.empty(
                "input",
                &[
                    ("type", &"search"),
                    ("name", &name),
                    ("value", value),
                    ("placeholder", &label),
                    ("aria-label", &label),
                ],
            );
        }
        html.leaf("button", &[], "Search");
        if *wanted != Wanted::default() {
            html.leaf("a", &[("href", &PAGE)], "All");
        }
    });
}

fn one(html: &mut Html, level: Level, service: &ServiceView, is_open: bool) {
    let class = format!("service {}", level.class());
    let attributes: [(&'static str, &dyn std::fmt::Display); 2] =
        [("class", &class), ("open", &"open")];
    html.element("details", &attributes[..if is_open { 2 } else { 1 }], |html| {
        html.element("summary", &[], |html| {
            html.leaf("b", &[], format_args!("{}/{}", service.namespace, service.name));
            let kind = service.kind.map_or(String::new(), |kind| format!("{kind:?}"));
            html.leaf("span", &[("class", &"kind")], kind);
            let at = [joined(&service.cluster_ips).replace(',', ", "), ports(service)];
            let at: Vec<String> = at.into_iter().filter(|it| !it.is_empty()).collect();
            html.leaf("span", &[("class", &"at")], at.join(" · "));
            html.leaf("span", &[("class", &"used")], used(service));
        });
        html.element("div", &[("class", &"inside")], |html| {
            if let Some(refused) = &service.refused {
                let times = counted(u64::from(refused.attempts), "time");
                let text = format!("The kernel has refused it {times}: {}", refused.error);
                html.leaf("p", &[("class", &"wrong")], text);
            }
            paragraphs(html, "remark", &service.notes);
            about(html, service);
            service.ports.iter().for_each(|it| port(html, it));
        });
    });
}

fn used(service: &ServiceView) -> String {
    let (used, all) = service.endpoints();
    match (&service.refused, service.kind) {
        (Some(_), _) => "refused".to_owned(),
        // The kernel does not know of those that are not used.
        (None, None) => counted(used as u64, "endpoint"),
        (None, Some(_)) if service.ports.is_empty() => "not served".to_owned(),
        (None, Some(_)) if all == 0 => "no endpoints".to_owned(),
        (None, Some(_)) => format!("{used} of {}", counted(all as u64, "endpoint")),
    }
}

fn about(html: &mut Html, service: &ServiceView) {
    let from = service.from.as_deref().unwrap_or_default();
    let source = service.source.map_or(String::new(), |source| format!("{source}, {from}"));
    let affinity = service.session_affinity_seconds.map(|it| format!("ClientIP, {it} s"));
    facts(
        html,
        &[
            ("Source", source),
            ("External IPs", joined(&service.external_ips)),
            ("Load balancer", joined(&service.load_balancer_ips)),
            ("Internal policy", policy(service.internal_traffic_policy)),
            ("External policy", policy(service.external_traffic_policy)),
            ("Session affinity", affinity.unwrap_or_default()),
            ("Load balancing", service.load_balancing.clone().unwrap_or_default()),
            ("Source ranges", joined(&service.source_ranges)),
        ],
    );
}

fn port(html: &mut Html, port: &PortView) {
    let name = if port.name.is_empty() { String::new() } else { format!(" {}", port.name) };
    let number = port.port.map(|port| format!(" {port}")).unwrap_or_default();
    let protocol = port.protocol.map(|it| format!("/{it}")).unwrap_or_default();
    html.leaf("h3", &[], format_args!("Port{name}{number}{protocol} ({})", port.family));
    let frontends = port.frontends.iter().map(|frontend| {
        let is_served = frontend.taken_by.is_none() && !frontend.paths.is_empty();
        let class = if is_served { "good" } else { "bad" };
        (class, [frontend.name.clone(), policy(frontend.policy), fate(frontend)])
    });
    table(html, ["Frontend", "Policy", "Connections"], frontends);
    if port.endpoints.is_empty() {
        html.leaf("p", &[("class", &"note")], "No endpoints.");
        return;
    }
    // Those that need an explanation come first.
    let mut endpoints: Vec<&EndpointView> = port.endpoints.iter().collect();
    endpoints.sort_by_key(|endpoint| endpoint.used);
    let endpoints = endpoints.into_iter().map(|endpoint| {
        let class = if endpoint.used { "good" } else { "odd" };
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        let EndpointView { node, object, .. } = endpoint;
        (class, [endpoint.endpoint.clone(), why(endpoint), of(node), of(object)])
    });
    table(html, ["Endpoint", "Used", "Node", "Object"], endpoints);
}

/// Returns whether an endpoint is used, and why not, or why all the same.
fn why(endpoint: &EndpointView) -> String {
    let weight = endpoint.weight.map(|weight| format!("weight {weight}"));
    let used = if endpoint.used { "yes" } else { "no" };
    let reasons = reasons(endpoint).into_iter().chain(used_all_the_same(endpoint)).chain(weight);
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() { used.to_owned() } else { format!("{used}: {}", reasons.join("; ")) }
}
