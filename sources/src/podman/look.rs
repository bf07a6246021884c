//! Asks podman for its Pods and containers, and for the description of each container that may have
//! changed since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tracing::debug;

use super::client::{self, Answer, answered};
use super::events;
use super::fault::Fault;
use super::list::{Described, Info, ListedContainer, ListedPod};
use super::pod::World;
use crate::error::chain;

/// All containers. (With `sync=true`, podman would look whether those that it takes for running
/// still are, but it makes an event of each. It looks at the same when it describes one.)
const CONTAINERS: &str = "/containers/json?all=true";

/// How often the lists are read until they fit each other.
const ATTEMPTS: usize = 4;

/// How many containers are asked for at once.
const AT_ONCE: usize = 8;

/// See the module's documentation.
pub(super) struct Looker {
    socket: PathBuf,
    /// How long an answer may take.
    answer: Duration,
    /// The containers as they were listed when they were described.
    known: BTreeMap<String, (ListedContainer, Described)>,
}

impl Looker {
    pub(super) fn new(socket: PathBuf, answer: Duration) -> Self {
        Self { socket, answer, known: BTreeMap::new() }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Fault> {
        let found = answered(self.answer, client::get(&self.socket, path)).await?;
        found.ok_or_else(|| missing(path))
    }

    /// Asks for events.
    pub(super) async fn listen(&self) -> Result<Answer, Fault> {
        let info: Info = self.get("/info").await?;
        if info.host.security.rootless {
            return Err(Fault::Rootless);
        }
        match answered(self.answer, client::open(&self.socket, events::PATH)).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(missing(events::PATH)),
            Err(Fault::Http { message, .. }) => Err(Fault::NoEvents(message)),
            Err(fault) => Err(fault),
        }
    }

    /// Looks at everything. Containers that are `named` are described anew; without it, all are.
    pub(super) async fn look(&mut self, named: Option<&BTreeSet<String>>) -> Result<World, Fault> {
        let (mut containers, pods) = self.lists().await?;
        self.known.retain(|id, _| containers.iter().any(|it| it.id == *id));
        let is_known = |it: &ListedContainer| {
            let Some((listed, described)) = self.known.get(&it.id) else { return false };
            let names = |id: &str| named.is_none_or(|named| named.contains(id));
            let shared = described.host_config.network_mode.strip_prefix("container:");
            listed == it && !names(&it.id) && !shared.is_some_and(names)
        };
        let to_describe = containers.iter().filter(|it| it.is_up() && !is_known(it));
        let to_describe: Vec<ListedContainer> = to_describe.cloned().collect();
        debug!(containers = containers.len(), described = to_describe.len(), "looked at podman");
        let mut failed = self.describe(to_describe).await?;
        if !failed.is_empty() {
            // podman may also fail to describe a container because that goes.
            let (now, _) = self.lists().await?;
            let is_there = |id: &String| now.iter().any(|it| it.id == *id);
            containers.retain(|it| !failed.contains_key(&it.id) || is_there(&it.id));
            failed.retain(|id, _| is_there(id));
        }
        for container in &mut containers {
            if let Some((listed, described)) = self.known.get(&container.id)
                && listed == container
                && !described.state.status.is_empty()
            {
                container.state.clone_from(&described.state.status);
                container.exit_code = described.state.exit_code;
            }
        }
        let described = self.known.iter().map(|(id, (_, it))| (id.clone(), it.clone()));
        let described = described.filter(|(id, _)| !failed.contains_key(id)).collect();
        Ok(World { pods, containers, described, failed })
    }

    /// Returns whether one of these containers is described in another way than before. Most health
    /// checks have the outcome of the one before.
    pub(super) async fn has_changed(&self, named: &BTreeSet<String>) -> Result<bool, Fault> {
        for id in named {
            let Some((_, known)) = self.known.get(id) else { return Ok(true) };
            match describe(&self.socket, self.answer, id).await {
                Ok(Some(now)) if now == *known => {}
                Ok(_) | Err(Fault::Http { .. }) => return Ok(true),
                Err(fault) => return Err(fault),
            }
        }
        Ok(false)
    }

    /// Returns the containers and the Pods, of one moment as far as it matters: the Pod of each
    /// container is among the Pods.
    async fn lists(&self) -> Result<(Vec<ListedContainer>, Vec<ListedPod>), Fault> {
        for _ in 0..ATTEMPTS {
            let (containers, pods) = tokio::try_join!(
                self.get::<Vec<ListedContainer>>(CONTAINERS),
                self.get::<Vec<ListedPod>>("/pods/json"),
            )?;
            let is_there = |pod: &str| pod.is_empty() || pods.iter().any(|it| it.id == pod);
            if containers.iter().all(|it| is_there(&it.pod)) {
                return Ok((containers, pods));
            }
        }
        Err(Fault::Torn)
    }

    /// Describes containers. Returns those that podman cannot describe, with its reasons.
    async fn describe(
        &mut self,
        containers: Vec<ListedContainer>,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let mut failed = BTreeMap::new();
        for some in containers.chunks(AT_ONCE) {
            let mut tasks = JoinSet::new();
            for container in some.iter().cloned() {
                let (socket, answer) = (self.socket.clone(), self.answer);
                tasks.spawn(async move {
                    let outcome = describe(&socket, answer, &container.id).await;
                    (container, outcome)
                });
            }
            while let Some(outcome) = tasks.join_next().await {
                // A task that panics is a bug, and must not be hidden.
                let (container, outcome) = outcome.unwrap_or_else(|error| {
                    std::panic::resume_unwind(error.into_panic());
                });
                let id = container.id.clone();
                match outcome {
                    Ok(Some(described)) => drop(self.known.insert(id, (container, described))),
                    Ok(None) => drop(failed.insert(id, "it is not there any more".to_owned())),
                    Err(fault @ Fault::Http { .. }) => drop(failed.insert(id, chain(&fault))),
                    Err(fault) => return Err(fault),
                }
            }
        }
        failed.keys().for_each(|id| drop(self.known.remove(id)));
        Ok(failed)
    }
}

/// Asks for the description of a container; there is none if it has gone.
async fn describe(socket: &Path, answer: Duration, id: &str) -> Result<Option<Described>, Fault> {
    answered(answer, client::get(socket, &format!("/containers/{id}/json"))).await
}

fn missing(path: &str) -> Fault {
    let (status, message) = (http::StatusCode::NOT_FOUND, String::new());
    Fault::Http { path: path.to_owned(), status, message }
}
