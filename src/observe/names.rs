//! The names of what the daemon knows, which shells complete. Much less than its state: a shell does
//! not wait for long.

use serde::{Deserialize, Serialize};

use super::status::API_VERSION;
use super::view::View;

/// The names, each list in its order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// `NAMESPACE/NAME` of each Service.
    pub(crate) services: Vec<String>,
    pub(crate) nodes: Vec<String>,
    /// A word for each source.
    pub(crate) sources: Vec<String>,
}

impl Names {
    /// Returns the names of all that a daemon knows.
    pub fn of(view: &View) -> Self {
        let services = view.model.services().map(|it| it.object.key.to_string());
        let mut nodes: Vec<String> =
            view.model.nodes().map(|it| it.object.name.to_string()).collect();
        // It need not have a Node object.
        let own = view.settings.node_name.to_string();
        if !nodes.contains(&own) {
            nodes.push(own);
            nodes.sort();
        }
        let word = |source: String| source.split(' ').next().unwrap_or_default().to_lowercase();
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "Names".to_owned(),
            services: services.collect(),
            nodes,
            sources: view.sources.keys().map(|source| word(source.to_string())).collect(),
        }
    }
}
