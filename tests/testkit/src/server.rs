//! Servers that answer with their names: each is one thread that polls sockets inside a namespace.
//!
//! Every socket is bound to one address, so that a datagram is answered from the address to which
//! it was sent. Invariant: the thread has ended when its server's drop returns, whatever its peers
//! do.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket};

use crate::namespace::Namespace;
use crate::protocol::Protocol;
use crate::unbroken::unbroken;

/// Answers every connection or datagram with one line: `<name> <source address> <local port>`.
///
/// Stops on drop; connections to its ports are then refused.
#[derive(Debug)]
pub struct Server {
    _worker: Worker,
}

impl Server {
    /// Listens on the ports at every address that the namespace has now, including loopback.
    ///
    /// # Panics
    ///
    /// When an address is in use, or the kernel lacks the protocol.
    #[must_use]
    pub fn start(namespace: &Namespace, name: &str, ports: &[(Protocol, u16)]) -> Self {
        Self { _worker: Worker::start(name, Manner::Answer, open_everywhere(namespace, ports)) }
    }

    /// Listens on the given addresses only.
    ///
    /// # Panics
    ///
    /// When an address is in use or does not belong to the namespace, or the kernel lacks the
    /// protocol.
    #[must_use]
    pub fn start_at(namespace: &Namespace, name: &str, at: &[(Protocol, SocketAddr)]) -> Self {
        Self { _worker: Worker::start(name, Manner::Answer, open(namespace, at)) }
    }
}

/// Keeps TCP connections open and answers every line with `<name> <line>`.
///
/// Stops on drop, which closes its connections.
#[derive(Debug)]
pub struct LongServer {
    _worker: Worker,
}

impl LongServer {
    /// Listens on the TCP port at every address that the namespace has now.
    ///
    /// # Panics
    ///
    /// When an address is in use.
    #[must_use]
    pub fn start(namespace: &Namespace, name: &str, port: u16) -> Self {
        let sockets = open_everywhere(namespace, &[(Protocol::Tcp, port)]);
        Self { _worker: Worker::start(name, Manner::Converse, sockets) }
    }
}

#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Sends one answer, then closes the connection.
    Answer,
    /// Answers each line, until the peer closes.
    Converse,
}

#[derive(Debug)]
struct Worker {
    // The thread stops when this end is closed. Invariant: both this and `thread` are `Some` until
    // drop.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, manner: Manner, sockets: Vec<Listener>) -> Self {
        let (stop, stopped) = UnixStream::pair().expect("a socket pair opens");
        let name = name.to_owned();
        let thread = thread::Builder::new()
            .name(format!("server {name}"))
            .spawn(move || serve(&name, manner, &sockets, &stopped))
            .expect("a thread starts");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("a server panicked, see above");
        }
    }
}

#[derive(Debug)]
enum Listener {
    Stream(TcpListener),
    Datagram(UdpSocket),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(socket) => socket.as_fd(),
            Self::Datagram(socket) => socket.as_fd(),
        }
    }
}

struct Conversation {
    stream: TcpStream,
    // The bytes after the last complete line.
    pending: Vec<u8>,
}

impl Conversation {
    /// Answers all complete lines received so far; returns false when the peer has closed.
    fn step(&mut self, name: &str) -> bool {
        let mut chunk = [0; 4096];
        let Ok(length @ 1..) = self.stream.read(&mut chunk) else { return false };
        self.pending.extend_from_slice(&chunk[..length]);
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let answer = [name.as_bytes(), b" ", &line].concat();
            if self.stream.write_all(&answer).is_err() {
                return false;
            }
        }
        true
    }
}

fn serve(name: &str, manner: Manner, listeners: &[Listener], stopped: &UnixStream) {
    let mut conversations: Vec<Conversation> = Vec::new();
    loop {
        let mut polled: Vec<PollFd<'_>> = [stopped.as_fd()]
            .into_iter()
            .chain(listeners.iter().map(AsFd::as_fd))
            .chain(conversations.iter().map(|conversation| conversation.stream.as_fd()))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        unbroken(|| Ok(poll(&mut polled, PollTimeout::NONE)?)).expect("poll works");
        let mut ready: Vec<bool> = polled.iter().map(|fd| fd.any() != Some(false)).collect();
        if ready[0] {
            return;
        }

        let conversing = ready.split_off(1 + listeners.len());
        let mut conversing = conversing.into_iter();
        conversations
            .retain_mut(|conversation| conversing.next() != Some(true) || conversation.step(name));
        for (listener, _) in listeners.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            // A peer may have gone before it is served. It reports that itself, so errors are
            // ignored here.
            if let Ok(Some(conversation)) = take(listener, name, manner) {
                conversations.push(conversation);
            }
        }
    }
}

fn take(listener: &Listener, name: &str, manner: Manner) -> io::Result<Option<Conversation>> {
    let answer =
        |peer: SocketAddr, own: SocketAddr| format!("{name} {} {}\n", peer.ip(), own.port());
    match (listener, manner) {
        (Listener::Stream(socket), Manner::Answer) => {
            let (mut stream, peer) = socket.accept()?;
            stream.write_all(answer(peer, stream.local_addr()?).as_bytes())?;
            Ok(None)
        }
        (Listener::Stream(socket), Manner::Converse) => {
            let (stream, _) = socket.accept()?;
            Ok(Some(Conversation { stream, pending: Vec::new() }))
        }
        (Listener::Datagram(socket), Manner::Answer | Manner::Converse) => {
            let (_, peer) = socket.recv_from(&mut [0; 2048])?;
            socket.send_to(answer(peer, socket.local_addr()?).as_bytes(), peer)?;
            Ok(None)
        }
    }
}

fn open_everywhere(namespace: &Namespace, ports: &[(Protocol, u16)]) -> Vec<Listener> {
    let ips = own_ips(namespace);
    let at: Vec<(Protocol, SocketAddr)> = ports
        .iter()
        .flat_map(|(protocol, port)| ips.iter().map(|ip| (*protocol, SocketAddr::new(*ip, *port))))
        .collect();
    open(namespace, &at)
}

/// Returns the namespace's addresses, except link-local ones.
fn own_ips(namespace: &Namespace) -> Vec<IpAddr> {
    namespace
        .ips()
        .into_iter()
        .filter(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        })
        .collect()
}

fn open(namespace: &Namespace, at: &[(Protocol, SocketAddr)]) -> Vec<Listener> {
    namespace.run(|| {
        at.iter()
            .map(|(protocol, address)| {
                listen(*protocol, *address)
                    .unwrap_or_else(|error| panic!("{protocol} {address}: cannot listen: {error}"))
            })
            .collect()
    })
}

fn listen(protocol: Protocol, address: SocketAddr) -> io::Result<Listener> {
    let socket =
        Socket::new(Domain::for_address(address), protocol.kind(), Some(protocol.number()))?;
    match protocol {
        Protocol::Tcp | Protocol::Sctp => {
            // Connections of an earlier server may still be in TIME_WAIT.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(1024)?;
            // A peer that leaves between poll and accept must not block the thread.
            socket.set_nonblocking(true)?;
            Ok(Listener::Stream(socket.into()))
        }
        Protocol::Udp => {
            socket.bind(&address.into())?;
            // Nor must a datagram that poll reported and that fails its checksum.
            socket.set_nonblocking(true)?;
            Ok(Listener::Datagram(socket.into()))
        }
    }
}
