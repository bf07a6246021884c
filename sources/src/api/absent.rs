//! What to say when a server has no Node of our name.

use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use rulec_compiler::remark::WITHOUT_NODE;
use serde::Deserialize;

use super::access::Access;
use super::answer::send;
use super::fault::{Fault, chain};
use super::resource::Resource;

/// How many names are told.
const MOST_NAMES: u32 = 5;

#[derive(Deserialize)]
struct Nodes {
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

/// Says it, with the names of Nodes that there are, if they may be seen.
pub(super) async fn message(access: &Access, client: &Client) -> String {
    let others = match names(access, client).await {
        Ok(names) if names.is_empty() => "There is no other either".to_owned(),
        Ok(names) => format!("There is, among others: {}", names.join(", ")),
        Err(fault) => format!("Which there are cannot be seen: {fault}"),
    };
    let name = &access.options.node_name;
    format!("there is no Node {name} (--node-name). {others}. {WITHOUT_NODE}")
}

async fn names(access: &Access, client: &Client) -> Result<Vec<String>, Fault> {
    let few = ListParams { limit: Some(MOST_NAMES), ..ListParams::default() };
    let request = Request::new(Resource::Nodes.path()).list(&few);
    let request = request.map_err(|error| Fault::Config(chain(&error)))?;
    let answer = send(access, client, request).await?;
    let text = answer.text(access.options.timing.answer).await?;
    let nodes: Nodes = serde_json::from_slice(&text)
        .map_err(|error| Fault::Garbled(format!("not a list of Nodes: {error}")))?;
    let items = nodes.items.unwrap_or_default().into_iter();
    Ok(items.map(|item| item.metadata.name).take(MOST_NAMES as usize).collect())
}
