//! Packs a delta into transactions: at the boundaries of Services, of limited size, and never with
//! operations of two steps (see `rulec_compiler::nft::stage`).

use std::borrow::Cow;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::nft::delta::{Delta, Group};
use rulec_compiler::nft::op::Op;
use rulec_compiler::nft::stage::Step;

/// The approximate maximum number of operations in a transaction, so that it holds the kernel's
/// lock for less than about 10 ms; other users of nf_tables, and packets on this CPU, wait during
/// that time.
const TRANSACTION_OPS: usize = 8_000;

/// The part of a delta that one transaction commits.
pub(super) struct Part<'a> {
    /// True for the first part of a delta.
    pub(super) is_first: bool,
    /// Operations that belong to no Service, before the groups.
    pub(super) head: &'a [Op],
    /// Operations of Services.
    pub(super) groups: Vec<Cow<'a, Group>>,
    /// Operations that belong to no Service, after the groups.
    pub(super) tail: &'a [Op],
}

impl<'a> Part<'a> {
    fn next() -> Self {
        Self { is_first: false, head: &[], groups: Vec::new(), tail: &[] }
    }

    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.groups.is_empty() && self.tail.is_empty()
    }

    /// Splits the part into several, for a kernel that does not accept as much at once. Services
    /// stay whole, and operations that belong to no Service keep their order.
    ///
    /// # Errors
    ///
    /// If it is a single operation or a single Service, which is then named.
    pub(super) fn halves(self) -> Result<Vec<Self>, Option<NamespacedName>> {
        let Self { is_first, head, mut groups, tail } = self;
        let middle = |ops: &'a [Op]| ops.split_at(ops.len() / 2);
        let of = |head, groups, tail| Self { is_first: false, head, groups, tail };
        let mut parts = if groups.len() > 1 {
            let rest = groups.split_off(groups.len() / 2);
            vec![of(head, groups, &[]), of(&[], rest, tail)]
        } else if groups.is_empty() && head.len() > 1 {
            let (first, second) = middle(head);
            vec![of(first, groups, &[]), of(second, Vec::new(), tail)]
        } else if groups.is_empty() && head.is_empty() && tail.len() > 1 {
            let (first, second) = middle(tail);
            vec![of(&[], groups, first), of(&[], Vec::new(), second)]
        } else if head.is_empty() && tail.is_empty() {
            return Err(groups.pop().map(|group| group.service.clone()));
        } else {
            vec![of(head, Vec::new(), &[]), of(&[], groups, &[]), of(&[], Vec::new(), tail)]
        };
        parts.retain(|part| !part.is_empty());
        if let [only] = &parts[..]
            && only.head.len() + only.tail.len() == 1
        {
            return Err(None);
        }
        if let Some(first) = parts.first_mut() {
            first.is_first = is_first;
        }
        Ok(parts)
    }
}

/// Packs a delta into transactions.
pub(super) fn parts(delta: &Delta) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for Step { head, groups, tail } in delta.steps() {
        let mut part = Part { head, ..Part::next() };
        // If a table is replaced, Services would be away between two transactions.
        let most = if delta.atomic { usize::MAX } else { TRANSACTION_OPS };
        let mut room = most.saturating_sub(head.len());
        for group in groups {
            if group.ops.len() > room && !part.is_empty() {
                parts.push(std::mem::replace(&mut part, Part::next()));
                room = most;
            }
            room = room.saturating_sub(group.ops.len());
            part.groups.push(group);
        }
        if tail.len() > room && !part.is_empty() {
            parts.push(std::mem::replace(&mut part, Part::next()));
        }
        part.tail = tail;
        parts.push(part);
    }
    if let Some(first) = parts.first_mut() {
        first.is_first = true;
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use rulec_compiler::frontend::Frontend;
    use rulec_compiler::name::NamespacedName;
    use rulec_compiler::net::{Backend, Family, Protocol};
    use rulec_compiler::nft::element::{Element, Key, Value};
    use rulec_compiler::nft::pick::{Clients, Pick};
    use rulec_compiler::nft::skeleton::{ChainId, Scope, View};

    use super::*;

    fn port() -> NonZeroU16 {
        NonZeroU16::new(80).unwrap()
    }

    fn frontend() -> Frontend {
        Frontend::Address {
            address: IpAddr::from([10, 96, 0, 1]),
            protocol: Protocol::Tcp,
            port: port(),
        }
    }

    fn pick(backends: u32) -> Pick {
        Pick { clients: Clients::Kept, affinity: None, backends }
    }

    fn code(backends: u32) -> Element {
        Element::new(Key::Service(View::Cluster, frontend()), Value::Pick(pick(backends)))
    }

    fn slot(slot: u32, last: u8) -> Element {
        let backend = Backend { address: IpAddr::from([10, 244, 0, last]), port: port() };
        Element::new(Key::Endpoint(View::Cluster, frontend(), slot), Value::Backend(backend))
    }

    fn delta(prelude: Vec<Op>, ops: Vec<Op>) -> Delta {
        let group = Group { service: NamespacedName::new("default", "web"), ops };
        Delta { prelude, groups: vec![group], ..Delta::default() }
    }

    /// Returns the operations of each transaction.
    fn cut(delta: &Delta) -> Vec<Vec<Op>> {
        parts(delta)
            .iter()
            .map(|part| {
                let groups = part.groups.iter().flat_map(|group| group.ops.clone());
                part.head.iter().cloned().chain(groups).chain(part.tail.iter().cloned()).collect()
            })
            .collect()
    }

    #[test]
    fn adding_an_endpoint_is_one_transaction() {
        let ops = vec![Op::Delete(code(2)), Op::Add(code(3)), Op::Add(slot(2, 3))];
        assert_eq!(cut(&delta(Vec::new(), ops.clone())), [ops]);
    }

    #[test]
    fn a_slot_is_removed_after_the_pick_code_that_uses_it() {
        let ops = vec![
            Op::Delete(code(3)),
            Op::Add(code(2)),
            Op::Delete(slot(0, 1)),
            Op::Add(slot(0, 3)),
            Op::Delete(slot(2, 3)),
        ];
        let transactions = cut(&delta(Vec::new(), ops.clone()));
        assert_eq!(transactions, [ops[..4].to_vec(), ops[4..].to_vec()]);
    }

    #[test]
    fn a_replacement_is_one_transaction() {
        let ops = vec![Op::Delete(slot(0, 1)), Op::Add(slot(0, 9))];
        assert_eq!(cut(&delta(Vec::new(), ops.clone())), [ops]);
    }

    #[test]
    fn a_rejection_is_removed_after_its_replacement_serves() {
        let reject = Element::new(Key::Reject(frontend()), Value::Present);
        let ops = vec![Op::Delete(reject), Op::Add(code(1)), Op::Add(slot(0, 1))];
        let transactions = cut(&delta(Vec::new(), ops.clone()));
        assert_eq!(transactions, [ops[1..].to_vec(), ops[..1].to_vec()]);
    }

    /// A change from policy Local to policy Cluster, and the removal of the only local endpoint.
    #[test]
    fn the_local_view_is_removed_after_its_references() {
        let local_slot = |slot: u32, last: u8| {
            let backend = Backend { address: IpAddr::from([10, 244, 0, last]), port: port() };
            let key = Key::Endpoint(View::Local, frontend(), slot);
            Op::Delete(Element::new(key, Value::Backend(backend)))
        };
        let value = |clients| Value::Pick(Pick { clients, ..pick(1) });
        let cluster =
            |clients| Element::new(Key::Service(View::Cluster, frontend()), value(clients));
        let key = Key::Service(View::Local, frontend());
        let local = Op::Delete(Element::new(key, value(Clients::Kept)));
        let flip = vec![
            Op::Delete(cluster(Clients::Split)),
            Op::Add(cluster(Clients::Masqueraded)),
            local.clone(),
            local_slot(0, 1),
        ];
        let transactions = cut(&delta(Vec::new(), flip.clone()));
        assert_eq!(transactions, [flip[..2].to_vec(), flip[2..].to_vec()]);
        let last = vec![local, local_slot(0, 1)];
        let transactions = cut(&delta(Vec::new(), last.clone()));
        assert_eq!(transactions, [last[..1].to_vec(), last[1..].to_vec()]);
    }

    #[test]
    fn ranges_are_removed_after_the_restriction() {
        let range = Key::SourceRange(frontend(), "10.0.0.0/8".parse().unwrap());
        let delete = |key| Op::Delete(Element::new(key, Value::Present));
        let open = vec![delete(Key::Firewalled(frontend())), delete(range)];
        let transactions = cut(&delta(Vec::new(), open.clone()));
        assert_eq!(transactions, [open[..1].to_vec(), open[1..].to_vec()]);
        let fewer = vec![delete(range)];
        assert_eq!(cut(&delta(Vec::new(), fewer.clone())), [fewer]);
    }

    #[test]
    fn ranges_are_added_before_the_restriction() {
        let range = |text: &str| Key::SourceRange(frontend(), text.parse().unwrap());
        let add = |key| Op::Add(Element::new(key, Value::Present));
        let restrict = add(Key::Firewalled(frontend()));
        let wide = add(range("10.0.0.0/8"));
        // A new frontend is restricted from the start.
        let ops = vec![Op::Add(code(1)), Op::Add(slot(0, 1)), restrict.clone(), wide.clone()];
        let transactions = cut(&delta(Vec::new(), ops.clone()));
        assert_eq!(transactions, [ops[3..].to_vec(), ops[..3].to_vec()]);
        let more = vec![wide.clone()];
        assert_eq!(cut(&delta(Vec::new(), more.clone())), [more]);
        // In a new table, no packet waits.
        let prelude = vec![Op::AddTable(Family::Ipv4)];
        assert_eq!(cut(&delta(prelude, ops)).len(), 1);
        // Ranges that others have left there may overlap.
        let left = Op::Delete(Element::new(range("10.0.0.0/9"), Value::Present));
        let ops = vec![left, restrict, wide];
        assert_eq!(cut(&delta(Vec::new(), ops.clone())), [ops]);
    }

    #[test]
    fn a_service_is_removed_in_one_transaction() {
        let ops = vec![Op::Delete(code(1)), Op::Delete(slot(0, 1))];
        assert_eq!(cut(&delta(Vec::new(), ops.clone())), [ops]);
    }

    #[test]
    fn a_restricted_service_is_removed_in_one_transaction() {
        let range = Key::SourceRange(frontend(), "10.0.0.0/8".parse().unwrap());
        let delete = |key| Op::Delete(Element::new(key, Value::Present));
        let restriction = [delete(Key::Firewalled(frontend())), delete(range)];
        let refused = delete(Key::Reject(frontend()));
        for served in [vec![Op::Delete(code(1)), Op::Delete(slot(0, 1))], vec![refused.clone()]] {
            let ops = [served, restriction.to_vec()].concat();
            assert_eq!(cut(&delta(Vec::new(), ops.clone())), [ops]);
        }
        // The end of a rejection is a different case.
        let ops = [vec![refused, Op::Add(code(1))], restriction.to_vec()].concat();
        let [refused, code, restriction, range] = [0, 1, 2, 3].map(|index| ops[index].clone());
        let transactions = cut(&delta(Vec::new(), ops));
        assert_eq!(transactions, [vec![code, restriction], vec![refused, range]]);
    }

    #[test]
    fn a_chain_is_complete_before_it_is_used() {
        let chain = ChainId::Pick(Scope::Address, View::Cluster, pick(3));
        let key = Key::Pick(Family::Ipv4, Scope::Address, View::Cluster, pick(3));
        let prelude = vec![
            Op::AddChain(Family::Ipv4, chain),
            Op::FillChain(Family::Ipv4, chain),
            Op::Add(Element::new(key, Value::Goto)),
        ];
        let ops = vec![Op::Delete(code(2)), Op::Add(code(3)), Op::Add(slot(2, 3))];
        let transactions = cut(&delta(prelude.clone(), ops.clone()));
        assert_eq!(transactions, [prelude, ops]);
    }

    #[test]
    fn a_first_install_is_cut_by_size_only() {
        let mut first = delta(vec![Op::AddTable(Family::Ipv4)], vec![Op::Add(code(1))]);
        assert_eq!(cut(&first).len(), 1);
        let group = first.groups[0].clone();
        first.groups = vec![group; 2 * TRANSACTION_OPS];
        assert_eq!(cut(&first).len(), 3);
    }
}
