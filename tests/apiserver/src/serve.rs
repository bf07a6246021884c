//! A thread that serves: the port, the connections, and orders from the handle.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// An order from the handle; it has been carried out when the sender that comes with it is
/// answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Refuse connections, and close all open ones.
    Down,
    /// Accept connections again.
    Up,
    /// While true, accept connections but send nothing on them, not even in the TLS handshake.
    Deaf(bool),
    /// Close all connections.
    Drop,
    /// End the thread.
    Stop,
}

type Orders = UnboundedReceiver<(Order, mpsc::Sender<()>)>;

/// A thread that serves a port, and stops when this value is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    address: SocketAddr,
    orders: UnboundedSender<(Order, mpsc::Sender<()>)>,
    // Invariant: `Some` until drop.
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts a thread that listens when this returns. The thread, and so every socket, is in the
    /// network namespace of the calling thread.
    pub(crate) fn start<C, F>(port: Port, converse: C) -> Self
    where
        C: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let address = port.address();
        let (orders, received) = unbounded_channel();
        let thread = thread::Builder::new()
            .name("api server".to_owned())
            .spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime starts")
                    .block_on(serve(&port, converse, received))
                    .expect("the reserved port can be listened on");
            })
            .expect("a thread starts");
        let serving = Self { address, orders, thread: Some(thread) };
        serving.order(Order::Up);
        serving
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends an order, and returns when it has been carried out.
    pub(crate) fn order(&self, order: Order) {
        let (done, wait) = mpsc::channel();
        self.orders.send((order, done)).expect("the server's thread lives");
        wait.recv().expect("the server's thread lives");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // If the thread has already ended, joining it shows why.
        let _gone = self.orders.send((Order::Stop, mpsc::channel().0));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the API server panicked, see above");
        }
    }
}

/// A port that stays reserved while nothing listens on it. Otherwise another process could take it,
/// or a client that tries to connect could get it as its own source port and so connect to itself.
#[derive(Debug)]
pub(crate) struct Port {
    _reserved: Socket,
    address: SocketAddr,
}

impl Port {
    /// Reserves the address; its port may be 0.
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
    // Earlier connections may be in TIME_WAIT, and the reservation has the port, too.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Serves until told to stop.
///
/// # Errors
///
/// When the port cannot be listened on.
async fn serve<C, F>(port: &Port, converse: C, mut orders: Orders) -> io::Result<()>
where
    C: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
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
                // The receiver is gone if the handle is gone.
                let _gone = done.send(());
            }
            stream = accept(listener.as_ref()) => {
                // The client was gone before it was accepted.
                let Ok(stream) = stream else { continue };
                if deaf {
                    connections.spawn(async move {
                        let _held = stream;
                        std::future::pending().await
                    });
                } else {
                    connections.spawn(converse(stream));
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
