//! The kernel: the strict one of the engine's tests, which is looked at between any two steps of a
//! commit, and which others change.

use std::time::Duration;

use rulec_compiler::ipvs::Draining;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::state::ChainContent;
use rulec_compiler::{Delta, Op, State};
use rulec_engine::fake::{FakeSink, Fault};
use rulec_engine::{DeltaBase, Outcome, Sink, SinkError};

use crate::cluster::{self, From};
use crate::dice::Dice;
use crate::laws::{Breach, Served};
use crate::plan::Kernel;

/// ENOMEM, as for a Service that is too large.
const REFUSED: i32 = 12;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Simulated {
    fake: FakeSink,
    /// What must be served at every moment.
    served: Served,
    /// The first law that a step has broken.
    breach: Option<Breach>,
    /// How long a request takes at most.
    slowness: Duration,
    dice: Dice,
    pub(crate) commits: u64,
    last: Option<Delta>,
}

impl Simulated {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            fake: FakeSink::default(),
            served: Served::default(),
            breach: None,
            slowness: Duration::from_millis(2),
            dice: Dice::new(!seed),
            commits: 0,
            last: None,
        }
    }

    /// Returns one that holds the same, and has no faults.
    pub(crate) fn healthy_copy(&self) -> Self {
        let fake = FakeSink { state: self.fake.state.clone(), ..FakeSink::default() };
        Self { fake, ..Self::new(0) }
    }

    pub(crate) fn state(&self) -> &State {
        &self.fake.state
    }

    /// Returns the operations of the last commit, if there was one.
    pub(crate) fn last_commit(&self) -> Option<Vec<&Op>> {
        self.last.as_ref().map(|delta| delta.ops().collect())
    }

    pub(crate) fn breach(&mut self) -> Option<Breach> {
        self.breach.take()
    }

    /// A daemon starts that cannot know what the one before has seen.
    pub(crate) fn forget_the_time(&mut self) {
        self.served.forget_the_time();
    }

    /// Returns how long the next request takes.
    pub(crate) fn latency(&mut self) -> Duration {
        let most = u64::try_from(self.slowness.as_micros()).expect("short");
        Duration::from_micros(1 + self.dice.below(most))
    }

    /// Ends all faults.
    pub(crate) fn calm(&mut self) {
        self.fake.faults.clear();
        self.fake.unreadable = 0;
        self.fake.refuses.clear();
        self.slowness = Duration::from_millis(2);
    }

    /// Carries out a step of a plan; returns whether others' change is announced.
    pub(crate) fn meet(&mut self, what: &Kernel) -> bool {
        match what {
            Kernel::LostAnswer => self.fake.faults.push_back(Fault::LostAnswer),
            Kernel::LostRequest => self.fake.faults.push_back(Fault::LostRequest),
            Kernel::Half => self.fake.faults.push_back(Fault::Half),
            Kernel::Unreadable(times) => self.fake.unreadable = u32::from(*times),
            Kernel::Refuse(number) => {
                let name = cluster::name(From::Server, *number);
                let namespace = "default".into();
                let service = NamespacedName { namespace, name: name.as_str().into() };
                self.fake.refuses.insert(service, REFUSED);
            }
            Kernel::Accept => self.fake.refuses.clear(),
            Kernel::Slow(millis) => {
                self.slowness = Duration::from_millis(u64::from(*millis).max(2));
            }
            Kernel::Tamper(at, announced) => return self.delete_an_element(*at) && *announced,
            Kernel::Flush(at, announced) => return self.empty_a_chain(*at) && *announced,
            Kernel::Wipe(announced) => {
                self.served.excuse();
                let first = self.fake.state.tables.keys().next().copied();
                let gone = first.and_then(|family| self.fake.state.tables.remove(&family));
                return gone.is_some() && *announced;
            }
        }
        false
    }

    fn delete_an_element(&mut self, at: u16) -> bool {
        let Some(table) = self.fake.state.tables.values_mut().next() else { return false };
        let count = table.elements.len();
        let Some(key) = table.elements.keys().nth(usize::from(at) % count.max(1)).copied() else {
            return false;
        };
        table.elements.remove(&key);
        self.served.excuse();
        true
    }

    fn empty_a_chain(&mut self, at: u8) -> bool {
        let Some(table) = self.fake.state.tables.values_mut().next() else { return false };
        let count = table.chains.len();
        let Some(content) = table.chains.values_mut().nth(usize::from(at) % count.max(1)) else {
            return false;
        };
        *content = ChainContent::Other;
        self.served.excuse();
        true
    }

    /// Looks at the state after each step of what was committed.
    fn look(&mut self, before: State) {
        let mut state = before;
        for delta in std::mem::take(&mut self.fake.committed) {
            self.commits += 1;
            self.last = Some(delta.clone());
            for step in delta.steps() {
                let ops: Vec<Op> = step.ops().cloned().collect();
                let step = Delta { shared: ops.into(), ..Delta::default() };
                if let Err(violation) = state.apply(&step) {
                    let what = format!("a step of a commit is refused: {violation}");
                    self.breach.get_or_insert(Breach::new("steps are valid", what));
                    return;
                }
                if let Err(breach) = self.served.look(&state) {
                    self.breach.get_or_insert(breach);
                }
            }
        }
    }
}

impl Sink for Simulated {
    fn read(&mut self) -> Result<(State, DeltaBase), SinkError> {
        self.fake.read()
    }

    fn commit(&mut self, delta: &Delta, base: DeltaBase) -> Result<Outcome, SinkError> {
        let before = self.fake.state.clone();
        let outcome = self.fake.commit(delta, base);
        self.look(before);
        if outcome.is_ok() {
            self.served.committed(&self.fake.state);
        }
        outcome
    }

    fn idle(&mut self, draining: &[Draining]) -> Result<Vec<Draining>, SinkError> {
        self.fake.idle(draining)
    }
}
