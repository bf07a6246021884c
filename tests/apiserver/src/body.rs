//! Bodies of answers: whole, or sent in pieces and subject to the active faults.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{mpsc, watch};

use crate::faults::{Cut, Fault, FaultId, Faults};
use crate::link::Link;
use crate::resource::{Resource, Verb};

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Bytes),
    Pieces { pieces: mpsc::Receiver<Piece>, link: Arc<Link> },
}

#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    Cut(Cut),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Pieces { pieces, link } => match pieces.poll_recv(context) {
                Poll::Ready(Some(Piece::Bytes(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Poll::Ready(Some(Piece::Cut(how))) => {
                    // hyper flushes when a body has nothing to send, and that flush fails.
                    link.cut(how);
                    Poll::Pending
                }
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Pieces { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pieces { .. } => SizeHint::new(),
        }
    }
}

/// The client no longer reads the answer.
#[derive(Debug)]
pub(crate) struct Closed;

/// The sending end of a body.
#[derive(Debug)]
pub(crate) struct Outlet {
    verb: Verb,
    resource: Resource,
    pieces: mpsc::Sender<Piece>,
    faults: Arc<Faults>,
    changes: watch::Receiver<()>,
    frozen: Arc<AtomicBool>,
    /// Bytes sent since each cut was ordered.
    sent: HashMap<FaultId, usize>,
}

impl Outlet {
    pub(crate) fn open(
        verb: Verb,
        resource: Resource,
        faults: &Arc<Faults>,
        link: &Arc<Link>,
    ) -> (Self, Body) {
        let (sender, pieces) = mpsc::channel(1);
        let outlet = Self {
            verb,
            resource,
            pieces: sender,
            faults: Arc::clone(faults),
            changes: faults.changes(),
            frozen: faults.enter(verb, resource),
            sent: HashMap::new(),
        };
        (outlet, Body::Pieces { pieces, link: Arc::clone(link) })
    }

    /// Sends the bytes, as far as the faults allow.
    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), Closed> {
        let mut bytes = bytes.into();
        self.settle().await?;
        if let Some((id, left, how)) = self.next_cut()
            && left <= bytes.len()
        {
            bytes.truncate(left);
            self.put(bytes).await?;
            return self.cut(id, how).await;
        }
        for (id, ..) in self.faults.cuts(self.verb, self.resource) {
            *self.sent.entry(id).or_default() += bytes.len();
        }
        self.put(bytes).await
    }

    /// Applies the active faults when there is nothing to send: waits while the answer is stalled,
    /// or until the client has gone if it is frozen, and breaks the connection if no more bytes are
    /// allowed.
    pub(crate) async fn settle(&mut self) -> Result<(), Closed> {
        loop {
            self.changes.mark_unchanged();
            if self.frozen.load(Ordering::Acquire) {
                self.pieces.closed().await;
                return Err(Closed);
            }
            if let Some((id, 0, how)) = self.next_cut() {
                return self.cut(id, how).await;
            }
            if !self.faults.stalls(self.verb, self.resource) {
                return Ok(());
            }
            self.disturbed().await?;
        }
    }

    /// Returns when the faults change.
    pub(crate) async fn disturbed(&mut self) -> Result<(), Closed> {
        tokio::select! {
            biased;
            () = self.pieces.closed() => Err(Closed),
            changed = self.changes.changed() => changed.map_err(|_| Closed),
        }
    }

    pub(crate) fn strikes<T>(&self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.faults.strike(self.verb, Some(self.resource), pick)
    }

    /// Returns the cut that comes first, and the bytes left until then.
    fn next_cut(&self) -> Option<(FaultId, usize, Cut)> {
        let cuts = self.faults.cuts(self.verb, self.resource);
        let left =
            |id, bytes: usize| bytes.saturating_sub(self.sent.get(&id).copied().unwrap_or(0));
        cuts.into_iter()
            .map(|(id, bytes, how)| (id, left(id, bytes), how))
            .min_by_key(|(_, left, _)| *left)
    }

    async fn put(&self, bytes: Bytes) -> Result<(), Closed> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.pieces.send(Piece::Bytes(bytes)).await.map_err(|_| Closed)
    }

    async fn cut(&self, id: FaultId, how: Cut) -> Result<(), Closed> {
        self.faults.struck(id);
        self.pieces.send(Piece::Cut(how)).await.map_err(|_| Closed)?;
        // Invariant: the body does not end before the connection does.
        self.pieces.closed().await;
        Err(Closed)
    }
}
