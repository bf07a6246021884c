//! conntrack: deletes flows that contradict the rules. `survey` lists all, and changes nothing.
//!
//! Rules translate only the first packet of a flow; the others follow it. UDP has no connection
//! that a reset could end, and a new attempt to connect from the same port is, without an answer, a
//! packet of the same flow. So such flows are deleted, and the client's next packet starts a new
//! one. Connections that were answered are never touched: their ends notice the loss themselves.
//!
//! The kernel walks through its flows once and returns those of one kind (`CTA_FILTER`,
//! `CTA_STATUS`); the caller decides about each. A flow is deleted by its tuple and its id, so that
//! a new flow with the same tuple is spared. The memory use does not depend on the number of flows.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod survey;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use nix::libc::{EINVAL, ENOENT, EPERM, ERANGE};
use rulec_compiler::Flow;
pub use rulec_compiler::flows::FlowKind;
use rulec_compiler::net::Family;

pub use self::survey::{Live, SurveyError, survey};
use self::wire::Shown;
use crate::netlink::{
    Bus, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, Open, Socket,
    Writer, messages,
};

/// The number of attempts for a dump that the kernel marks as interrupted.
const ATTEMPTS: usize = 3;

/// The flows that the kernel returns. Kernels that cannot filter return more, and flows of other
/// kinds are ignored here.
///
/// It cannot contain IPv6 addresses: up to Linux 6.18 at least, a filter by an IPv6 address finds
/// exactly the flows that do *not* have it (`ctnetlink_filter_match_tuple` inverts the result of
/// `ipv6_addr_cmp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The family.
    pub family: Family,
    /// The kind of flows.
    pub kind: FlowKind,
    /// The destination port, if it is the same for all wanted flows.
    pub port: Option<NonZeroU16>,
    /// The destination address, likewise; in IPv4 only.
    pub destination: Option<Ipv4Addr>,
}

/// The reason why flows could not be deleted. They expire by themselves when the client pauses.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// There is no permission to change flows.
    #[error("not permitted to delete conntrack flows: CAP_NET_ADMIN is needed")]
    Forbidden,
    /// The kernel cannot be reached, or refused. Some flows may have been deleted; a retry does no
    /// harm.
    #[error("cannot delete conntrack flows")]
    Unavailable(#[from] io::Error),
}

/// The capabilities of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    /// No ctnetlink. Without conntrack there are no flows; as a module, ctnetlink is loaded on
    /// demand.
    Absent,
    /// Dumps without a filter.
    Unfiltered,
    /// Dumps with a filter.
    Filtered,
}

/// The flows of the network namespace of the thread that opened it.
pub struct Conntrack {
    /// For requests: during a dump, a socket accepts no others.
    requests: Socket,
    dumps: Socket,
    seq: u32,
    /// The capabilities of the kernel, if known and permanent.
    support: Option<Support>,
    /// True if the absence of ctnetlink was logged.
    has_told: bool,
}

impl Conntrack {
    /// Opens it. Sends nothing to the kernel yet.
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
            has_told: false,
        })
    }

    /// Deletes the flows that a filter finds and the caller does not want, and returns their
    /// number. It is not an error if there are none, or no conntrack at all.
    ///
    /// The kernel walks through all flows of the node: about 40 ms with 100,000 flows if it returns
    /// few, 280 ms if it returns all. nf_tables does not wait for that, but this thread does.
    ///
    /// # Errors
    ///
    /// See `ConntrackError`. A retry does no harm.
    pub fn delete(
        &mut self,
        filter: &Filter,
        mut is_unwanted: impl FnMut(&Flow) -> bool,
    ) -> Result<u64, ConntrackError> {
        let can_choose = match self.support()? {
            Support::Filtered => true,
            Support::Unfiltered => false,
            Support::Absent => {
                if !std::mem::replace(&mut self.has_told, true) {
                    tracing::info!("this kernel has no ctnetlink, no flow is ever deleted");
                }
                return Ok(0);
            }
        };
        let mut deleted = 0;
        for _ in 0..ATTEMPTS {
            match self.dump(filter, can_choose, &mut is_unwanted, &mut deleted) {
                Ok(()) => return Ok(deleted),
                // The returned flows have been handled; there may be more.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The dump may continue in the kernel, and would be in the way of the next.
                    self.dumps = Socket::open(Bus::Netfilter, 0)?;
                    return Err(error.raw_os_error().map_or(error.into(), refused));
                }
            }
        }
        Err(io::Error::other("every dump of conntrack flows was interrupted").into())
    }

    fn support(&mut self) -> Result<Support, ConntrackError> {
        if let Some(support) = self.support {
            return Ok(support);
        }
        let family = wire::family_number(Family::Ipv4);
        let errno = self.request(wire::CT_GET, family, wire::write_probe)?;
        let support = support(errno)?;
        // The module may be loaded with the first rule that needs it.
        self.support = Some(support).filter(|support| *support != Support::Absent);
        Ok(support)
    }

    fn dump(
        &mut self,
        filter: &Filter,
        can_choose: bool,
        is_unwanted: &mut impl FnMut(&Flow) -> bool,
        deleted: &mut u64,
    ) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        let family = wire::family_number(filter.family);
        let mut writer = Writer::default();
        let message = writer.message(wire::CT_GET, NLM_F_REQUEST | NLM_F_DUMP, seq, family, 0);
        if can_choose {
            filter.write(&mut writer);
        }
        writer.close_message(message);
        self.dumps.send(writer.bytes())?;
        let mut interrupted = false;
        loop {
            let Some(received) = self.dumps.receive()? else {
                return Err(io::Error::other("the kernel's dump is incomplete"));
            };
            let mut done = false;
            let mut deletions = Deletions::new(self.seq, family);
            for message in messages(received).filter(|message| message.seq == seq) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.errno().or_else(|| end_of_dump(&message)) {
                    Some(0) => done = true,
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None => {
                        let shown = Shown::read(&message).filter(|shown| shown.kind == filter.kind);
                        if let Some(shown) = shown.filter(|shown| is_unwanted(&shown.flow)) {
                            deletions.push(&shown);
                        }
                    }
                }
            }
            // The dump continues from its position, whether or not the flows it has returned still
            // exist.
            self.seq = deletions.seq;
            *deleted += deletions.send(&mut self.requests)?;
            match (done, interrupted) {
                (true, false) => return Ok(()),
                (true, true) => return Err(io::ErrorKind::Interrupted.into()),
                (false, _) => {}
            }
        }
    }

    /// Sends a request that is only acknowledged, and returns 0 or the error number.
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
                return Err(io::Error::other("the kernel sent no acknowledgement"));
            };
            answer = messages(received)
                .filter(|message| message.seq == self.seq)
                .find_map(|message| message.errno());
        }
        Ok(answer.unwrap_or(0))
    }
}

/// Requests to delete the flows from one message of a dump, to be sent in one call.
struct Deletions {
    writer: Writer,
    before: u32,
    /// The sequence number of the last request.
    seq: u32,
    last: Option<Open>,
    family: u8,
}

impl Deletions {
    /// Returns an empty list; the sequence numbers begin after this one.
    fn new(seq: u32, family: u8) -> Self {
        Self { writer: Writer::default(), before: seq, seq, last: None, family }
    }

    fn push(&mut self, flow: &Shown<'_>) {
        self.seq = self.seq.wrapping_add(1);
        let message = self.writer.message(wire::CT_DELETE, NLM_F_REQUEST, self.seq, self.family, 0);
        flow.write(&mut self.writer);
        self.writer.close_message(message);
        self.last = Some(message);
    }

    /// Sends the requests and returns the number of deleted flows; the others were already gone.
    fn send(mut self, socket: &mut Socket) -> io::Result<u64> {
        let Some(last) = self.last else { return Ok(0) };
        // Only errors and the success of the last request are answered.
        self.writer.add_flags(last, NLM_F_ACK);
        socket.send(self.writer.bytes())?;
        let total = self.seq.wrapping_sub(self.before);
        let mut gone = 0;
        let mut is_last = false;
        while !is_last {
            let Some(received) = socket.receive()? else {
                return Err(io::Error::other("the kernel sent no acknowledgement"));
            };
            for message in messages(received) {
                // Ignore answers to earlier requests that were abandoned.
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

/// Returns how a dump ended, if this is its end: 0, or the number of the error that stopped it.
fn end_of_dump(message: &Message<'_>) -> Option<i32> {
    let end = || Some(-i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?));
    (message.kind == NLMSG_DONE).then(|| end().unwrap_or(0))
}

/// Interprets the answer to the probe.
fn support(errno: i32) -> Result<Support, ConntrackError> {
    match errno {
        ERANGE => Ok(Support::Filtered),
        // Either result means that the filter was ignored.
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
