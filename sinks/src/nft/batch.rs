//! One transaction as bytes, with the operation that each message stands for.

use rulec_compiler::Op;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::nft;
use rulec_compiler::nft::element::{Element, Value};
use rulec_compiler::nft::ruleset::{self, TABLE};
use rulec_compiler::nft::set::SetId;

use super::objects;
use super::transactions::Part;
use super::wire::{self, nfproto};
use crate::netlink::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Open, Writer};

/// The size limit for the elements in one message: their attribute's length has 16 bits.
const ELEMENTS_BYTES: usize = 60_000;

/// A transaction under construction. It is reused, so that a small transaction allocates nothing.
#[derive(Default)]
pub(super) struct Batch {
    writer: Writer,
    /// The sequence number of the first message.
    first_seq: u32,
    next_seq: u32,
    /// The messages in order, each by the Service that its operations belong to.
    messages: Vec<Option<NamespacedName>>,
    last: Option<Open>,
    open: Option<OpenElements>,
    n_ops: usize,
}

/// A message of elements to which more can be added.
struct OpenElements {
    message: Open,
    list: Open,
    family: Family,
    set: SetId,
    is_add: bool,
    service: Option<NamespacedName>,
}

impl Batch {
    /// Starts a transaction. If a generation is given, the kernel refuses the transaction
    /// (ERESTART) if anything has changed since.
    pub(super) fn begin(&mut self, seq: u32, generation: Option<u32>) {
        self.writer.clear();
        self.messages.clear();
        self.last = None;
        self.open = None;
        self.n_ops = 0;
        self.first_seq = seq.wrapping_add(1);
        self.next_seq = self.first_seq;
        let begin = self.control(wire::NFNL_MSG_BATCH_BEGIN, seq);
        if let Some(generation) = generation {
            self.writer.be32(wire::NFNL_BATCH_GENID, generation);
        }
        self.writer.close_message(begin);
    }

    /// Adds the operations of a part.
    pub(super) fn put(&mut self, part: &Part<'_>, mark: u32, table_flags: u32) {
        let Part { shared, groups } = part;
        self.push(None, shared.iter().copied(), mark, table_flags);
        for (service, ops) in groups {
            self.push(Some(service), ops.iter().copied(), mark, table_flags);
        }
    }

    /// Adds operations of one Service, or of none.
    pub(super) fn push<'a>(
        &mut self,
        service: Option<&NamespacedName>,
        ops: impl IntoIterator<Item = &'a Op>,
        mark: u32,
        table_flags: u32,
    ) {
        for op in ops {
            let Some(op) = op.as_nft() else { continue };
            self.n_ops += 1;
            match op {
                nft::Op::Add(element) => self.element(service, element, true),
                nft::Op::Delete(element) => self.element(service, element, false),
                nft::Op::AddTable(family) => self.add_table(*family, table_flags),
                nft::Op::DeleteTable(family) => {
                    self.whole(|seq| objects::delete_table(*family, seq));
                }
                nft::Op::AddSet(family, set) => {
                    self.whole(|seq| objects::add_set(*family, *set, seq))
                }
                nft::Op::DeleteSet(family, set) => {
                    self.whole(|seq| objects::delete_set(*family, *set, seq));
                }
                nft::Op::AddChain(family, chain) => {
                    self.whole(|seq| objects::add_chain(*family, *chain, seq));
                }
                nft::Op::FlushChain(family, chain) => {
                    self.whole(|seq| objects::flush_chain(*family, *chain, seq));
                }
                nft::Op::DeleteChain(family, chain) => {
                    self.whole(|seq| objects::delete_chain(*family, *chain, seq));
                }
                nft::Op::FillChain(family, chain) => {
                    for rule in ruleset::rules(*chain) {
                        self.whole(|seq| objects::add_rule(*family, *chain, mark, &rule, seq));
                    }
                }
            }
        }
    }

    /// Creates a table with these flags, or takes it over.
    pub(super) fn add_table(&mut self, family: Family, flags: u32) {
        self.whole(|seq| objects::add_table(family, flags, seq));
    }

    /// Completes the transaction and returns its bytes, to be sent in one call. Only the last
    /// message requests an acknowledgement, which all kernels send (the end of a batch is
    /// acknowledged only since 6.10).
    pub(super) fn finish(&mut self) -> &[u8] {
        self.close_elements();
        if let Some(last) = self.last {
            self.writer.add_flags(last, NLM_F_ACK);
        }
        let end = self.control(wire::NFNL_MSG_BATCH_END, self.next_seq);
        self.writer.close_message(end);
        self.writer.bytes()
    }

    /// Returns the bytes of a complete transaction.
    pub(super) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// Returns the sequence number after this transaction.
    pub(super) fn end_seq(&self) -> u32 {
        self.next_seq.wrapping_add(1)
    }

    /// Returns the sequence number of the message that is acknowledged.
    pub(super) fn ack_seq(&self) -> u32 {
        self.next_seq.wrapping_sub(1)
    }

    /// Returns true if a message of this transaction, its begin or its end has this sequence
    /// number.
    pub(super) fn contains(&self, seq: u32) -> bool {
        let begin = self.first_seq.wrapping_sub(1);
        seq.wrapping_sub(begin) <= self.next_seq.wrapping_sub(begin)
    }

    /// Returns the Service that the operations in the message with this sequence number belong to:
    /// `None` if there is no such message, `Some(None)` if they belong to no Service.
    pub(super) fn service(&self, seq: u32) -> Option<Option<&NamespacedName>> {
        let position = usize::try_from(seq.wrapping_sub(self.first_seq)).ok()?;
        self.messages.get(position).map(Option::as_ref)
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.writer.len()
    }

    pub(super) fn n_ops(&self) -> usize {
        self.n_ops
    }

    fn control(&mut self, kind: u16, seq: u32) -> Open {
        self.writer.message(kind, NLM_F_REQUEST, seq, 0, wire::NFNL_SUBSYS_NFTABLES)
    }

    fn whole(&mut self, build: impl FnOnce(u32) -> Vec<u8>) {
        self.close_elements();
        let message = self.writer.raw(&build(self.next_seq));
        self.writer.add_flags(message, NLM_F_REQUEST);
        self.sent(message, None);
    }

    fn sent(&mut self, message: Open, service: Option<NamespacedName>) {
        self.messages.push(service);
        self.last = Some(message);
        self.next_seq = self.next_seq.wrapping_add(1);
    }

    fn element(&mut self, service: Option<&NamespacedName>, element: &Element, is_add: bool) {
        let (family, set) = (element.key.family(), element.key.set());
        let joins = self.open.as_ref().is_some_and(|open| {
            (open.family, open.set, open.is_add, open.service.as_ref())
                == (family, set, is_add, service)
                && self.writer.len_since(open.list) < ELEMENTS_BYTES
        });
        if !joins {
            self.close_elements();
            self.open_elements(family, set, is_add, service.cloned());
        }
        write_element(&mut self.writer, element, is_add);
    }

    fn open_elements(
        &mut self,
        family: Family,
        set: SetId,
        is_add: bool,
        service: Option<NamespacedName>,
    ) {
        let (kind, flags) = if is_add {
            (wire::NEWSETELEM, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL)
        } else {
            (wire::DELSETELEM, NLM_F_REQUEST)
        };
        let kind = wire::NFNL_SUBSYS_NFTABLES << 8 | kind;
        let message = self.writer.message(kind, flags, self.next_seq, nfproto(family), 0);
        self.writer.text(wire::NFTA_SET_ELEM_LIST_TABLE, TABLE);
        self.writer.text(wire::NFTA_SET_ELEM_LIST_SET, &set.name());
        let list = self.writer.nest(wire::NFTA_SET_ELEM_LIST_ELEMENTS);
        self.open = Some(OpenElements { message, list, family, set, is_add, service });
    }

    fn close_elements(&mut self) {
        if let Some(open) = self.open.take() {
            self.writer.close_nest(open.list);
            self.writer.close_message(open.message);
            self.sent(open.message, open.service);
        }
    }
}

fn write_element(writer: &mut Writer, element: &Element, is_add: bool) {
    let one = |writer: &mut Writer, key: &[u8], flags: Option<u32>| {
        let outer = writer.nest(wire::NFTA_LIST_ELEM);
        let nest = writer.nest(wire::NFTA_SET_ELEM_KEY);
        writer.attribute(wire::NFTA_DATA_VALUE, key);
        writer.close_nest(nest);
        if let Some(flags) = flags {
            writer.be32(wire::NFTA_SET_ELEM_FLAGS, flags);
        }
        if is_add && flags.is_none() {
            write_value(writer, element);
        }
        writer.close_nest(outer);
    };
    one(writer, &wire::key(element.key), None);
    if let Some(end) = wire::range_end(element.key) {
        one(writer, &end, Some(wire::NFT_SET_ELEM_INTERVAL_END));
    }
}

fn write_value(writer: &mut Writer, element: &Element) {
    if let Some(value) = wire::value(element.value) {
        let nest = writer.nest(wire::NFTA_SET_ELEM_DATA);
        writer.attribute(wire::NFTA_DATA_VALUE, &value);
        writer.close_nest(nest);
    }
    if let Value::Goto(chain) = element.value {
        let nest = writer.nest(wire::NFTA_SET_ELEM_DATA);
        let verdict = writer.nest(wire::NFTA_DATA_VERDICT);
        writer.be32(wire::NFTA_VERDICT_CODE, wire::NFT_GOTO);
        writer.text(wire::NFTA_VERDICT_CHAIN, &chain.to_string());
        writer.close_nest(verdict);
        writer.close_nest(nest);
    }
    if let Some(comment) = &element.comment {
        let userdata = wire::comment(&comment.to_string());
        writer.attribute(wire::NFTA_SET_ELEM_USERDATA, &userdata);
    }
    if element.is_counted {
        let nest = writer.nest(wire::NFTA_SET_ELEM_EXPR);
        writer.text(wire::NFTA_EXPR_NAME, wire::COUNTER);
        writer.close_nest(nest);
    }
}
