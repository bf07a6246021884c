//! One connection, which the answer on it can break.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::faults::Cut;

/// Tells the connection to break once everything written so far has been handed to the kernel.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<Option<Cut>>);

impl Link {
    pub(crate) fn cut(&self, how: Cut) {
        *self.0.lock().unwrap() = Some(how);
    }

    fn is_cut(&self) -> Option<Cut> {
        *self.0.lock().unwrap()
    }
}

/// The stream given to hyper. It fails after the flush that follows a cut; hyper then drops it,
/// which closes the socket without a close_notify of TLS.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TlsStream<TcpStream>,
    link: Arc<Link>,
}

impl Wire {
    pub(crate) fn new(stream: TlsStream<TcpStream>, link: Arc<Link>) -> Self {
        Self { stream, link }
    }

    fn broken(&self, how: Cut) -> io::Error {
        if how == Cut::Reset {
            // Closing a socket with zero linger time sends a reset.
            let _best_effort = self.stream.get_ref().0.set_zero_linger();
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the test")
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        match (flushed, self.link.is_cut()) {
            (Poll::Ready(Ok(())), Some(how)) => Poll::Ready(Err(self.broken(how))),
            (flushed, _) => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.link.is_cut() {
            Some(how) => Poll::Ready(Err(self.broken(how))),
            None => Pin::new(&mut self.stream).poll_shutdown(context),
        }
    }
}
