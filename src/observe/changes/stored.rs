//! Reads of a disk that may hang.
//!
//! One read at a time, on a thread of its own, so that there is never more than one thread that hangs:
//! who comes later waits for it, and all of them wait only for a while. The runtime's threads are not
//! used, because the runtime waits for them when the daemon ends.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long somebody waits for the disk, those before them included. Both ends of a connection wait a
/// little longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The reads of a directory. Clones share their turn.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    turn: Arc<Mutex<()>>,
    patience: Duration,
}

impl Default for Reads {
    fn default() -> Self {
        Self { turn: Arc::default(), patience: PATIENCE }
    }
}

impl Reads {
    /// Reads, or does something else that waits for the disk.
    ///
    /// # Errors
    ///
    /// If that takes too long, or cannot be done; the error is the rest of a sentence about it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let slow = |_| format!("the disk has not answered for {:?}", self.patience);
        let end = Instant::now() + self.patience;
        let turn = timeout_at(end, Arc::clone(&self.turn).lock_owned()).await.map_err(slow)?;
        let (done, read) = oneshot::channel();
        let body = move || {
            let outcome = work();
            // It ends with the thread, not when nobody waits any more.
            drop(turn);
            // Whoever asked may be gone.
            drop(done.send(outcome));
        };
        let started = thread::Builder::new().name("rulec-past".to_owned()).spawn(body);
        started.map_err(|error| format!("no thread can be started to read its state: {error}"))?;
        let read = timeout_at(end, read).await.map_err(slow)?;
        read.map_err(|_| "reading its state has failed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    use super::*;

    impl Reads {
        pub(in crate::observe::changes) fn with_patience(patience: Duration) -> Self {
            Self { patience, ..Self::default() }
        }

        /// Returns the same with more patience.
        pub(in crate::observe::changes) fn patient(&self) -> Self {
            Self { patience: Duration::from_secs(60), ..self.clone() }
        }
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_one_thread_and_nobody_for_long() {
        let reads = Reads::with_patience(Duration::from_millis(50));
        let (work, works) = mpsc::channel::<()>();
        let hanging = reads.read(move || works.recv().is_ok()).await;
        assert_eq!(hanging, Err("the disk has not answered for 50ms".to_owned()));
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..3 {
            let begun = Arc::clone(&begun);
            let later = reads.read(move || begun.fetch_add(1, SeqCst)).await;
            assert_eq!(later, Err("the disk has not answered for 50ms".to_owned()));
        }
        assert_eq!(begun.load(SeqCst), 0, "no other thread was started");
        work.send(()).unwrap();
        let patient = reads.patient();
        assert_eq!(patient.read(|| 7).await, Ok(7), "it works again");
        let failed = patient.read(|| -> u8 { panic!("on purpose") }).await;
        assert_eq!(failed, Err("reading its state has failed".to_owned()));
        assert_eq!(patient.read(|| 8).await, Ok(8));
    }
}
