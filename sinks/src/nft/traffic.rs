//! How many connections each Service port and each endpoint has got, by the counters of elements.
//!
//! ```text
//!  kernel ─▶ announcements of commits ─▶ Ledger ─▶ Totals
//!         ─▶ dump of the counted maps ─▶
//! ```
//!
//! A counter goes with its element, and elements are replaced whenever a slot gets another backend
//! or a frontend another code. The kernel announces each deletion with the last value of the
//! counter, so nothing is asked before a change, and no change waits. A dump shows the counters of
//! the elements that exist.
//!
//! The two are of different sockets. A value in a dump counts if all deletions before it have been
//! heard, and none of its key since the dump began: the announcements are read up to the generation
//! that the kernel has after the dump.

mod ledger;

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rulec_compiler::net::Family;
use rulec_compiler::nft::element::Key;
use rulec_compiler::nft::ruleset::TABLE;
use rulec_compiler::nft::set::{Scope, SetId};
use rulec_compiler::nft::traffic::Traffic;
use rulec_compiler::state::Held;

use self::ledger::{Counted, Ledger};
use super::dump::{self, each_element};
use super::watch::GROUP;
use super::wire;
use crate::netlink::{Bus, Message, Socket, messages};

pub use ledger::{PortTotals, Totals};

/// How often the maps are read at the most, however many ask.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a reading waits for the announcements of commits that it has seen.
const PATIENCE: Duration = Duration::from_millis(500);

/// The counters of our tables in the network namespace of the thread that opened it.
pub struct Counters {
    /// Asks.
    socket: Socket,
    seq: u32,
    /// Receives the announcements.
    announced: Socket,
    heard: Heard,
    /// The result of the last reading, and its time.
    last: Option<(Instant, Arc<Totals>)>,
}

impl Counters {
    /// Starts to hear of deletions.
    ///
    /// # Errors
    ///
    /// If nf_tables is unreachable.
    pub fn open(counted: Traffic) -> io::Result<Self> {
        let announced = Socket::open(Bus::Netfilter, GROUP)?;
        let mut socket = Socket::open(Bus::Netfilter, 0)?;
        let mut seq = 1;
        // Every later commit is announced.
        let generation = dump::generation(&mut socket, &mut seq)?;
        let heard = Heard { counted, generation, ..Heard::default() };
        Ok(Self { socket, seq, announced, heard, last: None })
    }

    /// Returns a descriptor that is readable when there is something to `hear`.
    pub fn announcements(&self) -> BorrowedFd<'_> {
        self.announced.as_fd()
    }

    /// Takes in the announcements that have arrived.
    ///
    /// # Errors
    ///
    /// If the socket fails. Lost announcements are no error: they are counted.
    pub fn hear(&mut self) -> io::Result<()> {
        loop {
            match self.announced.receive() {
                Ok(Some(received)) => {
                    messages(received).for_each(|message| self.heard.take(message));
                }
                Ok(None) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(super::ENOBUFS) => {
                    self.heard.ledger.lost();
                    self.heard.generation = dump::generation(&mut self.socket, &mut self.seq)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the totals of at most a second ago.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn totals(&mut self) -> io::Result<Arc<Totals>> {
        let now = Instant::now();
        if let Some((at, totals)) = &self.last
            && now.saturating_duration_since(*at) < PAUSE
        {
            return Ok(Arc::clone(totals));
        }
        self.hear()?;
        self.heard.deleted = Some(HashSet::new());
        let read = self.read(now);
        self.heard.deleted = None;
        read?;
        let at = Some(SystemTime::now());
        let totals = Arc::new(Totals { at, ..self.heard.ledger.totals() });
        self.last = Some((now, Arc::clone(&totals)));
        Ok(totals)
    }

    /// Reads the maps.
    fn read(&mut self, now: Instant) -> io::Result<()> {
        self.heard.has_lost_sets = false;
        let mut found = Vec::new();
        for family in Family::ALL {
            for set in named_sets(self.heard.counted) {
                let (socket, seq) = (&mut self.socket, &mut self.seq);
                let dumped = each_element(socket, seq, family, set, |attributes| {
                    if let Some((key, held)) = dump::element(family, set, attributes) {
                        found.push((key, held, dump::packets(attributes)));
                    }
                });
                match dumped {
                    Ok(dumped) => dumped.anyway(),
                    // There is no table yet, or none of this family.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.catch_up()?;
        let Heard { ledger, deleted, has_lost_sets, .. } = &mut self.heard;
        if *has_lost_sets {
            // Some values are of elements that no longer exist; the next reading has none of them.
            return Ok(());
        }
        ledger.begin();
        for (key, held, _) in &found {
            ledger.note(*key, held);
        }
        for (key, held, packets) in &found {
            let is_deleted = deleted.as_ref().is_some_and(|deleted| deleted.contains(key));
            if let Some(packets) = packets.filter(|_| !is_deleted) {
                ledger.seen(*key, held, packets);
            }
        }
        ledger.complete(found.iter().map(|(key, held, _)| (*key, held)), now);
        Ok(())
    }

    /// Hears of everything that the kernel has committed so far.
    fn catch_up(&mut self) -> io::Result<()> {
        let now = dump::generation(&mut self.socket, &mut self.seq)?;
        let end = Instant::now() + PATIENCE;
        loop {
            self.hear()?;
            // Generations wrap.
            let missing = now.wrapping_sub(self.heard.generation).cast_signed();
            let left = end.saturating_duration_since(Instant::now());
            if missing <= 0 || left.is_zero() {
                return Ok(());
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.announced.as_fd(), PollFlags::POLLIN)], left) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What the announcements have told.
#[derive(Default)]
struct Heard {
    counted: Traffic,
    /// The generation up to which they have been read.
    generation: u32,
    /// While the maps are read, the keys whose elements have been deleted meanwhile.
    deleted: Option<HashSet<Key>>,
    /// Whether a set has gone, with all its elements, since a reading began.
    has_lost_sets: bool,
    ledger: Ledger,
}

impl Heard {
    /// Takes in one of them.
    fn take(&mut self, message: Message<'_>) {
        match message.kind.checked_sub(wire::NFNL_SUBSYS_NFTABLES << 8) {
            Some(wire::NEWGEN) => {
                // After a loss, older announcements may follow. Generations wrap.
                let heard = message.attributes().be32(wire::NFTA_GEN_ID);
                let is_later = |heard: &u32| heard.wrapping_sub(self.generation).cast_signed() > 0;
                self.generation = heard.filter(is_later).unwrap_or(self.generation);
            }
            Some(wire::DELSETELEM) => {
                for (key, held, packets) in elements(message) {
                    // A daemon before this one may have counted more.
                    let packets = packets.filter(|_| self.counted.counts(key.set()));
                    self.ledger.deleted(key, &held, packets);
                    if let Some(deleted) = &mut self.deleted {
                        deleted.insert(key);
                    }
                }
            }
            // Whose a group is comes with the frontends that lead to it.
            Some(wire::NEWSETELEM) => {
                elements(message).for_each(|(key, held, _)| self.ledger.note(key, &held));
            }
            Some(wire::DELTABLE) if is_ours(message) => self.emptied(message, None),
            Some(wire::DELSET) if is_ours(message) => {
                let name = message.attributes().text(wire::NFTA_SET_NAME);
                if let Some(set) = name.and_then(counted_set) {
                    self.emptied(message, Some(set));
                }
            }
            Some(_) | None => {}
        }
    }

    fn emptied(&mut self, message: Message<'_>, set: Option<SetId>) {
        if let Some(family) = wire::family(message.family()) {
            self.ledger.emptied(family, set);
            self.has_lost_sets = true;
        }
    }
}

/// Returns the maps to read: those with counters, and those that say whose a group is.
fn named_sets(counted: Traffic) -> impl Iterator<Item = SetId> {
    let frontends = Scope::ALL.map(SetId::Services);
    let backends = [SetId::LocalGroups, SetId::Endpoints, SetId::Members];
    let backends = backends.into_iter().filter(move |_| counted == Traffic::Endpoints);
    frontends.into_iter().chain(backends)
}

/// Returns the set with this name, if it is one that is ever read here.
fn counted_set(name: &str) -> Option<SetId> {
    let set = SetId::from_name(name)?;
    named_sets(Traffic::Endpoints).any(|named| named == set).then_some(set)
}

/// Returns the elements that an announcement is about, as far as they matter here.
fn elements(message: Message<'_>) -> impl Iterator<Item = (Key, Held, Option<Counted>)> {
    let attributes = message.attributes();
    let name = attributes.clone().text(wire::NFTA_SET_ELEM_LIST_SET).filter(|_| is_ours(message));
    let place = wire::family(message.family()).zip(name.and_then(counted_set));
    place.into_iter().flat_map(move |(family, set)| {
        dump::elements_in(message).filter_map(move |attributes| {
            let (key, held) = dump::element(family, set, &attributes)?;
            Some((key, held, dump::packets(&attributes)))
        })
    })
}

/// Returns true if an announcement is about a part of our tables. In each of them, attribute 1 is
/// the name of the table.
fn is_ours(message: Message<'_>) -> bool {
    message.attributes().text(wire::NFTA_TABLE_NAME) == Some(TABLE)
}
