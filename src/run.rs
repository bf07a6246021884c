//! `rulec run`: the loop around the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::pending;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::net::Family;
use rulec_compiler::object::Kind;
use rulec_sinks::nft::Ownership;
use rulec_sources::{Problem, Severity, Trigger, Update};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::{CleanupArgs, LogArgs, RunArgs};
use crate::config::Config;
use crate::engine::{Counts, Engine, Event, Periods};
use crate::forget::Forgetter;
use crate::install::Installer;
use crate::kernel::IpvsStart;
use crate::monitor::Monitor;
use crate::notify::Notify;
use crate::serve::sites::{Options, Servers};
use crate::snapshot::Snapshot;
use crate::sources::Sources;
use crate::{cleanup, clock, reload, setup, telemetry};

/// How many updates may wait. A source that is faster than the kernel waits itself; nothing is lost.
const UPDATES: usize = 256;

/// How long the kernel may be behind, if nobody says: twice kube-proxy's sync period.
const STALENESS: Duration = Duration::from_secs(60);

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// If the configuration cannot be used, the daemon cannot start, or one of its parts dies.
pub fn run(args: RunArgs, log: &LogArgs) -> anyhow::Result<ExitCode> {
    let loaded = setup::load(&args, log)?;
    telemetry::init(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(path) = &args.write_config_to {
        fs::write(path, loaded.yaml()?).with_context(|| format!("writing {}", path.display()))?;
        tracing::info!(path = %path.display(), "wrote the configuration");
        return Ok(ExitCode::SUCCESS);
    }
    if args.cleanup {
        return cleanup::run(&CleanupArgs::default());
    }
    let effective = loaded.json();
    let config = loaded.config;
    setup::check(&config)?;
    setup::ask_of_the_kernel(&config);
    if args.init_only {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ending = runtime.block_on(serve(&args, log, config, effective))?;
    // A source's thread may be in the middle of a file: nothing waits for it.
    runtime.shutdown_background();
    match ending {
        Ending::Stopped => Ok(ExitCode::SUCCESS),
        Ending::Reconfigured => match reload::start_over()? {},
    }
}

/// Why the daemon has ended.
enum Ending {
    /// It was told to.
    Stopped,
    /// Its configuration has changed.
    Reconfigured,
}

/// Puts the parts together and runs them.
async fn serve(
    args: &RunArgs,
    log: &LogArgs,
    config: Config,
    effective: serde_json::Value,
) -> anyhow::Result<Ending> {
    let settings = config.settings.clone();
    let ownership = if args.shared_tables { Ownership::Shared } else { Ownership::Exclusive };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %settings.node_name, "starting");
    setup::tell_of_kube_proxy(config.mode);
    let ipvs = IpvsStart::of(&config)?;
    let is_ipvs = ipvs.is_some();
    let installer = Installer::start(ownership, settings.masquerade_bit.mark(), ipvs)?;
    // Nobody owns what IPVS holds, and it tells nobody of changes.
    let verify = args.verify_seconds.unwrap_or(match installer.ownership {
        Ownership::Exclusive if !is_ipvs => 3600,
        Ownership::Exclusive | Ownership::Shared => 60,
    });
    let periods = Periods { verify: Duration::from_secs(verify), ..Periods::default() };
    let mut engine = Engine::new(settings, periods);
    engine.set_clock(clock::monotonic()?);
    let (out, updates) = mpsc::channel(UPDATES);
    let sources = Sources::start(args, &config, &out)?;
    drop(out);
    let mut daemon = Daemon::new(engine, installer, sources.origins());
    let show = Options::from(&config);
    daemon.monitor = Monitor::new(show.staleness, sources.origins());
    daemon.monitor.api.clone_from(&sources.api);
    daemon.monitor.checks.notes.clone_from(&sources.notes);
    let servers = Servers::start(&show, &daemon.monitor, effective);
    daemon.snapshot.clone_from(&args.snapshot);
    daemon.forgetter = Some(Forgetter::start(Arc::clone(daemon.monitor.metrics()))?);
    daemon.notify = Notify::from_env();
    let stopped = stopped()?;
    let mut ending = Ending::Stopped;
    let stop = async {
        tokio::select! {
            () = stopped => {}
            () = reload::changed(args, log, &config) => ending = Ending::Reconfigured,
        }
    };
    tokio::select! {
        outcome = daemon.run(updates, stop) => outcome?,
        error = sources.failure() => return Err(error),
        error = servers.failure() => return Err(error),
    }
    match ending {
        Ending::Stopped => daemon.notify.stopping(),
        Ending::Reconfigured => daemon.notify.reloading(),
    }
    Ok(ending)
}

/// Is ready when the process is told to stop.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The engine, the sink's thread, and the loop that joins them.
#[derive(Debug)]
pub struct Daemon {
    started: Timestamp,
    engine: Engine,
    installer: Installer,
    snapshot: Option<PathBuf>,
    /// The sources that have not delivered their first complete lists.
    incomplete: BTreeSet<Origin>,
    /// What is wrong at the moment, by source.
    problems: BTreeMap<Origin, BTreeSet<Problem>>,
    forgetter: Option<Forgetter>,
    monitor: Monitor,
    observer: Option<mpsc::UnboundedSender<Counts>>,
    notify: Notify,
}

impl Daemon {
    /// Joins an engine and a sink. Nothing is written to the kernel before all these sources have
    /// delivered their first complete lists.
    pub fn new(
        engine: Engine,
        installer: Installer,
        sources: impl IntoIterator<Item = Origin>,
    ) -> Self {
        let incomplete: BTreeSet<Origin> = sources.into_iter().collect();
        Self {
            started: Timestamp::now(),
            engine,
            installer,
            snapshot: None,
            monitor: Monitor::new(STALENESS, incomplete.iter().copied()),
            incomplete,
            problems: BTreeMap::new(),
            forgetter: None,
            observer: None,
            notify: Notify::default(),
        }
    }

    /// Tells of the counts whenever the kernel has acknowledged something.
    pub fn observe(&mut self, observer: mpsc::UnboundedSender<Counts>) {
        self.observer = Some(observer);
    }

    /// Takes in updates of the source and brings them into the kernel, until told to stop.
    ///
    /// # Errors
    ///
    /// If the sink's thread dies.
    pub async fn run(
        &mut self,
        mut updates: mpsc::Receiver<Update>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut stop = pin!(stop);
        let mut save = signal(SignalKind::user_defined1())?;
        let mut watched = true;
        let mut was_settled = false;
        self.ask_the_sink()?;
        loop {
            let deadlines = [self.engine.deadline(), self.notify.deadline()];
            let deadline = deadlines.into_iter().flatten().min();
            let tick = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(update) = updates.recv() => {
                    self.update(update);
                    // All that is there forms one batch.
                    while let Ok(update) = updates.try_recv() {
                        self.update(update);
                    }
                }
                reply = self.installer.replies.recv() => {
                    let reply = reply.context("the thread of the nft sink died")?;
                    let now = Instant::now();
                    self.monitor.replied(&reply, now);
                    self.engine.handle(Event::Reply(reply), now);
                    if let Some(observer) = &self.observer {
                        let _ = observer.send(self.engine.counts());
                    }
                }
                tampering = self.installer.tampering.recv(), if watched => match tampering {
                    Some(tampering) => {
                        self.engine.handle(Event::Tampered(tampering), Instant::now());
                    }
                    // Nobody but us can change the tables, so nobody watches.
                    None => watched = false,
                },
                Some(ask) = self.monitor.asked() => self.monitor.tell(ask, &self.engine),
                () = tick => {}
                () = &mut stop => break,
                _ = save.recv() => self.save(),
            }
            self.ask_the_sink()?;
            if let (Some((suspects, rules)), Some(forgetter)) =
                (self.engine.take_suspects(), &self.forgetter)
            {
                forgetter.forget(suspects, rules);
            }
            self.monitor.follow(&mut self.engine);
            if self.engine.is_settled() && !was_settled {
                was_settled = true;
                let model = self.engine.model();
                let [services, slices, pods, nodes] =
                    [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node]
                        .map(|kind| model.count(kind));
                let held = "the kernel holds what the sources say";
                tracing::info!(services, slices, pods, nodes, "{held}");
                self.notify.ready(&self.status());
            }
            if self.notify.is_due(Instant::now()) {
                self.notify.beat(&self.status(), Instant::now());
            }
        }
        tracing::info!("stopping; the rules stay");
        self.save();
        Ok(())
    }

    /// Asks the sink for what is to be done now, if anything.
    fn ask_the_sink(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let Some(request) = self.engine.next_request(started) else { return Ok(()) };
        self.monitor.requested(&request, started, Instant::now());
        self.installer.request(request)
    }

    /// One line for the service manager.
    fn status(&self) -> String {
        if !self.incomplete.is_empty() {
            let names: Vec<String> = self.incomplete.iter().map(Origin::to_string).collect();
            return format!("waiting for the first complete list of: {}", names.join(", "));
        }
        let services = self.engine.model().count(Kind::Service);
        let problems: usize = self.problems.values().map(BTreeSet::len).sum();
        let state = if self.engine.is_settled() { "programmed" } else { "changes are waiting" };
        format!("{state}; services: {services}, problems in the sources: {problems}")
    }

    fn update(&mut self, update: Update) {
        let now = Instant::now();
        let Update { origin, changes, triggers, complete, suppressed, problems, .. } = update;
        self.report(origin, problems);
        if suppressed > 0 {
            tracing::debug!(%origin, objects = suppressed, "read again, and mean the same");
        }
        let before = self.engine.counts().suppressed;
        let triggers = self.on_our_clock(triggers, now);
        self.engine.handle(Event::Changes(origin, changes, triggers), now);
        let here = u64::try_from(self.engine.counts().suppressed - before).unwrap_or_default();
        self.monitor.heard(origin, complete, suppressed + here, now);
        // A list is complete when the source says so: a directory that exists but cannot be read
        // yet is no reason to remove anything.
        if complete && self.incomplete.remove(&origin) && self.incomplete.is_empty() {
            self.engine.handle(Event::SourcesReady, now);
        }
    }

    /// When triggers happened, as far as they count: those from before this process say nothing of it,
    /// as in kube-proxy. One that a fast clock has noted for later happens now.
    fn on_our_clock(&self, triggers: Vec<Trigger>, now: Instant) -> Vec<(Family, Instant)> {
        let wall = Timestamp::now();
        let counting = triggers.into_iter().filter(|trigger| trigger.at > self.started);
        let at = |Trigger { family, at }| {
            let age = Duration::try_from(wall.duration_since(at)).unwrap_or_default();
            Some((family, now.checked_sub(age)?))
        };
        counting.filter_map(at).collect()
    }

    /// Tells of problems that are new, and of those that are over.
    fn report(&mut self, origin: Origin, problems: Vec<Problem>) {
        let new: BTreeSet<Problem> = problems.into_iter().collect();
        let old = self.problems.entry(origin).or_default();
        for problem in new.difference(old) {
            match problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
            }
        }
        for problem in old.difference(&new) {
            tracing::info!("no longer: {problem}");
        }
        *old = new;
    }

    fn save(&self) {
        let Some(path) = &self.snapshot else { return };
        let Some((applied, model)) = self.engine.applied() else {
            tracing::warn!("no snapshot saved: what the kernel holds is not known at the moment");
            return;
        };
        let snapshot = Snapshot::of(applied, model);
        match snapshot.write(path) {
            Ok(()) => tracing::info!(path = %path.display(), "saved a snapshot"),
            Err(error) => tracing::error!("saving a snapshot: {error:#}"),
        }
    }
}
