//! The thread that hears of counters that go with their elements.
//!
//! Whoever wants the totals reads them on a thread of their own. This one only listens, so that
//! announcements do not pile up while nobody asks, and reads now and then: what is missed counts
//! from the last reading.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rulec_compiler::nft::traffic::Traffic;
use rulec_sinks::nft::traffic::{Counters, Totals};

use crate::daemon::sink_thread::on_thread;
use crate::observe::traffic::course::{Course, MINUTE};
use crate::observe::traffic::{AskTotals, CountersAsker};
use crate::threads::Vital;

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
        Self::start_with(counted, Counters::totals)
    }

    /// Like `start`, with another first reading.
    fn start_with(
        counted: Traffic,
        first: impl FnOnce(&mut Counters) -> io::Result<Arc<Totals>> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (asker, asks, woken) = CountersAsker::new()?;
        let course = asker.course().clone();
        let work = move |opened: mpsc::Sender<anyhow::Result<()>>| match Counters::open(counted) {
            Ok(mut counters) => {
                begin(first(&mut counters), &course);
                let _ = opened.send(Ok(()));
                serve(counters, &asks, woken, &course);
            }
            Err(error) => {
                let _ = opened.send(Err(error.into()));
            }
        };
        let ((), thread) =
            on_thread("rulec-traffic", work).context("opening nf_tables to read its counters")?;
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

/// Takes the first reading, which is before the first change: whose an element was is not told when it
/// is deleted. If that has failed, Services are served nevertheless.
fn begin(first: io::Result<Arc<Totals>>, course: &Course) {
    match first {
        Ok(totals) => {
            course.take(&totals);
        }
        Err(error) => tracing::error!(%error, "cannot read the counters of connections"),
    }
}

/// Listens and answers until nobody can ask any more.
fn serve(
    mut counters: Counters,
    asks: &mpsc::Receiver<AskTotals>,
    mut woken: PipeReader,
    course: &Course,
) {
    // When the minute began. Whoever asks in the middle of it does not put off its end.
    let mut begin = Instant::now();
    loop {
        let left = MINUTE.saturating_sub(begin.elapsed());
        let heard = wait(&counters, &mut woken, left).and_then(|()| counters.hear());
        loop {
            match asks.try_recv() {
                Ok(ask) => {
                    let totals = counters.totals();
                    if totals.as_ref().is_ok_and(|totals| course.take(totals)) {
                        begin = Instant::now();
                    }
                    // Whoever asked may be gone.
                    drop(ask.send(totals));
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let is_due = begin.elapsed() >= MINUTE;
        if is_due {
            begin = Instant::now();
        }
        let reading = is_due.then(|| counters.totals()).transpose();
        let taken = reading.map(|totals| totals.is_some_and(|totals| course.take(&totals)));
        if let Err(error) = heard.and(taken) {
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use rulec_testkit::{Namespace, require_root};

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_first_reading_that_fails_is_said_and_the_thread_answers_all_the_same() {
        if !require_root() {
            return;
        }
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let dispatch = tracing::Dispatch::new(subscriber);
        let namespace = Namespace::new("first-reading");
        let totals = namespace.run(|| {
            let failing = move |_: &mut Counters| {
                // Until the thread ends.
                std::mem::forget(tracing::dispatcher::set_default(&dispatch));
                Err(Errno::ENOBUFS.into())
            };
            let thread = TrafficThread::start_with(Traffic::Services, failing).unwrap();
            thread.asker().totals().unwrap()
        });
        assert!(totals.ports.is_empty() && totals.at.is_some(), "it has read them: {totals:?}");
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(said.contains("cannot read the counters of connections"), "{said}");
        assert!(said.contains("No buffer space available"), "{said}");
    }
}
