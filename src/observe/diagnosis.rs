//! Makes a `Status` of a view of the daemon: what is wrong, what waits, which sources can be relied on.

use std::net::IpAddr;
use std::time::Instant;

use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::object::Kind;
use rulec_compiler::plural::counted;
use rulec_sources::{Problem, Severity};

use super::followed::Followed;
use super::status::{
    API_VERSION, Condition, KernelStatus, LastError, Objects, RefusedService, SourceState, Status,
};
use super::view::View;
use crate::host::node::{self, Needs};

/// How many problems of each source are named. All are counted.
const NAMED: usize = 20;

impl Status {
    /// Returns the status of a daemon. Looks at the node, so that it takes a moment.
    pub fn of(view: &View) -> Self {
        let clocks = Clocks::read();
        let mut node_findings = Vec::new();
        if let Some(applied) = &view.applied {
            let held = view.model.interface_addresses();
            let own: &[IpAddr] = held.map_or(&[], |held| &held.object.addresses);
            let look = node::look(&Needs::of(applied, &view.about.networks, own));
            node_findings.extend(look.findings.iter().map(ToString::to_string));
            let errors = look.errors.iter();
            node_findings
                .extend(errors.map(|error| format!("cannot look at this node: {error:#}")));
        }
        let sources = view.sources.keys();
        let sources: Vec<SourceState> =
            sources.map(|origin| SourceState::of(view, *origin, &clocks)).collect();
        let kernel = KernelStatus::of(view, &clocks);
        let problems = problems(view, &kernel, &sources, clocks.now);
        let count = |kind| view.model.count(kind);
        let mode = if view.settings.ipvs().is_some() { "ipvs" } else { "nftables" };
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "Status".to_owned(),
            time: clocks.wall,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            started: view.about.started,
            node: view.settings.node_name.to_string(),
            mode: mode.to_owned(),
            healthy: problems.is_empty(),
            problems,
            node_findings,
            kernel,
            objects: Objects {
                services: count(Kind::Service),
                endpoint_slices: count(Kind::EndpointSlice),
                pods: count(Kind::Pod),
                nodes: count(Kind::Node),
            },
            sources,
        }
    }
}

impl KernelStatus {
    fn of(view: &View, clocks: &Clocks) -> Self {
        let failure = view.failure.as_ref().map(|failure| LastError {
            time: clocks.at(failure.at),
            message: failure.error.to_string(),
            lasts: failure.lasts,
        });
        let refused = view.refused.iter().map(|(service, error, attempts)| RefusedService {
            service: service.to_string(),
            error: error.to_string(),
            attempts: *attempts,
        });
        Self {
            in_sync: view.is_settled,
            behind_since: view.about.health.behind_since.map(|since| clocks.at(since)),
            waiting_services: view.pending_services,
            waiting_endpoints: view.pending_endpoints,
            last_commit: view.about.committed,
            last_comparison: view.compared.map(|at| clocks.at(at)),
            repairs: view.counts.repairs,
            last_error: failure,
            refused: refused.collect(),
        }
    }
}

impl SourceState {
    fn of(view: &View, origin: Origin, clocks: &Clocks) -> Self {
        let status = view.sources.get(&origin).copied().unwrap_or_default();
        let followed = Some(&view.followed).filter(|_| origin == Origin::Api);
        let is_away = status.is_unavailable || followed.is_some_and(Followed::is_away);
        let state = match status {
            _ if status.stale.is_some() => Condition::Stale,
            _ if !status.is_complete => Condition::Waiting,
            _ if is_away => Condition::Unavailable,
            _ => Condition::InSync,
        };
        let last_error = followed.and_then(Followed::last_error).map(|(time, message)| LastError {
            time,
            message: message.to_string(),
            lasts: is_away,
        });
        let all = view.about.problems.get(&origin);
        let all = || all.into_iter().flatten();
        let is_error = |problem: &&Problem| problem.severity == Severity::Error;
        // Errors come first.
        let named = all().filter(is_error).chain(all().filter(|it| !is_error(it)));
        let count = |kind| view.model.origins(kind).get(&origin).copied().unwrap_or_default();
        Self {
            source: origin,
            state,
            since: status.since,
            last_heard: status.heard.map(|at| clocks.at(at)),
            as_of: status.stale,
            services: count(Kind::Service),
            objects: Kind::ALL.into_iter().map(count).sum(),
            errors: all().filter(is_error).count(),
            warnings: all().filter(|it| !is_error(it)).count(),
            problems: named.take(NAMED).map(ToString::to_string).collect(),
            last_error,
        }
    }
}

/// Returns what is wrong, the most important first.
fn problems(
    view: &View,
    kernel: &KernelStatus,
    sources: &[SourceState],
    now: Instant,
) -> Vec<String> {
    let health = &view.about.health;
    let mut found: Vec<String> =
        health.awaited.iter().map(|what| format!("waiting for {what}")).collect();
    if let Some(error) = kernel.last_error.as_ref().filter(|error| error.lasts) {
        found.push(format!("the kernel cannot be programmed: {}", error.message));
    }
    if !health.is_healthy(now) {
        let limit = health.staleness.as_secs();
        found.push(format!("the kernel has been behind the sources for more than {limit} s"));
    }
    for RefusedService { service, error, attempts } in &kernel.refused {
        let times = counted(u64::from(*attempts), "time");
        found.push(format!("the kernel refuses Service {service} ({times}): {error}"));
    }
    for source in sources {
        let name = source.source;
        match source.state {
            Condition::Unavailable => found.push(format!("source {name}: unavailable")),
            Condition::Stale => found.push(format!("source {name}: an earlier state stands in")),
            // It is among those that are awaited.
            Condition::Waiting | Condition::InSync | Condition::Read => {}
        }
        if source.errors > 0 {
            let errors = counted(source.errors as u64, "error");
            found.push(format!("source {name}: {errors} in its objects"));
        }
    }
    let kept = view.wanted.as_ref().map_or(0, |wanted| wanted.kept().count());
    if kept > 0 {
        let services = counted(kept as u64, "Service");
        found.push(format!("{services} kept because files cannot be read"));
    }
    found
}

/// This process's clock and the wall's, at one moment.
struct Clocks {
    now: Instant,
    wall: Timestamp,
}

impl Clocks {
    fn read() -> Self {
        Self { now: Instant::now(), wall: Timestamp::now() }
    }

    fn at(&self, at: Instant) -> Timestamp {
        let age = self.now.saturating_duration_since(at);
        self.wall.checked_sub(age).unwrap_or(self.wall)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;
    use std::time::Duration;

    use im::OrdSet;
    use rulec_compiler::Settings;
    use rulec_compiler::name::{NamespacedName, NodeName};
    use rulec_engine::{Engine, Failure, Periods};

    use super::*;
    use crate::observe::health::Health;
    use crate::observe::view::{About, SourceStatus};

    /// A daemon that has started, with one source that has delivered.
    fn view() -> View {
        let settings = Settings::new(NodeName::from("na"));
        let engine = Engine::new(settings, Periods::default(), Instant::now());
        let mut source = SourceStatus::default();
        source.change(|source| source.is_complete = true);
        let mut health = Health::new(Duration::from_secs(60), Timestamp::now());
        health.awaited.clear();
        let about = About {
            started: Timestamp::now(),
            committed: None,
            health,
            problems: BTreeMap::new(),
            networks: BTreeSet::new(),
        };
        View::of(&engine, BTreeMap::from([(Origin::Manifests, source)]), Followed::default(), about)
    }

    impl Status {
        /// The status of a daemon that has just started, and has nothing to do.
        pub(crate) fn for_test() -> Self {
            Self::of(&view())
        }
    }

    #[test]
    fn each_thing_that_is_wrong_is_named_and_makes_it_unhealthy() {
        let status = Status::of(&view());
        assert!(status.healthy && status.problems.is_empty(), "{status:#?}");
        let check = |expected: &str, spoil: &dyn Fn(&mut View)| {
            let mut view = view();
            spoil(&mut view);
            let status = Status::of(&view);
            assert!(!status.healthy, "{expected}");
            assert_eq!(status.problems, [expected]);
        };
        check("waiting for the kernel to take the first rules", &|view| {
            view.about.health.awaited.push("the kernel to take the first rules".to_owned());
        });
        check("the kernel cannot be programmed: injected", &|view| {
            let at = Instant::now();
            view.failure = Some(Failure { at, error: "injected".into(), lasts: true });
        });
        check("the kernel has been behind the sources for more than 60 s", &|view| {
            view.about.health.behind_since = Instant::now().checked_sub(Duration::from_secs(61));
        });
        check("the kernel refuses Service default/web (2 times): injected", &|view| {
            let key = NamespacedName::new("default", "web");
            view.refused.push((key, Arc::from("injected"), 2));
        });
        check("source manifests: unavailable", &|view| {
            view.sources.entry(Origin::Manifests).or_default().is_unavailable = true;
        });
        check("source manifests: an earlier state stands in", &|view| {
            view.sources.entry(Origin::Manifests).or_default().stale = Some(Timestamp::now());
        });
        check("source manifests: 1 error in its objects", &|view| {
            let problem = |severity| Problem {
                path: "web.yaml".into(),
                line: None,
                column: None,
                severity,
                object: None,
                message: "is broken".to_owned(),
                skips: false,
            };
            let all = [problem(Severity::Error), problem(Severity::Warning)];
            view.about.problems.insert(Origin::Manifests, OrdSet::from_iter(all));
        });
    }

    #[test]
    fn a_failure_that_is_over_is_told_but_is_not_wrong() {
        let mut view = view();
        let at = Instant::now();
        view.failure = Some(Failure { at, error: "injected".into(), lasts: false });
        let status = Status::of(&view);
        assert!(status.healthy);
        assert_eq!(status.kernel.last_error.map(|error| error.lasts), Some(false));
    }
}
