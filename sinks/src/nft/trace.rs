//! Follows real packets through the rules, by the trace of nf_tables.
//!
//! ```text
//!  Wanted ─▶ table (marks such packets) ─▶ kernel ─▶ event ─▶ Event
//! ```
//!
//! The kernel announces each rule that a marked packet matches, in the tables of everybody. A table
//! of our own marks the packets. It belongs to the socket, so that the kernel removes it with this
//! process, however that ends.

pub(super) mod event;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::ruleset::TABLE;

use super::dump::request;
use super::wire::{self, nfproto};
use crate::netlink::{Bus, Message, NLM_F_DUMP, Socket, Writer, be64, messages};

pub use event::{Event, Flow, Step, Verdict};
pub use table::is_of_trace;

/// `NFNLGRP_NFTRACE` as a bit.
const GROUP: u32 = 1 << (9 - 1);

/// The packets to follow: the first ones of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where they go.
    pub destination: IpAddr,
    /// Their protocol and destination port; any, if it is `None`.
    pub transport: Option<(Protocol, NonZeroU16)>,
    /// Where they come from, if that matters.
    pub source: Option<IpAddr>,
    /// The port they come from, if that matters.
    pub source_port: Option<NonZeroU16>,
}

/// A socket that receives the trace, and owns the table that causes it.
pub struct Tracer {
    socket: Socket,
    table: String,
    /// Events that have been received but not returned.
    waiting: VecDeque<Event>,
}

impl Tracer {
    /// Marks packets in the network namespace of the calling thread from now on.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the table.
    pub fn open(wanted: &Wanted) -> io::Result<Self> {
        let socket = Socket::open(Bus::Netfilter, GROUP)?;
        let table = table::name();
        let mut tracer = Self { socket, table, waiting: VecDeque::new() };
        let (bytes, last) = table::create(&tracer.table, wanted);
        tracer.socket.send(&bytes)?;
        tracer.acknowledged(last)?;
        Ok(tracer)
    }

    /// Waits until the kernel has taken everything up to a message.
    fn acknowledged(&mut self, last: u32) -> io::Result<()> {
        loop {
            self.poll(Duration::from_secs(10))?;
            let Some(received) = self.socket.receive()? else {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer"));
            };
            for message in messages(received) {
                match message.errno() {
                    Some(0) if message.seq == last => return Ok(()),
                    Some(0) => {}
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None => self.waiting.extend(Event::of(&message)),
                }
            }
        }
    }

    /// Waits until a packet is marked that is wanted, for a limited time, and returns what the kernel
    /// told of it first. Packets that others trace pass our table, too, but not its rules.
    ///
    /// # Errors
    ///
    /// As for [`Self::next`].
    pub fn packet(
        &mut self,
        patience: Duration,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> io::Result<Option<Event>> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next(left)? {
                Some(event) if self.has_marked(&event) && is_wanted(&event) => {
                    return Ok(Some(event));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn has_marked(&self, event: &Event) -> bool {
        event.table == self.table && matches!(event.step, Step::Rule(_))
    }

    /// Waits for the next event of any packet, for a limited time.
    ///
    /// # Errors
    ///
    /// If the socket fails, or events were lost because there are too many.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Event>> {
        let end = Instant::now() + patience;
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.poll(left)?;
            while let Some(received) = self.socket.receive()? {
                self.waiting.extend(messages(received).filter_map(|message| Event::of(&message)));
            }
        }
    }

    fn poll(&self, patience: Duration) -> io::Result<()> {
        // A wait of less than a millisecond would be none.
        let timeout = PollTimeout::try_from(patience.max(Duration::from_millis(1)));
        let timeout = timeout.unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the rules of our table by their handles: the chain, and the place in it.
///
/// # Errors
///
/// If they cannot be listed.
pub fn handles(family: Family) -> io::Result<BTreeMap<u64, (ChainId, usize)>> {
    let mut socket = Socket::open(Bus::Netfilter, 0)?;
    let mut counts: BTreeMap<ChainId, usize> = BTreeMap::new();
    let mut found = BTreeMap::new();
    let ask = |writer: &mut Writer| writer.text(wire::NFTA_RULE_TABLE, TABLE);
    let each = |message: Message<'_>| {
        let attributes = message.attributes();
        let chain = attributes.clone().text(wire::NFTA_RULE_CHAIN).and_then(ChainId::from_name);
        let handle = attributes.clone().find(wire::NFTA_RULE_HANDLE).and_then(be64);
        let is_ours = attributes.text(wire::NFTA_RULE_TABLE) == Some(TABLE);
        if let (true, Some(chain), Some(handle)) = (is_ours, chain, handle) {
            let place = counts.entry(chain).or_default();
            found.insert(handle, (chain, *place));
            *place += 1;
        }
    };
    let kind = wire::GETRULE;
    request(&mut socket, &mut 1, kind, NLM_F_DUMP, nfproto(family), ask, each)?.anyway();
    Ok(found)
}
