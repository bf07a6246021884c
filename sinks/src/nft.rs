//! nf_tables: commits deltas, reads state back, watches for others.

mod batch;
mod dump;
#[expect(unsafe_code, reason = "the C libraries are called here, and only here")]
pub(crate) mod ffi;
pub(crate) mod foreign;
mod owner;
mod rules;
mod transactions;
pub mod watch;
mod wire;

use std::collections::BTreeSet;
use std::io;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::nft::delta::Delta;
use rulec_compiler::nft::state::State;

use self::batch::Batch;
pub use self::owner::Owner;
use crate::netlink::{Bus, Socket, messages};
use crate::sink::{Base, Outcome, Refusal, Sink, SinkError};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ERESTART: i32 = 85;
const EMSGSIZE: i32 = 90;
const ENOBUFS: i32 = 105;

/// Whether our tables belong to us alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Others cannot change them, and `nft flush ruleset` passes them by. They stay when the process
    /// ends. Needs Linux 6.9; on older kernels this is `Shared`.
    Exclusive,
    /// Anybody may change them; `watch` tells when somebody does.
    Shared,
}

/// The tables of ours in the network namespace of the thread that has opened it.
pub struct NftSink {
    socket: Socket,
    seq: u32,
    batch: Batch,
    ownership: Ownership,
    mark: u32,
}

impl NftSink {
    /// Opens the kernel's nf_tables. The mark is the one the rules use. Reads and writes nothing
    /// but, for exclusive tables, a probe that the kernel has them.
    ///
    /// # Errors
    ///
    /// If there is no nf_tables, or no right to change it (CAP_NET_ADMIN).
    pub fn open(ownership: Ownership, mark: u32) -> Result<Self, SinkError> {
        let socket = Socket::open(Bus::Netfilter, 0).map_err(SinkError::Unavailable)?;
        let mut sink = Self { socket, seq: 1, batch: Batch::default(), ownership, mark };
        // Who may have any buffer may do all else. Of who may not, the kernel tells only when asked.
        if ownership == Ownership::Shared && !sink.socket.may_force() {
            sink.probe(0)?;
        }
        if ownership == Ownership::Exclusive && !sink.can_own()? {
            tracing::info!(
                "this kernel has no lasting table ownership (Linux 6.9): tables are shared"
            );
            sink.ownership = Ownership::Shared;
        }
        Ok(sink)
    }

    /// Makes do with buffers of so many bytes, as where no larger ones are granted: to root of a user
    /// namespace, which may do all else.
    ///
    /// # Errors
    ///
    /// If the kernel does not grant these either.
    pub fn with_buffers(mut self, bytes: usize) -> io::Result<Self> {
        self.socket = self.socket.with_buffers(bytes)?;
        Ok(self)
    }

    /// Whether the tables are exclusive.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    /// The port id of the socket that commits: what notifications of our own changes carry.
    pub fn portid(&self) -> u32 {
        self.socket.portid()
    }

    /// Deletes our tables with all that is in them, and says which there were.
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
            if let Answer::Refused(refused) = self.send()? {
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

    /// Whether the kernel takes the flags of an exclusive table.
    fn can_own(&mut self) -> Result<bool, SinkError> {
        // The second message asks to delete a chain that does not exist: ENOENT means that the first one
        // was taken.
        Ok(self.probe(self.table_flags())? == [ENOENT])
    }

    /// Asks for a table with these flags in a transaction that is refused at its end, so that nothing is
    /// ever changed, and returns the errors.
    fn probe(&mut self, flags: u32) -> Result<Vec<i32>, SinkError> {
        let probe = rules::probe(flags, self.seq.wrapping_add(1));
        let errors = self.exchange(&probe)?;
        if errors.contains(&EPERM) {
            return Err(SinkError::Unavailable(io::Error::from_raw_os_error(EPERM)));
        }
        Ok(errors)
    }

    /// Sends bytes that are known to be refused and returns the errors, in order.
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

    /// Reads what the kernel holds. Tables that cannot be owned and should be are not ours: the
    /// kernel does not let that flag be added later.
    fn look(&mut self) -> Result<dump::Reading, SinkError> {
        let mut reading = dump::read(&mut self.socket, &mut self.seq, self.mark)
            .map_err(SinkError::Unavailable)?;
        if self.ownership == Ownership::Exclusive {
            for (family, table) in &mut reading.state.tables {
                let flags = reading.tables.get(family).map_or(0, |table| table.flags);
                if flags & wire::NFT_TABLE_F_PERSIST == 0 {
                    table.foreign.push("the table was made to be shared".to_owned());
                }
            }
        }
        Ok(reading)
    }

    /// Takes over tables that an earlier process has left. The kernel takes the owner's flag off a
    /// table when its owner ends, and leaves the one that makes it stay: that is what an orphan is
    /// known by. Whoever does not want to own tables can change an orphan as it is.
    ///
    /// Says which tables there are.
    fn take_over(&mut self) -> Result<dump::Owners, SinkError> {
        let tables =
            dump::owners(&mut self.socket, &mut self.seq).map_err(SinkError::Unavailable)?;
        let mut orphans = Vec::new();
        for (family, table) in &tables {
            match table.owner {
                Some(owner) if owner == self.portid() => {}
                Some(owner) => {
                    let owner = Owner::of(owner);
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
            Answer::Committed => Ok(tables),
            Answer::Refused(refused) => Err(self.explain(&refused)),
        }
    }

    /// Sends the batch and reads the answers: success is the acknowledgement and no error.
    fn send(&mut self) -> Result<Answer, SinkError> {
        self.batch.finish();
        self.exchange_batch()
    }

    /// Sends a batch that is complete.
    fn exchange_batch(&mut self) -> Result<Answer, SinkError> {
        self.socket.send(self.batch.bytes()).map_err(SinkError::Unavailable)?;
        self.seq = self.batch.end_seq();
        let mut refused = Vec::new();
        let mut acknowledged = false;
        // Answers come in the order of the messages, so that of the last one is the last; a transaction
        // that is refused as a whole has only one, to its begin. A lost answer (ENOBUFS) does not
        // mean a lost transaction.
        let mut is_last = false;
        let mut lost = None;
        while !is_last {
            let received = match self.socket.receive() {
                Ok(received) => received,
                // There was no room for all: what there is says enough if any of it is an error.
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
                    // An answer to an earlier request that was given up is none of this one's.
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
            (false, _) => Ok(Answer::Refused(refused)),
            // The kernel answers the last message also when it has refused another.
            (true, _) if lost.is_some() => {
                Err(SinkError::Unknown(lost.unwrap_or_else(|| io::ErrorKind::Other.into())))
            }
            (true, true) => Ok(Answer::Committed),
            (true, false) => {
                Err(SinkError::Unknown(io::Error::other("the kernel acknowledged nothing")))
            }
        }
    }

    /// The error of a transaction of which nobody's Service is to blame.
    fn explain(&self, refused: &[(u32, i32)]) -> SinkError {
        let errno = refused.first().map_or(0, |(_, errno)| *errno);
        SinkError::Refused(io::Error::from_raw_os_error(errno))
    }

    /// Commits these groups in one transaction; those the kernel refuses are left out, and the rest
    /// is tried again without them.
    ///
    /// What is larger than the kernel takes in one call is cut: at the boundaries of Services if it can
    /// be, so that no packet falls in between.
    fn transaction(
        &mut self,
        part: transactions::Part<'_>,
        base: Base,
        outcome: &mut Outcome,
    ) -> Result<(), SinkError> {
        // What others commit is no matter if our tables are out of their reach.
        let is_open = self.ownership == Ownership::Shared;
        let generation = base.generation().filter(|_| part.is_first && is_open);
        let transactions::Part { is_first, head, mut groups, tail } = part;
        // Of a Service that was refused, nothing may go either.
        groups.retain(|group| !outcome.refused.iter().any(|it| it.service == group.service));
        loop {
            let flags = self.table_flags();
            self.batch.begin(self.seq, generation);
            self.batch.push(None, head, self.mark, flags);
            for group in &groups {
                self.batch.push(Some(&group.service), &group.ops, self.mark, flags);
            }
            self.batch.push(None, tail, self.mark, flags);
            if self.batch.n_ops() == 0 {
                return Ok(());
            }
            if self.batch.finish().len() > self.socket.largest() {
                return self.cut(
                    transactions::Part { is_first, head, groups, tail },
                    base,
                    outcome,
                );
            }
            let (ops, bytes) = (self.batch.n_ops(), self.batch.len_bytes());
            let refused = match self.exchange_batch()? {
                Answer::Committed => {
                    outcome.transactions += 1;
                    outcome.ops += ops;
                    outcome.bytes += bytes;
                    return Ok(());
                }
                Answer::Refused(refused) => refused,
            };
            // The table belongs to somebody else by now: no Service is to blame.
            if refused.iter().any(|(_, errno)| *errno == EPERM) {
                return Err(self.explain(&refused));
            }
            // Something is there that we believed absent, or the reverse: our belief is wrong, not
            // the Service. Unless it was read, and nobody can have changed it since.
            let mismatch = |(_, errno): &(u32, i32)| matches!(*errno, ENOENT | EEXIST | EBUSY);
            let is_certain = base != Base::Believed && (generation.is_some() || !is_open);
            if !is_certain && refused.iter().any(mismatch) {
                return Err(SinkError::Stale);
            }
            let mut blamed: BTreeSet<NamespacedName> = BTreeSet::new();
            for (seq, errno) in &refused {
                match self.batch.service(*seq) {
                    Some(Some(service)) => {
                        if blamed.insert(service.clone()) {
                            let error = io::Error::from_raw_os_error(*errno);
                            outcome.refused.push(Refusal { service: service.clone(), error });
                        }
                    }
                    Some(None) | None => return Err(self.explain(&refused)),
                }
            }
            groups.retain(|group| !blamed.contains(&group.service));
        }
    }
}

impl NftSink {
    /// Commits what is too large for one transaction in several.
    fn cut(
        &mut self,
        part: transactions::Part<'_>,
        base: Base,
        outcome: &mut Outcome,
    ) -> Result<(), SinkError> {
        match part.halves() {
            Ok(parts) => parts.into_iter().try_for_each(|it| self.transaction(it, base, outcome)),
            // One Service alone: the others can do without it.
            Err(Some(service)) => {
                let error = io::Error::from_raw_os_error(EMSGSIZE);
                outcome.refused.push(Refusal { service, error });
                Ok(())
            }
            Err(None) => Err(SinkError::Refused(io::Error::from_raw_os_error(EMSGSIZE))),
        }
    }
}

enum Answer {
    Committed,
    Refused(Vec<(u32, i32)>),
}

impl Sink for NftSink {
    fn read(&mut self) -> Result<(State, Base), SinkError> {
        let reading = self.look()?;
        for (family, table) in &reading.state.tables {
            for foreign in &table.foreign {
                tracing::warn!(%family, "our table holds what is not ours: {foreign}");
            }
        }
        Ok((reading.state, Base::Read { generation: reading.generation }))
    }

    fn adopt(&mut self) -> Result<(State, Base), SinkError> {
        // First of all, so that nobody can disturb the reading.
        self.take_over()?;
        self.read()
    }

    fn commit(&mut self, delta: &Delta, base: Base) -> Result<Outcome, SinkError> {
        let mut outcome = Outcome::default();
        for part in transactions::parts(delta) {
            self.transaction(part, base, &mut outcome)?;
        }
        if delta.atomic && outcome.transactions > 1 {
            tracing::warn!(
                transactions = outcome.transactions,
                "a table was replaced in several transactions, and Services were away in between: the \
                 kernel takes no more at once (net.core.wmem_max)"
            );
        }
        Ok(outcome)
    }
}
