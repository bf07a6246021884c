//! Answers of rtnetlink as bytes.

use nix::libc::{RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE};

use super::lookup::{read_device, read_way};
use super::service_routes::{read_route, read_rule};
use super::{ROUTE_PROTOCOL, read_address, read_link, read_local_route};
use crate::netlink::{Message, messages};

/// Reads each message as everything that is asked for.
pub fn links_and_routes(bytes: &[u8]) {
    for message in messages(bytes) {
        for kind in [message.kind, RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWRULE] {
            let message = Message { kind, ..message };
            let _ = (read_link(&message), read_device(&message));
            let _ = (read_address(&message, 7), read_local_route(&message, ROUTE_PROTOCOL));
            let _ = (read_way(&message), read_route(&message), read_rule(&message));
        }
    }
}
