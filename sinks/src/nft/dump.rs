//! Reading our tables back: at start, after trouble, and to look for drift.
//!
//! A dump is not a snapshot: it goes through several system calls, and others may commit between
//! them. The generation number before and after tells; if it moved, or the kernel says that a dump
//! was interrupted, reading starts over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use rulec_compiler::net::Family;
use rulec_compiler::nft::element::{Key, Value};
use rulec_compiler::nft::pick::Pick;
use rulec_compiler::nft::skeleton::{self, ChainId, HookType, Scope, SetId, SetKind, TABLE};
use rulec_compiler::nft::state::{Held, State, Table};
use rulec_compiler::nft::{Op, delta};

use super::rules::{self, Shape};
use super::wire::{self, nfproto};
use crate::netlink::{
    Attributes, HEADER_LEN, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, Socket, Writer, be32, messages,
};

/// How often reading starts over before it gives up.
const ATTEMPTS: usize = 50;

/// What was read, and the generation it was read at.
pub(super) struct Reading {
    pub(super) state: State,
    pub(super) generation: u32,
    /// The port id of the socket that owns a table, if one does.
    pub(super) owners: BTreeMap<Family, u32>,
    /// The flags of each table.
    pub(super) flags: BTreeMap<Family, u32>,
}

/// Reads our tables. The mark is the one the rules were made with.
///
/// The elements of a table that this socket owns cannot change meanwhile, whatever others commit
/// elsewhere: only the short lists of tables, sets, chains and rules must be read undisturbed.
pub(super) fn read(socket: &mut Socket, seq: &mut u32, mark: u32) -> io::Result<Reading> {
    let me = socket.portid();
    for _ in 0..ATTEMPTS {
        match attempt(socket, seq, mark, me) {
            Ok(Some(reading)) => return Ok(reading),
            Ok(None) => {}
            Err(error) if is_disturbed(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the ruleset of this node never stood still long enough to be read"))
}

/// Reads once; `None` if the ruleset has changed meanwhile.
fn attempt(socket: &mut Socket, seq: &mut u32, mark: u32, me: u32) -> io::Result<Option<Reading>> {
    let before = generation(socket, seq)?;
    let (mut state, owners, flags) = Reader { socket, seq, mark }.skeletons()?;
    if generation(socket, seq)? != before {
        return Ok(None);
    }
    let is_owned = |family: &Family| owners.get(family) == Some(&me);
    for (family, table) in &mut state.tables {
        // Elements come in the order of the kernel's hashes: sorted once, when all are there.
        let mut elements = Vec::new();
        let mut reader = Reader { socket, seq, mark };
        for set in &table.sets {
            let owned = is_owned(family);
            reader.elements(*family, *set, owned, &mut elements, &mut table.foreign)?;
        }
        table.elements = elements.into_iter().collect();
    }
    let is_all_owned = state.tables.keys().all(is_owned);
    if !is_all_owned && generation(socket, seq)? != before {
        return Ok(None);
    }
    Ok(Some(Reading { state, generation: before, owners, flags }))
}

/// The generation number of the ruleset of this network namespace.
pub(super) fn generation(socket: &mut Socket, seq: &mut u32) -> io::Result<u32> {
    let mut found = None;
    request(
        socket,
        seq,
        wire::GETGEN,
        0,
        0,
        |_| {},
        |message| {
            found = found.or(message.attributes().be32(wire::NFTA_GEN_ID));
        },
    )?;
    found.ok_or_else(|| io::Error::other("the kernel gave no ruleset generation"))
}

type Tables = (State, BTreeMap<Family, u32>, BTreeMap<Family, u32>);

struct Reader<'a> {
    socket: &'a mut Socket,
    seq: &'a mut u32,
    mark: u32,
}

impl Reader<'_> {
    /// The tables without their elements.
    fn skeletons(mut self) -> io::Result<Tables> {
        let mut state = State::default();
        let mut owners = BTreeMap::new();
        let mut flags = BTreeMap::new();
        request(
            self.socket,
            self.seq,
            wire::GETTABLE,
            NLM_F_DUMP,
            0,
            |_| {},
            |message| {
                let attributes = message.attributes();
                let Some(family) = wire::family(message.family()) else { return };
                if attributes.clone().text(wire::NFTA_TABLE_NAME) != Some(TABLE) {
                    return;
                }
                let held = attributes.clone().be32(wire::NFTA_TABLE_FLAGS).unwrap_or(0);
                let mut table = Table::default();
                if held & wire::NFT_TABLE_F_DORMANT != 0 {
                    // Nothing in it is in force.
                    table.foreign.push("the table is dormant".to_owned());
                }
                state.tables.insert(family, table);
                if let Some(owner) = attributes.be32(wire::NFTA_TABLE_OWNER) {
                    owners.insert(family, owner);
                }
                flags.insert(family, held);
            },
        )?;
        for (family, table) in &mut state.tables {
            self.sets(*family, table)?;
            self.chains(*family, table)?;
        }
        Ok((state, owners, flags))
    }

    fn sets(&mut self, family: Family, table: &mut Table) -> io::Result<()> {
        let ask = |writer: &mut Writer| writer.text(wire::NFTA_SET_TABLE, TABLE);
        request(self.socket, self.seq, wire::GETSET, NLM_F_DUMP, nfproto(family), ask, |message| {
            let attributes = message.attributes();
            let name = attributes.clone().text(wire::NFTA_SET_NAME).unwrap_or_default();
            let number = |kind| attributes.clone().be32(kind).unwrap_or(0);
            match SetId::from_name(name) {
                Some(set) => {
                    let spec = set.spec();
                    let mut held = Shape {
                        flags: number(wire::NFTA_SET_FLAGS),
                        key_type: number(wire::NFTA_SET_KEY_TYPE),
                        key_len: number(wire::NFTA_SET_KEY_LEN),
                        data_type: number(wire::NFTA_SET_DATA_TYPE),
                        data_len: number(wire::NFTA_SET_DATA_LEN),
                    };
                    if held.data_type == wire::NFT_DATA_VERDICT {
                        // The length of a verdict is the kernel's own affair.
                        held.data_len = 0;
                    }
                    if held == Shape::of(&spec, family) {
                        table.sets.insert(set);
                    } else {
                        table.foreign.push(format!("set {name} has another shape than ours"));
                    }
                }
                None => table.foreign.push(format!("set {name}")),
            }
        })
    }

    fn chains(&mut self, family: Family, table: &mut Table) -> io::Result<()> {
        let mut rules: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        let ask = |writer: &mut Writer| writer.text(wire::NFTA_RULE_TABLE, TABLE);
        request(
            self.socket,
            self.seq,
            wire::GETRULE,
            NLM_F_DUMP,
            nfproto(family),
            ask,
            |message| {
                let attributes = message.attributes();
                if attributes.clone().text(wire::NFTA_RULE_TABLE) != Some(TABLE) {
                    return;
                }
                let chain = attributes.clone().text(wire::NFTA_RULE_CHAIN).unwrap_or_default();
                let userdata = attributes.find(wire::NFTA_RULE_USERDATA).unwrap_or_default();
                rules.entry(chain.to_owned()).or_default().push(userdata.to_vec());
            },
        )?;
        let mark = self.mark;
        request(
            self.socket,
            self.seq,
            wire::GETCHAIN,
            NLM_F_DUMP,
            nfproto(family),
            |_| {},
            |message| {
                let attributes = message.attributes();
                if attributes.clone().text(wire::NFTA_CHAIN_TABLE) != Some(TABLE) {
                    return;
                }
                let name = attributes.clone().text(wire::NFTA_CHAIN_NAME).unwrap_or_default();
                let Some(chain) = chain_named(name) else {
                    table.foreign.push(format!("chain {name}"));
                    return;
                };
                if !hook_matches(chain, attributes) {
                    table.foreign.push(format!("chain {name} is attached elsewhere than ours"));
                    return;
                }
                let expected = skeleton::rules(chain);
                let expected = expected.iter().map(|rule| rules::userdata(family, mark, rule));
                let held = rules.remove(name).unwrap_or_default();
                table.chains.insert(chain, held.into_iter().eq(expected));
            },
        )
    }

    fn elements(
        &mut self,
        family: Family,
        set: SetId,
        is_owned: bool,
        found: &mut Vec<(Key, Held)>,
        foreign: &mut Vec<String>,
    ) -> io::Result<()> {
        if matches!(set.spec().kind, SetKind::Dynamic { .. }) {
            return Ok(());
        }
        let mut bounds: BTreeSet<(Vec<u8>, bool)> = BTreeSet::new();
        let is_interval = set.spec().kind == SetKind::Interval;
        let ask = |writer: &mut Writer| {
            writer.text(wire::NFTA_SET_ELEM_LIST_TABLE, TABLE);
            writer.text(wire::NFTA_SET_ELEM_LIST_SET, set.name());
        };
        let mut unknown = 0_usize;
        let kind = wire::GETSETELEM;
        let family_number = nfproto(family);
        let dumped =
            request(self.socket, self.seq, kind, NLM_F_DUMP, family_number, ask, |message| {
                let elements = message.attributes().nested(wire::NFTA_SET_ELEM_LIST_ELEMENTS);
                for (_, bytes) in elements.into_iter().flatten() {
                    let attributes = crate::netlink::attributes(bytes);
                    if is_interval {
                        let flags = attributes.clone().be32(wire::NFTA_SET_ELEM_FLAGS).unwrap_or(0);
                        let is_start = flags & wire::NFT_SET_ELEM_INTERVAL_END == 0;
                        let key = key_bytes(&attributes).unwrap_or_default();
                        bounds.insert((key.to_vec(), is_start));
                        continue;
                    }
                    match element(family, set, &attributes) {
                        Some(element) => found.push(element),
                        None => unknown += 1,
                    }
                }
            });
        match dumped {
            Err(error) if is_owned && error.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        unknown += ranges(family, set, &bounds, found);
        if unknown > 0 {
            foreign.push(format!("{unknown} elements of {set} that mean nothing"));
        }
        Ok(())
    }
}

/// Puts the bounds of ranges together, and says how many do not fit.
fn ranges(
    family: Family,
    set: SetId,
    bounds: &BTreeSet<(Vec<u8>, bool)>,
    found: &mut Vec<(Key, Held)>,
) -> usize {
    let mut foreign = 0;
    let mut bounds = bounds.iter().peekable();
    while let Some((start, is_start)) = bounds.next() {
        if !is_start {
            // The end of nothing: `nft` writes one before the first range.
            continue;
        }
        let end = bounds.peek().filter(|(_, is_start)| !is_start).map(|(end, _)| end.as_slice());
        match wire::read_range(family, set, start, end) {
            Some(key) => found.push((key, (Value::Present, None))),
            None => foreign += 1,
        }
    }
    foreign
}

fn element(family: Family, set: SetId, attributes: &Attributes<'_>) -> Option<(Key, Held)> {
    let key = wire::read_key(family, set, key_bytes(attributes)?)?;
    let data = attributes.clone().nested(wire::NFTA_SET_ELEM_DATA);
    let value = match (key, data) {
        (Key::Pick(_, scope, pick), Some(data)) => {
            let verdict = data.nested(wire::NFTA_DATA_VERDICT)?;
            let code = verdict.clone().be32(wire::NFTA_VERDICT_CODE)?;
            let chain = verdict.text(wire::NFTA_VERDICT_CHAIN)?;
            let ours = code == wire::NFT_GOTO && chain == ChainId::Pick(scope, pick).to_string();
            ours.then_some(Value::Goto)?
        }
        (_, Some(data)) => wire::read_value(family, set, data.find(wire::NFTA_DATA_VALUE)?)?,
        (_, None) => Value::Present,
    };
    let comment = attributes
        .clone()
        .find(wire::NFTA_SET_ELEM_USERDATA)
        .and_then(wire::read_comment)
        .and_then(delta::parse_owner)
        .map(Arc::new);
    Some((key, (value, comment)))
}

fn key_bytes<'a>(attributes: &Attributes<'a>) -> Option<&'a [u8]> {
    attributes.clone().nested(wire::NFTA_SET_ELEM_KEY)?.find(wire::NFTA_DATA_VALUE)
}

fn chain_named(name: &str) -> Option<ChainId> {
    let constant = ChainId::CONSTANT.into_iter().find(|chain| chain.to_string() == name);
    constant.or_else(|| {
        Scope::ALL.into_iter().find_map(|scope| {
            let pick = parse_pick(scope, name)?;
            let chain = ChainId::Pick(scope, pick);
            (chain.to_string() == name).then_some(chain)
        })
    })
}

fn parse_pick(scope: Scope, name: &str) -> Option<Pick> {
    let name = match scope {
        Scope::Address => name,
        Scope::NodePort => name.strip_prefix("nodeport-")?,
    };
    let (masquerade, name) = match name.strip_prefix("masquerade-") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    let (affinity, name) = match name.strip_prefix("affinity-") {
        Some(rest) => {
            let (timeout, rest) = rest.split_once('-')?;
            (Some(timeout.parse().ok()?), rest)
        }
        None => (None, name),
    };
    let backends = name.strip_prefix("pick-")?.parse().ok()?;
    let pick = Pick { masquerade, affinity, backends };
    Pick::from_code(pick.code()).filter(|read| *read == pick)
}

fn hook_matches(chain: ChainId, attributes: Attributes<'_>) -> bool {
    let hook = attributes.clone().nested(wire::NFTA_CHAIN_HOOK);
    match (chain.hook(), hook) {
        (None, None) => true,
        (Some(expected), Some(held)) => {
            let kind = match expected.kind {
                HookType::Filter => "filter",
                HookType::Nat => "nat",
            };
            held.clone().be32(wire::NFTA_HOOK_HOOKNUM) == Some(rules::hook_number(expected))
                && held.be32(wire::NFTA_HOOK_PRIORITY) == Some(expected.priority.cast_unsigned())
                && attributes.clone().text(wire::NFTA_CHAIN_TYPE) == Some(kind)
                && attributes.find(wire::NFTA_CHAIN_POLICY).and_then(be32) == Some(1)
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Whether reading should start over.
fn is_disturbed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Sends one request and hands on what comes back. If others have committed during a dump, that is an
/// error of kind `Interrupted`, after all has been handed on; if the kernel gave up on it, of kind
/// `WouldBlock`.
fn request(
    socket: &mut Socket,
    seq: &mut u32,
    kind: u16,
    flags: u16,
    family: u8,
    ask: impl FnOnce(&mut Writer),
    mut each: impl FnMut(Message<'_>),
) -> io::Result<()> {
    *seq = seq.wrapping_add(1);
    let mut writer = Writer::default();
    let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
    let kind = wire::NFNL_SUBSYS_NFTABLES << 8 | kind;
    let flags = NLM_F_REQUEST | flags | if is_dump { 0 } else { NLM_F_ACK };
    let message = writer.message(kind, flags, *seq, family, 0);
    ask(&mut writer);
    writer.close_message(message);
    socket.send(writer.bytes())?;
    // An interrupted dump goes on to its end, and is read to it, so that nothing stays queued.
    let mut interrupted = false;
    loop {
        let Some(bytes) = socket.receive()? else {
            return Err(io::Error::other("the kernel's answer has no end"));
        };
        debug_assert!(bytes.len() >= HEADER_LEN, "an answer is at least a header");
        let mut done = false;
        for message in messages(bytes).filter(|message| message.seq == *seq) {
            interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.errno() {
                Some(0) => done = true,
                // EINTR and EAGAIN: the kernel gave up on a dump because the ruleset changed.
                Some(4 | 11) => return Err(io::ErrorKind::WouldBlock.into()),
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                None if message.kind == NLMSG_DONE => done = true,
                None => each(message),
            }
        }
        match (done, interrupted) {
            (true, false) => return Ok(()),
            (true, true) => return Err(io::ErrorKind::Interrupted.into()),
            (false, _) => {}
        }
    }
}

/// Tables to delete: those of ours that exist, whatever is in them.
pub(super) fn cleanup(tables: impl Iterator<Item = Family>) -> Vec<Op> {
    tables.map(Op::DeleteTable).collect()
}
