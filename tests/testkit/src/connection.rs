//! A TCP connection that stays open as long as the test needs it.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};

use crate::client::{self, Failure, Options};
use crate::namespace::Namespace;
use crate::patience::patience;
use crate::protocol::Protocol;

/// A connection to a [`LongServer`](crate::LongServer).
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Sends a line and returns the answer, `<server's name> <line>`.
    ///
    /// # Errors
    ///
    /// See [`Failure`]; a connection that was closed or reset is [`Failure::Other`]. After an
    /// error, the connection cannot be used any more.
    pub fn exchange(&mut self, line: &str) -> Result<String, Failure> {
        self.exchange_io(line).map_err(Failure::of)
    }

    /// The connection's address on the client's side.
    ///
    /// # Panics
    ///
    /// When the kernel does not report it.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().expect("a connected socket has an address")
    }

    fn exchange_io(&mut self, line: &str) -> io::Result<String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        answer.strip_suffix('\n').map(str::to_owned).ok_or(ErrorKind::UnexpectedEof.into())
    }
}

/// Connects from the namespace to a [`LongServer`](crate::LongServer).
///
/// # Errors
///
/// See [`Failure`].
pub fn flow(from: &Namespace, to: SocketAddr) -> Result<Connection, Failure> {
    flow_with(from, to, Options::default())
}

/// Like [`flow`], with options; the timeout applies to every exchange, too.
///
/// # Errors
///
/// See [`Failure`].
pub fn flow_with(
    from: &Namespace,
    to: SocketAddr,
    options: Options,
) -> Result<Connection, Failure> {
    let connect = || {
        let stream: TcpStream = client::connect(Protocol::Tcp, to, options)?.into();
        stream.set_read_timeout(Some(patience(options.timeout)))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream) })
    };
    from.run(connect).map_err(Failure::of)
}
