//! Node ports on the loopback address of `localhost`, without `route_localnet`.
//!
//! A connection from a loopback address to `localhost` is translated to a backend like any other,
//! and masqueraded. What stands in the way is routing: the kernel neither sends a packet from a
//! loopback address through another interface, nor takes one to a loopback address from there. So
//! two addresses are written over while routing looks at them, and are put right before anybody
//! else sees them:
//!
//! - the source of what is sent, from `output` to `postrouting`, where masquerading replaces it in
//!   any case;
//! - the destination of what returns, from `prerouting` to `input`. Meanwhile it is the address
//!   that the packet arrived with, which belongs to this node.
//!
//! Conntrack knows the flow by the addresses of the client's socket and of the backend, so it goes
//! on whether the daemon runs or not. All that these chains need to know of an established flow is
//! that both of its addresses are translated.
//!
//! Both addresses are part of the checksum of TCP and UDP. `nft_payload` also changes the sum of a
//! whole packet that conntrack has verified, which is wrong for IPv6 (there, the change of the
//! checksum makes up for that of the address; seen on 6.18). But as the destination is written
//! there and back, the two errors cancel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::chain::ChainId;
use super::rule::{Field, Rule, Scratch, Statement};
use super::set::{Scope, SetId};
use crate::net::Family;

/// Returns the source of packets between `output` and `postrouting`: an address that no node has
/// (RFC 7600; RFC 9780).
pub fn stand_in(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 0)),
    }
}

/// Returns the rule of `localhost-new`, for the first packet of a flow. No client is treated in a
/// way of its own: the connection comes from this node, whatever the policy.
pub(super) fn new() -> Rule {
    let fields = Field::frontend(Scope::NodePort);
    let map = SetId::Services(Scope::NodePort);
    Rule(vec![
        Statement::IsLoopback(Field::Saddr, true),
        Statement::IsLocalhost(Field::Daddr),
        Statement::SetPriority(Scratch::Map { fields, map }),
        Statement::SetPriority(Scratch::AllClients),
        Statement::SetMark,
        Statement::StandIn,
        Statement::Goto(ChainId::Serve),
    ])
}

/// Returns the rule of `localhost-output`, for all other packets that a client sends.
pub(super) fn output() -> Rule {
    let matches = [Statement::IsLoopback(Field::Saddr, true), Statement::IsLocalhost(Field::Daddr)];
    Rule(matches.into_iter().chain(translated()).chain([Statement::StandIn]).collect())
}

/// Returns the rule of `localhost-reply`, for packets that return to a client.
pub(super) fn reply() -> Rule {
    let is_to_client = [Statement::IsLoopback(Field::Daddr, true)];
    let set = Statement::SetDaddr(Field::ReplyDaddr);
    Rule(is_to_client.into_iter().chain(translated()).chain([set]).collect())
}

/// Returns the rule of `localhost-input`, for the same packets once they are routed.
pub(super) fn input() -> Rule {
    // What `reply` has written over is put right: also flows of others to other loopback addresses.
    let matches =
        [Statement::IsLoopback(Field::Saddr, true), Statement::IsLoopback(Field::Daddr, false)];
    let set = Statement::SetDaddr(Field::OriginalSaddr);
    Rule(matches.into_iter().chain(translated()).chain([set]).collect())
}

/// Both addresses are translated. A redirection to another local port translates only the
/// destination, and needs both loopback addresses.
fn translated() -> [Statement; 2] {
    [Statement::StatusDnat, Statement::StatusSnat]
}
