//! Answers of IPVS as bytes.

use super::wire::{GENL_ID_CTRL, NEW_DEST, NEW_SERVICE, ShownReal, ShownServer, read_family_id};
use crate::netlink::{Message, messages};

/// Reads each message as the number of the family, as a virtual server, and as a real one of each
/// virtual server before it.
pub fn ipvs(bytes: &[u8]) {
    let mut server = None;
    for message in messages(bytes) {
        let _ = read_family_id(&Message { kind: GENL_ID_CTRL, ..message });
        if let Some(shown) = ShownServer::read(&message) {
            assert_eq!(message.command(), NEW_SERVICE);
            server = shown.server.or(server);
        }
        if let Some(server) = server
            && ShownReal::read(&message, server).is_some()
        {
            assert_eq!(message.command(), NEW_DEST);
        }
    }
}
