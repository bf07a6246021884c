//! Netlink: messages and attributes as bytes, and a socket. `requests` asks with it: once, many
//! times in one call, or for a dump.
//!
//! Everything is safe code over slices. Reading never trusts a length: a message or attribute that
//! does not fit is ignored.

pub(crate) mod meter;
mod requests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

pub(crate) use mnl::Bus;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use meter::Meter;
pub(crate) use requests::Requests;

/// `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
/// `struct nfgenmsg`, which follows it in the netfilter family, and `struct genlmsghdr`, which
/// follows it in the generic one.
pub(crate) const GENMSG_LEN: usize = 4;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

const NLA_TYPE_MASK: u16 = 0x3fff;
const NLA_F_NESTED: u16 = 0x8000;

/// The maximum number of bytes received at once. The kernel fills dumps up to 32 KiB a message.
const RECEIVE_BYTES: usize = 1 << 17;

/// The number of bytes that the kernel may queue for us: it answers a batch with one message per
/// refused operation.
const BUFFER_BYTES: usize = 16 << 20;

/// The part of a buffer that messages cannot use (`netlink_sendmsg`).
const RESERVED_BYTES: usize = 32;

/// The maximum that is requested of a kernel that grants any size.
const FORCED_BYTES: usize = 1 << 30;

/// The space that a short answer takes in the receive buffer: the message, and the kernel's
/// bookkeeping.
const ANSWER_BYTES: usize = 2048;

/// Messages, one after the other.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// The place of a length that is written when its content is complete.
#[derive(Clone, Copy)]
pub(crate) struct Open(usize);

impl Writer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Starts a message of the netfilter family.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        seq: u32,
        family: u8,
        res_id: u16,
    ) -> Open {
        let open = self.header(kind, flags, seq);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&res_id.to_be_bytes());
        open
    }

    /// Starts a message of a generic netlink family.
    pub(crate) fn generic(
        &mut self,
        kind: u16,
        flags: u16,
        seq: u32,
        command: u8,
        version: u8,
    ) -> Open {
        let open = self.header(kind, flags, seq);
        self.bytes.extend_from_slice(&[command, version, 0, 0]);
        open
    }

    /// Starts a message of any bus. The caller writes the content after the header.
    pub(crate) fn header(&mut self, kind: u16, flags: u16, seq: u32) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        open
    }

    /// Completes a message.
    pub(crate) fn close_message(&mut self, open: Open) {
        let len = u32::try_from(self.bytes.len() - open.0).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(open.0..open.0 + 4) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
    }

    /// Adds flags to a complete message.
    pub(crate) fn add_flags(&mut self, message: Open, flags: u16) {
        let place = message.0 + 6..message.0 + 8;
        if let Some(place) = self.bytes.get_mut(place)
            && let Ok(old) = <[u8; 2]>::try_from(&*place)
        {
            place.copy_from_slice(&(u16::from_ne_bytes(old) | flags).to_ne_bytes());
        }
    }

    /// Appends bytes as they are: a complete message, or the content after a header.
    pub(crate) fn raw(&mut self, message: &[u8]) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend_from_slice(message);
        open
    }

    /// Starts an attribute that contains attributes.
    pub(crate) fn nest(&mut self, kind: u16) -> Open {
        let open = Open(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        open
    }

    /// Completes it. The caller keeps it below 64 KiB, the limit of a 16-bit length.
    pub(crate) fn close_nest(&mut self, open: Open) {
        let len = u16::try_from(self.bytes.len() - open.0).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(open.0..open.0 + 2) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
    }

    /// Returns the current length since the start of this attribute or message.
    pub(crate) fn len_since(&self, open: Open) -> usize {
        self.bytes.len() - open.0
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Writes a number in network byte order, as nf_tables expects.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a number in the byte order of this machine, as all other families expect.
    pub(crate) fn ne16(&mut self, kind: u16, value: u16) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Writes a number in the byte order of this machine.
    pub(crate) fn ne32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Writes text with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let len = u16::try_from(5 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// The content after the header.
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Returns the error number of an answer; 0 is an acknowledgement. `None` if it is not an
    /// answer.
    pub(crate) fn errno(&self) -> Option<i32> {
        (self.kind == NLMSG_ERROR).then(|| self.status())?
    }

    /// Returns the error number at the end of a dump; 0 if the dump is complete, another number if
    /// it was aborted. `None` if it is not the end.
    pub(crate) fn end_errno(&self) -> Option<i32> {
        (self.kind == NLMSG_DONE).then(|| self.status().unwrap_or(0))
    }

    fn status(&self) -> Option<i32> {
        let status = i32::from_ne_bytes(self.payload.get(..4)?.try_into().ok()?);
        Some(status.wrapping_neg())
    }

    /// Returns the address family of a message of the netfilter family.
    pub(crate) fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }

    /// Returns the command of a message of generic netlink.
    pub(crate) fn command(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }

    /// Returns its attributes, if it is of the netfilter family or of generic netlink.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        attributes(self.payload.get(GENMSG_LEN..).unwrap_or(&[]))
    }
}

/// Returns the messages in received bytes.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let payload = bytes.get(HEADER_LEN..len)?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            seq: u32_at(bytes, 8)?,
            payload,
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// An attribute: its type and its value.
pub(crate) type Attribute<'a> = (u16, &'a [u8]);

/// Attributes, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a>(&'a [u8]);

/// Returns the attributes in the bytes.
pub(crate) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Attributes<'a> {
    /// Returns the value of the first attribute of this type.
    pub(crate) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// Returns the number in the first attribute of this type.
    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        be32(self.find(kind)?)
    }

    /// Returns the number in the first attribute of this type, in the byte order of this machine.
    pub(crate) fn ne16(self, kind: u16) -> Option<u16> {
        u16_at(self.find(kind)?, 0)
    }

    /// Returns the number in the first attribute of this type, in the byte order of this machine.
    pub(crate) fn ne32(self, kind: u16) -> Option<u32> {
        u32_at(self.find(kind)?, 0)
    }

    /// Returns the text in the first attribute of this type.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        text(self.find(kind)?)
    }

    /// Returns the attributes in the first attribute of this type.
    pub(crate) fn nested(self, kind: u16) -> Option<Attributes<'a>> {
        Some(attributes(self.find(kind)?))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Reads a number in network byte order.
pub(crate) fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// Reads a number in network byte order.
pub(crate) fn be64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.get(..8)?.try_into().ok()?))
}

/// Reads text up to its final zero.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(value.get(..end)?).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a number of a header, in the byte order of this machine.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A netlink socket. It never blocks: nf_tables, IPVS and routing have processed a request and
/// queued all answers when `send` returns, so an empty queue means the end and nothing can hang.
pub(crate) struct Socket {
    socket: mnl::Socket,
    /// The buffer for received messages, used from `aligned` on: mnl requires the alignment of a
    /// message header, which a vector of bytes has only by chance.
    buffer: Vec<u8>,
    aligned: usize,
    send_buffer: usize,
    receive_buffer: usize,
    /// True if buffers may exceed the system's limits. Root in a user namespace may not do this,
    /// although it may program its network namespace.
    may_force: bool,
    /// Measures the calls below.
    pub(crate) meter: Meter,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread that receives the
    /// notifications of these groups (a bit mask; 0 for none).
    pub(crate) fn open(bus: Bus, groups: u32) -> io::Result<Self> {
        let socket = mnl::Socket::open(bus)?;
        // 0: the kernel chooses the port id.
        socket.bind(groups, 0)?;
        let buffer = vec![0; RECEIVE_BYTES + align_of::<u64>()];
        let aligned = buffer.as_ptr().align_offset(align_of::<u64>());
        let mut this = Self {
            socket,
            buffer,
            aligned,
            send_buffer: 0,
            receive_buffer: 0,
            may_force: true,
            meter: Meter::default(),
        };
        let flags = fcntl(&this, FcntlArg::F_GETFL)?;
        fcntl(&this, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK))?;
        // libmnl does not set it: a child process would keep the ownership of our tables.
        fcntl(&this, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        match setsockopt(&this, sockopt::RcvBufForce, &BUFFER_BYTES) {
            Ok(()) => {}
            Err(Errno::EPERM) => {
                this.may_force = false;
                // The kernel grants at most net.core.rmem_max and net.core.wmem_max.
                setsockopt(&this, sockopt::RcvBuf, &BUFFER_BYTES)?;
                setsockopt(&this, sockopt::SndBuf, &BUFFER_BYTES)?;
            }
            Err(error) => return Err(error.into()),
        }
        this.receive_buffer = getsockopt(&this, sockopt::RcvBuf)?;
        this.send_buffer = getsockopt(&this, sockopt::SndBuf)?;
        Ok(this)
    }

    /// Returns true if buffers may exceed the system's limits.
    pub(crate) fn may_force(&self) -> bool {
        self.may_force
    }

    /// Returns the maximum number of bytes in one call.
    pub(crate) fn largest(&self) -> usize {
        let granted = if self.may_force { FORCED_BYTES } else { self.send_buffer };
        granted.saturating_sub(RESERVED_BYTES)
    }

    /// Returns the number of short answers that the kernel can queue for us.
    pub(crate) fn most_answers(&self) -> usize {
        (self.receive_buffer / ANSWER_BYTES).max(1)
    }

    /// Uses buffers of this number of bytes, as if no larger ones were granted.
    pub(crate) fn with_buffers(mut self, bytes: usize) -> io::Result<Self> {
        self.may_force = false;
        setsockopt(&self, sockopt::RcvBuf, &(bytes / 2))?;
        setsockopt(&self, sockopt::SndBuf, &(bytes / 2))?;
        self.receive_buffer = getsockopt(&self, sockopt::RcvBuf)?;
        self.send_buffer = getsockopt(&self, sockopt::SndBuf)?;
        Ok(self)
    }

    pub(crate) fn portid(&self) -> u32 {
        self.socket.portid()
    }

    /// Sends messages in one call: for nf_tables, one call is one transaction.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The kernel refuses a message larger than the send buffer with EMSGSIZE. It grants twice
        // the size that is set.
        if self.may_force && bytes.len() + RESERVED_BYTES > self.send_buffer {
            let size = bytes.len().next_power_of_two().max(1 << 18);
            setsockopt(&*self, sockopt::SndBufForce, &size)?;
            self.send_buffer = getsockopt(&*self, sockopt::SndBuf)?;
        }
        loop {
            match self.meter.during(|| self.socket.send(bytes)) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::Error::other("netlink accepted only a part of the batch")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives queued messages; `None` if there are none.
    pub(crate) fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        let room = self.buffer.get_mut(self.aligned..).unwrap_or_default();
        loop {
            match self.meter.during(|| self.socket.recv_raw(room)) {
                Ok(received) => return Ok(room.get(..received)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::ffi::socket_fd(&self.socket)
    }
}
