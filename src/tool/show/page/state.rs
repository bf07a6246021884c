//! How the daemon, its node and its sources are.

use jiff::Timestamp;
use rulec_compiler::plural::counted;

use super::super::node::NodeView;
use super::super::source::ago;
use super::super::table::joined;
use super::html::Html;
use super::parts::{facts, paragraphs, table};
use crate::observe::status::{Condition, SourceState, Status};

/// Adds the head of the page: which node it is, and whether all is well.
pub(super) fn head(html: &mut Html, status: &Status) {
    html.element("header", &[], |html| {
        html.element("h1", &[], |html| {
            html.text("rulec on ");
            html.leaf("b", &[], &status.node);
        });
        let (class, words) = if status.healthy {
            ("badge good", "healthy".to_owned())
        } else {
            ("badge bad", counted(status.problems.len() as u64, "problem"))
        };
        html.leaf("span", &[("class", &class)], words);
        let Status { version, mode, process, started, time, .. } = status;
        let since = ago(Some(*started), *time);
        let text = format!("{version}, mode {mode}, process {process}, running for {since}");
        html.leaf("p", &[("class", &"note")], format_args!("{text}. State of {time:.0}."));
    });
}

/// Adds what is wrong, and the numbers that matter.
pub(super) fn state(html: &mut Html, status: &Status) {
    html.element("section", &[("id", &"state")], |html| {
        paragraphs(html, "wrong", &status.problems);
        paragraphs(html, "remark", &status.node_findings);
        html.element("div", &[("class", &"tiles")], |html| {
            let kernel = &status.kernel;
            let synced = match kernel.behind_since {
                _ if kernel.in_sync => "in sync".to_owned(),
                None => "not in sync".to_owned(),
                since @ Some(_) => format!("behind for {}", ago(since, status.time)),
            };
            let since = |at: Option<Timestamp>| match at {
                Some(_) => format!("{} ago", ago(at, status.time)),
                None => "not yet".to_owned(),
            };
            let waiting = kernel.waiting_services + kernel.waiting_endpoints;
            for (name, value) in [
                ("kernel", synced),
                ("waiting", waiting.to_string()),
                ("last commit", since(kernel.last_commit)),
                ("compared", since(kernel.last_comparison)),
                ("repairs", kernel.repairs.to_string()),
                ("Services", status.objects.services.to_string()),
                ("EndpointSlices", status.objects.endpoint_slices.to_string()),
                ("Pods", status.objects.pods.to_string()),
                ("Nodes", status.objects.nodes.to_string()),
            ] {
                html.element("div", &[("class", &"tile")], |html| {
                    html.leaf("b", &[], value);
                    html.leaf("span", &[], name);
                });
            }
        });
        // What lasts is among the problems.
        if let Some(error) = status.kernel.last_error.as_ref().filter(|error| !error.lasts) {
            let when = ago(Some(error.time), status.time);
            let text = format!("The kernel last refused something {when} ago: {}", error.message);
            html.leaf("p", &[("class", &"note")], text);
        }
    });
}

/// Adds the sources.
pub(super) fn sources(html: &mut Html, status: &Status) {
    html.element("section", &[("id", &"sources")], |html| {
        html.leaf("h2", &[], "Sources");
        let columns =
            ["Source", "State", "Since", "Heard", "Services", "Objects", "Errors", "Warnings"];
        let rows = status.sources.iter().map(|source| {
            let class = match source.state {
                Condition::Unavailable => "bad",
                Condition::InSync | Condition::Read if source.errors == 0 => "good",
                Condition::InSync | Condition::Read | Condition::Waiting | Condition::Stale => {
                    "odd"
                }
            };
            let cells = [
                source.source.to_string(),
                source.state.text().to_owned(),
                ago(source.since, status.time),
                ago(source.as_of.or(source.last_heard), status.time),
                source.services.to_string(),
                source.objects.to_string(),
                source.errors.to_string(),
                source.warnings.to_string(),
            ];
            (class, cells)
        });
        table(html, columns, rows);
        status.sources.iter().for_each(|source| problems(html, source, status.time));
    });
}

fn problems(html: &mut Html, source: &SourceState, now: Timestamp) {
    if let Some(error) = &source.last_error {
        let when = ago(Some(error.time), now);
        let since = if error.lasts { "" } else { ", and it has answered since" };
        let text = format!("{}: {when} ago{since}: {}", source.source, error.message);
        html.leaf("p", &[("class", &if error.lasts { "wrong" } else { "note" })], text);
    }
    let class = if source.errors > 0 { "wrong" } else { "remark" };
    paragraphs(html, class, &source.problems);
    let more = (source.errors + source.warnings).saturating_sub(source.problems.len());
    if more > 0 {
        let text = format!("{}: {} more", source.source, counted(more as u64, "problem"));
        html.leaf("p", &[("class", &"more")], text);
    }
}

/// Adds what the compilation depends on.
pub(super) fn node(html: &mut Html, node: &Result<NodeView, String>) {
    html.element("section", &[("id", &"node")], |html| {
        html.leaf("h2", &[], "Node");
        let view = match node {
            Ok(view) => view,
            Err(error) => return html.leaf("p", &[("class", &"wrong")], error),
        };
        let from = view.from.as_ref().map(|from| format!(", {from}")).unwrap_or_default();
        let source = view.source.map_or("no Node object".to_owned(), |it| format!("{it}{from}"));
        let spaced = |text: String| text.replace(',', ", ");
        let mut all = vec![
            ("Name", view.name.clone()),
            ("Source", source),
            ("Addresses", spaced(joined(&view.addresses))),
            ("Zone", view.zone.clone().unwrap_or_default()),
            ("Pod CIDRs", spaced(joined(&view.pod_cidrs))),
            ("Taints", view.taints.join(", ")),
            ("Deleting", if view.deleting { "yes".to_owned() } else { String::new() }),
        ];
        if let Some(programmed) = &view.programmed {
            let setting = programmed.node_port_addresses.join(", ");
            let setting = if setting.is_empty() { "every address".to_owned() } else { setting };
            all.extend([
                ("Interfaces", spaced(joined(&programmed.interface_addresses))),
                ("Node ports on", setting),
                ("Node ports at", spaced(joined(&programmed.node_ports_at))),
                ("Pods by", programmed.detect_local.clone()),
                ("Masquerade all", if programmed.masquerade_all { "yes" } else { "no" }.to_owned()),
                ("Load balancing", programmed.load_balancing.to_owned()),
            ]);
        }
        facts(html, &all);
        // The findings about the node are above.
        let notes = view.programmed.iter().flat_map(|programmed| &programmed.notes);
        let notes: Vec<String> = notes.cloned().collect();
        paragraphs(html, "remark", &notes);
    });
}
