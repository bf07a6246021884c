//! The server's thread: the port, the connections, and orders of the handle.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::http::{Peer, Shared, answer};
use crate::link::Wire;
use crate::tls::Tls;

/// What the handle wants; done when the sender that comes along is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Refuse connections, and close all there are.
    Down,
    /// Accept connections again.
    Up,
    /// Accept connections and say nothing on them, not even TLS; or do so no more.
    Deaf(bool),
    /// Close all connections.
    Drop,
    /// End the thread.
    Stop,
}

pub(crate) type Orders = UnboundedReceiver<(Order, std::sync::mpsc::Sender<()>)>;

/// A port that stays ours while nobody listens. Without it somebody else could take it, or a client
/// that tries to connect could be given it as its own and so connect to itself.
#[derive(Debug)]
pub(crate) struct Port {
    _reserved: Socket,
    address: SocketAddr,
}

impl Port {
    /// Takes the address; its port may be 0.
    pub(crate) fn reserve(address: SocketAddr) -> io::Result<Self> {
        let reserved = bind(address)?;
        let address = reserved
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the socket has no IP address"))?;
        Ok(Self { _reserved: reserved, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let socket = bind(self.address)?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of before linger in TIME_WAIT, and the reservation has the port too.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Serves until told to stop.
///
/// # Errors
///
/// The port cannot be listened on.
pub(crate) async fn serve(
    port: &Port,
    tls: Arc<Mutex<Tls>>,
    shared: Arc<Shared>,
    mut orders: Orders,
) -> io::Result<()> {
    let mut listener = Some(port.listen()?);
    let mut deaf = false;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some((order, done)) = order else { return Ok(()) };
                match order {
                    Order::Down => {
                        listener = None;
                        connections.shutdown().await;
                    }
                    Order::Up if listener.is_none() => listener = Some(port.listen()?),
                    Order::Up => {}
                    Order::Deaf(whether) => deaf = whether,
                    Order::Drop => connections.shutdown().await,
                    Order::Stop => return Ok(()),
                }
                // Nobody waits for a handle that is gone.
                let _gone = done.send(());
            }
            stream = accept(listener.as_ref()) => {
                // A client that was gone before it was accepted is no concern of ours.
                let Ok(stream) = stream else { continue };
                if deaf {
                    connections.spawn(async move {
                        let _held = stream;
                        std::future::pending().await
                    });
                } else {
                    let config = tls.lock().unwrap().config();
                    connections.spawn(converse(stream, config.into(), Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// One connection, which ends as it likes: whatever fails here is the client's to notice.
async fn converse(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let _best_effort = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certified = stream.get_ref().1.peer_certificates().is_some();
    let peer = Peer { link: Arc::default(), certified };
    let wire = Wire::new(stream, Arc::clone(&peer.link));
    let service = service_fn(move |request| answer(Arc::clone(&shared), peer.clone(), request));
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(wire), service).await;
}
