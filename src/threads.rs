//! Vital threads: the end of one is an error that names it.
//!
//! A daemon that has lost one of its threads looks healthy but does not do its work. It ends
//! instead, so that its service manager starts it again; the rules stay in place meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::oneshot;

/// Notices when a thread ends, also by a panic.
#[derive(Debug)]
pub struct Vital {
    name: &'static str,
    /// Closed when the thread ends: the thread drops the sender last of all.
    held: Option<oneshot::Receiver<()>>,
}

impl Vital {
    /// Starts a thread, in the network namespace of the caller.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(name: &'static str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<Self> {
        let (holds, held) = oneshot::channel();
        let body = move || {
            let _holds: oneshot::Sender<()> = holds;
            body();
        };
        let started = thread::Builder::new().name(name.to_owned()).spawn(body);
        started.with_context(|| format!("starting the thread {name}"))?;
        Ok(Self { name, held: Some(held) })
    }

    /// Waits for its end without a runtime, but not longer than `patience`.
    pub fn wait(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        let is_alive = |held: &mut oneshot::Receiver<()>| {
            matches!(held.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        };
        while self.held.as_mut().is_some_and(is_alive) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Resolves with an error when the thread has ended, once.
    pub async fn death(&mut self) -> anyhow::Error {
        let Some(held) = &mut self.held else { return std::future::pending().await };
        let _ = held.await;
        self.held = None;
        anyhow::anyhow!("the thread {} died", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_thread_that_ends_or_panics_is_named() {
        for panics in [false, true] {
            let (end, inbox) = mpsc::channel::<()>();
            let mut vital = Vital::start("rulec-test", move || {
                let _ = inbox.recv();
                assert!(!panics, "on purpose");
            })
            .unwrap();
            let early = tokio::time::timeout(Duration::from_millis(1), vital.death()).await;
            assert!(early.is_err(), "it lives");
            drop(end);
            assert_eq!(vital.death().await.to_string(), "the thread rulec-test died");
        }
    }
}
