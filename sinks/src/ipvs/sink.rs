//! IPVS and nf_tables as one sink: IPVS chooses and translates, the rules do the rest.
//!
//! There is no transaction over both. In each step of a delta, the rules change first, then IPVS
//! (see `rulec_compiler::delta::stage`).

use std::collections::BTreeSet;
use std::io;

use nix::libc::{EEXIST, ENOENT, ESRCH};
use rulec_compiler::delta::IpvsOp;
use rulec_compiler::ipvs::{self, Draining, Turn, VirtualServer};
use rulec_compiler::{Delta, Program, State};
use rulec_engine::{DeltaBase, Outcome, Sink, SinkError};

use super::{Ipvs, SchedulerError};
use crate::nft::{NftSink, Progress};

/// Both, in the network namespace of the thread that opened them.
pub struct IpvsSink {
    nft: NftSink,
    ipvs: Ipvs,
}

impl IpvsSink {
    /// Combines the two.
    pub fn new(nft: NftSink, ipvs: Ipvs) -> Self {
        Self { nft, ipvs }
    }

    /// Applies operations of one step, in the order of their turns.
    fn apply(&mut self, ops: &[IpvsOp<'_>], progress: &mut Progress) -> Result<(), SinkError> {
        let before = progress.outcome.ops;
        // No address is bound and no server deleted if a server could not be completed.
        let completes = |it: &IpvsOp<'_>| it.op.turn() == Turn::Complete;
        for part in ops.chunk_by(|one, next| completes(one) == completes(next)) {
            self.carry_out(part, progress)?;
        }
        progress.outcome.transactions += usize::from(progress.outcome.ops > before);
        Ok(())
    }

    fn carry_out(&mut self, ops: &[IpvsOp<'_>], progress: &mut Progress) -> Result<(), SinkError> {
        let is_wanted = |it: &&IpvsOp<'_>| it.service.is_none_or(|it| !progress.is_refused(it));
        let ops: Vec<&IpvsOp<'_>> = ops.iter().filter(is_wanted).collect();
        let commands: Vec<ipvs::Op> = ops.iter().map(|it| it.op.clone()).collect();
        if commands.is_empty() {
            return Ok(());
        }
        let refused = self.ipvs.apply(&commands).map_err(SinkError::Unknown)?;
        progress.outcome.ops += commands.len() - refused.len();
        for (place, error) in refused {
            let service = ops.get(place).and_then(|it| it.service);
            // Operations that depend on a refused one are refused, too, and are not reported again.
            if service.is_some_and(|service| progress.is_refused(service)) {
                continue;
            }
            let error = named(error, commands.get(place));
            // Something exists that we assumed absent, or the reverse.
            let is_mismatch = matches!(error.raw_os_error(), Some(ENOENT | EEXIST | ESRCH));
            if progress.base == DeltaBase::Believed && is_mismatch {
                return Err(SinkError::Stale);
            }
            let Some(service) = service else { return Err(SinkError::Refused(error)) };
            progress.refuse(service.clone(), error);
        }
        Ok(())
    }
}

impl Sink for IpvsSink {
    fn read(&mut self) -> Result<(State, DeltaBase), SinkError> {
        let (mut state, base) = self.nft.read()?;
        state.ipvs = self.ipvs.read().map_err(SinkError::Unavailable)?;
        Ok((state, base))
    }

    fn adopt(&mut self) -> Result<(State, DeltaBase), SinkError> {
        let (mut state, base) = self.nft.adopt()?;
        state.ipvs = self.ipvs.read().map_err(SinkError::Unavailable)?;
        Ok((state, base))
    }

    /// IPVS is read as always. If others change virtual servers all the time, one may be missing
    /// that nobody has touched: then the engine reads the kernel, and finds it.
    fn check(&mut self, program: &Program) -> Result<Delta, SinkError> {
        let ipvs = self.ipvs.read().map_err(SinkError::Unavailable)?;
        self.nft.compare(program, ipvs)
    }

    fn commit(&mut self, delta: &Delta, base: DeltaBase) -> Result<Outcome, SinkError> {
        let mut progress = Progress::new(base);
        for step in delta.steps() {
            if progress.spares(step.stage) {
                continue;
            }
            let on_ipvs = step.on_ipvs();
            self.nft.commit_step(step, delta.atomic, &mut progress)?;
            self.apply(&on_ipvs, &mut progress)?;
        }
        Ok(progress.outcome)
    }

    fn idle(&mut self, draining: &[Draining]) -> Result<Vec<Draining>, SinkError> {
        let servers: BTreeSet<VirtualServer> = draining.iter().map(|real| real.server).collect();
        let servers: Vec<VirtualServer> = servers.into_iter().collect();
        let kept = self.ipvs.connections(&servers).map_err(SinkError::Unavailable)?;
        let is_idle = |Draining { server, backend }: &&Draining| {
            kept.get(&(*server, *backend)).is_none_or(|count| *count == 0)
        };
        Ok(draining.iter().filter(is_idle).copied().collect())
    }
}

/// Returns the error, replaced with a clearer one if the kernel lacks a scheduler.
fn named(error: io::Error, op: Option<&ipvs::Op>) -> io::Error {
    match op {
        Some(ipvs::Op::AddServer(_, attributes) | ipvs::Op::SetServer(_, attributes))
            if error.raw_os_error() == Some(ENOENT) =>
        {
            io::Error::other(SchedulerError::Absent(attributes.scheduling.scheduler))
        }
        Some(_) | None => error,
    }
}
