//! The message for the case that the server has no Node of our name.

use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use rulec_compiler::remark::WITHOUT_NODE;
use serde::Deserialize;

use super::access::Access;
use super::answer::send;
use super::fault::Fault;
use super::resource::Resource;
use crate::error::chain;

/// The most names in the message.
const MAX_NAMES: u32 = 5;

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

/// Returns the message, with the names of existing Nodes if we may list them.
pub(super) async fn message(access: &Access, client: &Client) -> String {
    let others = match names(access, client).await {
        Ok(names) if names.is_empty() => "There are no other Nodes".to_owned(),
        Ok(names) => format!("Existing Nodes include: {}", names.join(", ")),
        Err(fault) => format!("The existing Nodes cannot be listed: {fault}"),
    };
    let name = &access.options.node_name;
    format!("there is no Node {name} (--node-name). {others}. {WITHOUT_NODE}")
}

async fn names(access: &Access, client: &Client) -> Result<Vec<String>, Fault> {
    let few = ListParams { limit: Some(MAX_NAMES), ..ListParams::default() };
    let request = Request::new(Resource::Nodes.path()).list(&few);
    let request = request.map_err(|error| Fault::Config(chain(&error)))?;
    let answer = send(access, client, request).await?;
    let text = answer.text(access.options.timing.answer).await?;
    let nodes: Nodes = serde_json::from_slice(&text)
        .map_err(|error| Fault::Garbled(format!("not a list of Nodes: {error}")))?;
    let items = nodes.items.unwrap_or_default().into_iter();
    Ok(items.map(|item| item.metadata.name).take(MAX_NAMES as usize).collect())
}
