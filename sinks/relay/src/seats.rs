//! One stream for each node: a newer one takes the place of an older one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rulec_compiler::name::NodeName;
use tokio::sync::Notify;

/// The streams that nodes follow by.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<BTreeMap<NodeName, Arc<Notify>>>);

/// The place of a node, from when it begins until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    node: NodeName,
    taken: Arc<Notify>,
}

impl Seats {
    /// Takes the place of a node, and says whether somebody else has had it.
    pub(crate) fn take(self: &Arc<Self>, node: &NodeName) -> (Seat, bool) {
        let taken = Arc::new(Notify::new());
        let older = self.all().insert(node.clone(), taken.clone());
        let had_older = older.is_some();
        if let Some(older) = older {
            older.notify_one();
        }
        (Seat { seats: self.clone(), node: node.clone(), taken }, had_older)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeName, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits until a newer stream has taken the place.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Returns whether no newer stream has taken the place.
    pub(crate) fn is_held(&self) -> bool {
        self.seats.all().get(&self.node).is_some_and(|it| Arc::ptr_eq(it, &self.taken))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.seats.all();
        if all.get(&self.node).is_some_and(|it| Arc::ptr_eq(it, &self.taken)) {
            all.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_the_newest_ones_until_that_goes() {
        let seats = Arc::new(Seats::default());
        let node = NodeName::from("a");
        let (first, had_older) = seats.take(&node);
        assert!(first.is_held() && !had_older);
        let (second, had_older) = seats.take(&node);
        assert!(had_older && !first.is_held() && second.is_held());
        drop(first);
        assert!(second.is_held());
        drop(second);
        assert!(seats.all().is_empty());
    }
}
