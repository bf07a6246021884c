//! The thread that hears of counters that go with their elements.
//!
//! Whoever wants the totals reads them on a thread of their own. This one only listens, so that
//! announcements do not pile up while nobody asks, and reads now and then: what is missed counts
//! from the last reading.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rulec_compiler::nft::traffic::Traffic;
use rulec_sinks::nft::traffic::Counters;

use crate::daemon::sink_thread::on_thread;
use crate::observe::traffic::{AskTotals, CountersAsker};
use crate::threads::Vital;

/// How often it reads if nobody asks.
const READ: Duration = Duration::from_secs(60);

/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// The thread.
#[derive(Debug)]
pub struct TrafficThread {
    asker: CountersAsker,
    thread: Vital,
}

impl TrafficThread {
    /// Starts it in the network namespace of the caller.
    ///
    /// # Errors
    ///
    /// If nf_tables is unreachable.
    pub fn start(counted: Traffic) -> anyhow::Result<Self> {
        let (asker, asks, woken) = CountersAsker::new()?;
        let ((), thread) = on_thread("rulec-traffic", move |opened| match begin(counted) {
            Ok(counters) => {
                let _ = opened.send(Ok(()));
                serve(counters, &asks, woken);
            }
            Err(error) => {
                let _ = opened.send(Err(error.into()));
            }
        })
        .context("opening nf_tables to read its counters")?;
        Ok(Self { asker, thread })
    }

    /// Returns what asks it.
    pub fn asker(&self) -> CountersAsker {
        self.asker.clone()
    }

    /// Resolves with an error when the thread has died.
    pub async fn death(&mut self) -> anyhow::Error {
        self.thread.death().await
    }
}

/// Reads all counters before the first change is made: whose an element was is not told when it is
/// deleted. If that fails, Services are served nevertheless.
fn begin(counted: Traffic) -> io::Result<Counters> {
    let mut counters = Counters::open(counted)?;
    if let Err(error) = counters.totals() {
        tracing::error!(%error, "cannot read the counters of connections");
    }
    Ok(counters)
}

/// Listens and answers until nobody can ask any more.
fn serve(mut counters: Counters, asks: &mpsc::Receiver<AskTotals>, mut woken: PipeReader) {
    let mut read = Instant::now();
    loop {
        let left = READ.saturating_sub(read.elapsed());
        let heard = wait(&counters, &mut woken, left).and_then(|()| counters.hear());
        loop {
            match asks.try_recv() {
                // Whoever asked may be gone.
                Ok(ask) => drop(ask.send(counters.totals())),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
            read = Instant::now();
        }
        let is_due = read.elapsed() >= READ;
        if is_due {
            read = Instant::now();
        }
        let outcome = if is_due { heard.and(counters.totals().map(drop)) } else { heard };
        if let Err(error) = outcome {
            tracing::error!(%error, "cannot read the counters of connections");
            thread::sleep(PAUSE);
        }
    }
}

/// Waits until there is something to hear, or until somebody asks.
fn wait(counters: &Counters, woken: &mut PipeReader, patience: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut both = [readable(counters.announcements()), readable(woken.as_fd())];
    match poll(&mut both, timeout) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let is_woken = both[1].any().unwrap_or(false);
    if is_woken {
        // One reading answers all who have asked so far.
        woken.read(&mut [0; 64]).map(drop)?;
    }
    Ok(())
}
