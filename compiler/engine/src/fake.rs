//! A stand-in for a kernel: as strict as nf_tables, with injected failures.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use rulec_compiler::delta::{Delta, Pieces, Staged, Step};
use rulec_compiler::ipvs::Draining;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Op, State};

use crate::{DeltaBase, Outcome, Refusal, Sink, SinkError};

/// The failure of the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No failure.
    None,
    /// The kernel commits, and the answer is lost.
    LostAnswer,
    /// The kernel does not commit, and there is no answer.
    LostRequest,
    /// Half of the transactions are committed, then the answer is lost.
    Half,
}

/// A kernel in memory.
#[derive(Debug, Default)]
pub struct FakeSink {
    /// Its state.
    pub state: State,
    /// The failures of the next commits, in order; then there are none.
    pub faults: VecDeque<Fault>,
    /// The number of following reads that fail.
    pub unreadable: u32,
    /// The Services that it refuses, each with the errno.
    pub refuses: BTreeMap<NamespacedName, i32>,
    /// True if it commits a Service up to its last piece, and refuses that one.
    pub refuses_halfway: bool,
    /// The deltas it has committed.
    pub committed: Vec<Delta>,
    /// The real servers of IPVS that have connections.
    pub busy: BTreeSet<Draining>,
    /// The number of following counts of connections that fail.
    pub uncountable: u32,
}

impl FakeSink {
    fn apply(&mut self, delta: &Delta) -> Result<(), SinkError> {
        let mut next = self.state.clone();
        if next.apply(delta).is_err() {
            return Err(SinkError::Stale);
        }
        self.state = next;
        self.committed.push(delta.clone());
        Ok(())
    }
}

impl Sink for FakeSink {
    fn read(&mut self) -> Result<(State, DeltaBase), SinkError> {
        if let Some(left) = self.unreadable.checked_sub(1) {
            self.unreadable = left;
            return Err(SinkError::Unavailable(io::Error::other("injected")));
        }
        Ok((self.state.clone(), DeltaBase::Read { generation: None }))
    }

    fn commit(&mut self, delta: &Delta, _: DeltaBase) -> Result<Outcome, SinkError> {
        let lost = || SinkError::Unknown(io::Error::other("injected"));
        let mut allowed = delta.clone();
        for group in allowed.groups.iter_mut().filter(|it| self.refuses.contains_key(&it.service)) {
            let ops = if self.refuses_halfway { first_pieces(&group.ops) } else { Vec::new() };
            group.ops = ops.into();
        }
        if delta.groups.iter().any(|it| self.refuses.contains_key(&it.service)) {
            // What a refused Service leads to stays, as in the kernel's sinks.
            allowed.shared.drop_retired();
            allowed.groups.iter_mut().for_each(|group| group.ops.drop_retired());
        }
        allowed.groups.retain(|group| !group.ops.is_empty());
        match self.faults.pop_front().unwrap_or(Fault::None) {
            Fault::None => {}
            Fault::LostRequest => return Err(lost()),
            Fault::LostAnswer => {
                self.apply(&allowed)?;
                return Err(lost());
            }
            Fault::Half => {
                self.apply(&half(&allowed))?;
                return Err(lost());
            }
        }
        self.apply(&allowed)?;
        let refused = delta
            .groups
            .iter()
            .filter_map(|group| {
                let errno = self.refuses.get(&group.service)?;
                let error = io::Error::from_raw_os_error(*errno);
                Some(Refusal { service: group.service.clone(), error })
            })
            .collect();
        Ok(Outcome { transactions: 1, ops: allowed.len(), bytes: 0, refused })
    }

    fn idle(&mut self, draining: &[Draining]) -> Result<Vec<Draining>, SinkError> {
        if let Some(left) = self.uncountable.checked_sub(1) {
            self.uncountable = left;
            return Err(SinkError::Unavailable(io::Error::other("injected")));
        }
        Ok(draining.iter().filter(|real| !self.busy.contains(real)).copied().collect())
    }
}

/// Returns all pieces of a Service's operations but the last one.
fn first_pieces(ops: &Staged) -> Vec<Op> {
    let ops: Vec<&Op> = ops.iter().collect();
    let pieces = Pieces::of(&ops);
    let mut pieces: Vec<&[&Op]> = pieces.iter().collect();
    pieces.pop();
    pieces.concat().into_iter().cloned().collect()
}

/// Returns what an interrupted commit has done: the first half of the steps, and of the next one
/// the rules of half of the Services.
fn half(delta: &Delta) -> Delta {
    let steps: Vec<Step<'_>> = delta.steps().collect();
    let (done, next) = steps.split_at(steps.len() / 2);
    let mut ops: Vec<Op> = done.iter().flat_map(|step| step.ops().cloned()).collect();
    if let Some(next) = next.first() {
        let groups = next.groups.iter().take(next.groups.len() / 2);
        let groups = groups.flat_map(|(_, ops)| ops.iter());
        let rules = next.shared.iter().chain(groups).filter(|op| op.as_nft().is_some());
        ops.extend(rules.cloned());
    }
    Delta { shared: ops.into(), ..Delta::default() }
}
