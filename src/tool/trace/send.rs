//! The packet that is sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use rulec_compiler::net::Protocol;
use socket2::{Domain, Socket, Type};

/// A socket with a port, so that its packet can be told from others before it is sent.
pub(super) struct Prepared {
    socket: Socket,
    port: NonZeroU16,
    protocol: Protocol,
    to: SocketAddr,
}

impl Prepared {
    /// Binds a socket.
    pub(super) fn new(
        protocol: Protocol,
        from: Option<IpAddr>,
        to: SocketAddr,
    ) -> io::Result<Self> {
        let kind = if protocol == Protocol::Udp { Type::DGRAM } else { Type::STREAM };
        let socket = Socket::new(Domain::for_address(to), kind, None)?;
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        socket.bind(&SocketAddr::new(from.unwrap_or(any), 0).into())?;
        let port = socket.local_addr()?.as_socket().and_then(|it| NonZeroU16::new(it.port()));
        let port = port.ok_or_else(|| io::Error::other("the socket has no port"))?;
        Ok(Self { socket, port, protocol, to })
    }

    /// Returns the port it comes from.
    pub(super) fn port(&self) -> NonZeroU16 {
        self.port
    }

    /// Opens a connection, or sends an empty datagram. Does not wait for an answer.
    pub(super) fn send(self) -> Sent {
        let Self { socket, protocol, to, .. } = self;
        let sent = socket.set_nonblocking(true).and_then(|()| match protocol {
            Protocol::Udp => socket.send_to(&[], &to.into()).map(|_| ()),
            Protocol::Tcp | Protocol::Sctp => socket.connect(&to.into()),
        });
        Sent { error: sent.err(), _socket: socket }
    }
}

/// A packet that was sent. Its socket is open until it is dropped.
pub(super) struct Sent {
    /// What the kernel said: that it goes on, or what became of the packet.
    pub(super) error: Option<io::Error>,
    _socket: Socket,
}
