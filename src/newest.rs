//! A channel to a thread that has room for one value: a newer one takes the place of one that waits.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Makes a channel.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Mutex::new(None));
    let (wake, woken) = mpsc::sync_channel(1);
    (Sender { slot: Arc::clone(&slot), wake }, Receiver { slot, woken })
}

/// Where values are sent.
#[derive(Debug)]
pub struct Sender<T> {
    slot: Arc<Mutex<Option<T>>>,
    wake: mpsc::SyncSender<()>,
}

/// Where the newest value arrives.
#[derive(Debug)]
pub struct Receiver<T> {
    slot: Arc<Mutex<Option<T>>>,
    /// Has an entry if there may be a value that was not taken.
    woken: mpsc::Receiver<()>,
}

impl<T> Sender<T> {
    /// Sends a value without waiting. If the receiver is gone, it is dropped.
    pub fn send(&self, value: T) {
        let replaced = lock(&self.slot).replace(value);
        // A full channel wakes the receiver as well.
        let _ = self.wake.try_send(());
        // Outside of the lock: it may be the last reference to much data.
        drop(replaced);
    }
}

impl<T> Receiver<T> {
    /// Waits for the next value, or as long as this; returns the newest one.
    ///
    /// # Errors
    ///
    /// If there is none in time, or if the sender is gone and there is none left.
    pub fn recv(&self, patience: Option<Duration>) -> Result<T, RecvTimeoutError> {
        loop {
            match patience {
                None => self.woken.recv().map_err(|_| RecvTimeoutError::Disconnected)?,
                Some(patience) => self.woken.recv_timeout(patience)?,
            }
            // None if it was taken before its own wake arrived.
            if let Some(newest) = lock(&self.slot).take() {
                return Ok(newest);
            }
        }
    }
}

fn lock<T>(slot: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn one_value_waits_and_it_is_the_newest() {
        let (sender, receiver) = channel();
        let values: Vec<Arc<usize>> = (0..1000).map(Arc::new).collect();
        values.iter().for_each(|value| sender.send(Arc::clone(value)));
        let held = values.iter().filter(|value| Arc::strong_count(value) > 1).count();
        assert_eq!(held, 1, "the others are freed at once");
        assert_eq!(*receiver.recv(None).unwrap(), 999);
        let soon = Some(Duration::from_millis(1));
        assert_eq!(receiver.recv(soon), Err(RecvTimeoutError::Timeout));
        sender.send(Arc::new(7));
        drop(sender);
        assert_eq!(*receiver.recv(soon).unwrap(), 7, "the last one arrives after its sender");
        assert_eq!(receiver.recv(None), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn no_value_is_the_last_without_arriving() {
        let (sender, receiver) = channel();
        let sending = thread::spawn(move || (0..=10_000).for_each(|value| sender.send(value)));
        let mut seen = Vec::new();
        while let Ok(value) = receiver.recv(None) {
            seen.push(value);
        }
        sending.join().unwrap();
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.last(), Some(&10_000));
    }
}
