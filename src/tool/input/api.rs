//! The objects of an API server, read once.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use rulec_compiler::change::Origin;
use rulec_compiler::name::NodeName;
use rulec_compiler::{Model, Settings};
use rulec_sources::{
    ApiAccess, ApiOptions, ApiSource, ApiStatus, ApiTiming, ErrorKind, Reading, Update,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::cli::ApiArgs;

/// The name of an API server on the command line.
pub(crate) const API: &str = "api";

/// How long a server is waited for that has never said anything, or that does not know us: what failed
/// is tried again meanwhile, but a wrong address or password stays so.
const UNHEARD: Duration = Duration::from_secs(3);

/// How long one may be silent after something has failed: it may be making a long list, after it has
/// refused another.
const QUIET: Duration = Duration::from_secs(10);

/// How long one may be silent otherwise.
const SILENCE: Duration = Duration::from_secs(30);

/// When to ask again for what is refused. Without the lists that are required, a refusal may be that
/// of a server that is starting; with them, it counts.
const REFUSED: Duration = Duration::from_secs(1);

/// How often it is looked whether there is hope.
const LOOK: Duration = Duration::from_millis(100);

/// The API server that the command line means.
#[derive(Debug)]
pub(crate) struct Server {
    kubeconfig: Option<PathBuf>,
    master: Option<String>,
    node_name: NodeName,
}

impl Server {
    /// Takes it from the command line, for a node.
    pub(crate) fn of(args: &ApiArgs, settings: &Settings) -> Self {
        let ApiArgs { kubeconfig, master } = args;
        let (kubeconfig, master) = (kubeconfig.clone(), master.clone());
        Self { kubeconfig, master, node_name: settings.node_name.clone() }
    }

    /// Reads all objects that matter.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub(super) fn read(&self) -> anyhow::Result<Reading> {
        let timing = ApiTiming { absent: Duration::ZERO, refused: REFUSED, ..ApiTiming::default() };
        let options = ApiOptions::new(self.access()?, self.node_name.clone());
        let source = ApiSource::new(ApiOptions { timing, ..options });
        let status = source.status();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (out, updates) = mpsc::channel(1);
            tokio::select! {
                ended = source.run(out) => {
                    ended?;
                    anyhow::bail!("the source of the API server has ended")
                }
                reading = first(updates) => reading,
                error = failure(&status) => Err(error),
            }
        })
    }

    /// Finds the server as `kubectl` does: a kubeconfig, or the Pod that this runs in.
    fn access(&self) -> anyhow::Result<ApiAccess> {
        let own = || {
            let path = PathBuf::from(env::var_os("HOME")?).join(".kube/config");
            path.is_file().then_some(path)
        };
        if let Some(path) = self.kubeconfig.as_ref().filter(|path| !path.is_file()) {
            let is_list = path.to_string_lossy().contains(':');
            let advice = if is_list { ": name one file with --kubeconfig" } else { "" };
            anyhow::bail!("there is no kubeconfig {}{advice}", path.display());
        }
        let is_told = self.master.is_some() || self.kubeconfig.is_some();
        let kubeconfig = self.kubeconfig.clone().or_else(|| own().filter(|_| !is_told));
        let is_pod = env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        anyhow::ensure!(
            is_told || is_pod || kubeconfig.is_some(),
            "no API server is known: name a kubeconfig with --kubeconfig or the variable KUBECONFIG"
        );
        Ok(ApiAccess { kubeconfig, master: self.master.clone() })
    }
}

/// Collects the objects of the first complete lists.
async fn first(mut updates: mpsc::Receiver<Update>) -> anyhow::Result<Reading> {
    let mut model = Model::default();
    loop {
        let update = updates.recv().await.context("the source of the API server has ended")?;
        for change in update.changes {
            model.apply(Origin::Api, change);
        }
        if update.complete {
            let objects = model.objects_by_origin().map(|(_, sourced)| sourced).collect();
            let problems: Vec<_> = update.problems.iter().cloned().collect();
            let unread = problems.iter().filter(|problem| problem.skips).cloned().collect();
            return Ok(Reading { objects, problems, unread });
        }
    }
}

/// Waits until there is no hope any more, and returns why.
async fn failure(status: &ApiStatus) -> anyhow::Error {
    let mut failing: Option<Instant> = None;
    loop {
        sleep(LOOK).await;
        let silence = status.silence();
        match status.last_error() {
            // The source knows for how long to wait for the rest.
            _ if status.is_connected() => {}
            Some((_, error)) => {
                let since = failing.get_or_insert_with(Instant::now).elapsed();
                let is_refused = status.errors(ErrorKind::Unauthorized) > 0;
                let heard = silence.filter(|_| !is_refused);
                let (quiet, most) = heard.map_or((since, UNHEARD), |it| (it.min(since), QUIET));
                if quiet > most {
                    return anyhow::anyhow!("{error}");
                }
            }
            None if silence.is_some_and(|silence| silence > SILENCE) => {
                return anyhow::anyhow!("the API server is silent");
            }
            None => {}
        }
    }
}
