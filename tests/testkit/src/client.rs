//! Clients: each makes one flow and returns the answer, or how the flow failed.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{error, fmt};

use nix::errno::Errno;
use socket2::{Domain, Socket};

use crate::namespace::Namespace;
use crate::patience::patience;
use crate::protocol::Protocol;
use crate::unbroken::unbroken;

/// The answer of a [`Server`](crate::Server): what it saw of the flow that reached it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The client's address as the server sees it.
    pub source: IpAddr,
    /// The server's own port.
    pub port: u16,
}

/// The source address and the time limit of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The source address; by default the kernel chooses one.
    ///
    /// If no port is given, or port 0, the client binds to a port that no flow of this process has
    /// used yet (there are 20000 of them), so that every flow is new to conntrack.
    pub source: Option<SocketAddr>,
    /// The time limit of the flow, from connecting to the answer; 1.5 s by default, multiplied by
    /// [`patience`].
    ///
    /// Below 1.1 s, TCP over IPv6 may be [`Failure::TimedOut`] where a rule rejects with an ICMP
    /// error: between namespaces the error arrives while `connect` still holds the socket's lock,
    /// and the kernel drops errors for a locked socket (`TcpExtLockDroppedIcmps`). The first
    /// retransmission, after one second, is refused.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { source: None, timeout: Duration::from_millis(1500) }
    }
}

/// Why there was no answer.
#[derive(Debug)]
pub enum Failure {
    /// The client received a TCP reset or an ICMP port-unreachable.
    Refused,
    /// No packet came back: a rule dropped the flow, possibly in the client's own output hook.
    TimedOut,
    /// There is no route or no neighbour, or the client received another ICMP error.
    Unreachable,
    /// Anything else, such as a connection reset after it was made.
    Other(io::Error),
}

impl Failure {
    pub(crate) fn of(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => return Self::Refused,
            // EACCES: ICMPv6 "administratively prohibited".
            Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES) => {
                return Self::Unreachable;
            }
            Some(_) | None => {}
        }
        if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) {
            return Self::TimedOut;
        }
        Self::Other(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Unreachable => "unreachable",
            Self::Other(_) => "failed",
        })
    }
}

impl error::Error for Failure {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Other(error) => Some(error),
            Self::Refused | Self::TimedOut | Self::Unreachable => None,
        }
    }
}

/// Makes one flow from the namespace to a [`Server`](crate::Server) and returns its answer.
///
/// # Errors
///
/// See [`Failure`]. An answer that is not in the form of a server's is [`Failure::Other`].
pub fn ask(
    from: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    options: Options,
) -> Result<Answer, Failure> {
    from.run(|| ask_here(protocol, to, options)).map_err(Failure::of)
}

/// Makes `n` new flows one after the other, and counts the answers by the servers' names.
///
/// # Panics
///
/// When one of them fails.
#[must_use]
pub fn ask_many(
    from: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    n: usize,
) -> BTreeMap<String, usize> {
    ask_many_with(from, protocol, to, n, Options::default())
}

/// Like [`ask_many`], with options; with a fixed source port, every flow has the same addresses and
/// ports.
///
/// # Panics
///
/// When one of the flows fails.
#[must_use]
pub fn ask_many_with(
    from: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    n: usize,
    options: Options,
) -> BTreeMap<String, usize> {
    let answer = |idx| {
        let answer = ask_here(protocol, to, options).map_err(Failure::of);
        answer.unwrap_or_else(|failure| panic!("{protocol} {to}: flow {idx} of {n}: {failure:?}"))
    };
    let mut counts = BTreeMap::new();
    for answer in from.run(|| (0..n).map(answer).collect::<Vec<Answer>>()) {
        *counts.entry(answer.name).or_default() += 1;
    }
    counts
}

/// Connects in the thread's namespace.
pub(crate) fn connect(protocol: Protocol, to: SocketAddr, options: Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), protocol.kind(), Some(protocol.number()))?;
    // The given port may have been used by the previous flow.
    socket.set_reuse_address(protocol != Protocol::Udp)?;
    let unspecified = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = options.source.unwrap_or(SocketAddr::new(unspecified, 0));
    if source.port() == 0 {
        bind_fresh(&socket, source.ip())?;
    } else {
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&to.into(), patience(options.timeout))?;
    Ok(socket)
}

/// Binds to a port that no flow of this process has used yet, as long as there is one.
///
/// The kernel could choose the port of a flow that conntrack still has an entry for, and the new
/// flow would then be sent to the old one's backend.
fn bind_fresh(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    // Below the kernel's own range (`ip_local_port_range`) and the NodePorts.
    const PORTS: Range<usize> = 10_000..30_000;
    static USED: AtomicUsize = AtomicUsize::new(0);
    loop {
        let offset = USED.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        let port = u16::try_from(PORTS.start + offset).expect("the range is within 16 bits");
        match socket.bind(&SocketAddr::new(ip, port).into()) {
            // A server of the same namespace has this port.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

fn ask_here(protocol: Protocol, to: SocketAddr, options: Options) -> io::Result<Answer> {
    let deadline = Instant::now() + patience(options.timeout);
    let socket = connect(protocol, to, options)?;
    let line = match protocol {
        Protocol::Tcp | Protocol::Sctp => read_all(socket.into(), deadline)?,
        Protocol::Udp => exchange(&socket.into(), deadline)?,
    };
    answer(line.as_bytes())
}

/// Reads the line of a server.
pub(crate) fn answer(line: &[u8]) -> io::Result<Answer> {
    let line = String::from_utf8_lossy(line);
    parse(&line).ok_or_else(|| {
        io::Error::new(ErrorKind::InvalidData, format!("not a server's answer: {line:?}"))
    })
}

fn read_all(mut stream: TcpStream, deadline: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    let mut chunk = [0; 256];
    // Read until the server closes: the side that closes first is the one left in TIME_WAIT.
    loop {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match unbroken(|| stream.read(&mut chunk))? {
            0 => return Ok(String::from_utf8_lossy(&line).into_owned()),
            length => line.extend_from_slice(&chunk[..length]),
        }
    }
}

fn exchange(socket: &UdpSocket, deadline: Instant) -> io::Result<String> {
    match socket.send(b"who is there?\n") {
        // EPERM: a rule of the client's own output hook dropped the datagram. If a rule rejected
        // it, the ICMP error is received below.
        Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {}
        sent => drop(sent?),
    }
    let mut datagram = [0; 2048];
    socket.set_read_timeout(Some(remaining(deadline)?))?;
    let length = unbroken(|| socket.recv(&mut datagram))?;
    Ok(String::from_utf8_lossy(&datagram[..length]).into_owned())
}

pub(crate) fn remaining(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    // A timeout of zero would mean no timeout.
    if remaining.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(remaining) }
}

fn parse(line: &str) -> Option<Answer> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    let answer = Answer {
        name: words.next()?.to_owned(),
        source: words.next()?.parse().ok()?,
        port: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(answer)
}
