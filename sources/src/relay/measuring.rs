//! A node without a thread of its own, for `benches/fleet`.

use tokio::sync::mpsc;

use super::{Follower, RelaySource};
use crate::update::Update;

/// Follows a relay like [`RelaySource::run`], on the runtime of the caller: thousands of nodes in
/// one process cannot have a thread each. It ends when the receiver is dropped.
pub async fn follow_relay(source: RelaySource, out: mpsc::Sender<Update>) {
    Follower::new(source, out).run().await;
}
