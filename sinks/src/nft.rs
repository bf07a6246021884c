//! nf_tables: commits deltas, reads state back, watches for changes by others.

mod batch;
mod check;
mod cost;
mod dump;
mod expressions;
pub mod foreign;
pub mod forward;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod identity;
#[cfg(feature = "measuring")]
pub(crate) mod measuring;
mod objects;
pub mod records;
pub mod trace;
pub mod traffic;
mod transactions;
mod types;
pub mod watch;
mod wire;

use std::collections::BTreeSet;
use std::io;

use rulec_compiler::delta::{Delta, Step};
use rulec_compiler::ipvs;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::{Op, Program, Stage, State};
use rulec_engine::{DeltaBase, Outcome, Refusal, Sink, SinkError};

use self::batch::Batch;
use self::transactions::Part;

use crate::netlink::meter::Spent;
use crate::netlink::{Bus, Socket, messages};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ERESTART: i32 = 85;
const EMSGSIZE: i32 = 90;
const ENOBUFS: i32 = 105;

/// The ownership of our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Others cannot change them, and `nft flush ruleset` skips them. They remain when the process
    /// ends. Needs Linux 6.9; on older kernels this becomes `Shared`.
    Exclusive,
    /// Any process with the necessary rights may change them; `watch` reports such changes.
    Shared,
}

/// Our tables in the network namespace of the thread that opened it.
pub struct NftSink {
    socket: Socket,
    seq: u32,
    batch: Batch,
    ownership: Ownership,
    mark: u32,
}

impl NftSink {
    /// Opens the kernel's nf_tables. The mark is the one that the rules use. Reads and writes
    /// nothing, except a probe for the support of exclusive tables, if those are requested, or for
    /// permission.
    ///
    /// # Errors
    ///
    /// If there is no nf_tables, or no right to change it (CAP_NET_ADMIN).
    pub fn open(ownership: Ownership, mark: u32) -> Result<Self, SinkError> {
        let socket = Socket::open(Bus::Netfilter, 0).map_err(SinkError::Unavailable)?;
        let batch = Batch::default();
        let mut sink = Self { socket, seq: 1, batch, ownership, mark };
        // A process that may have buffers of any size has all permissions. Otherwise, only a
        // request tells.
        if ownership == Ownership::Shared && !sink.socket.may_force() {
            sink.probe(0)?;
        }
        if ownership == Ownership::Exclusive && !sink.can_own()? {
            tracing::info!(
                "this kernel has no persistent table ownership (Linux 6.9), tables are shared"
            );
            sink.ownership = Ownership::Shared;
        }
        Ok(sink)
    }

    /// Uses buffers of this number of bytes, as if no larger ones were granted. Root of a user
    /// namespace may not exceed the limits, although it may do everything else.
    ///
    /// # Errors
    ///
    /// If the kernel does not grant these either.
    pub fn with_buffers(mut self, bytes: usize) -> io::Result<Self> {
        self.socket = self.socket.with_buffers(bytes)?;
        Ok(self)
    }

    /// Returns the ownership of the tables.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// Returns the port id of the socket that commits; notifications of our own changes carry it.
    pub fn portid(&self) -> u32 {
        self.socket.portid()
    }

    /// Begins to measure the processor time that the kernel spends on this sink's calls. For benches:
    /// on a busy machine, the clock says more about the scheduler.
    pub fn meter(&mut self) {
        self.socket.meter.start();
    }

    /// Ends this, and returns what was spent.
    pub fn spent(&mut self) -> Spent {
        self.socket.meter.stop()
    }

    /// Deletes our tables with their content, and returns which there were.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: another process owns them.
    pub fn cleanup(&mut self) -> Result<Vec<Family>, SinkError> {
        let tables = self.take_over()?;
        let families: Vec<Family> = tables.keys().copied().collect();
        if !families.is_empty() {
            let ops = dump::cleanup(families.iter().copied());
            self.batch.begin(self.seq, None);
            self.batch.push(None, &ops, self.mark, 0);
            if let KernelAnswer::Refused(refused) = self.send()? {
                return Err(self.explain(&refused));
            }
        }
        Ok(families)
    }

    fn table_flags(&self) -> u32 {
        match self.ownership {
            Ownership::Exclusive => wire::NFT_TABLE_F_OWNER | wire::NFT_TABLE_F_PERSIST,
            Ownership::Shared => 0,
        }
    }

    /// Returns true if the kernel supports the flags of an exclusive table.
    fn can_own(&mut self) -> Result<bool, SinkError> {
        // The second message deletes a chain that does not exist: ENOENT means that the first one
        // was accepted.
        Ok(self.probe(self.table_flags())? == [ENOENT])
    }

    /// Adds a table with these flags in a transaction that is refused at its end, so that nothing
    /// is ever changed, and returns the errors.
    fn probe(&mut self, flags: u32) -> Result<Vec<i32>, SinkError> {
        let probe = objects::probe(flags, self.seq.wrapping_add(1));
        let errors = self.exchange(&probe)?;
        if errors.contains(&EPERM) {
            return Err(SinkError::Unavailable(io::Error::from_raw_os_error(EPERM)));
        }
        Ok(errors)
    }

    /// Sends bytes that are known to be refused, and returns the errors in order.
    fn exchange(&mut self, bytes: &[u8]) -> Result<Vec<i32>, SinkError> {
        self.seq = self.seq.wrapping_add(16);
        self.socket.send(bytes).map_err(SinkError::Unavailable)?;
        let mut errors = Vec::new();
        while let Some(received) = self.socket.receive().map_err(SinkError::Unavailable)? {
            errors.extend(
                messages(received)
                    .filter_map(|message| message.errno())
                    .filter(|errno| *errno != 0),
            );
        }
        Ok(errors)
    }

    /// Reads our content of the kernel. A table that should be owned but cannot be is not ours: the
    /// kernel does not let the flag be added later.
    fn look(&mut self) -> Result<dump::Reading, SinkError> {
        let mut reading = dump::read(&mut self.socket, &mut self.seq, self.mark)
            .map_err(SinkError::Unavailable)?;
        if self.ownership == Ownership::Exclusive {
            for (family, table) in &mut reading.state.tables {
                let flags = reading.tables.get(family).map_or(0, |table| table.flags);
                if flags & wire::NFT_TABLE_F_PERSIST == 0 {
                    table.foreign.push("the table was created as shared".to_owned());
                }
            }
        }
        Ok(reading)
    }

    /// Takes over tables that an earlier process has left, and returns which tables there are. When
    /// an owner ends, the kernel removes the owner's flag from its table and keeps the flag that
    /// makes the table persist: this identifies an orphan. A process that does not want to own
    /// tables can change an orphan as it is.
    fn take_over(&mut self) -> Result<dump::Owners, SinkError> {
        let tables =
            dump::owners(&mut self.socket, &mut self.seq).map_err(SinkError::Unavailable)?;
        let mut orphans = Vec::new();
        for (family, table) in &tables {
            match table.owner {
                Some(owner) if owner == self.portid() => {}
                Some(owner) => {
                    let owner = crate::owner::find(owner);
                    return Err(SinkError::Owned { family: *family, owner });
                }
                None if self.ownership == Ownership::Shared => {}
                None if table.flags & wire::NFT_TABLE_F_PERSIST == 0 => {}
                None => orphans.push((*family, table.flags | wire::NFT_TABLE_F_OWNER)),
            }
        }
        if orphans.is_empty() {
            return Ok(tables);
        }
        self.batch.begin(self.seq, None);
        for (family, flags) in orphans {
            self.batch.add_table(family, flags);
        }
        match self.send()? {
            KernelAnswer::Committed => Ok(tables),
            KernelAnswer::Refused(refused) => Err(self.explain(&refused)),
        }
    }

    /// Sends the batch and reads the answers: success is an acknowledgement and no error.
    fn send(&mut self) -> Result<KernelAnswer, SinkError> {
        self.batch.finish();
        self.exchange_batch()
    }

    /// Sends a complete batch.
    fn exchange_batch(&mut self) -> Result<KernelAnswer, SinkError> {
        self.socket.send(self.batch.bytes()).map_err(SinkError::Unavailable)?;
        self.seq = self.batch.end_seq();
        let mut refused = Vec::new();
        let mut acknowledged = false;
        // Answers come in the order of the messages, so the answer to the last message comes last.
        // A transaction that is refused as a whole has only one, to its begin. A lost answer
        // (ENOBUFS) does not mean a lost transaction.
        let mut is_last = false;
        let mut lost = None;
        while !is_last {
            let received = match self.socket.receive() {
                Ok(received) => received,
                // There was no room for all answers: the received ones suffice if one is an error.
                Err(error) if error.raw_os_error() == Some(ENOBUFS) && lost.is_none() => {
                    lost = Some(error);
                    continue;
                }
                Err(error) => return Err(SinkError::Unknown(error)),
            };
            let Some(received) = received else { break };
            for message in messages(received) {
                is_last |= message.seq == self.batch.ack_seq();
                match message.errno() {
                    Some(0) => acknowledged |= message.seq == self.batch.ack_seq(),
                    // An answer to an earlier request that was abandoned does not belong to this
                    // one.
                    Some(errno) if self.batch.contains(message.seq) => {
                        refused.push((message.seq, errno));
                    }
                    Some(_) => {}
                    None => {}
                }
            }
        }
        if refused.iter().any(|(_, errno)| *errno == ERESTART) {
            return Err(SinkError::Stale);
        }
        match (refused.is_empty(), acknowledged) {
            (false, _) => Ok(KernelAnswer::Refused(refused)),
            // The kernel acknowledges the last message even if it has refused another.
            (true, _) if lost.is_some() => {
                Err(SinkError::Unknown(lost.unwrap_or_else(|| io::ErrorKind::Other.into())))
            }
            (true, true) => Ok(KernelAnswer::Committed),
            (true, false) => {
                Err(SinkError::Unknown(io::Error::other("the kernel sent no acknowledgement")))
            }
        }
    }

    /// Returns the error of a transaction that was not refused because of a Service.
    fn explain(&self, refused: &[(u32, i32)]) -> SinkError {
        let errno = refused.first().map_or(0, |(_, errno)| *errno);
        SinkError::Refused(io::Error::from_raw_os_error(errno))
    }

    /// Commits the operations of a step on our tables, and ignores those on IPVS. Those of a
    /// Service that the kernel refuses are left out.
    pub(crate) fn commit_step(
        &mut self,
        step: Step<'_>,
        atomic: bool,
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        let before = progress.outcome.transactions;
        let parts = transactions::parts(step, atomic);
        parts.into_iter().try_for_each(|part| self.transaction(part, progress))?;
        let transactions = progress.outcome.transactions - before;
        if atomic && transactions > 1 {
            tracing::warn!(
                transactions,
                "a table was replaced in several transactions, so Services were unavailable in \
                 between: the kernel limits the size of a transaction (net.core.wmem_max)"
            );
        }
        Ok(())
    }

    /// Commits a part in one transaction; the groups that the kernel refuses are left out, and the
    /// rest is retried without them.
    ///
    /// A part that exceeds what the kernel accepts in one call is cut, at the boundaries of
    /// Services if possible, and otherwise between the pieces of a Service.
    fn transaction(&mut self, part: Part<'_>, progress: &mut Progress) -> Result<(), SinkError> {
        // Commits of others do not matter if they cannot change our tables.
        let is_open = self.ownership == Ownership::Shared;
        let generation = progress.checked_generation().filter(|_| is_open);
        let mut part = part;
        // If a Service was refused, its deletions are left out, too.
        part.groups.retain(|(service, _)| !progress.is_refused(service));
        loop {
            let flags = self.table_flags();
            self.batch.begin(self.seq, generation);
            self.batch.put(&part, self.mark, flags);
            if self.batch.n_ops() == 0 {
                return Ok(());
            }
            if self.batch.finish().len() > self.socket.largest() {
                return self.cut(part, progress);
            }
            let (ops, bytes) = (self.batch.n_ops(), self.batch.len_bytes());
            let refused = match self.exchange_batch()? {
                KernelAnswer::Committed => {
                    progress.commits = progress.commits.wrapping_add(1);
                    progress.outcome.transactions += 1;
                    progress.outcome.ops += ops;
                    progress.outcome.bytes += bytes;
                    return Ok(());
                }
                KernelAnswer::Refused(refused) => refused,
            };
            // Another process owns the table by now: no Service is the cause.
            if refused.iter().any(|(_, errno)| *errno == EPERM) {
                return Err(self.explain(&refused));
            }
            // Something exists that we assumed absent, or the reverse: our assumption is wrong, not
            // the Service; except if the state was read and others have not changed it since.
            let mismatch = |(_, errno): &(u32, i32)| matches!(*errno, ENOENT | EEXIST | EBUSY);
            if refused.iter().any(mismatch) && !self.is_certain(progress)? {
                return Err(SinkError::Stale);
            }
            let mut blamed: BTreeSet<NamespacedName> = BTreeSet::new();
            for (seq, errno) in &refused {
                match self.batch.service(*seq) {
                    Some(Some(service)) => {
                        if blamed.insert(service.clone()) {
                            let error = io::Error::from_raw_os_error(*errno);
                            progress.refuse(service.clone(), error);
                        }
                    }
                    Some(None) | None => return Err(self.explain(&refused)),
                }
            }
            part.groups.retain(|(service, _)| !blamed.contains(*service));
        }
    }

    /// Returns true if the kernel holds what was read, and what was committed since. Otherwise, it
    /// was not read, or others may have changed it.
    fn is_certain(&mut self, progress: &Progress) -> Result<bool, SinkError> {
        if progress.base == DeltaBase::Believed || self.ownership == Ownership::Exclusive {
            return Ok(progress.base != DeltaBase::Believed);
        }
        let now = dump::generation(&mut self.socket, &mut self.seq);
        Ok(Some(now.map_err(SinkError::Unknown)?) == progress.generation())
    }

    /// Commits a part in several transactions because it is too large for one.
    fn cut(&mut self, part: Part<'_>, progress: &mut Progress) -> Result<(), SinkError> {
        match part.split() {
            Ok(parts) => parts.into_iter().try_for_each(|it| self.transaction(it, progress)),
            // It is a piece of a Service that cannot be cut: leave the Service out.
            Err(Some(service)) => {
                progress.refuse(service, io::Error::from_raw_os_error(EMSGSIZE));
                Ok(())
            }
            Err(None) => Err(SinkError::Refused(io::Error::from_raw_os_error(EMSGSIZE))),
        }
    }
}

/// The progress of a commit.
pub(crate) struct Progress {
    /// What the delta starts from.
    pub(crate) base: DeltaBase,
    /// The number of transactions that nf_tables has committed.
    commits: u32,
    /// What has been done.
    pub(crate) outcome: Outcome,
}

impl Progress {
    /// Starts a commit.
    pub(crate) fn new(base: DeltaBase) -> Self {
        Self { base, commits: 0, outcome: Outcome::default() }
    }

    /// Returns the generation of the tables if others have not committed since they were read.
    fn generation(&self) -> Option<u32> {
        Some(self.base.generation()?.wrapping_add(self.commits))
    }

    /// Returns the generation that the next transaction depends on. Only the first one needs the
    /// tables to be as they were read; if each did, a large change would never end beside others
    /// who commit all the time.
    fn checked_generation(&self) -> Option<u32> {
        self.base.generation().filter(|_| self.commits == 0)
    }

    /// Returns true if a Service was refused.
    pub(crate) fn is_refused(&self, service: &NamespacedName) -> bool {
        self.outcome.refused.iter().any(|refusal| refusal.service == *service)
    }

    /// Returns true if the operations of a stage must be left out: what a refused Service still
    /// leads to may not go. The next reading finds what is left.
    pub(crate) fn spares(&self, stage: Stage) -> bool {
        stage == Stage::Retire && !self.outcome.refused.is_empty()
    }

    /// Notes that a Service was refused.
    pub(crate) fn refuse(&mut self, service: NamespacedName, error: io::Error) {
        self.outcome.refused.push(Refusal { service, error });
    }
}

enum KernelAnswer {
    Committed,
    Refused(Vec<(u32, i32)>),
}

impl Sink for NftSink {
    fn read(&mut self) -> Result<(State, DeltaBase), SinkError> {
        let reading = self.look()?;
        for (family, table) in &reading.state.tables {
            for foreign in &table.foreign {
                tracing::warn!(%family, "our table has foreign content: {foreign}");
            }
        }
        Ok((reading.state, DeltaBase::Read { generation: reading.generation }))
    }

    fn adopt(&mut self) -> Result<(State, DeltaBase), SinkError> {
        // This comes first, so that others cannot disturb the reading.
        self.take_over()?;
        self.read()
    }

    fn check(&mut self, program: &Program) -> Result<Delta, SinkError> {
        self.compare(program, ipvs::State::default())
    }

    fn commit(&mut self, delta: &Delta, base: DeltaBase) -> Result<Outcome, SinkError> {
        if let Some(op) = delta.ops().find_map(Op::as_ipvs) {
            let op = ipvs::text::describe(op);
            return Err(SinkError::Refused(io::Error::other(format!("not for nf_tables: {op}"))));
        }
        let mut progress = Progress::new(base);
        for step in delta.steps() {
            if progress.spares(step.stage) {
                continue;
            }
            self.commit_step(step, delta.atomic, &mut progress)?;
        }
        Ok(progress.outcome)
    }
}
