//! The sources of this process: each is a task that sends into one channel.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rulec_compiler::Origin;
use rulec_sources::{
    ApiAccess, ApiOptions, ApiSource, ApiStatus, ApiTiming, InterfaceSource, ManifestOptions,
    ManifestSource, Notes, Nudge, SourceError, StateDir, Update,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cli::RunArgs;
use crate::config::Config;

/// The sources that are running. Dropping it ends them.
#[derive(Debug)]
pub struct Sources {
    tasks: JoinSet<(Origin, Result<(), SourceError>)>,
    origins: Vec<Origin>,
    /// The status of the API source, if there is one.
    pub api: Option<Arc<ApiStatus>>,
    /// Sends Events to the API server, if there is one.
    pub notes: Option<Notes>,
    /// Makes the manifest source read its files, if there is one.
    pub nudge: Option<Nudge>,
}

impl Sources {
    /// Starts the configured sources.
    ///
    /// # Errors
    ///
    /// If one cannot start.
    pub fn start(
        args: &RunArgs,
        config: &Config,
        state: Option<&StateDir>,
        out: &mpsc::Sender<Update>,
    ) -> anyhow::Result<Self> {
        let mut sources = Self {
            tasks: JoinSet::new(),
            origins: Vec::new(),
            api: None,
            notes: None,
            nudge: None,
        };
        if let Some(path) = &config.manifests {
            let options = ManifestOptions {
                rescan: Duration::from_secs(args.rescan_seconds),
                ..ManifestOptions::default()
            };
            let source = ManifestSource::new(path.clone(), options).with_state(state.cloned());
            sources.nudge = Some(source.nudge());
            sources.spawn(Origin::Manifests, source.run(out.clone()));
        }
        if let Some(access) = &config.api {
            let access =
                ApiAccess { kubeconfig: access.kubeconfig.clone(), master: access.master.clone() };
            let grace = Duration::from_secs(args.state_grace_seconds);
            let source = ApiSource::new(ApiOptions {
                timing: ApiTiming { grace, ..ApiTiming::default() },
                state: state.cloned(),
                ..ApiOptions::new(access, config.settings.node_name.clone())
            });
            sources.api = Some(source.status());
            sources.notes = Some(source.notes());
            sources.spawn(Origin::Api, source.run(out.clone()));
        }
        let except = config.ipvs.as_ref().map(|ipvs| ipvs.device.clone());
        let interfaces = InterfaceSource { except, ..InterfaceSource::default() };
        sources.spawn(Origin::Kernel, interfaces.run(out.clone()));
        Ok(sources)
    }

    fn spawn(
        &mut self,
        origin: Origin,
        source: impl Future<Output = Result<(), SourceError>> + Send + 'static,
    ) {
        self.origins.push(origin);
        self.tasks.spawn(async move { (origin, source.await) });
    }

    /// Returns which sources there are.
    pub fn origins(&self) -> Vec<Origin> {
        self.origins.clone()
    }

    /// Resolves with the reason when one of them has ended, which none does on its own.
    pub async fn failure(mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            None => anyhow::anyhow!("there is no source"),
            Some(Err(error)) => anyhow::Error::new(error).context("a source died"),
            Some(Ok((origin, outcome))) => {
                let ended = outcome.context("it ended").err();
                let ended = ended.unwrap_or_else(|| anyhow::anyhow!("it ended"));
                ended.context(format!("the source {origin}"))
            }
        }
    }
}
