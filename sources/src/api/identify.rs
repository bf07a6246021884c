//! Identifying the server, to know whether the watches of an earlier run may continue.

use kube::Client;
use serde::Deserialize;
use tracing::{debug, info};

use super::access::Access;
use super::answer::send;
use super::fault::Fault;
use super::position::{Identity, Position};
use super::resource::Resource;

impl Access {
    /// Returns whether the server is the one that issued this position.
    pub(super) async fn knows(
        &self,
        client: &Client,
        resource: Resource,
        position: &Position,
    ) -> Result<bool, Fault> {
        let refuted = match self.identity.get_or_try_init(|| identify(self, client)).await {
            Ok(server) => position.refuted(server),
            // Without the permission to identify the server, list it.
            Err(fault @ Fault::Status { code: 400 | 403 | 404, .. }) => Some(fault.to_string()),
            Err(fault) => return Err(fault),
        };
        // Logged only once for all resources.
        if let Some(reason) = refuted.as_ref().filter(|_| resource == Resource::Services) {
            info!("not continuing from the saved state: {reason}");
        }
        Ok(refuted.is_none())
    }

    /// Returns the uid of the cluster; `None` if no state is saved, or if the server could not be
    /// asked.
    pub(super) async fn cluster(&self, client: &Client) -> Option<Option<String>> {
        self.options.state.as_ref()?;
        let server = self.identity.get_or_try_init(|| identify(self, client)).await;
        server.ok().map(|server| server.cluster.clone())
    }
}

/// Identifies the server by one request: the list of one Service, with the newest resource version.
/// Without this check, a server whose etcd was restored from a copy would accept a watch from a
/// future version and send nothing on it.
async fn identify(access: &Access, client: &Client) -> Result<Identity, Fault> {
    const PATH: &str =
        "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes&limit=1";
    let request = http::Request::get(PATH).body(Vec::new());
    let request = request.map_err(|error| Fault::Config(error.to_string()))?;
    let answer = send(access, client, request).await?;
    let text = answer.text(access.options.timing.answer).await?;
    let list: ServiceList = serde_json::from_slice(&text)
        .map_err(|error| Fault::garbled(format!("not a list of Services: {error}")))?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let cluster = list.items.into_iter().flatten().find_map(|service| service.metadata.uid);
    debug!(cluster, version, "identified the cluster");
    Ok(Identity { cluster, version })
}

#[derive(Deserialize)]
struct ServiceList {
    metadata: Metadata,
    items: Option<Vec<ListedService>>,
}

#[derive(Deserialize)]
struct ListedService {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: Option<String>,
    resource_version: Option<String>,
}
