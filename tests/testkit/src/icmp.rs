//! ICMP errors as a client receives them: these tell a reject from a TCP reset.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;
use crate::patience::patience;

/// Listens for ICMP "port unreachable" in a namespace.
#[derive(Debug)]
pub struct Refusals {
    socket: Socket,
    is_v4: bool,
}

/// The packet that an ICMP error refers to.
struct Offender<'a> {
    to: IpAddr,
    /// The bytes after the IP header, at least 8.
    payload: &'a [u8],
}

impl Refusals {
    /// Listens for errors that refer to packets to addresses of the family of `to`.
    ///
    /// # Panics
    ///
    /// When a raw socket cannot be opened.
    #[must_use]
    pub fn listen(namespace: &Namespace, to: IpAddr) -> Self {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let open = || Socket::new(domain, Type::RAW, Some(protocol)).expect("a raw socket opens");
        Self { socket: namespace.run(open), is_v4: to.is_ipv4() }
    }

    /// Waits for the refusal of a flow, and returns whether it came.
    #[must_use]
    pub fn came(&self, source_port: u16, to: SocketAddr, within: Duration) -> bool {
        let ports = [source_port.to_be_bytes(), to.port().to_be_bytes()].concat();
        self.wait(within, |offender| offender.to == to.ip() && offender.payload.starts_with(&ports))
    }

    fn wait(&self, within: Duration, is_it: impl Fn(&Offender<'_>) -> bool) -> bool {
        let deadline = Instant::now() + patience(within);
        let mut packet = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A timeout of zero would mean no timeout.
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("a timeout is set");
            if let Ok(length) = (&self.socket).read(&mut packet)
                && self.offender(&packet[..length]).is_some_and(|offender| is_it(&offender))
            {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    /// Returns the packet that this "port unreachable" refers to; `None` if it is another ICMP
    /// message.
    fn offender<'a>(&self, packet: &'a [u8]) -> Option<Offender<'a>> {
        if self.is_v4 {
            let icmp = packet.get(ipv4_header(packet)?..)?;
            let inner = icmp.strip_prefix(&[3, 3])?.get(6..)?;
            let to: [u8; 4] = inner.get(16..20)?.try_into().ok()?;
            Some(Offender {
                to: Ipv4Addr::from(to).into(),
                payload: inner.get(ipv4_header(inner)?..)?,
            })
        } else {
            // The kernel strips the outer IPv6 header on raw sockets.
            let inner = packet.strip_prefix(&[1, 4])?.get(6..)?;
            let to: [u8; 16] = inner.get(24..40)?.try_into().ok()?;
            Some(Offender { to: Ipv6Addr::from(to).into(), payload: inner.get(40..)? })
        }
    }
}

fn ipv4_header(packet: &[u8]) -> Option<usize> {
    Some(usize::from(packet.first()? & 0xf) * 4)
}

/// Sends an echo request and returns whether "port unreachable" came back.
///
/// # Panics
///
/// When the request cannot be sent.
#[must_use]
pub fn ping_is_refused(from: &Namespace, to: IpAddr, within: Duration) -> bool {
    const ID: [u8; 2] = *b"rl";
    let refusals = Refusals::listen(from, to);
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut request = [kind, 0, 0, 0, ID[0], ID[1], 0, 1];
    // For ICMPv6 the kernel computes the checksum, which covers the addresses.
    if to.is_ipv4() {
        let words = request.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum = words.sum::<u32>();
        let folded = !((sum & 0xffff) + (sum >> 16));
        request[2..4].copy_from_slice(&folded.to_be_bytes()[2..]);
    }
    refusals
        .socket
        .send_to(&request, &SocketAddr::new(to, 0).into())
        .expect("an echo request is sent");
    refusals.wait(within, |offender| {
        offender.to == to && offender.payload.first() == Some(&kind) && offender.payload[4..6] == ID
    })
}
