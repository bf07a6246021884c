//! Tables, sets, chains and rules as messages, through libnftnl.

use nftnl::nftnl_sys as sys;
use rulec_compiler::net::Family;
use rulec_compiler::nft::chain::{ChainId, Hook, HookPoint, HookType};
use rulec_compiler::nft::rule;
use rulec_compiler::nft::ruleset::TABLE;
use rulec_compiler::nft::set::{Data, SetId, SetKind, SetSpec};

use super::expressions::expressions;
use super::identity::userdata;
use super::types;
use super::wire::{self, c, nfproto};
use crate::ffi::{Chain, Rule, Set, Table};
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Writer};

const NLM_F_APPEND: u16 = 0x800;

/// Creates a table, or takes over one that an earlier process has left.
pub(super) fn add_table(family: Family, flags: u32, seq: u32) -> Vec<u8> {
    Table::new().text(sys::NFTNL_TABLE_NAME, &c(TABLE)).u32(sys::NFTNL_TABLE_FLAGS, flags).message(
        wire::NEWTABLE,
        nfproto(family).into(),
        NLM_F_CREATE,
        seq,
    )
}

/// Deletes a table with all that is in it.
pub(super) fn delete_table(family: Family, seq: u32) -> Vec<u8> {
    Table::new().text(sys::NFTNL_TABLE_NAME, &c(TABLE)).message(
        wire::DELTABLE,
        nfproto(family).into(),
        0,
        seq,
    )
}

/// Creates a set or map.
pub(super) fn add_set(family: Family, set: SetId, seq: u32) -> Vec<u8> {
    let spec = set.spec();
    let shape = Shape::of(&spec, family);
    let mut object = Set::new()
        .text(sys::NFTNL_SET_TABLE, &c(TABLE))
        .text(sys::NFTNL_SET_NAME, &c(&set.name()))
        // The set's id in the transaction. The kernel requires a number, but we refer to sets by
        // name.
        .u32(sys::NFTNL_SET_ID, seq)
        .u32(sys::NFTNL_SET_FLAGS, shape.flags)
        .u32(sys::NFTNL_SET_KEY_TYPE, shape.key_type)
        .u32(sys::NFTNL_SET_KEY_LEN, shape.key_len);
    if spec.data != Data::None {
        object = object
            .u32(sys::NFTNL_SET_DATA_TYPE, shape.data_type)
            .u32(sys::NFTNL_SET_DATA_LEN, shape.data_len);
    }
    object.data(sys::NFTNL_SET_USERDATA, &types::userdata(&spec, family)).message(
        wire::NEWSET,
        nfproto(family).into(),
        NLM_F_CREATE | NLM_F_EXCL,
        seq,
    )
}

/// Deletes a set or map with its elements.
pub(super) fn delete_set(family: Family, set: SetId, seq: u32) -> Vec<u8> {
    Set::new()
        .text(sys::NFTNL_SET_TABLE, &c(TABLE))
        .text(sys::NFTNL_SET_NAME, &c(&set.name()))
        .message(wire::DELSET, nfproto(family).into(), 0, seq)
}

/// Creates a chain without rules.
pub(super) fn add_chain(family: Family, chain: ChainId, seq: u32) -> Vec<u8> {
    const NF_ACCEPT: u32 = 1;
    let mut object = named_chain(chain);
    if let Some(hook) = chain.hook() {
        let kind = match hook.kind {
            HookType::Filter => c"filter",
            HookType::Nat => c"nat",
        };
        object = object
            .text(sys::NFTNL_CHAIN_TYPE, kind)
            .u32(sys::NFTNL_CHAIN_HOOKNUM, hook_number(hook))
            .u32(sys::NFTNL_CHAIN_PRIO, hook.priority.cast_unsigned())
            .u32(sys::NFTNL_CHAIN_POLICY, NF_ACCEPT);
    }
    object.message(wire::NEWCHAIN, nfproto(family).into(), NLM_F_CREATE | NLM_F_EXCL, seq)
}

/// Deletes a chain.
pub(super) fn delete_chain(family: Family, chain: ChainId, seq: u32) -> Vec<u8> {
    named_chain(chain).message(wire::DELCHAIN, nfproto(family).into(), 0, seq)
}

/// Deletes the rules of a chain.
pub(super) fn flush_chain(family: Family, chain: ChainId, seq: u32) -> Vec<u8> {
    let name = c(&chain.to_string());
    Rule::new().text(sys::NFTNL_RULE_TABLE, &c(TABLE)).text(sys::NFTNL_RULE_CHAIN, &name).message(
        wire::DELRULE,
        nfproto(family).into(),
        0,
        seq,
    )
}

/// Appends a rule to a chain.
pub(super) fn add_rule(
    family: Family,
    chain: ChainId,
    mark: u32,
    rule: &rule::Rule,
    seq: u32,
) -> Vec<u8> {
    let mut object = Rule::new()
        .text(sys::NFTNL_RULE_TABLE, &c(TABLE))
        .text(sys::NFTNL_RULE_CHAIN, &c(&chain.to_string()))
        .data(sys::NFTNL_RULE_USERDATA, &userdata(family, mark, rule));
    for expr in expressions(family, mark, rule) {
        object.push(expr);
    }
    object.message(wire::NEWRULE, nfproto(family).into(), NLM_F_CREATE | NLM_F_APPEND, seq)
}

/// Returns the number of a hook, the same in both families.
pub(super) fn hook_number(hook: Hook) -> u32 {
    match hook.point {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

/// The part of a set's definition that the kernel stores.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_len: u32,
    /// 0 for a set.
    pub(super) data_type: u32,
    /// 0 for a set and for verdicts.
    pub(super) data_len: u32,
}

impl Shape {
    pub(super) fn of(spec: &SetSpec, family: Family) -> Self {
        let len = |types| u32::try_from(wire::lengths(types, family)).unwrap_or(0);
        let kind = match spec.kind {
            SetKind::Hash => 0,
            SetKind::Interval => wire::NFT_SET_INTERVAL,
            SetKind::Dynamic => wire::NFT_SET_EVAL | wire::NFT_SET_TIMEOUT,
        };
        let (map, data_type, data_len) = match &spec.data {
            Data::None => (0, 0, 0),
            Data::Value(types) => (wire::NFT_SET_MAP, wire::type_number(types, family), len(types)),
            Data::Verdict => (wire::NFT_SET_MAP, wire::NFT_DATA_VERDICT, 0),
        };
        Self {
            flags: kind | map,
            key_type: wire::type_number(&spec.key, family),
            key_len: len(&spec.key),
            data_type,
            data_len,
        }
    }
}

fn named_chain(chain: ChainId) -> Chain {
    Chain::new()
        .text(sys::NFTNL_CHAIN_TABLE, &c(TABLE))
        .text(sys::NFTNL_CHAIN_NAME, &c(&chain.to_string()))
}

/// Returns a transaction that creates a table with these flags and is then refused because it
/// deletes a chain that does not exist: it changes nothing, but shows whether the flags are
/// supported.
pub(super) fn probe(flags: u32, seq: u32) -> Vec<u8> {
    let control = |writer: &mut Writer, kind, seq| {
        let subsystem = wire::NFNL_SUBSYS_NFTABLES;
        let open = writer.message(kind, NLM_F_REQUEST, seq, 0, subsystem);
        writer.close_message(open);
    };
    let family = nfproto(Family::Ipv4).into();
    let name = c"rulec-probe";
    let table = Table::new()
        .text(sys::NFTNL_TABLE_NAME, name)
        .u32(sys::NFTNL_TABLE_FLAGS, flags)
        .message(wire::NEWTABLE, family, NLM_F_CREATE, seq + 1);
    let chain = Chain::new()
        .text(sys::NFTNL_CHAIN_TABLE, name)
        .text(sys::NFTNL_CHAIN_NAME, c"absent")
        .message(wire::DELCHAIN, family, 0, seq + 2);
    let mut writer = Writer::default();
    control(&mut writer, wire::NFNL_MSG_BATCH_BEGIN, seq);
    writer.raw(&table);
    writer.raw(&chain);
    control(&mut writer, wire::NFNL_MSG_BATCH_END, seq + 3);
    writer.bytes().to_vec()
}
