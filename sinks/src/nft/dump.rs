//! Reads our tables back: at the start, after errors, and to look for drift.
//!
//! A dump is not a snapshot: it takes several system calls, and others may commit between them.
//! This shows in the generation number before and after, and the kernel marks each dump that was
//! interrupted. But both count every commit in the network namespace, also unrelated ones, and on
//! some nodes other programs commit all the time. So reading starts over a few times, and then
//! accepts a weaker guarantee: see `read`.
//!
//! Neither shows that a hash table is still growing, which it does by itself for some milliseconds
//! after thousands of additions: the kernel resumes a dump by counting the elements that it has
//! returned, but their order has changed (`nft_rhash_walk`; seen on Linux 6.18). Then some elements
//! are missing, and as many are returned twice. So if any element comes twice, read again;
//! otherwise, the dump is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use rulec_compiler::net::Family;
use rulec_compiler::nft;
use rulec_compiler::nft::chain::{ChainId, HookType};
use rulec_compiler::nft::element::{Key, Value};
use rulec_compiler::nft::ruleset::{self, TABLE};
use rulec_compiler::nft::set::{SetId, SetKind};
use rulec_compiler::state::{ChainContent, Held, State, Table};
use rulec_compiler::{Op, PortKey};

use super::identity::Identity;
use super::objects::{Shape, hook_number};
use super::wire::{self, nfproto};
use crate::netlink::{
    Attributes, HEADER_LEN, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, Socket,
    Writer, be32, be64, messages,
};

/// The number of attempts before reading fails.
const ATTEMPTS: usize = 50;

/// The number of attempts to read without any commit by others.
const UNDISTURBED_ATTEMPTS: usize = 3;

/// The number of attempts to read a set without a commit by others, after undisturbed reading was
/// given up.
const SET_ATTEMPTS: usize = 3;

/// The result of a reading.
pub(super) struct Reading {
    pub(super) state: State,
    /// The generation at which everything was read. `None` if others have committed in the
    /// meantime, possibly to our tables, too.
    pub(super) generation: Option<u32>,
    /// The flags and the owner of each table.
    pub(super) tables: Owners,
}

/// The flags and the owner of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ownership {
    pub(super) flags: u32,
    /// The port id of the socket that owns it, if any.
    pub(super) owner: Option<u32>,
}

/// Our tables that exist.
pub(super) type Owners = BTreeMap<Family, Ownership>;

/// Returns our existing tables and their owners. A list of tables is short: it comes in one piece
/// unless there are hundreds.
pub(super) fn owners(socket: &mut Socket, seq: &mut u32) -> io::Result<Owners> {
    for _ in 0..ATTEMPTS {
        match tables(socket, seq) {
            Ok(Dump::Whole(tables)) => return Ok(tables),
            Ok(Dump::Disturbed(_)) => {}
            Err(error) if is_disturbed(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(never_still())
}

/// Reads our tables. The mark is the one that the rules were made with.
///
/// The elements of a table that this socket owns cannot change during the reading, whatever others
/// commit elsewhere: only the short lists of tables, sets, chains and rules must be read
/// undisturbed. Of other tables, everything must be read undisturbed in the first few attempts.
/// After those, the short lists are also accepted if they were the same in two attempts, and
/// elements as they come, but without a generation: the caller must then expect that the kernel
/// holds something else and refuses what does not fit.
pub(super) fn read(socket: &mut Socket, seq: &mut u32, mark: u32) -> io::Result<Reading> {
    let mut reader = Reader { socket, seq, mark };
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        let is_patient = attempt < UNDISTURBED_ATTEMPTS;
        match reader.attempt(is_patient, &mut last) {
            Ok(Some(reading)) => return Ok(reading),
            Ok(None) => {}
            Err(error) if is_disturbed(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(never_still())
}

/// Reads our tables while commits go on, also those of this process: elements as they come. An
/// element that no commit has touched is never wrong, but it may be missing; see `look_up`.
pub(super) fn glance(socket: &mut Socket, seq: &mut u32, mark: u32) -> io::Result<State> {
    let mut reader = Reader { socket, seq, mark };
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        match reader.glance(attempt < UNDISTURBED_ATTEMPTS, &mut last) {
            Ok(Some(state)) => return Ok(state),
            Ok(None) => {}
            Err(error) if is_disturbed(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(never_still())
}

/// Looks an element up; `None` if there is none for this key, or no such table or set.
pub(super) fn look_up(socket: &mut Socket, seq: &mut u32, key: Key) -> io::Result<Option<Held>> {
    let (family, set) = (key.family(), key.set());
    let ask = |writer: &mut Writer| {
        writer.text(wire::NFTA_SET_ELEM_LIST_TABLE, TABLE);
        writer.text(wire::NFTA_SET_ELEM_LIST_SET, &set.name());
        let list = writer.nest(wire::NFTA_SET_ELEM_LIST_ELEMENTS);
        let outer = writer.nest(wire::NFTA_LIST_ELEM);
        let nest = writer.nest(wire::NFTA_SET_ELEM_KEY);
        writer.attribute(wire::NFTA_DATA_VALUE, &wire::key(key));
        writer.close_nest(nest);
        writer.close_nest(outer);
        writer.close_nest(list);
    };
    let mut found = None;
    let answer = request(socket, seq, wire::GETSETELEM, 0, nfproto(family), ask, |message| {
        for attributes in elements_in(message) {
            let held = element(family, set, &attributes);
            found = held.filter(|(of, _)| *of == key).map(|(_, held)| held);
        }
    });
    match answer {
        Ok(_) => Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn never_still() -> io::Error {
    io::Error::other("the ruleset of this node has changed during every attempt to read it")
}

/// Returns the generation number of the ruleset of this network namespace.
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
    )?
    .anyway();
    found.ok_or_else(|| io::Error::other("the kernel reported no ruleset generation"))
}

/// Dumps the tables of all families at once.
fn tables(socket: &mut Socket, seq: &mut u32) -> io::Result<Dump<Owners>> {
    let mut tables = Owners::new();
    let dumped = request(
        socket,
        seq,
        wire::GETTABLE,
        NLM_F_DUMP,
        0,
        |_| {},
        |message| {
            let attributes = message.attributes();
            let Some(family) = wire::family(message.family()) else { return };
            if attributes.clone().text(wire::NFTA_TABLE_NAME) == Some(TABLE) {
                let flags = attributes.clone().be32(wire::NFTA_TABLE_FLAGS).unwrap_or(0);
                let owner = attributes.be32(wire::NFTA_TABLE_OWNER);
                tables.insert(family, Ownership { flags, owner });
            }
        },
    )?;
    Ok(dumped.map(|()| tables))
}

/// A set of the layout of earlier releases. Some of its elements look like ours, but mean something
/// else.
const EARLIER_SET: &str = "picks";

/// The tables without their elements, and the families whose table has the layout of an earlier
/// release.
type Skeleton = (Owners, State, BTreeSet<Family>);

struct Reader<'a> {
    socket: &'a mut Socket,
    seq: &'a mut u32,
    mark: u32,
}

impl Reader<'_> {
    /// Reads once; returns `None` if reading must start over because others have committed. `last`
    /// is what earlier disturbed attempts have found, without elements.
    fn attempt(
        &mut self,
        is_patient: bool,
        last: &mut Option<Skeleton>,
    ) -> io::Result<Option<Reading>> {
        let before = generation(self.socket, self.seq)?;
        let Some(skeleton) = self.still_skeleton(before, is_patient, last)? else {
            return Ok(None);
        };
        let (tables, mut state, earlier) = skeleton;
        let me = Some(self.socket.portid());
        let is_owned = |family: &Family| tables.get(family).is_some_and(|table| table.owner == me);
        for (family, table) in &mut state.tables {
            if earlier.contains(family) {
                continue;
            }
            // Elements come in the order of the kernel's hashes: they are sorted once, at the end.
            let mut elements = Vec::new();
            for set in table.sets.clone() {
                let (found, unknown) = match (is_owned(family), is_patient) {
                    (true, _) => self.elements(*family, set)?.anyway(),
                    (false, true) => match self.elements(*family, set)? {
                        Dump::Whole(found) => found,
                        Dump::Disturbed(_) => return Ok(None),
                    },
                    (false, false) => self.elements_after_all(*family, set)?,
                };
                elements.extend(found);
                if unknown > 0 {
                    table.foreign.push(format!("unknown elements in {set}: {unknown}"));
                }
            }
            let listed = elements.len();
            table.elements = elements.into_iter().collect();
            if table.elements.len() < listed {
                return Ok(None);
            }
        }
        let is_still = generation(self.socket, self.seq)? == before;
        let is_enough = is_still || !is_patient || state.tables.keys().all(is_owned);
        let generation = is_still.then_some(before);
        Ok(is_enough.then_some(Reading { state, generation, tables }))
    }

    /// Reads once while commits go on; returns `None` if reading must start over.
    fn glance(
        &mut self,
        is_patient: bool,
        last: &mut Option<Skeleton>,
    ) -> io::Result<Option<State>> {
        let before = generation(self.socket, self.seq)?;
        let Some(skeleton) = self.still_skeleton(before, is_patient, last)? else {
            return Ok(None);
        };
        let (_, mut state, earlier) = skeleton;
        for (family, table) in state.tables.iter_mut().filter(|(it, _)| !earlier.contains(it)) {
            for set in table.sets.clone() {
                let (found, unknown) = self.elements(*family, set)?.anyway();
                table.elements.extend(found);
                if unknown > 0 {
                    table.foreign.push(format!("unknown elements in {set}: {unknown}"));
                }
            }
        }
        Ok(Some(state))
    }

    /// Reads the tables without their elements, from the generation `before` on; returns `None` if
    /// others have committed meanwhile. If there is no more patience, two attempts that have found
    /// the same are enough.
    fn still_skeleton(
        &mut self,
        before: u32,
        is_patient: bool,
        last: &mut Option<Skeleton>,
    ) -> io::Result<Option<Skeleton>> {
        let skeleton = self.skeleton()?;
        let is_still = generation(self.socket, self.seq)? == before;
        if is_still || (!is_patient && last.as_ref() == Some(&skeleton)) {
            return Ok(Some(skeleton));
        }
        *last = Some(skeleton);
        Ok(None)
    }

    /// Reads the tables without their elements.
    fn skeleton(&mut self) -> io::Result<Skeleton> {
        let tables = tables(self.socket, self.seq)?.anyway();
        let mut state = State::default();
        let mut earlier = BTreeSet::new();
        for (family, Ownership { flags, .. }) in &tables {
            let mut table = Table::default();
            if flags & wire::NFT_TABLE_F_DORMANT != 0 {
                // None of its rules are in force.
                table.foreign.push("the table is dormant".to_owned());
            }
            if self.sets(*family, &mut table)? {
                table.foreign.push("it was made by an earlier release".to_owned());
                earlier.insert(*family);
            }
            self.chains(*family, &mut table)?;
            state.tables.insert(*family, table);
        }
        Ok((tables, state, earlier))
    }

    /// Reads the sets; returns true if they are those of an earlier release.
    fn sets(&mut self, family: Family, table: &mut Table) -> io::Result<bool> {
        let mut is_earlier = false;
        let ask = |writer: &mut Writer| writer.text(wire::NFTA_SET_TABLE, TABLE);
        let kind = wire::GETSET;
        request(self.socket, self.seq, kind, NLM_F_DUMP, nfproto(family), ask, |message| {
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
                        // The length of a verdict is internal to the kernel.
                        held.data_len = 0;
                    }
                    if held == Shape::of(&spec, family) {
                        table.sets.insert(set);
                    } else {
                        table.foreign.push(format!("set {name} has an unexpected type"));
                    }
                }
                None => {
                    is_earlier |= name == EARLIER_SET;
                    table.foreign.push(format!("set {name}"));
                }
            }
        })?
        .anyway();
        Ok(is_earlier)
    }

    fn chains(&mut self, family: Family, table: &mut Table) -> io::Result<()> {
        let mut rules: BTreeMap<String, Vec<Identity>> = BTreeMap::new();
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
                rules.entry(chain.to_owned()).or_default().push(Identity::listed(&attributes));
            },
        )?
        .anyway();
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
                let Some(chain) = ChainId::from_name(name) else {
                    table.foreign.push(format!("chain {name}"));
                    return;
                };
                if !hook_matches(chain, attributes) {
                    table.foreign.push(format!("chain {name} has an unexpected hook or policy"));
                    return;
                }
                let expected = ruleset::rules(chain);
                let expected = expected.iter().map(|rule| Identity::of(family, mark, rule));
                let held = rules.remove(name).unwrap_or_default();
                let content = match held.into_iter().eq(expected) {
                    true => ChainContent::Complete,
                    false => ChainContent::Other,
                };
                table.chains.insert(chain, content);
            },
        )
        .map(Dump::anyway)
    }

    /// Reads the elements of a set as well as possible while others commit. The kernel resumes a
    /// dump by counting: only commits to this very set make it skip an element or return one twice,
    /// but it marks a dump as interrupted after any commit.
    fn elements_after_all(&mut self, family: Family, set: SetId) -> io::Result<Elements> {
        let mut found = self.elements(family, set)?;
        for _ in 1..SET_ATTEMPTS {
            if let Dump::Whole(_) = found {
                break;
            }
            found = self.elements(family, set)?;
        }
        Ok(found.anyway())
    }

    fn elements(&mut self, family: Family, set: SetId) -> io::Result<Dump<Elements>> {
        let mut found = Vec::new();
        if matches!(set.spec().kind, SetKind::Dynamic) {
            return Ok(Dump::Whole((found, 0)));
        }
        let mut bounds: BTreeSet<(Vec<u8>, bool)> = BTreeSet::new();
        let spec = set.spec();
        let has_bounds = spec.kind == SetKind::Interval && spec.key.len() == 1;
        let mut unknown = 0_usize;
        let dumped = each_element(self.socket, self.seq, family, set, |attributes| {
            if has_bounds {
                let flags = attributes.clone().be32(wire::NFTA_SET_ELEM_FLAGS).unwrap_or(0);
                let is_start = flags & wire::NFT_SET_ELEM_INTERVAL_END == 0;
                let key = key_bytes(attributes, wire::NFTA_SET_ELEM_KEY).unwrap_or_default();
                bounds.insert((key.to_vec(), is_start));
                return;
            }
            match element(family, set, attributes) {
                Some(element) => found.push(element),
                None => unknown += 1,
            }
        })?;
        unknown += ranges(family, set, &bounds, &mut found);
        Ok(dumped.map(|()| (found, unknown)))
    }
}

/// Dumps the elements of a set, and passes on each.
pub(super) fn each_element(
    socket: &mut Socket,
    seq: &mut u32,
    family: Family,
    set: SetId,
    mut each: impl FnMut(&Attributes<'_>),
) -> io::Result<Dump<()>> {
    let ask = |writer: &mut Writer| {
        writer.text(wire::NFTA_SET_ELEM_LIST_TABLE, TABLE);
        writer.text(wire::NFTA_SET_ELEM_LIST_SET, &set.name());
    };
    let kind = wire::GETSETELEM;
    request(socket, seq, kind, NLM_F_DUMP, nfproto(family), ask, |message| {
        elements_in(message).for_each(|attributes| each(&attributes));
    })
}

/// Returns the elements in a message, each as its attributes.
pub(super) fn elements_in(message: Message<'_>) -> impl Iterator<Item = Attributes<'_>> {
    let list = message.attributes().nested(wire::NFTA_SET_ELEM_LIST_ELEMENTS);
    list.into_iter().flatten().map(|(_, bytes)| crate::netlink::attributes(bytes))
}

/// The elements of a set, and the number of those that are not ours.
type Elements = (Vec<(Key, Held)>, usize);

/// Joins the bounds of ranges, and returns the number of those that do not fit.
pub(super) fn ranges(
    family: Family,
    set: SetId,
    bounds: &BTreeSet<(Vec<u8>, bool)>,
    found: &mut Vec<(Key, Held)>,
) -> usize {
    let mut foreign = 0;
    let mut bounds = bounds.iter().peekable();
    while let Some((start, is_start)) = bounds.next() {
        if !is_start {
            // An end without a start: `nft` writes one before the first range.
            continue;
        }
        let end = bounds.peek().filter(|(_, is_start)| !is_start).map(|(end, _)| end.as_slice());
        match wire::read_range(family, set, start, end) {
            Some(key) => {
                found.push((key, Held { value: Value::Present, owner: None, is_counted: false }))
            }
            None => foreign += 1,
        }
    }
    foreign
}

pub(super) fn element(
    family: Family,
    set: SetId,
    attributes: &Attributes<'_>,
) -> Option<(Key, Held)> {
    let key = wire::read_key(family, set, key_bytes(attributes, wire::NFTA_SET_ELEM_KEY)?)?;
    let data = attributes.clone().nested(wire::NFTA_SET_ELEM_DATA);
    let value = match (key, data) {
        (Key::Class(..) | Key::Draw(..), Some(data)) => {
            let verdict = data.nested(wire::NFTA_DATA_VERDICT)?;
            let code = verdict.clone().be32(wire::NFTA_VERDICT_CODE)?;
            let chain = ChainId::from_name(verdict.text(wire::NFTA_VERDICT_CHAIN)?)?;
            (code == wire::NFT_GOTO).then_some(Value::Goto(chain))?
        }
        (_, Some(data)) => wire::read_value(family, set, data.find(wire::NFTA_DATA_VALUE)?)?,
        (_, None) => Value::Present,
    };
    let comment = attributes
        .clone()
        .find(wire::NFTA_SET_ELEM_USERDATA)
        .and_then(wire::read_comment)
        .and_then(PortKey::from_comment)
        .map(Arc::new);
    let is_counted = packets(attributes).is_some();
    Some((key, Held { value, owner: comment, is_counted }))
}

/// Returns how many packets have found an element; `None` if it has no counter.
pub(super) fn packets(attributes: &Attributes<'_>) -> Option<u64> {
    let expression = attributes.clone().nested(wire::NFTA_SET_ELEM_EXPR)?;
    if expression.clone().text(wire::NFTA_EXPR_NAME) != Some(wire::COUNTER) {
        return None;
    }
    let counter = expression.nested(wire::NFTA_EXPR_DATA)?;
    be64(counter.find(wire::NFTA_COUNTER_PACKETS)?)
}

fn key_bytes<'a>(attributes: &Attributes<'a>, which: u16) -> Option<&'a [u8]> {
    attributes.clone().nested(which)?.find(wire::NFTA_DATA_VALUE)
}

pub(super) fn hook_matches(chain: ChainId, attributes: Attributes<'_>) -> bool {
    let hook = attributes.clone().nested(wire::NFTA_CHAIN_HOOK);
    match (chain.hook(), hook) {
        (None, None) => true,
        (Some(expected), Some(held)) => {
            let kind = match expected.kind {
                HookType::Filter => "filter",
                HookType::Nat => "nat",
            };
            held.clone().be32(wire::NFTA_HOOK_HOOKNUM) == Some(hook_number(expected))
                && held.be32(wire::NFTA_HOOK_PRIORITY) == Some(expected.priority.cast_unsigned())
                && attributes.clone().text(wire::NFTA_CHAIN_TYPE) == Some(kind)
                && attributes.find(wire::NFTA_CHAIN_POLICY).and_then(be32) == Some(1)
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Returns true if reading should start over: the kernel aborted a dump, or an object was removed.
pub(super) fn is_disturbed(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, NotFound, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock | NotFound)
}

/// The result of a dump.
#[must_use]
pub(super) enum Dump<T> {
    /// A consistent state from one moment.
    Whole(T),
    /// Others have committed in between (`NLM_F_DUMP_INTR`).
    Disturbed(T),
}

impl<T> Dump<T> {
    /// Returns the result, for callers that do not depend on it being undisturbed or know from
    /// elsewhere.
    pub(super) fn anyway(self) -> T {
        match self {
            Self::Whole(found) | Self::Disturbed(found) => found,
        }
    }

    fn map<U>(self, of: impl FnOnce(T) -> U) -> Dump<U> {
        match self {
            Self::Whole(found) => Dump::Whole(of(found)),
            Self::Disturbed(found) => Dump::Disturbed(of(found)),
        }
    }
}

/// Sends one request and passes on the answers.
pub(super) fn request(
    socket: &mut Socket,
    seq: &mut u32,
    kind: u16,
    flags: u16,
    family: u8,
    ask: impl FnOnce(&mut Writer),
    mut each: impl FnMut(Message<'_>),
) -> io::Result<Dump<()>> {
    *seq = seq.wrapping_add(1);
    let mut writer = Writer::default();
    let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
    let kind = wire::NFNL_SUBSYS_NFTABLES << 8 | kind;
    let flags = NLM_F_REQUEST | flags | if is_dump { 0 } else { NLM_F_ACK };
    let message = writer.message(kind, flags, *seq, family, 0);
    ask(&mut writer);
    writer.close_message(message);
    socket.send(writer.bytes())?;
    // An interrupted dump continues to its end, and is read to it, so that nothing stays queued.
    let mut interrupted = false;
    loop {
        let Some(bytes) = socket.receive()? else {
            return Err(io::Error::other("the kernel's answer is incomplete"));
        };
        debug_assert!(bytes.len() >= HEADER_LEN, "an answer is at least a header");
        let mut done = false;
        for message in messages(bytes).filter(|message| message.seq == *seq) {
            interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.errno().or_else(|| message.end_errno()) {
                Some(0) => done = true,
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                None => each(message),
            }
        }
        match (done, interrupted) {
            (true, false) => return Ok(Dump::Whole(())),
            (true, true) => return Ok(Dump::Disturbed(())),
            (false, _) => {}
        }
    }
}

/// Returns the deletions of these tables, which includes all their content.
pub(super) fn cleanup(tables: impl Iterator<Item = Family>) -> Vec<Op> {
    tables.map(|family| nft::Op::DeleteTable(family).into()).collect()
}
