//! The sources of this process: each is a task that sends into one channel.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;
use rulec_compiler::nft::Key;
use rulec_compiler::state::Held;
use rulec_compiler::{Frontend, Origin};
use rulec_sources::recording::{Reader, ReplaySource};
use rulec_sources::{
    AllocatedValue, ApiAccess, ApiOptions, ApiSource, ApiStatus, ApiTiming, InterfaceSource,
    KubeletSource, ManifestOptions, ManifestRoots, Notes, Nudge, PodmanSource, Ranges, Recall,
    RelayFallback, RelayOptions, RelayReports, RelaySource, RelayStatus, RelayTiming, SourceError,
    StateDir, Update,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cli::RunArgs;
use crate::config::Config;
use crate::kernel;
use crate::setup;

/// The sources that are running. Dropping it ends them.
#[derive(Debug)]
pub struct Sources {
    tasks: JoinSet<(String, Result<(), SourceError>)>,
    origins: Vec<Origin>,
    /// The networks that addresses of Services are given out of.
    pub networks: Vec<IpNet>,
    /// The status of the API source, if there is one.
    pub api: Option<Arc<ApiStatus>>,
    /// Sends Events to the API server, if there is one.
    pub notes: Option<Notes>,
    /// The status of the relay source, if there is one.
    pub relay: Option<Arc<RelayStatus>>,
    /// Tells the relay what is not programmed, if there is one.
    pub reports: Option<RelayReports>,
    /// Makes the manifest source read its files, if there is one.
    pub nudge: Option<Nudge>,
}

/// Returns a way to find out which addresses and node ports the kernel holds for whom.
fn recall(mark: u32) -> Recall {
    Box::new(move || {
        let read = kernel::look(mark, None).and_then(|mut sink| Ok(sink.read()?.0));
        let held = match read {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!("cannot read what Services have been given: {error:#}");
                return Vec::new();
            }
        };
        let elements = held.tables.into_values().flat_map(|table| table.elements);
        let value = |(key, held): (Key, Held)| {
            let (Key::Service(frontend) | Key::Reject(frontend)) = key else { return None };
            // An external IP is written, so that it does not count as given out for long.
            let value = match frontend {
                Frontend::Address { address, .. } => AllocatedValue::ClusterIp(address),
                Frontend::NodePort { port, .. } => AllocatedValue::NodePort(port),
            };
            Some((held.owner?, value))
        };
        elements.filter_map(value).collect()
    })
}

/// Returns how the API server is followed, if access to it is configured.
fn api_options(config: &Config, args: &RunArgs) -> Option<ApiOptions> {
    let access = config.api.as_ref()?;
    let access = ApiAccess { kubeconfig: access.kubeconfig.clone(), master: access.master.clone() };
    let usual = ApiTiming::default();
    let grace = args.state_grace_seconds.map_or(usual.grace, Duration::from_secs);
    let timing = ApiTiming { grace, ..usual };
    Some(ApiOptions { timing, ..ApiOptions::new(access, config.settings.node_name.clone()) })
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
            networks: Vec::new(),
            api: None,
            notes: None,
            relay: None,
            reports: None,
            nudge: None,
        };
        if let Some(replay) = &config.replay {
            let reader = Reader::open(&replay.path)?;
            sources.origins.clone_from(&reader.header().sources);
            let source = ReplaySource::new(reader, replay.clone()).run(out.clone());
            let name = replay.path.display().to_string();
            sources.tasks.spawn(async move { (name, source.await) });
            return Ok(sources);
        }
        let usual = ManifestOptions::default();
        let rescan = args.rescan_seconds.map_or(usual.rescan, Duration::from_secs);
        if let Some(path) = &config.state_file {
            let options = ManifestOptions { rescan, is_whole: true, ..usual };
            let source = ManifestRoots::new(vec![path.clone()], options).with_state(state.cloned());
            sources.nudge = Some(source.nudge());
            sources.spawn(Origin::Manifests, source.run(out.clone()));
        }
        if args.has_manifests() {
            let options = ManifestOptions { rescan, ..usual };
            let ranges = setup::free_ranges(config, &args.ranges)?;
            sources.networks = ranges.iter().flat_map(Ranges::open_networks).collect();
            let source = ManifestRoots::new(config.manifests.clone(), options)
                .with_urls(config.manifest_urls.clone())
                .with_cni(config.cni_cache.clone())
                .with_state(state.cloned())
                .giving_out(ranges)
                .recalling(recall(config.settings.masquerade_bit.mark()));
            sources.nudge = Some(source.nudge());
            sources.spawn(Origin::Manifests, source.run(out.clone()));
        }
        match (api_options(config, args), &config.relay) {
            (Some(api), None) => {
                let source = ApiSource::new(ApiOptions { state: state.cloned(), ..api });
                sources.api = Some(source.status());
                sources.notes = Some(source.notes());
                sources.spawn(Origin::Api, source.run(out.clone()));
            }
            (api, Some(access)) => {
                let usual = RelayTiming::default();
                let grace = args.state_grace_seconds.map_or(usual.grace, Duration::from_secs);
                let has_api = api.is_some();
                let source = RelaySource::new(RelayOptions {
                    access: access.clone(),
                    node_name: config.settings.node_name.clone(),
                    timing: RelayTiming { grace, ..usual },
                    state: state.cloned(),
                    fallback: api.map(|api| RelayFallback { after: args.relay.fallback(), api }),
                });
                sources.relay = Some(source.status());
                sources.api = has_api.then(|| source.api_status());
                sources.reports = Some(source.reports());
                sources.spawn(Origin::Api, source.run(out.clone()));
            }
            (None, None) => {}
        }
        if let Some(access) = &config.kubelet {
            let source = KubeletSource::new(access.clone()).with_state(state.cloned());
            sources.spawn(Origin::Kubelet, source.run(out.clone()));
        }
        if let Some(socket) = &config.podman {
            let source = PodmanSource::new(socket).with_state(state.cloned());
            sources.spawn(Origin::Podman, source.run(out.clone()));
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
        self.tasks.spawn(async move { (origin.to_string(), source.await) });
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
            Some(Ok((name, outcome))) => {
                let ended = outcome.context("it ended").err();
                let ended = ended.unwrap_or_else(|| anyhow::anyhow!("it ended"));
                ended.context(format!("the source {name}"))
            }
        }
    }
}
