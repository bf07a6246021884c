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
use im::OrdSet;
use ipnet::IpNet;
use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::net::Family;
use rulec_compiler::nft::traffic::Traffic;
use rulec_compiler::object::Kind;
use rulec_engine::{Counts, Engine, Event, Periods, Request};
use rulec_sinks::nft::Ownership;
use rulec_sources::recording::Begin;
use rulec_sources::{Nudge, Problem, RelayReports, Severity, StateDir, Trigger, Update};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cleanup;
use crate::cli::{CleanupArgs, LogArgs, RunArgs};
use crate::clock;
use crate::config::Config;
use crate::daemon::commits::Commits;
use crate::daemon::conntrack_thread::ConntrackThread;
use crate::daemon::hosts_thread::HostsThread;
use crate::daemon::listeners::Listeners;
use crate::daemon::node_look::NodeLook;
use crate::daemon::problems::{Line, Problems};
use crate::daemon::record_thread::{self, Heard, RecordThread};
use crate::daemon::reload;
use crate::daemon::remarks::Remarks;
use crate::daemon::routes_thread::{self, RoutesThread};
use crate::daemon::sink_thread::SinkThread;
use crate::daemon::sources::Sources;
use crate::daemon::systemd::Notify;
use crate::daemon::traffic_thread::TrafficThread;
use crate::history::{self, History, Limits, keeper::Keeper};
use crate::kernel::IpvsStart;
use crate::observe::endpoints::{MetricsSite, Options, Servers};
use crate::observe::followed::Followed;
use crate::observe::monitor::Monitor;
use crate::observe::settings::DaemonSettings;
use crate::observe::telemetry;
use crate::setup;
use crate::snapshot::Snapshot;
use crate::tool::diff;
use crate::tool::show::page;

/// How many updates may wait. A source that is faster than the kernel waits; nothing is lost.
const UPDATES: usize = 256;

/// The default for how long the kernel may be behind: twice kube-proxy's sync period.
const STALENESS: Duration = Duration::from_secs(60);

/// How long a stop waits for the state to be written: much less than the stop timeout of service
/// managers.
const SAVING: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop.
///
/// # Errors
///
/// If the configuration cannot be used, the daemon cannot start, or one of its parts dies.
pub fn run(args: RunArgs, log: &LogArgs) -> anyhow::Result<ExitCode> {
    let loaded = setup::load(&args, log)?;
    let mut logger = telemetry::init_daemon(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(path) = &args.write_config_to {
        fs::write(path, loaded.yaml()?).with_context(|| format!("writing {}", path.display()))?;
        tracing::info!(path = %path.display(), "wrote the configuration");
        return Ok(ExitCode::SUCCESS);
    }
    if args.cleanup {
        let ipvs_device = args.settings.ipvs.ipvs_device.clone();
        return cleanup::run(&CleanupArgs { ipvs_device, ..CleanupArgs::default() });
    }
    let effective = loaded.json();
    let config = loaded.config;
    setup::check(&config)?;
    setup::ask_of_the_kernel(&config);
    if args.init_only {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ending = runtime.block_on(async {
        tokio::select! {
            ending = serve(&args, log, config, effective) => ending,
            error = logger.death() => Err(error),
        }
    })?;
    // Does not wait for the threads of the sources: one may be in the middle of reading a file.
    runtime.shutdown_background();
    match ending {
        Ending::Stopped => Ok(ExitCode::SUCCESS),
        Ending::Reconfigured => match reload::start_over()? {},
    }
}

/// The reason why the daemon has ended.
enum Ending {
    /// The process was told to stop.
    Stopped,
    /// The configuration has changed.
    Reconfigured,
}

/// Puts the parts together and runs them.
async fn serve(
    args: &RunArgs,
    log: &LogArgs,
    config: Config,
    effective: serde_json::Value,
) -> anyhow::Result<Ending> {
    // Comes first: until the handlers are installed, a signal ends the process.
    let stopped = stopped()?;
    let hangups = signal(SignalKind::hangup())?;
    let _saves = signal(SignalKind::user_defined1())?;
    reload::listen_to_signals()?;
    let settings = config.settings.clone();
    let ownership = if args.shared_tables { Ownership::Shared } else { Ownership::Exclusive };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %settings.node_name, "starting");
    setup::tell_of_kube_proxy(config.mode);
    let ipvs = IpvsStart::of(&config)?;
    let is_ipvs = ipvs.is_some();
    let sink = SinkThread::start(ownership, settings.masquerade_bit.mark(), ipvs)?;
    // The content of IPVS has no owner, and the kernel does not notify of its changes.
    let verify = args.verify_seconds.unwrap_or(match sink.ownership {
        Ownership::Exclusive if !is_ipvs => 3600,
        Ownership::Exclusive | Ownership::Shared => 60,
    });
    let counted = settings.traffic;
    let start = || TrafficThread::start(counted);
    let mut traffic = (counted != Traffic::Off).then(start).transpose()?;
    let periods = Periods { verify: Duration::from_secs(verify), ..Periods::default() };
    let mut engine = Engine::new(settings, periods, Instant::now());
    engine.set_clock(clock::monotonic()?);
    let (out, updates) = mpsc::channel(UPDATES);
    let state = args.state_dir.as_ref().filter(|path| !path.as_os_str().is_empty());
    let state = state.map(|path| StateDir::new(path.clone()));
    let sources = Sources::start(args, &config, state.as_ref(), &out)?;
    drop(out);
    // The route comes before the first name of a Service.
    let start = || RoutesThread::start(sources.networks.iter().copied().collect());
    let routes = config.service_route.then(start).transpose()?;
    let mut daemon = Daemon::new(engine, sink, sources.origins());
    let show = Options::from(&config);
    daemon.monitor = Monitor::new(show.staleness, sources.origins());
    daemon.monitor.followed = Followed { api: sources.api.clone(), relay: sources.relay.clone() };
    daemon.reports.clone_from(&sources.reports);
    daemon.monitor.state.clone_from(&state);
    daemon.monitor.traffic = traffic.as_ref().map(TrafficThread::asker);
    daemon.monitor.checks.notes.clone_from(&sources.notes);
    if is_ipvs {
        daemon.monitor.metrics().own.ipvs();
    }
    daemon.history = History::new(Limits::from(&args.history), diff::tell_change);
    if daemon.history.is_kept() {
        daemon.keeper = Some(daemon.history.keep(state.clone())?);
    }
    let metrics = Arc::clone(daemon.monitor.metrics());
    let page = config.page.then(|| {
        let history = daemon.history.clone();
        daemon.monitor.page_site(history, page::render)
    });
    let servers = Servers::start(
        &show,
        daemon.monitor.health_site(),
        MetricsSite { page, ..daemon.monitor.metrics_site(show.mode, effective) },
        args.socket().map(|path| {
            let settings = DaemonSettings::of(args, &config);
            (path, daemon.monitor.state_site(settings, daemon.history.clone()))
        }),
    );
    daemon.snapshot.clone_from(&args.snapshot);
    daemon.conntrack = Some(ConntrackThread::start(Arc::clone(daemon.monitor.metrics()))?);
    daemon.hosts = match &config.hosts {
        Some(hosts) => Some(HostsThread::start(hosts.clone(), Arc::clone(&metrics))?),
        None => None,
    };
    daemon.recording = match &config.recording {
        Some(recording) => {
            let begin = Begin {
                path: recording.path.clone(),
                most: recording.most,
                is_masked: recording.is_masked,
                program: env!("CARGO_PKG_VERSION").to_owned(),
                settings: config.settings.clone(),
                sources: sources.origins(),
            };
            Some(RecordThread::start(begin, Arc::clone(&metrics)).context("--to-file")?)
        }
        None => None,
    };
    daemon.routes = routes;
    daemon.networks.clone_from(&sources.networks);
    daemon.notify = Notify::from_env();
    daemon.nudge = sources.nudge.clone();
    let (asked, reloads) = mpsc::unbounded_channel();
    daemon.reloads = reloads;
    let changed = reload::changed(args, log, &config, &metrics, hangups, asked);
    let mut ending = Ending::Stopped;
    let stop = async {
        tokio::select! {
            () = stopped => {}
            () = changed => ending = Ending::Reconfigured,
        }
    };
    let uncounted = async {
        match &mut traffic {
            Some(traffic) => traffic.death().await,
            None => pending().await,
        }
    };
    let outcome = tokio::select! {
        outcome = daemon.run(updates, stop) => outcome,
        error = uncounted => Err(error),
        error = sources.failure() => Err(error),
        error = servers.failure() => Err(error),
    };
    // The last entries tell most of all how an error came about.
    if let Some(recording) = daemon.recording.take() {
        recording.finish(record_thread::FINISH);
    }
    if let Some(keeper) = daemon.keeper.take() {
        keeper.finish(history::FINISH);
    }
    outcome?;
    if let Some(state) = state.filter(|state| !state.finish(SAVING)) {
        let path = state.path().display();
        tracing::warn!(%path, "the newest state was not written in time; an older one remains");
    }
    match ending {
        Ending::Stopped => daemon.notify.stopping(),
        Ending::Reconfigured => daemon.notify.reloading("restarting with a new configuration"),
    }
    Ok(ending)
}

/// Resolves with an error when one of the threads has died; never if there are none.
async fn death(
    conntrack: &mut Option<ConntrackThread>,
    hosts: &mut Option<HostsThread>,
    routes: &mut Option<RoutesThread>,
    keeper: &mut Option<Keeper>,
    recording: &mut Option<RecordThread>,
) -> anyhow::Error {
    let conntrack = async {
        match conntrack {
            Some(conntrack) => conntrack.death().await,
            None => pending().await,
        }
    };
    let hosts = async {
        match hosts {
            Some(hosts) => hosts.death().await,
            None => pending().await,
        }
    };
    let routes = async {
        match routes {
            Some(routes) => routes.death().await,
            None => pending().await,
        }
    };
    let keeper = async {
        match keeper {
            Some(keeper) => keeper.death().await,
            None => pending().await,
        }
    };
    let recording = async {
        match recording {
            Some(recording) => recording.death().await,
            None => pending().await,
        }
    };
    tokio::select! {
        error = recording => error,
        error = keeper => error,
        error = conntrack => error,
        error = hosts => error,
        error = routes => error,
    }
}

/// Resolves when the process is told to stop.
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

/// The most refused Services that a relay is told of by name.
const REPORTED: usize = 20;

/// Returns which Services the kernel refuses, and why, if it refuses any.
fn refused(engine: &Engine) -> Option<String> {
    let mut refusals = engine.refusals().peekable();
    refusals.peek()?;
    let lines = refusals.take(REPORTED).map(|(service, error, _)| format!("{service}: {error}"));
    Some(lines.collect::<Vec<_>>().join("; "))
}

/// The engine, the sink's thread, and the loop that joins them.
#[derive(Debug)]
pub struct Daemon {
    started: Timestamp,
    engine: Engine,
    sink: SinkThread,
    snapshot: Option<PathBuf>,
    /// The sources that have not delivered their first complete lists.
    incomplete: BTreeSet<Origin>,
    /// How many files could not be read, by source.
    unread: BTreeMap<Origin, usize>,
    /// The current problems, by source.
    problems: Problems,
    /// The sources that are served from the state of an earlier run, and the time of that state.
    stale: BTreeMap<Origin, Timestamp>,
    commits: Commits,
    conntrack: Option<ConntrackThread>,
    /// Writes the names of Services, if that is wanted.
    hosts: Option<HostsThread>,
    /// Whether something has happened that may have changed them.
    names_due: bool,
    /// Keeps the routes to Services, if that is wanted.
    routes: Option<RoutesThread>,
    /// The networks that addresses of Services are given out of.
    networks: Vec<IpNet>,
    /// The networks of Services when routes were last asked for.
    routed: BTreeSet<IpNet>,
    listeners: Listeners,
    monitor: Monitor,
    /// Tells the relay which Services the kernel refuses, if there is a relay.
    reports: Option<RelayReports>,
    /// The changes that are kept.
    history: History,
    keeper: Option<Keeper>,
    /// Records what the sources send, if that is wanted.
    recording: Option<RecordThread>,
    remarks: Remarks,
    node: NodeLook,
    observer: Option<mpsc::UnboundedSender<Counts>>,
    notify: Notify,
    /// Requests to read all sources again.
    reloads: mpsc::UnboundedReceiver<()>,
    /// Makes the manifest source read its files.
    nudge: Option<Nudge>,
    was_settled: bool,
}

impl Daemon {
    /// Joins an engine and a sink. Nothing is written to the kernel before all these sources have
    /// delivered their first complete lists.
    pub fn new(
        engine: Engine,
        sink: SinkThread,
        sources: impl IntoIterator<Item = Origin>,
    ) -> Self {
        let incomplete: BTreeSet<Origin> = sources.into_iter().collect();
        Self {
            started: Timestamp::now(),
            engine,
            sink,
            snapshot: None,
            monitor: Monitor::new(STALENESS, incomplete.iter().copied()),
            incomplete,
            unread: BTreeMap::new(),
            problems: Problems::new(Instant::now()),
            stale: BTreeMap::new(),
            commits: Commits::new(Instant::now()),
            conntrack: None,
            hosts: None,
            names_due: false,
            routes: None,
            networks: Vec::new(),
            routed: BTreeSet::new(),
            listeners: Listeners::default(),
            reports: None,
            history: History::new(Limits::default(), diff::tell_change),
            keeper: None,
            recording: None,
            remarks: Remarks::default(),
            node: NodeLook::default(),
            observer: None,
            notify: Notify::default(),
            // The sender is dropped, so no request comes unless the receiver is replaced.
            reloads: mpsc::unbounded_channel().1,
            nudge: None,
            was_settled: false,
        }
    }

    /// Sends the counts to `observer` after every reply of the sink.
    pub fn observe(&mut self, observer: mpsc::UnboundedSender<Counts>) {
        self.observer = Some(observer);
    }

    /// Takes in updates of the sources and programs them into the kernel, until told to stop.
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
        self.ask_the_sink()?;
        loop {
            let deadlines = [
                self.engine.deadline(),
                self.notify.deadline(),
                self.problems.deadline(),
                self.commits.deadline(),
                self.remarks.deadline(),
                self.recording.as_ref().and_then(RecordThread::deadline),
            ];
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
                    // All updates that are already there form one batch.
                    while let Ok(update) = updates.try_recv() {
                        self.update(update);
                    }
                }
                reply = self.sink.replies.recv() => {
                    let reply = reply.context("the thread of the nft sink died")?;
                    let now = Instant::now();
                    self.monitor.replied(&reply, now);
                    self.engine.handle(Event::Reply(reply), now);
                    self.names_due = true;
                    self.node.changed();
                    if let Some(observer) = &self.observer {
                        let _ = observer.send(self.engine.counts());
                    }
                }
                tampering = self.sink.tampering.recv(), if watched => match tampering {
                    Some(tampering) => {
                        self.engine.handle(Event::Tampered(tampering), Instant::now());
                    }
                    // Only this process can change the tables, so nothing watches them.
                    None => watched = false,
                },
                error = self.sink.threads.death() => return Err(error),
                error = death(&mut self.conntrack, &mut self.hosts, &mut self.routes, &mut self.keeper, &mut self.recording) => return Err(error),
                error = self.monitor.checks.failure() => return Err(error),
                Some(()) = self.reloads.recv() => self.look_again(),
                Some(ask) = self.monitor.asks.recv() => {
                    let (problems, networks) = (self.problems.held(), self.service_networks());
                    self.monitor.tell(ask, &self.engine, self.started, problems, networks);
                }
                () = tick => {}
                () = &mut stop => break,
                _ = save.recv() => self.save(),
            }
            self.ask_the_sink()?;
            // The kernel already works on the next commit, so this does not delay it.
            self.tell();
            if let (Some((suspects, rules)), Some(conntrack)) =
                (self.engine.take_suspects(), &self.conntrack)
            {
                conntrack.check(suspects, rules);
            }
            self.note();
            if let Some(recording) = &mut self.recording {
                recording.follow(self.engine.model());
            }
            self.monitor.follow(&mut self.engine);
            if let Some(reports) = &self.reports {
                reports.report(refused(&self.engine));
            }
            self.name_services();
            self.route_services();
            self.look_at_the_node();
            self.tell_of_what_has_no_effect();
            if self.engine.is_settled() && !self.was_settled {
                self.was_settled = true;
                let model = self.engine.model();
                if let Some(wanted) = self.engine.wanted() {
                    self.listeners.follow_all(wanted, model, self.engine.settings());
                }
                let [services, slices, pods, nodes] =
                    [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node]
                        .map(|kind| model.count(kind));
                let held = "in sync with all sources";
                tracing::info!(services, slices, pods, nodes, "{held}");
                if self.routes.is_none() {
                    // Not before the tables are ours: another instance may have set them.
                    routes_thread::remove_routes();
                }
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

    /// Makes the sources look again, and tells the service manager that the reload is done: their
    /// changes arrive as usual.
    fn look_again(&mut self) {
        if let Some(nudge) = &self.nudge {
            nudge.look();
        }
        if self.was_settled {
            self.notify.reloading("reading the manifests again");
            self.notify.ready(&self.status());
        }
    }

    /// Sends the next requests to the sink, if there are any.
    fn ask_the_sink(&mut self) -> anyhow::Result<()> {
        loop {
            let started = Instant::now();
            let Some(request) = self.engine.next_request(started) else { return Ok(()) };
            self.monitor.requested(&request, started, Instant::now());
            if let Request::Commit { delta, .. } = &request {
                self.listeners.follow(delta, self.engine.model(), self.engine.settings());
            }
            self.sink.request(request)?;
        }
    }

    /// Returns one line for the service manager.
    fn status(&self) -> String {
        if !self.incomplete.is_empty() {
            let names: Vec<String> = self.incomplete.iter().map(Origin::to_string).collect();
            return format!("waiting for the first complete list of: {}", names.join(", "));
        }
        let services = self.engine.model().count(Kind::Service);
        let problems = self.problems.len();
        let state = if self.engine.is_settled() { "programmed" } else { "changes are waiting" };
        let kept = match self.engine.kept() {
            0 => String::new(),
            kept => format!(", kept because files cannot be read: {kept}"),
        };
        let mut status =
            format!("{state}; services: {services}{kept}, problems in the sources: {problems}");
        for (origin, at) in &self.stale {
            status += &format!("; stale: the {origin}, as of {at:.0}");
        }
        status
    }

    fn update(&mut self, update: Update) {
        let now = Instant::now();
        let heard = self.recording.as_ref().map(|_| Heard::of(&update));
        let Update {
            origin,
            changes,
            triggers,
            complete,
            unread,
            unavailable,
            stale,
            suppressed,
            problems,
            // Only a relay tells of them.
            positions: _,
        } = update;
        self.report(origin, problems, now);
        self.monitor.available(origin, !unavailable);
        match stale {
            Some(at) => self.stale.insert(origin, at),
            None => self.stale.remove(&origin),
        };
        if suppressed > 0 {
            tracing::debug!(%origin, objects = suppressed, "read again, meaning unchanged");
        }
        self.names_due |= !changes.is_empty();
        let before = self.engine.counts().suppressed;
        let triggers = self.on_our_clock(triggers, now);
        self.engine.handle(Event::Changes(origin, changes, triggers), now);
        if let (Some(recording), Some(heard)) = (&mut self.recording, heard) {
            recording.record(heard, self.engine.model());
        }
        self.unread.insert(origin, unread);
        self.engine.handle(Event::Unread(self.unread.values().sum()), now);
        let here = u64::try_from(self.engine.counts().suppressed - before).unwrap_or_default();
        self.monitor.heard(origin, complete, suppressed + here, now);
        self.monitor.stands_in(origin, stale);
        // A list is complete only when the source says so: a directory that exists but cannot be
        // read yet is no reason to remove anything.
        if complete && self.incomplete.remove(&origin) && self.incomplete.is_empty() {
            self.engine.handle(Event::SourcesReady, now);
            self.remarks.begin(self.engine.model(), self.engine.settings());
        }
    }

    /// Converts the times of triggers to this process's clock. Triggers from before its start are
    /// dropped, as in kube-proxy: they say nothing about it. A trigger that is in the future,
    /// because of a fast clock, counts as happening now.
    fn on_our_clock(&self, triggers: Vec<Trigger>, now: Instant) -> Vec<(Family, Instant)> {
        let wall = Timestamp::now();
        let counting = triggers.into_iter().filter(|trigger| trigger.at > self.started);
        let at = |Trigger { family, at }| {
            let age = Duration::try_from(wall.duration_since(at)).unwrap_or_default();
            Some((family, now.checked_sub(age)?))
        };
        counting.filter_map(at).collect()
    }

    /// Logs the problems that are new, and those that are resolved.
    fn report(&mut self, origin: Origin, problems: OrdSet<Problem>, now: Instant) {
        self.problems.replace(origin, problems, now).iter().for_each(Line::log);
        let own = &self.monitor.metrics().own;
        for severity in [Severity::Error, Severity::Warning] {
            own.problems(origin, severity, self.problems.count(origin, severity));
        }
        own.broken_files(self.problems.broken_files());
    }

    /// Logs what was committed, and what the rate limits have held back.
    fn tell(&mut self) {
        let now = Instant::now();
        let said = self.engine.take_committed().and_then(|commit| self.commits.tell(&commit, now));
        if let Some(text) = said.or_else(|| self.commits.due(now)) {
            tracing::info!("committed: {text}");
        }
        self.problems.due(now).iter().for_each(Line::log);
    }

    /// Notes what the kernel has acknowledged in the history.
    fn note(&mut self) {
        let Some(acknowledged) = self.engine.take_acknowledged() else { return };
        self.history.note(acknowledged);
        match &self.keeper {
            Some(keeper) => keeper.wake(),
            None => self.history.tidy(),
        }
    }

    /// Writes the names of the Services that the kernel has acknowledged, if they may have changed.
    fn name_services(&mut self) {
        let Some(hosts) = &self.hosts else { return };
        let Some((applied, model)) = self.engine.applied().filter(|_| self.names_due) else {
            return;
        };
        hosts.follow(applied, model);
        self.names_due = false;
    }

    /// Keeps routes to the networks of Services. They are known only when all sources have
    /// delivered.
    fn route_services(&mut self) {
        let Some(routes) = self.routes.as_ref().filter(|_| self.incomplete.is_empty()) else {
            return;
        };
        let networks = self.service_networks();
        if self.routed != networks {
            routes.keep(networks.clone());
            self.routed = networks;
        }
    }

    /// Returns the networks that Services have addresses of: what is given out, and ServiceCIDRs.
    fn service_networks(&self) -> BTreeSet<IpNet> {
        let named = self.engine.model().service_cidrs().flat_map(|entry| &entry.object.cidrs);
        self.networks.iter().chain(named).copied().collect()
    }

    /// Logs what is wrong with the node, as far as Services that the kernel holds need it.
    fn look_at_the_node(&mut self) {
        if self.engine.is_settled() && self.node.is_due() {
            let networks = self.service_networks();
            if let Some((applied, model)) = self.engine.applied() {
                self.node.follow(applied, model, &networks);
            }
        }
    }

    /// Logs what has no effect. That is known only when all sources have delivered.
    fn tell_of_what_has_no_effect(&mut self) {
        let touched = self.engine.take_touched();
        let (model, settings) = (self.engine.model(), self.engine.settings());
        self.remarks.follow(model, settings, touched, Instant::now());
    }

    fn save(&self) {
        let Some(path) = &self.snapshot else { return };
        let Some((applied, model)) = self.engine.applied() else {
            tracing::warn!("no snapshot saved: the kernel's content is not known at the moment");
            return;
        };
        let snapshot = Snapshot::of(applied, model);
        match snapshot.write(path) {
            Ok(()) => tracing::info!(path = %path.display(), "saved a snapshot"),
            Err(error) => tracing::error!("saving a snapshot: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::Settings;
    use rulec_engine::answer;
    use rulec_engine::fake::FakeSink;

    use super::*;

    /// Returns the error that the daemon ends with after something has happened to it.
    async fn end(happens: impl FnOnce(&mut Daemon, Vec<std::sync::mpsc::Sender<()>>)) -> String {
        let engine = Engine::new(Settings::new("na".into()), Periods::default(), Instant::now());
        let (sink, _asked, _answers, lives) = SinkThread::mortal();
        let mut daemon = Daemon::new(engine, sink, []);
        happens(&mut daemon, lives.into());
        let (_out, updates) = mpsc::channel(1);
        let end = daemon.run(updates, pending());
        let end = tokio::time::timeout(Duration::from_secs(60), end).await;
        end.expect("it ends").unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_dead_thread_ends_the_daemon_and_is_named() {
        let forgets = end(|daemon, lives| {
            let conntrack = ConntrackThread::mortal();
            // It ends at once, not only at the next request.
            conntrack.die();
            daemon.conntrack = Some(conntrack);
            std::mem::forget(lives);
        });
        assert_eq!(forgets.await, "the thread rulec-conntrack died");
        let watches = end(|_, mut lives| {
            drop(lives.pop());
            std::mem::forget(lives);
        });
        assert_eq!(watches.await, "the thread rulec-nft-watch died");
        let checks = end(|_, mut lives| {
            drop(lives.remove(1));
            std::mem::forget(lives);
        });
        assert_eq!(checks.await, "the thread rulec-nft-check died");
        let programs = end(|_, mut lives| {
            drop(lives.swap_remove(0));
            std::mem::forget(lives);
        });
        assert_eq!(programs.await, "the thread rulec-nft died");
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_a_check() {
        let settings = Settings::new("na".into());
        let periods = Periods { verify: Duration::ZERO, ..Periods::default() };
        let mut engine = Engine::new(settings, periods, Instant::now());
        engine.handle(Event::SourcesReady, Instant::now());
        let (sink, asked, answers, lives) = SinkThread::mortal();
        let mut daemon = Daemon::new(engine, sink, []);
        let (begins, begun) = tokio::sync::oneshot::channel();
        let kernel = std::thread::spawn(move || {
            let mut kernel = FakeSink::default();
            // A check is never answered.
            while let Some(request) = asked.recv().ok().filter(|request| !request.is_beside()) {
                answers.send(answer(&mut kernel, request)).unwrap();
            }
            begins.send(()).unwrap();
            answers
        });
        let (_out, updates) = mpsc::channel(1);
        let stop = async {
            begun.await.unwrap();
        };
        let end = daemon.run(updates, stop);
        tokio::time::timeout(Duration::from_secs(60), end).await.expect("it ends").unwrap();
        kernel.join().unwrap();
        drop(lives);
    }
}
