//! The queue of log lines on their way to stderr, which may be a pipe that is not read.
//!
//! ```text
//!  any thread ──push──▶ a limited number of bytes ──▶ one thread ──▶ stderr
//! ```
//!
//! Logging never waits. Lines that do not fit are lost and counted; the others keep their order,
//! and the count becomes a line of its own as soon as the pipe is read again.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

thread_local! {
    /// True on the thread that writes. It reports how many lines were lost, and that report must
    /// not be lost itself.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Signals that there is something to write, or another time of the alarm.
    wake: Condvar,
    /// Signals that everything is written.
    idle: Condvar,
    /// The maximum of bytes that wait.
    room: usize,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct QueueState {
    bytes: Vec<u8>,
    /// Whether the thread is writing what it took last.
    is_writing: bool,
    /// When the thread has something to do even if no line comes.
    alarm: Option<Instant>,
}

impl Queue {
    pub(super) fn new(room: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            idle: Condvar::new(),
            room,
            lost: AtomicU64::new(0),
        }
    }

    /// Adds a line, if there is room.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes.len() + line.len() > self.room && !WRITES.get() {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        state.bytes.extend_from_slice(line);
        self.wake.notify_one();
    }

    /// Returns how many lines were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Makes the thread call `idly` at this time, or earlier.
    pub(super) fn set_alarm(&self, at: Instant) {
        let mut state = self.lock();
        if state.alarm.is_none_or(|alarm| at < alarm) {
            state.alarm = Some(at);
            self.wake.notify_one();
        }
    }

    /// Waits until everything is written, but not longer than `patience`. Returns false if lines
    /// are left.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let state = self.lock();
        let waits = |state: &mut QueueState| state.is_writing || !state.bytes.is_empty();
        let waited = self.idle.wait_timeout_while(state, patience, waits);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes lines as they come, endlessly. `tell` is called with the number of lost lines, and
    /// `idly` at the time of the alarm; both may push lines.
    pub(super) fn write_to(
        &self,
        out: &mut impl Write,
        mut tell: impl FnMut(u64),
        mut idly: impl FnMut(),
    ) {
        WRITES.set(true);
        let mut told = 0;
        loop {
            let (bytes, is_alarm) = self.take();
            if !bytes.is_empty() {
                let unwritten = write_all(out, &bytes);
                let lines = unwritten.iter().filter(|byte| **byte == b'\n').count();
                let lost = u64::try_from(lines).unwrap_or(u64::MAX);
                let lost = self.lost.fetch_add(lost, Relaxed) + lost;
                // A report would be lost, too, while the reader is gone.
                if unwritten.is_empty() && lost > told {
                    tell(lost - told);
                    told = lost;
                }
            }
            if is_alarm {
                idly();
            }
            let mut state = self.lock();
            state.is_writing = false;
            if state.bytes.is_empty() {
                self.idle.notify_all();
            }
        }
    }

    /// Returns the bytes to write, and whether the alarm is due.
    fn take(&self) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let is_alarm = state.alarm.take_if(|at| *at <= now).is_some();
            if is_alarm || !state.bytes.is_empty() {
                state.is_writing = true;
                return (std::mem::take(&mut state.bytes), is_alarm);
            }
            state = match state.alarm {
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // The data behind the lock is valid at any moment, so a panic elsewhere does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes as much as can be written, and returns the rest.
fn write_all<'a>(out: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => break,
            Ok(written) => bytes = bytes.get(written..).unwrap_or(&[]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The parent process may share the pipe with a process that has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(_) => break,
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn start(queue: &Arc<Queue>, mut out: impl Write + Send + 'static) {
        let queue = Arc::clone(queue);
        let teller = Arc::clone(&queue);
        thread::spawn(move || {
            let tell = |lost| teller.push(format!("{lost} lost\n").as_bytes());
            queue.write_to(&mut out, tell, || {});
        });
    }

    #[test]
    fn a_full_pipe_does_not_block_and_lost_lines_are_counted() {
        let (reader, writer) = io::pipe().unwrap();
        // More than a pipe holds, also if the thread begins only when all lines are there.
        let queue = Arc::new(Queue::new(1 << 17));
        start(&queue, writer);
        let all = 10_000;
        for number in 0..all {
            queue.push(format!("{number:099}\n").as_bytes());
        }
        assert!(!queue.flush(Duration::from_millis(10)), "the pipe is full");
        let lost = usize::try_from(queue.lost()).unwrap();
        assert!(lost > all / 2 && lost < all, "{lost}");
        // Each line is there or counted, and those that are there are in order.
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let (mut next, mut counted, mut read) = (0, 0, 0);
        while counted + read < all {
            let line = lines.next().unwrap();
            match line.strip_suffix(" lost") {
                Some(some) => counted += some.parse::<usize>().unwrap(),
                None => {
                    let number: usize = line.parse().unwrap();
                    assert!(number >= next, "{number} after {next}");
                    (next, read) = (number + 1, read + 1);
                }
            }
        }
        assert_eq!(counted, lost);
        queue.push(b"later\n");
        assert_eq!(lines.next().unwrap(), "later");
        assert!(queue.flush(PATIENCE));
        assert_eq!(usize::try_from(queue.lost()).unwrap(), lost, "nothing was lost after that");
    }

    #[test]
    fn a_closed_pipe_only_loses_lines() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = Arc::new(Queue::new(1 << 16));
        start(&queue, writer);
        for lost in 1..=3 {
            queue.push(b"to nobody\n");
            assert!(queue.flush(PATIENCE));
            assert_eq!(queue.lost(), lost);
        }
    }

    #[test]
    fn an_alarm_fires_without_log_lines() {
        let (reader, mut writer) = io::pipe().unwrap();
        let queue = Arc::new(Queue::new(1 << 16));
        let thread = Arc::clone(&queue);
        thread::spawn(move || {
            let idly = || thread.push(b"due\n");
            thread.write_to(&mut writer, |_| {}, idly);
        });
        queue.set_alarm(Instant::now() + Duration::from_millis(5));
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(line, "due\n");
    }
}
