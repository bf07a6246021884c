//! One connection, which the answer on it can break.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
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

/// A stream that can be closed by a reset.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Makes closing send a reset.
    fn close_by_reset(&self);
}

impl Stream for TlsStream<TcpStream> {
    fn close_by_reset(&self) {
        // Closing a socket with zero linger time sends a reset.
        let _best_effort = self.get_ref().0.set_zero_linger();
    }
}

/// It knows only one way to close.
impl Stream for DuplexStream {
    fn close_by_reset(&self) {}
}

/// The stream given to hyper. It fails after the flush that follows a cut; hyper then drops it,
/// which closes the socket without a close_notify of TLS.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    link: Arc<Link>,
}

impl<S: Stream> Wire<S> {
    pub(crate) fn new(stream: S, link: Arc<Link>) -> Self {
        Self { stream, link }
    }

    fn broken(&self, how: Cut) -> io::Error {
        if how == Cut::Reset {
            self.stream.close_by_reset();
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the test")
    }
}

impl<S: Stream> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Stream> AsyncWrite for Wire<S> {
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
