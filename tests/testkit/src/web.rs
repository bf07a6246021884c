//! A web server with one page, and its faults: one thread that answers whatever is asked.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::namespace::Namespace;
use crate::unbroken::unbroken;

/// How a [`Web`] answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// With a page, or with 304 if the request names its tag.
    Page {
        /// The `ETag`, with its quotes; none is sent if it is empty.
        tag: String,
        /// The content.
        body: String,
    },
    /// With these bytes, after which the connection ends.
    Bytes(Vec<u8>),
    /// Not at all.
    Nothing,
}

impl Reply {
    /// Returns a page with a tag.
    #[must_use]
    pub fn page(tag: &str, body: &str) -> Self {
        Self::Page { tag: tag.to_owned(), body: body.to_owned() }
    }

    /// Returns the answer to a request, if there is one.
    fn to(&self, request: &str) -> Option<Vec<u8>> {
        let (tag, body) = match self {
            Self::Page { tag, body } => (tag, body),
            Self::Bytes(bytes) => return Some(bytes.clone()),
            Self::Nothing => return None,
        };
        let tagged = if tag.is_empty() { String::new() } else { format!("ETag: {tag}\r\n") };
        let is_known = !tag.is_empty()
            && request.lines().any(|line| {
                let header = line.split_once(": ");
                header.is_some_and(|(name, value)| {
                    name.eq_ignore_ascii_case("if-none-match") && value == tag
                })
            });
        Some(if is_known {
            format!("HTTP/1.1 304 Not Modified\r\n{tagged}\r\n").into_bytes()
        } else {
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\n{tagged}Content-Length: {length}\r\n\r\n{body}")
                .into_bytes()
        })
    }
}

/// A web server. Stops on drop; connections to it are then refused.
#[derive(Debug)]
pub struct Web {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    // The thread stops when this end is closed. Invariant: both this and `thread` are `Some` until
    // drop.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    reply: Reply,
    requests: Vec<String>,
}

impl Web {
    /// Listens on a port of loopback.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    #[must_use]
    pub fn start(reply: Reply) -> Self {
        Self::on(listen((Ipv4Addr::LOCALHOST, 0).into()), reply)
    }

    /// Listens at an address in a namespace.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    #[must_use]
    pub fn within(namespace: &Namespace, address: SocketAddr, reply: Reply) -> Self {
        Self::on(namespace.run(|| listen(address)), reply)
    }

    fn on(listener: TcpListener, reply: Reply) -> Self {
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(Mutex::new(State { reply, requests: Vec::new() }));
        let (stop, stopped) = UnixStream::pair().expect("a socket pair opens");
        let thread = thread::spawn({
            let state = Arc::clone(&state);
            move || serve(&listener, &state, &stopped)
        });
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// Returns its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it answers.
    pub fn set(&self, reply: Reply) {
        lock(&self.state).reply = reply;
    }

    /// Returns the requests so far: first lines and headers.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("a web server panicked, see above");
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).expect("it listens")
}

fn serve(listener: &TcpListener, state: &Mutex<State>, stopped: &UnixStream) {
    // Connections without an answer stay open.
    let mut silent = Vec::new();
    loop {
        let fds = [listener.as_fd(), stopped.as_fd()];
        let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        unbroken(|| Ok(poll(&mut polled, PollTimeout::NONE)?)).expect("poll works");
        if polled[1].any() != Some(false) {
            return;
        }
        // A peer may have gone before it is served. It reports that itself, so errors are ignored
        // here.
        silent.extend(answer(listener, state).ok().flatten());
    }
}

/// Answers one connection; returns it if it gets no answer.
fn answer(listener: &TcpListener, state: &Mutex<State>) -> io::Result<Option<TcpStream>> {
    let (mut stream, _) = listener.accept()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut state = lock(state);
    let reply = state.reply.to(&head);
    state.requests.push(head);
    drop(state);
    let Some(bytes) = reply else { return Ok(Some(stream)) };
    stream.write_all(&bytes)?;
    Ok(None)
}
