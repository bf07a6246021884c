//! IPVS and nf_tables as one sink: IPVS chooses and translates, the rules do the rest.
//!
//! There is no transaction over both, so the order matters. The rules for a frontend exist before
//! IPVS serves it, and stay until IPVS no longer does: so no client is served that the rules would
//! reject, and a virtual server always has the element that marks it as ours. An address is bound
//! when its virtual servers are complete, and unbound before they are deleted. If our own rules
//! have translated so far, IPVS takes over in the other order: it is complete before the rules stop
//! translating.

use std::collections::BTreeSet;
use std::io;

use nix::libc::{EEXIST, ENOENT, ESRCH};
use rulec_compiler::ipvs::Draining;
use rulec_compiler::ipvs::{self, VirtualServer};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::nft::delta::{Delta, Group};
use rulec_compiler::nft::element::{Element, Key, Value};
use rulec_compiler::nft::op::Op;
use rulec_compiler::nft::state::State;
use rulec_engine::{DeltaBase, Outcome, Refusal, Sink, SinkError};

use super::{Ipvs, SchedulerError};

use crate::nft::NftSink;

/// Both, in the network namespace of the thread that opened them.
pub struct IpvsSink {
    nft: NftSink,
    ipvs: Ipvs,
}

/// An operation on IPVS and its owner.
type Owned<'a> = (Option<&'a NamespacedName>, &'a ipvs::Op);

/// A delta in the order in which it is executed.
#[derive(Debug, Default)]
struct Plan<'a> {
    /// Operations by which IPVS takes over from our rules.
    before: Vec<Owned<'a>>,
    /// Changes of rules that come before those of IPVS.
    rules: Delta,
    ipvs: Vec<Owned<'a>>,
    /// Deletions of rules that come after those of IPVS.
    rest: Delta,
}

impl IpvsSink {
    /// Combines the two.
    pub fn new(nft: NftSink, ipvs: Ipvs) -> Self {
        Self { nft, ipvs }
    }

    fn apply(
        &mut self,
        ops: &[Owned<'_>],
        base: DeltaBase,
        outcome: &mut Outcome,
    ) -> Result<(), SinkError> {
        let before = outcome.ops;
        // No address is bound and no server deleted if a server could not be completed.
        let is_first = |(_, op): &Owned<'_>| stage(op) == Stage::Complete;
        for part in ops.chunk_by(|one, next| is_first(one) == is_first(next)) {
            self.carry_out(part, base, outcome)?;
        }
        outcome.transactions += usize::from(outcome.ops > before);
        Ok(())
    }

    fn carry_out(
        &mut self,
        ops: &[Owned<'_>],
        base: DeltaBase,
        outcome: &mut Outcome,
    ) -> Result<(), SinkError> {
        let is_asked =
            |owner: Option<&NamespacedName>| owner.is_none_or(|owner| !is_refused(outcome, owner));
        let ops: Vec<&Owned<'_>> = ops.iter().filter(|(owner, _)| is_asked(*owner)).collect();
        let commands: Vec<ipvs::Op> = ops.iter().map(|(_, op)| (*op).clone()).collect();
        if commands.is_empty() {
            return Ok(());
        }
        let refused = self.ipvs.apply(&commands).map_err(SinkError::Unknown)?;
        outcome.ops += commands.len() - refused.len();
        for (place, error) in refused {
            let owner = ops.get(place).and_then(|(owner, _)| *owner);
            // Operations that depend on a refused one are refused, too, and are not reported again.
            if owner.is_some_and(|owner| is_refused(outcome, owner)) {
                continue;
            }
            let error = named(error, commands.get(place));
            // Something exists that we assumed absent, or the reverse.
            let is_mismatch = matches!(error.raw_os_error(), Some(ENOENT | EEXIST | ESRCH));
            if base == DeltaBase::Believed && is_mismatch {
                return Err(SinkError::Stale);
            }
            let Some(service) = owner else { return Err(SinkError::Refused(error)) };
            outcome.refused.push(Refusal { service: service.clone(), error });
        }
        Ok(())
    }

    fn rules(
        &mut self,
        mut delta: Delta,
        base: DeltaBase,
        outcome: &mut Outcome,
    ) -> Result<(), SinkError> {
        delta.groups.retain(|group| !is_refused(outcome, &group.service));
        if delta.is_empty() {
            return Ok(());
        }
        let done = self.nft.commit(&delta, base)?;
        outcome.transactions += done.transactions;
        outcome.ops += done.ops;
        outcome.bytes += done.bytes;
        outcome.refused.extend(done.refused);
        Ok(())
    }
}

impl Sink for IpvsSink {
    fn read(&mut self) -> Result<(State, DeltaBase), SinkError> {
        let (mut state, base) = self.nft.read()?;
        state.ipvs = self.ipvs.read().map_err(SinkError::Unavailable)?;
        Ok((state, base))
    }

    fn adopt(&mut self) -> Result<(State, DeltaBase), SinkError> {
        let (mut state, base) = self.nft.adopt()?;
        state.ipvs = self.ipvs.read().map_err(SinkError::Unavailable)?;
        Ok((state, base))
    }

    fn commit(&mut self, delta: &Delta, base: DeltaBase) -> Result<Outcome, SinkError> {
        let mut outcome = Outcome::default();
        let Plan { before, rules, ipvs, rest } = Plan::of(delta);
        // Only the first transaction can tell whether the tables are unchanged since they were
        // read.
        let base_of_rest = if rules.is_empty() { base } else { DeltaBase::Believed };
        self.apply(&before, base, &mut outcome)?;
        self.rules(rules, base, &mut outcome)?;
        self.apply(&ipvs, base, &mut outcome)?;
        self.rules(rest, base_of_rest, &mut outcome)?;
        Ok(outcome)
    }

    fn idle(&mut self, draining: &[Draining]) -> Result<Vec<Draining>, SinkError> {
        let servers: BTreeSet<VirtualServer> = draining.iter().map(|real| real.server).collect();
        let servers: Vec<VirtualServer> = servers.into_iter().collect();
        let kept = self.ipvs.connections(&servers).map_err(SinkError::Unavailable)?;
        let is_idle = |Draining { server, backend }: &&Draining| {
            kept.get(&(*server, *backend)).is_none_or(|count| *count == 0)
        };
        Ok(draining.iter().filter(is_idle).copied().collect())
    }
}

impl<'a> Plan<'a> {
    fn of(delta: &'a Delta) -> Self {
        let mut plan = Self::default();
        plan.rules.atomic = delta.atomic;
        for op in &delta.prelude {
            match op.as_ipvs() {
                Some(op) => plan.ipvs.push((None, op)),
                None => plan.rules.prelude.push(op.clone()),
            }
        }
        for op in &delta.epilogue {
            match op.as_ipvs() {
                Some(op) => plan.ipvs.push((None, op)),
                None => plan.rest.epilogue.push(op.clone()),
            }
        }
        for group in &delta.groups {
            plan.group(group, delta.atomic);
        }
        if delta.atomic {
            // The old table serves until the new one exists; both are in one transaction.
            plan.rules.epilogue.append(&mut plan.rest.epilogue);
        }
        for ops in [&mut plan.before, &mut plan.ipvs] {
            ops.sort_by_key(|(_, op)| stage(op));
        }
        plan
    }

    fn group(&mut self, group: &'a Group, is_atomic: bool) {
        let service = Some(&group.service);
        let takes_over = is_atomic || group.ops.iter().any(is_translating);
        let added: BTreeSet<Key> = group
            .ops
            .iter()
            .filter_map(|op| if let Op::Add(element) = op { Some(element.key) } else { None })
            .collect();
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for op in &group.ops {
            let is_last = |op: &Op| matches!(op, Op::Delete(element) if !is_atomic && !added.contains(&element.key));
            match op.as_ipvs() {
                Some(op) if takes_over && stage(op) < Stage::Unbind => {
                    self.before.push((service, op));
                }
                Some(op) => self.ipvs.push((service, op)),
                None if is_last(op) => last.push(op.clone()),
                None => first.push(op.clone()),
            }
        }
        for (part, ops) in [(&mut self.rules, first), (&mut self.rest, last)] {
            if !ops.is_empty() {
                part.groups.push(Group { service: group.service.clone(), ops });
            }
        }
    }
}

/// The order of operations on IPVS.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Complete,
    Bind,
    Unbind,
    Delete,
}

fn stage(op: &ipvs::Op) -> Stage {
    match op {
        ipvs::Op::AddServer(..)
        | ipvs::Op::SetServer(..)
        | ipvs::Op::AddReal(..)
        | ipvs::Op::SetReal(..) => Stage::Complete,
        ipvs::Op::Bind(_) => Stage::Bind,
        ipvs::Op::Unbind(_) => Stage::Unbind,
        ipvs::Op::DeleteReal(..) | ipvs::Op::DeleteServer(_) => Stage::Delete,
    }
}

/// Returns true if the operation makes our rules stop translating packets to a frontend.
fn is_translating(op: &Op) -> bool {
    matches!(op, Op::Delete(Element { key: Key::Service(..), value: Value::Pick(pick), .. })
        if pick.backends > 0)
}

/// Returns the error, replaced with a clearer one if the kernel lacks a scheduler.
fn named(error: io::Error, op: Option<&ipvs::Op>) -> io::Error {
    match op {
        Some(ipvs::Op::AddServer(_, attributes) | ipvs::Op::SetServer(_, attributes))
            if error.raw_os_error() == Some(ENOENT) =>
        {
            io::Error::other(SchedulerError::Absent(attributes.scheduling.scheduler))
        }
        Some(_) | None => error,
    }
}

fn is_refused(outcome: &Outcome, service: &NamespacedName) -> bool {
    outcome.refused.iter().any(|refusal| refusal.service == *service)
}

#[cfg(test)]
mod tests {
    use rulec_compiler::ipvs::{Attributes, RealServer, Scheduling};
    use rulec_compiler::net::{Backend, Protocol};
    use rulec_compiler::nft::Pick;
    use rulec_compiler::nft::pick::Clients;
    use rulec_compiler::nft::skeleton::View;

    use super::*;

    fn attributes() -> Attributes {
        Attributes { scheduling: Scheduling::default(), persistence: None }
    }

    fn server() -> VirtualServer {
        VirtualServer {
            address: [10, 96, 0, 1].into(),
            protocol: Protocol::Tcp,
            port: 80.try_into().unwrap(),
        }
    }

    fn backend(last: u8) -> Backend {
        Backend { address: [10, 244, 0, last].into(), port: 8080.try_into().unwrap() }
    }

    fn element(pick: Pick) -> Element {
        Element::new(Key::Service(View::Cluster, server().frontend()), Value::Pick(pick))
    }

    fn ours() -> Element {
        element(Pick::by_ipvs(Clients::Kept))
    }

    fn vip() -> Element {
        Element::new(Key::Vip(server().address), Value::Present)
    }

    fn delta(ops: &[Op]) -> Delta {
        let group = Group { service: NamespacedName::new("default", "web"), ops: ops.to_vec() };
        Delta { groups: vec![group], ..Delta::default() }
    }

    /// Returns the operations of the four steps.
    fn steps(delta: &Delta) -> [Vec<Op>; 4] {
        let Plan { before, rules, ipvs, rest } = Plan::of(delta);
        let of = |ops: Vec<Owned<'_>>| ops.iter().map(|(_, op)| Op::Ipvs((*op).clone())).collect();
        let all = |delta: &Delta| delta.ops().cloned().collect();
        [of(before), all(&rules), of(ipvs), all(&rest)]
    }

    fn complete() -> [Op; 2] {
        let real = ipvs::Op::AddReal(server(), backend(1), RealServer::ACTIVE);
        [ipvs::Op::AddServer(server(), attributes()), real].map(Op::Ipvs)
    }

    fn bind() -> Op {
        Op::Ipvs(ipvs::Op::Bind(server().address))
    }

    #[test]
    fn a_server_is_added_after_its_rules_and_before_its_address() {
        let [add, real] = complete();
        let (ours, vip) = (Op::Add(ours()), Op::Add(vip()));
        let ops = [ours.clone(), vip.clone(), bind(), add.clone(), real.clone()];
        let expected = [vec![], vec![ours, vip], vec![add, real, bind()], vec![]];
        assert_eq!(steps(&delta(&ops)), expected);
    }

    #[test]
    fn an_address_is_removed_before_its_server_and_its_rules() {
        let delete = Op::Ipvs(ipvs::Op::DeleteServer(server()));
        let unbind = Op::Ipvs(ipvs::Op::Unbind(server().address));
        let (ours, vip) = (Op::Delete(ours()), Op::Delete(vip()));
        let ops = [ours.clone(), vip.clone(), delete.clone(), unbind.clone()];
        let expected = [vec![], vec![], vec![unbind, delete], vec![ours, vip]];
        assert_eq!(steps(&delta(&ops)), expected);
    }

    #[test]
    fn real_servers_are_added_before_others_are_removed() {
        let gone = Op::Ipvs(ipvs::Op::DeleteReal(server(), backend(2)));
        let [_, real] = complete();
        let expected = [vec![], vec![], vec![real.clone(), gone.clone()], vec![]];
        assert_eq!(steps(&delta(&[gone, real])), expected);
    }

    #[test]
    fn ipvs_is_complete_before_nftables_rules_hand_over() {
        let pick = Pick { clients: Clients::Kept, affinity: None, backends: 3 };
        let [add, real] = complete();
        let flip = [Op::Delete(element(pick)), Op::Add(ours()), Op::Add(vip())];
        let ops = [&flip[..], &[bind(), add.clone(), real.clone()]].concat();
        let expected = [vec![add, real, bind()], flip.to_vec(), vec![], vec![]];
        assert_eq!(steps(&delta(&ops)), expected);
    }

    #[test]
    fn a_table_is_replaced_in_one_transaction() {
        let [add, real] = complete();
        let ops = [Op::Delete(vip()), Op::Add(ours()), add.clone(), real.clone()];
        let delta = Delta { atomic: true, ..delta(&ops) };
        let expected = [vec![add, real], ops[..2].to_vec(), vec![], vec![]];
        assert_eq!(steps(&delta), expected);
        assert!(Plan::of(&delta).rules.atomic);
    }
}
