//! Another user of nf_tables, and how long it has to wait.
#![allow(dead_code, reason = "not every bench needs it")]

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rulec_compiler::net::Family;
use rulec_sinks::nft::foreign::Foreign;

/// A thread that commits now and then.
pub(crate) struct Other {
    /// Dropped to end the thread.
    running: mpsc::Sender<()>,
    thread: JoinHandle<Duration>,
}

impl Other {
    /// Starts it, in the network namespace of the caller.
    pub(crate) fn start() -> Self {
        let (running, is_over) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let mut other = Foreign::open().unwrap();
            let mut longest = Duration::ZERO;
            let pause = Duration::from_millis(5);
            while is_over.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
                let started = Instant::now();
                // There is none, which the kernel says when it is our turn.
                assert!(!other.delete_table(&(Family::Ipv4, "nobody".to_owned())).unwrap());
                longest = longest.max(started.elapsed());
            }
            longest
        });
        Self { running, thread }
    }

    /// Runs a task beside it, and returns how long it had to wait at most.
    pub(crate) fn during<T>(task: impl FnOnce() -> T) -> (T, Duration) {
        let other = Self::start();
        let done = task();
        (done, other.end())
    }

    /// Ends it, and returns how long it had to wait at most.
    pub(crate) fn end(self) -> Duration {
        drop(self.running);
        self.thread.join().unwrap()
    }
}
