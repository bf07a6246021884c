//! Answers of ctnetlink as bytes.

use super::wire::{Shown, read_live};
use crate::netlink::{Message, Writer, messages};

/// Reads each message as a flow that may be deleted, and as one that is alive.
pub fn conntrack(bytes: &[u8]) {
    for message in messages(bytes) {
        let flow = Message { kind: 1 << 8, ..message };
        let _ = (super::end_of_dump(&message), read_live(&message), read_live(&flow));
        if let Some(shown) = Shown::read(&flow) {
            shown.write(&mut Writer::default());
        }
    }
}
