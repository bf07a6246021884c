//! Watches for changes of our tables by others, for kernels that cannot prevent them.
//!
//! The kernel announces every commit of every process. A socket filter in the kernel drops our own
//! announcements, so that a bulk load does not flood us. Each transaction ends with an announcement
//! of the new generation, which names the process that committed it.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rulec_compiler::nft::ruleset::TABLE;
use rulec_engine::{Culprit, Tampering};
use socket2::{SockFilter, SockRef};

use super::wire;
use crate::netlink::{Bus, Message, Socket, messages};

/// `NFNLGRP_NFTABLES` as a bit.
pub(super) const GROUP: u32 = 1 << (7 - 1);

/// A socket that receives the announcements.
pub struct Watcher {
    socket: Socket,
    /// True if the announced transaction has touched one of our tables.
    touches: bool,
}

impl Watcher {
    /// Opens the socket in the network namespace of the calling thread. It does not receive
    /// announcements for the socket with port id `own`.
    ///
    /// # Errors
    ///
    /// If the socket cannot be opened.
    pub fn open(own: u32) -> io::Result<Self> {
        let socket = Socket::open(Bus::Netfilter, GROUP)?;
        // Loads nlmsg_pid (offset 12) in network byte order; drops the message if the port id is
        // ours.
        const LOAD_WORD: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        let own = u32::from_be_bytes(own.to_ne_bytes());
        SockRef::from(&socket.as_fd()).attach_filter(&[
            SockFilter::new(LOAD_WORD, 0, 0, 12),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, own),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ])?;
        Ok(Self { socket, touches: false })
    }

    /// Waits until another process changes our tables, for a limited time.
    ///
    /// # Errors
    ///
    /// If the socket fails. Lost announcements are not an error: they count as a change by an
    /// unknown process.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<Tampering>> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let fd = self.socket.as_fd();
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut found = None;
        loop {
            let received = match self.socket.receive() {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(found),
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    self.touches = false;
                    found = Some(Tampering { culprit: None });
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in messages(received) {
                if message.kind == wire::NFNL_SUBSYS_NFTABLES << 8 | wire::NEWGEN {
                    if std::mem::take(&mut self.touches) {
                        found = Some(Tampering { culprit: culprit(message) });
                    }
                } else {
                    // In every message about a part of a table, attribute 1 is the name of the
                    // table.
                    let table = message.attributes().text(wire::NFTA_TABLE_NAME);
                    self.touches |= table == Some(TABLE);
                }
            }
        }
    }
}

pub(super) fn culprit(message: Message<'_>) -> Option<Culprit> {
    let attributes = message.attributes();
    let pid = attributes.clone().be32(wire::NFTA_GEN_PROC_PID)?;
    let name = attributes.text(wire::NFTA_GEN_PROC_NAME)?.to_owned();
    Some(Culprit { pid, name })
}
