//! The page: the same values as a document for a browser, with its style in it and without a script.
//!
//! `html` escapes everything that does not come from this program. What is listed is bounded (`list`,
//! `parts`), so that the page of a large cluster can still be read. `plot` draws what `histogram`
//! reads from the metrics, and `traffic` new connections, both with `bars`.

mod bars;
mod changes;
mod histogram;
mod html;
mod list;
mod parts;
mod plot;
mod services;
mod state;
#[cfg(test)]
mod tests;
mod traffic;

use super::known::Known;
use super::node::NodeView;
use crate::observe::page::{Shown, Wanted};
use crate::observe::status::Status;
use histogram::Durations;
use html::Html;
use list::List;
use traffic::Traffic;

const STYLE: &str = include_str!("page/style.css");

/// All that the page shows.
struct Page {
    status: Status,
    /// Whether it is known what the kernel holds.
    is_acknowledged: bool,
    node: Result<NodeView, String>,
    list: List,
    changes: Vec<[String; 6]>,
    durations: [Durations; 3],
    /// Or why it cannot be read; `None` if connections are not counted.
    traffic: Option<Result<Traffic, String>>,
}

/// Makes the page of a daemon. This takes time in proportion to what it knows.
///
/// # Errors
///
/// If the metrics cannot be read.
pub fn render(shown: &Shown, wanted: &Wanted) -> anyhow::Result<String> {
    let Shown { view, metrics, history, counters } = shown;
    let known = Known::of_view(view);
    let mut node = NodeView::of(&known, None).map_err(|error| format!("{error:#}"));
    let list = List::of(&known, wanted);
    let status = known.status.unwrap_or_else(|| Status::of(view));
    // They are told once, at the top.
    let programmed = node.as_mut().ok().and_then(|node| node.programmed.as_mut());
    if let Some(programmed) = programmed {
        programmed.notes.retain(|note| !status.node_findings.contains(note));
    }
    let metrics = metrics.text()?;
    let traffic = counters.as_ref().map(|counters| match counters.busy(view) {
        Ok((minutes, busiest)) => Ok(Traffic { minutes, busiest }),
        Err(error) => Err(format!("{error:#}")),
    });
    let page = Page {
        is_acknowledged: view.applied.is_some(),
        node,
        list,
        changes: changes::last(history),
        durations: HISTOGRAMS.map(|(name, label, ..)| Durations::read(&metrics, name, label)),
        traffic,
        status,
    };
    Ok(page.document(wanted))
}

/// The histograms that are drawn: the name and the label of the metric, the title and what it means.
const HISTOGRAMS: [(&str, &str, &str, &str); 3] = [
    (
        "rulec_queue_to_ack_seconds",
        "",
        "Update to acknowledgement",
        "from the receipt of a change to the kernel's word that it has it",
    ),
    (
        "kubeproxy_sync_proxy_rules_duration_seconds",
        // Both families are programmed at once.
        "ip_family=\"IPv4\"",
        "Compilation and commit",
        "from the start of a compilation to the kernel's word",
    ),
    (
        "rulec_compile_seconds",
        "",
        "Compilation alone",
        "changes to operations, before the kernel works on them",
    ),
];

impl Page {
    fn document(&self, wanted: &Wanted) -> String {
        let mut html = Html::document();
        html.element("html", &[("lang", &"en")], |html| {
            html.element("head", &[], |html| {
                html.empty("meta", &[("charset", &"utf-8")]);
                let viewport = "width=device-width, initial-scale=1";
                html.empty("meta", &[("name", &"viewport"), ("content", &viewport)]);
                html.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
                html.leaf("title", &[], format_args!("rulec on {}", self.status.node));
                html.style(STYLE);
            });
            html.element("body", &[], |html| self.body(html, wanted));
        });
        html.finish()
    }

    fn body(&self, html: &mut Html, wanted: &Wanted) {
        state::head(html, &self.status);
        html.element("main", &[], |html| {
            if !self.is_acknowledged {
                let text = "What the kernel holds is not known at the moment. Shown is what it \
                            should hold.";
                html.leaf("p", &[("class", &"wrong")], text);
            }
            state::state(html, &self.status);
            html.element("section", &[("id", &"latency")], |html| {
                html.leaf("h2", &[], "How long changes take");
                html.element("div", &[("class", &"plots")], |html| {
                    for ((_, _, title, what), durations) in HISTOGRAMS.iter().zip(&self.durations) {
                        plot::plot(html, title, what, durations);
                    }
                });
            });
            traffic::traffic(html, self.traffic.as_ref());
            services::services(html, &self.list, wanted);
            changes::changes(html, &self.changes);
            state::sources(html, &self.status);
            state::node(html, &self.node);
        });
    }
}
