//! Says on a terminal what a command is doing, if that takes long.

use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a command may take before it says what it is doing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Removes what is in the line.
const CLEAR: &str = "\r\x1b[K";

/// The line that says it. Dropping it removes the line, so that others can be printed.
pub(crate) struct Progress {
    /// `None` if stderr is no terminal.
    line: Option<(Sender<String>, JoinHandle<()>)>,
}

impl Progress {
    /// Says what is done, once a command that began at this time has taken long.
    pub(crate) fn of(start: Instant) -> Self {
        if !stderr().is_terminal() {
            return Self { line: None };
        }
        let (sender, steps) = channel();
        // Without the thread, nothing is said.
        let named = std::thread::Builder::new().name("rulec-progress".to_owned());
        let thread = named.spawn(move || follow(&steps, start + PATIENCE)).ok();
        Self { line: thread.map(|thread| (sender, thread)) }
    }

    /// Says that something else is done from now on.
    pub(crate) fn step(&self, what: impl Into<String>) {
        if let Some((sender, _)) = &self.line {
            // If the thread is gone, nothing is said.
            let _ = sender.send(what.into());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.line.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn follow(steps: &Receiver<String>, silent_until: Instant) {
    let mut what = None;
    let mut is_shown = false;
    loop {
        let silence = silent_until.saturating_duration_since(Instant::now());
        let next = match silence.is_zero() {
            true => steps.recv().map_err(RecvTimeoutError::from),
            false => steps.recv_timeout(silence),
        };
        match next {
            Ok(step) => what = Some(step),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(what) = what.as_ref().filter(|_| Instant::now() >= silent_until) {
            // The terminal may be gone.
            let _ = write!(stderr(), "{CLEAR}{what} ...");
            is_shown = true;
        }
    }
    if is_shown {
        let _ = write!(stderr(), "{CLEAR}");
    }
}
