//! Which connections there are, and which have to go.
//!
//! A connection is a stranger's until it has proved whose it is. Newer connections win: a node that
//! has lost one comes back before the relay notices, and whoever opens connections without proving
//! anything pushes out its own older ones. A stranger that has only just come is not pushed out: it
//! may be waiting for the relay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rulec_compiler::name::NodeName;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::bounds::Bounds;

/// Connections by number, which grows with time.
type Connections = BTreeMap<u64, Entry>;

#[derive(Debug)]
struct Entry {
    since: Instant,
    /// Tells the connection to end.
    dismissal: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) struct Door {
    bounds: Bounds,
    book: Mutex<Book>,
    /// Told when a connection is no stranger's any more.
    room: Notify,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    open: usize,
    strangers: Connections,
    nodes: BTreeMap<NodeName, Connections>,
}

/// Why a connection is closed that has done nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// There are too many connections.
    All,
    /// There are too many that have not proved whose they are.
    Strangers,
}

/// A connection, from when it is accepted until this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    door: Arc<Door>,
    number: u64,
    node: Mutex<Option<NodeName>>,
    dismissal: Arc<Notify>,
}

impl Door {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, book: Mutex::default(), room: Notify::new() }
    }

    /// Waits until a connection may be accepted without pushing out one that has only just come.
    /// Only one may wait.
    pub(crate) async fn has_room(&self) {
        while let Some(oldest) = self.oldest_of_a_crowd() {
            tokio::select! {
                () = self.room.notified() => continue,
                () = sleep_until(oldest + self.bounds.grace) => {}
            }
            // What strangers have sent meanwhile is read first: they do not suffer for a relay that
            // has much to do.
            yield_now().await;
            if self.oldest_of_a_crowd() == Some(oldest) {
                return;
            }
        }
    }

    /// Returns when the oldest stranger has come, if one more would push it out.
    fn oldest_of_a_crowd(&self) -> Option<Instant> {
        let book = self.book();
        let is_crowded = book.strangers.len() >= self.bounds.strangers;
        book.strangers.values().next().filter(|_| is_crowded).map(|oldest| oldest.since)
    }

    /// Lets a connection in, if there is room, and says whether there is a crowd.
    pub(crate) fn enter(self: &Arc<Self>) -> (Option<Guest>, Option<Crowd>) {
        let mut book = self.book();
        if book.open >= self.bounds.connections {
            return (None, Some(Crowd::All));
        }
        book.open += 1;
        book.next += 1;
        let number = book.next;
        let dismissal = Arc::new(Notify::new());
        let entry = Entry { since: Instant::now(), dismissal: dismissal.clone() };
        book.strangers.insert(number, entry);
        let is_crowded = dismiss_oldest(&mut book.strangers, self.bounds.strangers);
        let guest = Guest { door: self.clone(), number, node: Mutex::default(), dismissal };
        (Some(guest), is_crowded.then_some(Crowd::Strangers))
    }

    /// Returns how many connections there are.
    pub(crate) fn open(&self) -> usize {
        self.book().open
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the oldest connection to end if there are too many.
fn dismiss_oldest(connections: &mut Connections, most: usize) -> bool {
    let is_crowded = connections.len() > most;
    if is_crowded && let Some((_, oldest)) = connections.pop_first() {
        oldest.dismissal.notify_one();
    }
    is_crowded
}

impl Guest {
    /// Notes whose the connection is; `None` if that is not asked for.
    pub(crate) fn welcome(&self, node: Option<&NodeName>) {
        let mut book = self.door.book();
        book.strangers.remove(&self.number);
        self.door.room.notify_one();
        let Some(node) = node else { return };
        let connections = book.nodes.entry(node.clone()).or_default();
        let entry = Entry { since: Instant::now(), dismissal: self.dismissal.clone() };
        connections.insert(self.number, entry);
        dismiss_oldest(connections, self.door.bounds.of_node);
        drop(book);
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.clone());
    }

    /// Waits until the connection has to go. Only one may wait.
    pub(crate) async fn dismissed(&self) {
        self.dismissal.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut book = self.door.book();
        book.open -= 1;
        book.strangers.remove(&self.number);
        self.door.room.notify_one();
        if let Some(node) = node
            && let Some(connections) = book.nodes.get_mut(&node)
        {
            connections.remove(&self.number);
            if connections.is_empty() {
                book.nodes.remove(&node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    fn door(bounds: Bounds) -> Arc<Door> {
        Arc::new(Door::new(bounds))
    }

    fn is_dismissed(guest: &Guest) -> bool {
        let waiting = pin!(guest.dismissed());
        matches!(waiting.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
    }

    #[test]
    fn strangers_push_out_only_strangers() {
        let door = door(Bounds { strangers: 2, ..Bounds::default() });
        let enter = || door.enter().0.expect("there is room");
        let node = enter();
        node.welcome(Some(&NodeName::from("a")));
        let strangers = [enter(), enter()];
        assert!(!strangers.iter().any(is_dismissed));
        let (third, crowd) = door.enter();
        assert_eq!(crowd, Some(Crowd::Strangers));
        assert!(is_dismissed(&strangers[0]) && !is_dismissed(&strangers[1]));
        assert!(!is_dismissed(&node) && !is_dismissed(&third.expect("it is let in")));
    }

    #[tokio::test]
    async fn there_is_room_once_a_stranger_has_gone_or_was_there_for_long() {
        let is_full = |door: &Arc<Door>| {
            let waiting = pin!(door.has_room());
            waiting.poll(&mut Context::from_waker(Waker::noop())).is_pending()
        };
        let long = Duration::from_secs(1_000);
        let door = door(Bounds { strangers: 2, grace: long, ..Bounds::default() });
        let enter = || door.enter().0.expect("there is room");
        let (first, second) = (enter(), enter());
        assert!(is_full(&door));
        first.welcome(Some(&NodeName::from("a")));
        door.has_room().await;
        let third = enter();
        assert!(is_full(&door));
        drop(second);
        door.has_room().await;
        assert!(!is_dismissed(&first) && !is_dismissed(&third));

        let door = self::door(Bounds { strangers: 1, grace: Duration::ZERO, ..Bounds::default() });
        let silent = door.enter().0.expect("there is room");
        door.has_room().await;
        assert!(door.enter().0.is_some() && is_dismissed(&silent));
    }

    #[test]
    fn a_node_pushes_out_only_its_own_connections() {
        let door = door(Bounds { of_node: 1, ..Bounds::default() });
        let of = |node: &str| {
            let guest = door.enter().0.expect("there is room");
            guest.welcome(Some(&NodeName::from(node)));
            guest
        };
        let (a, b, newer) = (of("a"), of("b"), of("a"));
        assert!(is_dismissed(&a) && !is_dismissed(&b) && !is_dismissed(&newer));
        drop((a, b, newer));
        assert!(door.book().nodes.is_empty(), "nothing is kept of those that have gone");
    }

    #[test]
    fn there_are_not_more_connections_than_allowed() {
        let door = door(Bounds { connections: 2, ..Bounds::default() });
        let both = [door.enter().0, door.enter().0];
        assert!(both.iter().all(Option::is_some));
        let (third, crowd) = door.enter();
        assert!(third.is_none() && crowd == Some(Crowd::All));
        drop(both);
        assert_eq!(door.open(), 0);
        assert!(door.enter().0.is_some());
    }
}
