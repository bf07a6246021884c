//! The sink's threads: netlink blocks, and its sockets stay on the thread that opened them.
//!
//! One thread commits, and one compares the kernel's content with what was committed, with a sink of
//! its own: reading everything takes long, and no change waits for it.

use std::future::pending;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rulec_engine::{Reply, Request, Sink, Tampering, answer};
use rulec_sinks::nft::Ownership;
use rulec_sinks::nft::watch::Watcher;
use tokio::sync::mpsc as channel;

use crate::kernel::{self, IpvsStart};
use crate::threads::Vital;

/// How long the watcher waits before it checks whether it is still needed.
const WATCH_PAUSE: Duration = Duration::from_millis(500);

/// A sink on its own threads. Dropping it ends each after its current request.
#[derive(Debug)]
pub struct SinkThread {
    requests: mpsc::Sender<Request>,
    /// Requests that others do not wait for.
    beside: mpsc::Sender<Request>,
    /// Whether others can change the tables.
    pub ownership: Ownership,
    /// The replies of the sink.
    pub replies: channel::UnboundedReceiver<Reply>,
    /// Changes of the tables by other processes. Stays empty if they cannot make any.
    pub tampering: channel::UnboundedReceiver<Tampering>,
    /// The threads.
    pub threads: Threads,
}

/// The threads that program the kernel and look for changes by other processes.
#[derive(Debug)]
pub struct Threads {
    sink: Vital,
    checker: Vital,
    /// `None` if other processes cannot change the tables.
    watcher: Option<Vital>,
}

impl Threads {
    /// Resolves with an error when one of them has died.
    pub async fn death(&mut self) -> anyhow::Error {
        let watcher = async {
            match &mut self.watcher {
                Some(watcher) => watcher.death().await,
                None => pending().await,
            }
        };
        tokio::select! {
            error = self.sink.death() => error,
            error = self.checker.death() => error,
            error = watcher => error,
        }
    }
}

impl SinkThread {
    /// Starts the threads, in the network namespace of the caller.
    ///
    /// # Errors
    ///
    /// If nf_tables, or IPVS if it is used, is unreachable.
    pub fn start(ownership: Ownership, mark: u32, ipvs: Option<IpvsStart>) -> anyhow::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let (outbox, replies) = channel::unbounded_channel();
        let (alarms, tampering) = channel::unbounded_channel();
        let options = ipvs.as_ref().map(|ipvs| ipvs.options.clone());
        let out = outbox.clone();
        let ((ownership, portid), sink) =
            on_thread("rulec-nft", move |opened| match kernel::start(ownership, mark, ipvs) {
                Ok((mut sink, ownership, portid)) => {
                    let _ = opened.send(Ok((ownership, portid)));
                    serve(sink.as_mut(), &inbox, &out);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            })?;
        let (beside, asked) = mpsc::channel();
        let ((), checker) =
            on_thread("rulec-nft-check", move |opened| match kernel::look(mark, options) {
                Ok(mut sink) => {
                    let _ = opened.send(Ok(()));
                    serve(sink.as_mut(), &asked, &outbox);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            })?;
        let mut threads = Threads { sink, checker, watcher: None };
        if ownership == Ownership::Shared {
            let ((), thread) =
                on_thread("rulec-nft-watch", move |opened| match Watcher::open(portid) {
                    Ok(watcher) => {
                        let _ = opened.send(Ok(()));
                        watch(watcher, &alarms);
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error.into()));
                    }
                })
                .context("watching nf_tables")?;
            threads.watcher = Some(thread);
        }
        Ok(Self { requests, beside, ownership, replies, tampering, threads })
    }

    /// Sends the sink a request. Only one at a time: the next follows the reply. A request that
    /// others do not wait for goes beside them.
    ///
    /// # Errors
    ///
    /// If the thread has died.
    pub fn request(&self, request: Request) -> anyhow::Result<()> {
        let inbox = if request.is_beside() { &self.beside } else { &self.requests };
        inbox.send(request).ok().context("the thread of the nft sink died")
    }
}

/// Starts a thread and waits until it reports whether it could open what it needs.
pub(super) fn on_thread<T: Send + 'static>(
    name: &'static str,
    body: impl FnOnce(mpsc::Sender<anyhow::Result<T>>) + Send + 'static,
) -> anyhow::Result<(T, Vital)> {
    let (opened, started) = mpsc::channel();
    let thread = Vital::start(name, move || body(opened))?;
    let opened = started.recv().with_context(|| format!("the thread {name} died"))??;
    Ok((opened, thread))
}

/// Handles requests until the channel is closed.
fn serve(
    sink: &mut (impl Sink + ?Sized),
    inbox: &mpsc::Receiver<Request>,
    outbox: &channel::UnboundedSender<Reply>,
) {
    for request in inbox {
        let reply = answer(sink, request);
        if outbox.send(reply).is_err() {
            return;
        }
    }
}

fn watch(mut watcher: Watcher, alarms: &channel::UnboundedSender<Tampering>) {
    while !alarms.is_closed() {
        match watcher.wait(WATCH_PAUSE) {
            Ok(None) => {}
            Ok(Some(tampering)) => {
                if alarms.send(tampering).is_err() {
                    return;
                }
            }
            Err(error) => {
                // The periodic comparison still finds what is missed here.
                tracing::error!(%error, "cannot watch nf_tables for changes by others");
                thread::sleep(WATCH_PAUSE);
            }
        }
    }
}

#[cfg(test)]
impl SinkThread {
    /// A handle without a kernel. All requests arrive at the returned receiver, and the threads of
    /// the sink, of checks and of the watcher live until the returned senders are dropped, in this
    /// order.
    pub(crate) fn mortal()
    -> (Self, mpsc::Receiver<Request>, channel::UnboundedSender<Reply>, [mpsc::Sender<()>; 3]) {
        let (requests, asked) = mpsc::channel();
        let (answers, replies) = channel::unbounded_channel();
        let (_, tampering) = channel::unbounded_channel();
        let start = |name| {
            let (life, inbox) = mpsc::channel::<()>();
            let body = move || {
                let _ = inbox.recv();
            };
            (life, Vital::start(name, body).unwrap())
        };
        let (sinks, sink) = start("rulec-nft");
        let (checkers, checker) = start("rulec-nft-check");
        let (watchers, watcher) = start("rulec-nft-watch");
        let threads = Threads { sink, checker, watcher: Some(watcher) };
        let (beside, ownership) = (requests.clone(), Ownership::Shared);
        (
            Self { requests, beside, ownership, replies, tampering, threads },
            asked,
            answers,
            [sinks, checkers, watchers],
        )
    }
}
