//! The table that marks the packets to be followed.

use nftnl::nftnl_sys as sys;
use rulec_compiler::net::Family;

use super::Wanted;
use crate::ffi::{Chain, Expr, Rule, Table};
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Writer};
use crate::nft::expressions::{
    CMP_EQ, CT_STATE, META_L4PROTO, META_NFTRACE, NETWORK_HEADER, REG32, STATE_NEW,
    TRANSPORT_HEADER, cmp, ct_has, meta_load, meta_store, payload,
};
use crate::nft::wire::{self, c, nfproto};

const PREFIX: &str = "rulec-trace-";

/// The packets of this node, and those that arrive at it, each with the number of its hook. The
/// rules run after conntrack (-200), which knows whether a flow is new, and before the translation
/// of destinations (-100).
const HOOKS: [(&str, u32); 2] = [("prerouting", 0), ("output", 3)];
const PRIORITY: i32 = -150;

/// Returns whether a table is one that follows packets.
pub fn is_of_trace(table: &str) -> bool {
    table.starts_with(PREFIX)
}

/// Returns the name of this process's table.
pub(super) fn name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Returns a transaction that makes the table, with the number of the message that is
/// acknowledged.
pub(super) fn create(name: &str, wanted: &Wanted) -> (Vec<u8>, u32) {
    let of = Family::of(wanted.destination);
    let family = nfproto(of).into();
    let name = c(name);
    let mut writer = Writer::default();
    const FIRST: u32 = 1;
    let mut seq = FIRST;
    let mut next = || {
        seq += 1;
        seq
    };
    control(&mut writer, wire::NFNL_MSG_BATCH_BEGIN, FIRST);
    let table = Table::new()
        .text(sys::NFTNL_TABLE_NAME, &name)
        .u32(sys::NFTNL_TABLE_FLAGS, wire::NFT_TABLE_F_OWNER);
    writer.raw(&table.message(wire::NEWTABLE, family, NLM_F_CREATE | NLM_F_EXCL, next()));
    for (number, (hook, point)) in HOOKS.into_iter().enumerate() {
        let hook = c(hook);
        let chain = Chain::new()
            .text(sys::NFTNL_CHAIN_TABLE, &name)
            .text(sys::NFTNL_CHAIN_NAME, &hook)
            .text(sys::NFTNL_CHAIN_TYPE, c"filter")
            .u32(sys::NFTNL_CHAIN_HOOKNUM, point)
            .u32(sys::NFTNL_CHAIN_PRIO, PRIORITY.cast_unsigned());
        writer.raw(&chain.message(wire::NEWCHAIN, family, NLM_F_CREATE, next()));
        let mut rule =
            Rule::new().text(sys::NFTNL_RULE_TABLE, &name).text(sys::NFTNL_RULE_CHAIN, &hook);
        for expr in expressions(of, wanted) {
            rule.push(expr);
        }
        // One acknowledgement is enough: the transaction is taken as a whole.
        let ack = if number + 1 == HOOKS.len() { NLM_F_ACK } else { 0 };
        writer.raw(&rule.message(wire::NEWRULE, family, NLM_F_CREATE | ack, next()));
    }
    let last = next();
    control(&mut writer, wire::NFNL_MSG_BATCH_END, last);
    (writer.bytes().to_vec(), last - 1)
}

fn control(writer: &mut Writer, kind: u16, seq: u32) {
    let open = writer.message(kind, NLM_F_REQUEST, seq, 0, wire::NFNL_SUBSYS_NFTABLES);
    writer.close_message(open);
}

fn expressions(family: Family, wanted: &Wanted) -> Vec<Expr> {
    let Wanted { destination, transport, source, source_port } = wanted;
    let (len, from, to) = match family {
        Family::Ipv4 => (4, 12, 16),
        Family::Ipv6 => (16, 8, 24),
    };
    let octets = |address: &std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut exprs =
        vec![payload(NETWORK_HEADER, to, len, REG32), cmp(CMP_EQ, &octets(destination))];
    if let Some(source) = source {
        exprs.extend([payload(NETWORK_HEADER, from, len, REG32), cmp(CMP_EQ, &octets(source))]);
    }
    if let Some((protocol, number)) = transport {
        let port = |offset, port: u16| {
            [payload(TRANSPORT_HEADER, offset, 2, REG32), cmp(CMP_EQ, &port.to_be_bytes())]
        };
        let l4proto = protocol.number();
        exprs.extend([meta_load(META_L4PROTO, REG32), cmp(CMP_EQ, &[l4proto])]);
        exprs.extend(port(2, number.get()));
        exprs.extend(source_port.map(|it| port(0, it.get())).into_iter().flatten());
    }
    exprs.extend(ct_has(CT_STATE, STATE_NEW));
    exprs.push(
        Expr::new(c"immediate")
            .u32(sys::NFTNL_EXPR_IMM_DREG, REG32)
            .data(sys::NFTNL_EXPR_IMM_DATA, &[1]),
    );
    exprs.push(meta_store(META_NFTRACE));
    exprs
}
