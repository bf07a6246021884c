//! An engine with a kernel in memory.

use std::time::{Duration, Instant};

use rulec_compiler::change::{Change, Origin};
use rulec_compiler::name::NodeName;
use rulec_compiler::settings::DetectLocal;
use rulec_compiler::{Delta, Settings, State};
use rulec_engine::fake::FakeSink;
use rulec_engine::{DeltaBase, Engine, Event, Periods, Reply, Request, answer};

use crate::kinds::{ENDPOINTS, NODE, node};
use crate::world::objects;

/// The Services, of ten endpoints each.
pub(crate) const SERVICES: usize = 1_000;

/// Longer than a run: the clock stands still.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// An engine that has these Services, and the kernel that it programs.
pub(crate) struct Cluster {
    engine: Engine,
    sink: FakeSink,
    now: Instant,
}

impl Cluster {
    /// Creates an engine that has read all objects, and waits for what the kernel holds.
    pub(crate) fn reading() -> Self {
        let now = Instant::now();
        let periods = Periods { verify: NEVER, idle_affinity: NEVER, ..Periods::default() };
        let mut engine = Engine::new(settings(), periods, now);
        let mut all = objects(SERVICES, ENDPOINTS);
        all.push(node());
        let first = Event::Changes(Origin::Manifests, vec![Change::everything(all)], Vec::new());
        engine.handle(first, now);
        engine.handle(Event::SourcesReady, now);
        let request = engine.next_request(now);
        assert!(matches!(request, Some(Request::Adopt | Request::Read)), "{request:?}");
        Self { engine, sink: FakeSink::default(), now }
    }

    /// Creates an engine and a kernel that is in sync with all objects.
    pub(crate) fn in_sync() -> Self {
        let mut cluster = Self::reading();
        let first = cluster.adopt(State::default());
        cluster.carry_out(first);
        cluster
    }

    /// Takes in what the kernel holds, and returns what there is to do.
    pub(crate) fn adopt(&mut self, state: State) -> Option<Request> {
        let read = Ok((state, DeltaBase::Read { generation: None }));
        self.engine.handle(Event::Reply(Reply::State(read)), self.now);
        self.engine.next_request(self.now)
    }

    /// Takes in changes of a source, and returns what there is to do.
    pub(crate) fn plan(&mut self, changes: Vec<Change>) -> Option<Request> {
        self.engine.handle(Event::Changes(Origin::Manifests, changes, Vec::new()), self.now);
        self.engine.next_request(self.now)
    }

    /// Has the kernel do it, and everything that follows.
    pub(crate) fn carry_out(&mut self, request: Option<Request>) {
        let mut next = request;
        while let Some(request) = next {
            let reply = answer(&mut self.sink, request);
            self.engine.handle(Event::Reply(reply), self.now);
            next = self.engine.next_request(self.now);
        }
    }

    /// Makes changes.
    pub(crate) fn make(&mut self, changes: Vec<Change>) {
        let request = self.plan(changes);
        self.carry_out(request);
    }

    /// Returns what the kernel holds.
    pub(crate) fn held(&self) -> State {
        self.sink.state.clone()
    }
}

/// Returns the delta of a request to commit one.
pub(crate) fn committed(request: Option<&Request>) -> &Delta {
    match request {
        Some(Request::Commit { delta, .. }) if !delta.is_empty() => delta,
        other => panic!("a change has an effect: {other:?}"),
    }
}

pub(crate) fn settings() -> Settings {
    let pods = vec!["10.128.0.0/9".parse().unwrap()];
    Settings { detect_local: DetectLocal::ClusterCidr(pods), ..Settings::new(NodeName::from(NODE)) }
}
