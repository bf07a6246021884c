//! conntrack: deletes the UDP flows whose endpoint has gone.
//!
//! Only the first packet of a flow is translated by rules; the others follow it. UDP has no
//! connection that a reset could end: as long as a client sends, its flow goes to where its first
//! packet went, also after that endpoint has gone. So such flows are deleted, and the client's next
//! packet is the first of a new one. Flows of TCP and SCTP are never touched: their ends notice.
//!
//! The kernel chooses what to show or to delete (`CTA_FILTER`); there is no dump of all flows. Where
//! a filter says exactly what is stale, the kernel deletes by itself (IPv4, Linux 6.12). Otherwise it
//! shows the flows of a port, and the stale ones among them are deleted one by one, by their tuple
//! and their id, so that a flow that has taken the place of one just seen is spared.

mod plan;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use nix::libc::{EINVAL, ENOENT, EOPNOTSUPP, EPERM, ERANGE};
use rulec_compiler::net::{Backend, Family};

use self::plan::Walk;
use self::wire::{Filter, Flow};
use crate::netlink::{
    Bus, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, Open, Socket,
    Writer, messages,
};

/// How often a dump that the kernel calls interrupted is begun again.
const ATTEMPTS: usize = 3;

/// UDP flows to delete: they came by a frontend, and what they lead to has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Where the clients sent to.
    pub frontend: Frontend,
    /// What has gone.
    pub gone: Gone,
}

/// What clients send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// A cluster, external or load-balancer address.
    Address {
        /// The address.
        address: IpAddr,
        /// The port.
        port: NonZeroU16,
    },
    /// A node port. Flows to other addresses that happen to have the same port are none of ours.
    NodePort {
        /// The port.
        port: NonZeroU16,
        /// The addresses of the node on which it answers, of any family.
        addresses: Arc<BTreeSet<IpAddr>>,
    },
}

/// What has gone. Endpoints of another family than the frontend's are none of its flows'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// An endpoint.
    Backend(Backend),
    /// The time before there was an endpoint: flows that were not translated.
    Untranslated,
    /// All but these endpoints, whatever it was; flows that were not translated, too.
    AllBut(Arc<BTreeSet<Backend>>),
}

impl Stale {
    fn covers(&self, flow: &Flow<'_>) -> bool {
        let is_here = match &self.frontend {
            Frontend::Address { address, port } => {
                flow.destination == SocketAddr::new(*address, port.get())
            }
            Frontend::NodePort { port, addresses } => {
                flow.destination.port() == port.get() && addresses.contains(&flow.destination.ip())
            }
        };
        is_here
            && match &self.gone {
                Gone::Backend(backend) => backend_of(flow) == Some(*backend),
                Gone::Untranslated => flow.reply_source == flow.destination,
                Gone::AllBut(backends) => {
                    backend_of(flow).is_none_or(|backend| !backends.contains(&backend))
                }
            }
    }
}

fn backend_of(flow: &Flow<'_>) -> Option<Backend> {
    let port = NonZeroU16::new(flow.reply_source.port())?;
    Some(Backend { address: flow.reply_source.ip(), port })
}

/// What a call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The flows that were deleted one by one.
    pub flows: u64,
    /// The requests that the kernel carried out by itself; it does not say how many flows it
    /// deleted, and there may have been none.
    pub uncounted: usize,
}

/// Why stale flows could not be deleted. They expire by themselves once the client pauses.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The kernel cannot choose flows for a dump.
    #[error("this kernel cannot filter conntrack flows: Linux 5.8 is needed")]
    TooOld,
    /// No right to change flows.
    #[error("no right to delete conntrack flows: CAP_NET_ADMIN is needed")]
    Forbidden,
    /// The kernel cannot be reached, or refused. Some flows may have been deleted; to try again does
    /// no harm.
    #[error("conntrack flows cannot be deleted")]
    Unavailable(#[from] io::Error),
}

/// What the kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    /// Nothing: it has no ctnetlink. Without conntrack there are no flows; as a module, it is
    /// loaded on demand.
    Absent,
    /// Dumps, but all or nothing.
    Unfiltered,
    /// Dumps with a filter.
    Filtered,
}

/// The flows of the network namespace of the thread that has opened it.
pub struct Conntrack {
    /// For requests: with a dump on its way, a socket takes no other.
    requests: Socket,
    dumps: Socket,
    seq: u32,
    /// What the kernel can do, as far as that is known and will last.
    support: Option<Support>,
    /// Whether the kernel deletes by filter, as far as is known.
    can_delete: bool,
    /// Whether it was said that there is no ctnetlink.
    has_told: bool,
}

impl Conntrack {
    /// Opens it. Nothing is asked of the kernel yet.
    ///
    /// # Errors
    ///
    /// If there is no netfilter netlink.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            requests: Socket::open(Bus::Netfilter, 0)?,
            dumps: Socket::open(Bus::Netfilter, 0)?,
            seq: 0,
            support: None,
            can_delete: true,
            has_told: false,
        })
    }

    /// Deletes one by one, as on kernels before 6.12, where this is the only way.
    #[must_use]
    pub fn one_by_one(mut self) -> Self {
        self.can_delete = false;
        self
    }

    /// Deletes stale flows. That there are none, or no conntrack at all, is no error.
    ///
    /// For every family and port of a frontend, the kernel goes through the flows of the node once, or
    /// up to four times if it can delete by itself: about 40 ms each with 100,000 flows. All flows of an
    /// IPv6 frontend's port to the same endpoint port are shown, since no filter can name an address:
    /// 280 ms if those are all the 100,000. nf_tables does not wait for that, but this thread does; so
    /// what is known at the same time is best given in one call, on a thread that may wait. Memory does
    /// not grow with the number of flows.
    ///
    /// # Errors
    ///
    /// See `ConntrackError`. To try again does no harm.
    pub fn delete(&mut self, stale: &[Stale]) -> Result<Deleted, ConntrackError> {
        let mut deleted = Deleted::default();
        if stale.is_empty() {
            return Ok(deleted);
        }
        match self.support()? {
            Support::Filtered => {}
            Support::Unfiltered => return Err(ConntrackError::TooOld),
            Support::Absent => {
                if !std::mem::replace(&mut self.has_told, true) {
                    tracing::info!(
                        "this kernel has no ctnetlink: stale UDP flows, if any, stay until they expire"
                    );
                }
                return Ok(deleted);
            }
        }
        for walk in plan::walks(stale, self.can_delete) {
            match walk {
                Walk::Delete(filter) if self.delete_by_filter(&filter)? => deleted.uncounted += 1,
                Walk::Delete(_) => {
                    // Nothing is lost: these walks come first, and the kernel takes all or none.
                    tracing::debug!("this kernel does not delete flows by filter (Linux 6.12)");
                    self.can_delete = false;
                    return self.delete(stale);
                }
                Walk::Choose(filter, stale) => deleted.flows += self.choose(&filter, &stale)?,
            }
        }
        Ok(deleted)
    }

    fn support(&mut self) -> Result<Support, ConntrackError> {
        if let Some(support) = self.support {
            return Ok(support);
        }
        let family = wire::family_number(Family::Ipv4);
        let errno = self.request(wire::CT_GET, family, wire::write_probe)?;
        let support = support(errno)?;
        // A module may come with the first rule that needs it.
        self.support = Some(support).filter(|support| *support != Support::Absent);
        Ok(support)
    }

    /// Lets the kernel delete what a filter finds; false if it cannot.
    fn delete_by_filter(&mut self, filter: &Filter) -> Result<bool, ConntrackError> {
        let family = wire::family_number(filter.family);
        let errno = self.request(wire::CT_DELETE, family, |writer| {
            filter.write(writer);
            wire::write_default_zone(writer);
        })?;
        match errno {
            0 => Ok(true),
            // Before 6.12 the kernel wants a complete tuple, EINVAL; without zones, it refuses theirs.
            EINVAL | EOPNOTSUPP => Ok(false),
            errno => Err(refused(errno)),
        }
    }

    /// Goes through what a filter finds and deletes what is covered. Says how many.
    fn choose(&mut self, filter: &Filter, stale: &[&Stale]) -> Result<u64, ConntrackError> {
        let mut deleted = 0;
        for _ in 0..ATTEMPTS {
            match self.dump(filter, stale, &mut deleted) {
                Ok(()) => return Ok(deleted),
                // What was shown is dealt with; there may be more.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The dump may go on in the kernel, and would be in the way of the next.
                    self.dumps = Socket::open(Bus::Netfilter, 0)?;
                    return Err(error.raw_os_error().map_or(error.into(), refused));
                }
            }
        }
        Err(io::Error::other("a dump of conntrack flows was interrupted again and again").into())
    }

    fn dump(&mut self, filter: &Filter, stale: &[&Stale], deleted: &mut u64) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        let family = wire::family_number(filter.family);
        let mut writer = Writer::default();
        let message = writer.message(wire::CT_GET, NLM_F_REQUEST | NLM_F_DUMP, seq, family, 0);
        filter.write(&mut writer);
        writer.close_message(message);
        self.dumps.send(writer.bytes())?;
        let mut interrupted = false;
        loop {
            let Some(received) = self.dumps.receive()? else {
                return Err(io::Error::other("the kernel's dump has no end"));
            };
            let mut done = false;
            let mut deletions = Deletions::new(self.seq, family);
            for message in messages(received).filter(|message| message.seq == seq) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.errno().or_else(|| end_of_dump(&message)) {
                    Some(0) => done = true,
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None => {
                        let flow = Flow::read(&message);
                        let flow = flow.filter(|flow| stale.iter().any(|it| it.covers(flow)));
                        if let Some(flow) = flow {
                            deletions.push(&flow);
                        }
                    }
                }
            }
            // The dump goes on from where it is, whatever of the flows it has shown still exists.
            self.seq = deletions.seq;
            *deleted += deletions.send(&mut self.requests)?;
            match (done, interrupted) {
                (true, false) => return Ok(()),
                (true, true) => return Err(io::ErrorKind::Interrupted.into()),
                (false, _) => {}
            }
        }
    }

    /// Sends a request that is only acknowledged, and says how: 0, or the error number.
    fn request(
        &mut self,
        kind: u16,
        family: u8,
        write: impl FnOnce(&mut Writer),
    ) -> io::Result<i32> {
        self.seq = self.seq.wrapping_add(1);
        let mut writer = Writer::default();
        let message = writer.message(kind, NLM_F_REQUEST | NLM_F_ACK, self.seq, family, 0);
        write(&mut writer);
        writer.close_message(message);
        self.requests.send(writer.bytes())?;
        let mut answer = None;
        while answer.is_none() {
            let Some(received) = self.requests.receive()? else {
                return Err(io::Error::other("the kernel acknowledged nothing"));
            };
            answer = messages(received)
                .filter(|message| message.seq == self.seq)
                .find_map(|message| message.errno());
        }
        Ok(answer.unwrap_or(0))
    }
}

/// Requests to delete flows that were shown in one message of a dump, to be sent in one go.
struct Deletions {
    writer: Writer,
    before: u32,
    /// The sequence number of the last one.
    seq: u32,
    last: Option<Open>,
    family: u8,
}

impl Deletions {
    /// None yet; their sequence numbers begin after this one.
    fn new(seq: u32, family: u8) -> Self {
        Self { writer: Writer::default(), before: seq, seq, last: None, family }
    }

    fn push(&mut self, flow: &Flow<'_>) {
        self.seq = self.seq.wrapping_add(1);
        let message = self.writer.message(wire::CT_DELETE, NLM_F_REQUEST, self.seq, self.family, 0);
        flow.write(&mut self.writer);
        self.writer.close_message(message);
        self.last = Some(message);
    }

    /// Says how many were deleted; the others had gone already.
    fn send(mut self, socket: &mut Socket) -> io::Result<u64> {
        let Some(last) = self.last else { return Ok(0) };
        // Success is silent but for the last one, errors are not.
        self.writer.add_flags(last, NLM_F_ACK);
        socket.send(self.writer.bytes())?;
        let total = self.seq.wrapping_sub(self.before);
        let mut gone = 0;
        let mut is_last = false;
        while !is_last {
            let Some(received) = socket.receive()? else {
                return Err(io::Error::other("the kernel acknowledged nothing"));
            };
            for message in messages(received) {
                // Answers to earlier requests that were given up are none of these.
                if !(1..=total).contains(&message.seq.wrapping_sub(self.before)) {
                    continue;
                }
                is_last |= message.seq == self.seq;
                match message.errno() {
                    Some(0) | None => {}
                    Some(ENOENT) => gone += 1,
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
        Ok(u64::from(total).saturating_sub(gone))
    }
}

/// How a dump ended, if this is its end: 0, or the number of the error that stopped it.
fn end_of_dump(message: &Message<'_>) -> Option<i32> {
    let end = || Some(-i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?));
    (message.kind == NLMSG_DONE).then(|| end().unwrap_or(0))
}

/// What the answer to the probe means.
fn support(errno: i32) -> Result<Support, ConntrackError> {
    match errno {
        ERANGE => Ok(Support::Filtered),
        // Found, against all odds, or not.
        0 | ENOENT => Ok(Support::Unfiltered),
        EINVAL => Ok(Support::Absent),
        errno => Err(refused(errno)),
    }
}

fn refused(errno: i32) -> ConntrackError {
    match errno {
        EPERM => ConntrackError::Forbidden,
        errno => ConntrackError::Unavailable(io::Error::from_raw_os_error(errno)),
    }
}
