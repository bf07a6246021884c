//! Flows that leave nothing behind, so that there can be a million of them.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::client::{self, Answer, Failure, Options};
use crate::patience::patience;
use crate::protocol::Protocol;
use crate::unbroken::unbroken;

/// How long a datagram is waited for before it is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// The outcome of a [`brief`] flow that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    /// What the server saw.
    pub answer: Answer,
    /// How often a datagram was sent again, because there was no answer within a second.
    pub repeated: u32,
}

/// Makes one flow to a [`Server`](crate::Server) in the network namespace of the calling thread (see
/// [`Namespace::run`](crate::Namespace::run)).
///
/// The source has a port, which must be free. A connection ends with a reset, after everything was
/// read: neither end is left in TIME_WAIT, and conntrack forgets it soon.
///
/// # Errors
///
/// See [`Failure`]. A datagram is sent again before it counts as lost: its flow may have been
/// deleted before the answer came.
pub fn brief(
    protocol: Protocol,
    source: SocketAddr,
    to: SocketAddr,
    timeout: Duration,
) -> Result<Brief, Failure> {
    let flow = || {
        let options = Options { source: Some(source), timeout };
        let deadline = Instant::now() + patience(timeout);
        let socket = client::connect(protocol, to, options)?;
        let (line, repeated) = match protocol {
            Protocol::Tcp | Protocol::Sctp => (read_all(socket.into(), deadline)?, 0),
            Protocol::Udp => exchange(&socket.into(), deadline)?,
        };
        Ok(Brief { answer: client::answer(&line)?, repeated })
    };
    flow().map_err(Failure::of)
}

fn read_all(mut stream: TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(client::remaining(deadline)?))?;
    let mut line = Vec::new();
    stream.read_to_end(&mut line)?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(line)
}

fn exchange(socket: &UdpSocket, deadline: Instant) -> io::Result<(Vec<u8>, u32)> {
    let mut datagram = [0; 256];
    for repeated in 0.. {
        socket.send(b"who is there?\n")?;
        socket.set_read_timeout(Some(client::remaining(deadline)?.min(patience(AGAIN))))?;
        match unbroken(|| socket.recv(&mut datagram)) {
            Ok(length) => return Ok((datagram[..length].to_vec(), repeated)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("the deadline ends the loop")
}
