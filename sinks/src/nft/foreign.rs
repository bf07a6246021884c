//! Tables that are not ours: lists their chains and the jumps to them, and deletes the remains of
//! another program.
//!
//! Rules are deleted by their handles, which are never reused, and chains only if no rule refers to
//! them: the kernel refuses a transaction that does not fit its current state, and then everything
//! is read again. So nothing of others can be deleted by mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rulec_compiler::net::Family;
use rulec_engine::Owner;

use super::dump::{is_disturbed, request};
use super::wire::{self, nfproto};
use crate::netlink::{
    Attributes, Bus, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Socket, Writer, attributes,
    messages,
};
use crate::owner;

/// The number of attempts to read without a commit by others.
const ATTEMPTS: usize = 20;

/// `NLM_F_NONREC`: do not delete a chain that has rules.
const NLM_F_NONREC: u16 = 0x100;

/// A table: its family and its name.
pub type TableName = (Family, String);

/// A table and its chains.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ForeignTable {
    /// Its chains by name; true for base chains, which packets enter through a hook.
    pub chains: BTreeMap<String, bool>,
    /// The port id of the socket that owns it, if any.
    portid: Option<u32>,
}

impl ForeignTable {
    /// Looks for the process that owns it, if one does. This examines every process, so use it only
    /// for errors.
    pub fn owner(&self) -> Option<Owner> {
        self.portid.map(owner::find)
    }
}

/// A rule that jumps to a chain, or goes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The chain the rule is in.
    pub from: String,
    /// The rule.
    pub handle: u64,
    /// The chain that the rule leads to.
    pub to: String,
}

/// The parts of a table to delete.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Rules, each by its chain and its handle.
    pub rules: Vec<(String, u64)>,
    /// Chains with all their rules. They may jump to each other, but no other rule may lead to
    /// them.
    pub chains: BTreeSet<String>,
}

/// A netlink socket for the tables of others.
pub struct Foreign {
    socket: Socket,
    seq: u32,
}

impl Foreign {
    /// Opens nf_tables in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If nf_tables is not available.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Bus::Netfilter, 0)?, seq: 1 })
    }

    /// Returns the tables with these names, in both families, with their chains.
    ///
    /// # Errors
    ///
    /// If nf_tables cannot be read.
    pub fn tables(
        &mut self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> io::Result<BTreeMap<TableName, ForeignTable>> {
        self.undisturbed(|this| {
            let mut tables: BTreeMap<TableName, ForeignTable> = BTreeMap::new();
            this.dump(
                wire::GETTABLE,
                0,
                |_| {},
                |message| {
                    let attributes = message.attributes();
                    let family = wire::family(message.family());
                    let name = attributes.clone().text(wire::NFTA_TABLE_NAME);
                    if let (Some(family), Some(name)) =
                        (family, name.filter(|name| is_wanted(name)))
                    {
                        let portid = attributes.be32(wire::NFTA_TABLE_OWNER);
                        let table = ForeignTable { portid, ..ForeignTable::default() };
                        tables.insert((family, name.to_owned()), table);
                    }
                },
            )?;
            if tables.is_empty() {
                return Ok(tables);
            }
            this.dump(
                wire::GETCHAIN,
                0,
                |_| {},
                |message| {
                    let attributes = message.attributes();
                    let Some(family) = wire::family(message.family()) else { return };
                    let Some(table) = attributes.clone().text(wire::NFTA_CHAIN_TABLE) else {
                        return;
                    };
                    let Some(table) = tables.get_mut(&(family, table.to_owned())) else { return };
                    if let Some(name) = attributes.clone().text(wire::NFTA_CHAIN_NAME) {
                        let is_base = attributes.find(wire::NFTA_CHAIN_HOOK).is_some();
                        table.chains.insert(name.to_owned(), is_base);
                    }
                },
            )?;
            Ok(tables)
        })
    }

    /// Returns the rules of a table that lead to another chain, without those that choose it by a
    /// map.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such table any more; or if nf_tables cannot be read.
    pub fn jumps(&mut self, (family, table): &TableName) -> io::Result<Vec<Jump>> {
        self.undisturbed(|this| {
            let mut jumps = Vec::new();
            let ask = |writer: &mut Writer| writer.text(wire::NFTA_RULE_TABLE, table);
            this.dump(wire::GETRULE, nfproto(*family), ask, |message| {
                let rule = message.attributes();
                if rule.clone().text(wire::NFTA_RULE_TABLE) == Some(table) {
                    jumps.extend(read_jumps(&rule));
                }
            })?;
            Ok(jumps)
        })
    }

    /// Deletes a table with its content. Returns false if there is no table of this name.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, for example because another process owns the table.
    pub fn delete_table(&mut self, (family, table): &TableName) -> io::Result<bool> {
        let mut batch = Batch::begin(self.seq);
        batch.message(wire::DELTABLE, 0, *family, |writer| {
            writer.text(wire::NFTA_TABLE_NAME, table);
        });
        match self.send(batch) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Deletes rules and chains of a table, in one transaction.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, for example because the table has changed. Then nothing was deleted.
    pub fn remove(&mut self, (family, table): &TableName, removal: &Removal) -> io::Result<()> {
        let mut batch = Batch::begin(self.seq);
        for (chain, handle) in &removal.rules {
            batch.message(wire::DELRULE, 0, *family, |writer| {
                writer.text(wire::NFTA_RULE_TABLE, table);
                writer.text(wire::NFTA_RULE_CHAIN, chain);
                writer.attribute(wire::NFTA_RULE_HANDLE, &handle.to_be_bytes());
            });
        }
        // All chains are emptied before the first is deleted, since they jump to each other.
        for chain in &removal.chains {
            batch.message(wire::DELRULE, 0, *family, |writer| {
                writer.text(wire::NFTA_RULE_TABLE, table);
                writer.text(wire::NFTA_RULE_CHAIN, chain);
            });
        }
        for chain in &removal.chains {
            batch.message(wire::DELCHAIN, NLM_F_NONREC, *family, |writer| {
                writer.text(wire::NFTA_CHAIN_TABLE, table);
                writer.text(wire::NFTA_CHAIN_NAME, chain);
            });
        }
        self.send(batch)
    }

    /// Reads, and starts over if others have committed in the meantime. The result of the last
    /// attempt is used in any case: it lacks at most what was added or removed during that attempt.
    pub(super) fn undisturbed<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut attempt = 1;
        loop {
            let before = super::dump::generation(&mut self.socket, &mut self.seq)?;
            let found = read(self);
            let after = super::dump::generation(&mut self.socket, &mut self.seq)?;
            match found {
                Ok(found) if before == after || attempt >= ATTEMPTS => return Ok(found),
                Err(error) if !is_disturbed(&error) || attempt >= ATTEMPTS => return Err(error),
                Ok(_) | Err(_) => attempt += 1,
            }
        }
    }

    pub(super) fn dump(
        &mut self,
        kind: u16,
        family: u8,
        ask: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        // The generation shows whether it was disturbed.
        let dumped = request(&mut self.socket, &mut self.seq, kind, NLM_F_DUMP, family, ask, each)?;
        dumped.anyway();
        Ok(())
    }

    /// Sends a transaction. An error is the kernel's first one, and then nothing was changed.
    fn send(&mut self, batch: Batch) -> io::Result<()> {
        let (bytes, last) = batch.end();
        self.seq = last.wrapping_add(1);
        self.socket.send(&bytes)?;
        let mut first_error = None;
        let mut is_acknowledged = false;
        while let Some(received) = self.socket.receive()? {
            for message in messages(received) {
                match message.errno() {
                    Some(0) => is_acknowledged |= message.seq == last,
                    Some(errno) => first_error = first_error.or(Some(errno)),
                    None => {}
                }
            }
        }
        match first_error {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None if is_acknowledged => Ok(()),
            None => Err(io::Error::other("the kernel sent no acknowledgement")),
        }
    }
}

/// A transaction under construction.
struct Batch {
    writer: Writer,
    seq: u32,
    last: Option<crate::netlink::Open>,
}

impl Batch {
    fn begin(seq: u32) -> Self {
        let mut this = Self { writer: Writer::default(), seq, last: None };
        this.control(wire::NFNL_MSG_BATCH_BEGIN);
        this
    }

    fn control(&mut self, kind: u16) {
        self.seq = self.seq.wrapping_add(1);
        let subsystem = wire::NFNL_SUBSYS_NFTABLES;
        let message = self.writer.message(kind, NLM_F_REQUEST, self.seq, 0, subsystem);
        self.writer.close_message(message);
    }

    fn message(&mut self, kind: u16, flags: u16, family: Family, fill: impl FnOnce(&mut Writer)) {
        self.seq = self.seq.wrapping_add(1);
        let kind = wire::NFNL_SUBSYS_NFTABLES << 8 | kind;
        let flags = NLM_F_REQUEST | flags;
        let message = self.writer.message(kind, flags, self.seq, nfproto(family), 0);
        fill(&mut self.writer);
        self.writer.close_message(message);
        self.last = Some(message);
    }

    /// Returns the bytes, and the sequence number of the message that is acknowledged: the last one
    /// before the end, since the end is acknowledged only since Linux 6.10.
    fn end(mut self) -> (Vec<u8>, u32) {
        let last = self.seq;
        if let Some(message) = self.last {
            self.writer.add_flags(message, NLM_F_ACK);
        }
        self.control(wire::NFNL_MSG_BATCH_END);
        (self.writer.bytes().to_vec(), last)
    }
}

/// Returns the jumps of one rule as the kernel lists it.
pub(super) fn read_jumps(rule: &Attributes<'_>) -> Vec<Jump> {
    let chain = rule.clone().text(wire::NFTA_RULE_CHAIN);
    let handle = rule.clone().find(wire::NFTA_RULE_HANDLE).and_then(|bytes| bytes.try_into().ok());
    let (Some(from), Some(handle)) = (chain, handle) else { return Vec::new() };
    let expressions = rule.clone().nested(wire::NFTA_RULE_EXPRESSIONS).into_iter().flatten();
    let to = |expression: &[u8]| -> Option<String> {
        let expression = attributes(expression);
        if expression.clone().text(wire::NFTA_EXPR_NAME) != Some("immediate") {
            return None;
        }
        let data = expression.nested(wire::NFTA_EXPR_DATA)?.nested(wire::NFTA_IMMEDIATE_DATA)?;
        data.nested(wire::NFTA_DATA_VERDICT)?.text(wire::NFTA_VERDICT_CHAIN).map(str::to_owned)
    };
    expressions
        .filter_map(|(_, expression)| to(expression))
        .map(|to| Jump { from: from.to_owned(), handle: u64::from_be_bytes(handle), to })
        .collect()
}
