//! Packs the steps of a delta into transactions: of limited time, and cut at the boundaries of
//! Services, or between the pieces of a Service that takes too long for one transaction.

use std::time::Duration;

use rulec_compiler::delta::{Pieces, Step};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Op, Stage};

use super::cost;

/// The part of a step that one transaction commits.
#[derive(Debug, Default)]
pub(super) struct Part<'a> {
    /// Operations that belong to no Service, before the groups.
    pub(super) shared: Vec<&'a Op>,
    /// Operations of Services: all that a Service has in this step, or some pieces of it.
    pub(super) groups: Vec<(&'a NamespacedName, Vec<&'a Op>)>,
}

impl<'a> Part<'a> {
    fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.groups.is_empty()
    }

    /// Splits the part into two or more, for a kernel that does not accept as much at once.
    /// Services stay whole if possible, and operations that belong to no Service keep their order.
    ///
    /// # Errors
    ///
    /// If it is a single operation, or a single piece of a Service, which is then named.
    pub(super) fn split(self) -> Result<Vec<Self>, Option<NamespacedName>> {
        let Self { shared, groups } = self;
        let only = match &groups[..] {
            [(service, _)] if shared.is_empty() => Some((*service).clone()),
            _ => None,
        };
        let of_groups = groups.iter().flat_map(|(_, ops)| ops);
        let all: Duration = shared.iter().chain(of_groups).map(|op| cost::of(op)).sum();
        let mut packer = Packer::new(all / 2);
        packer.each(shared);
        groups.into_iter().for_each(|(service, ops)| packer.group(service, ops));
        let parts = packer.finish();
        if parts.len() > 1 { Ok(parts) } else { Err(only) }
    }
}

/// Packs a step into transactions. If it is `atomic`, it is not cut.
pub(super) fn parts<'a>(step: Step<'a>, atomic: bool) -> Vec<Part<'a>> {
    let Step { stage, shared, groups } = step;
    let most = if atomic { Duration::MAX } else { cost::TRANSACTION };
    let mut packer = Packer::new(most);
    match stage {
        // Packets pass through the chains that change.
        Stage::Switch => packer.together(shared.iter().collect()),
        Stage::Prepare | Stage::Retire => packer.each(shared),
    }
    for (service, ops) in groups {
        packer.group(service, ops.iter().collect());
    }
    packer.finish()
}

/// Fills one part after the other.
struct Packer<'a> {
    /// The time that a part may take.
    most: Duration,
    /// The parts that are full.
    parts: Vec<Part<'a>>,
    part: Part<'a>,
    /// The time that is left of the part.
    room: Duration,
}

impl<'a> Packer<'a> {
    fn new(most: Duration) -> Self {
        Self { most, parts: Vec::new(), part: Part::default(), room: most }
    }

    /// Adds operations that belong to no Service, all to the same part.
    fn together(&mut self, shared: Vec<&'a Op>) {
        self.make_room(time(&shared));
        self.part.shared = shared;
    }

    /// Adds operations that belong to no Service.
    fn each(&mut self, shared: impl IntoIterator<Item = &'a Op>) {
        for op in shared {
            self.make_room(cost::of(op));
            self.part.shared.push(op);
        }
    }

    /// Adds the operations of a Service: to the same part, if one can hold them.
    fn group(&mut self, service: &'a NamespacedName, ops: Vec<&'a Op>) {
        let time = time(&ops);
        if time <= self.most {
            self.make_room(time);
            self.part.groups.push((service, ops));
            return;
        }
        for piece in Pieces::of(&ops).iter() {
            self.make_room(self::time(piece));
            match self.part.groups.last_mut() {
                Some((last, ops)) if *last == service => ops.extend(piece),
                Some(_) | None => self.part.groups.push((service, piece.to_vec())),
            }
        }
    }

    /// Begins the next part if this one has no room for what takes so long.
    fn make_room(&mut self, time: Duration) {
        if time > self.room && !self.part.is_empty() {
            self.parts.push(std::mem::take(&mut self.part));
            self.room = self.most;
        }
        self.room = self.room.saturating_sub(time);
    }

    fn finish(mut self) -> Vec<Part<'a>> {
        if !self.part.is_empty() {
            self.parts.push(self.part);
        }
        self.parts
    }
}

fn time(ops: &[&Op]) -> Duration {
    ops.iter().map(|op| cost::of(op)).sum()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rulec_compiler::Frontend;
    use rulec_compiler::net::{Backend, Family, Protocol};
    use rulec_compiler::nft::code::{Class, GroupId};
    use rulec_compiler::nft::element::{Element, Key, Value};
    use rulec_compiler::nft::size::Size;
    use rulec_compiler::nft::{self, Clients, Code};

    use super::*;

    /// The number of additions that one transaction holds.
    fn most() -> usize {
        let time = cost::of(&Op::add(endpoint(0, 1)));
        usize::try_from(cost::TRANSACTION.as_nanos() / time.as_nanos()).unwrap()
    }

    fn frontend() -> Frontend {
        let address: SocketAddr = "10.96.0.1:80".parse().unwrap();
        Frontend::Address {
            address: address.ip(),
            protocol: Protocol::Tcp,
            port: address.port().try_into().unwrap(),
        }
    }

    fn endpoint(slot: u32, port: u16) -> Element {
        let address = [10, 244, 0, 1].into();
        let backend = Backend { address, port: port.try_into().unwrap() };
        let key = Key::Endpoint(Family::Ipv4, group(), Protocol::Tcp, slot);
        Element::new(key, Value::Backend(backend))
    }

    fn group() -> GroupId {
        GroupId::new(1).unwrap()
    }

    fn head(backends: u32) -> Element {
        let size = Size::of(usize::try_from(backends).unwrap()).unwrap();
        let class = Class::Random(size);
        let code = Code { group: group(), clients: Clients::Internal, class };
        Element::new(Key::Service(frontend()), Value::Code(code))
    }

    fn slots() -> std::ops::Range<u32> {
        0..u32::try_from(3 * most()).unwrap()
    }

    fn web() -> NamespacedName {
        NamespacedName::new("default", "web")
    }

    fn step<'a>(
        stage: Stage,
        shared: &'a [Op],
        groups: Vec<(&'a NamespacedName, &'a [Op])>,
    ) -> Step<'a> {
        Step { stage, shared, groups }
    }

    /// Returns the numbers of operations of each part: those of no Service, and those of Services.
    fn sizes<'a>(parts: impl IntoIterator<Item = Part<'a>>) -> Vec<(usize, Vec<usize>)> {
        let of = |part: Part<'_>| {
            (part.shared.len(), part.groups.iter().map(|(_, ops)| ops.len()).collect())
        };
        parts.into_iter().map(of).collect()
    }

    /// Cuts the operations of one Service in a step.
    fn cut(ops: &[Op]) -> Vec<Vec<Op>> {
        let service = web();
        let step = step(Stage::Switch, &[], vec![(&service, ops)]);
        let ops = |part: Part<'_>| {
            part.groups.into_iter().flat_map(|(_, ops)| ops).cloned().collect::<Vec<Op>>()
        };
        parts(step, false).into_iter().map(ops).collect()
    }

    #[test]
    fn a_step_is_cut_between_services_unless_it_is_atomic() {
        let service = web();
        let half = most() / 2 - 10;
        let shared = vec![nft::Op::AddTable(Family::Ipv4).into(); 2];
        let ops: Vec<Op> = (0..).map(|slot| Op::add(endpoint(slot, 1))).take(half).collect();
        let step = || step(Stage::Switch, &shared, vec![(&service, &ops[..]); 5]);
        let of = |atomic| sizes(parts(step(), atomic));
        assert_eq!(of(false), [(2, vec![half; 2]), (0, vec![half; 2]), (0, vec![half])]);
        assert_eq!(of(true), [(2, vec![half; 5])]);
    }

    #[test]
    fn a_service_that_fits_is_one_transaction_in_its_own_order() {
        let ops = [Op::add(head(1)), Op::add(endpoint(0, 1))];
        assert_eq!(cut(&ops), [ops]);
    }

    #[test]
    fn a_large_new_service_is_cut_and_its_frontend_switches_last() {
        let endpoints = slots().map(|slot| Op::add(endpoint(slot, 1)));
        let ops: Vec<Op> = std::iter::once(Op::add(head(slots().end))).chain(endpoints).collect();
        let parts = cut(&ops);
        assert_eq!(parts.len(), 4);
        assert!(parts.iter().all(|part| part.len() <= most()));
        assert_eq!(parts.last().unwrap().last(), Some(&ops[0]));
    }

    #[test]
    fn a_large_service_that_goes_stops_serving_before_its_endpoints_go() {
        let endpoints = slots().map(|slot| Op::delete(endpoint(slot, 1)));
        let ops: Vec<Op> =
            endpoints.chain(std::iter::once(Op::delete(head(slots().end)))).collect();
        let parts = cut(&ops);
        assert!(parts.len() > 1);
        assert_eq!(parts[0][0], *ops.last().unwrap());
    }

    #[test]
    fn a_slot_changes_its_backend_in_one_transaction() {
        let changed = |slot| [Op::delete(endpoint(slot, 1)), Op::add(endpoint(slot, 2))];
        let ops: Vec<Op> = slots().flat_map(changed).collect();
        let parts = cut(&ops);
        assert!(parts.len() > 3);
        for part in &parts {
            assert!(part.first().unwrap().deleted().is_some(), "the other half is elsewhere");
        }
        assert_eq!(parts.concat(), ops);
    }

    #[test]
    fn operations_of_no_service_are_cut_where_nothing_leads_to_them() {
        let shared: Vec<Op> = vec![nft::Op::AddTable(Family::Ipv4).into(); 1_500];
        let of = |stage| parts(step(stage, &shared, Vec::new()), false).len();
        assert_eq!(of(Stage::Prepare), 2);
        assert_eq!(of(Stage::Switch), 1);
        assert_eq!(of(Stage::Retire), 2);
    }

    #[test]
    fn a_part_that_is_too_large_is_split_down_to_a_single_piece_or_operation() {
        let service = web();
        let ops: Vec<Op> = (0..4).map(|slot| Op::add(endpoint(slot, 1))).collect();
        let part = |shared, n| Part {
            shared: ops.iter().take(shared).collect(),
            groups: vec![(&service, ops.iter().collect()); n],
        };
        let split = |part: Part<'_>| part.split().map(sizes);
        assert_eq!(split(part(4, 3)), Ok(vec![(4, vec![4]), (0, vec![4, 4])]));
        assert_eq!(split(part(4, 1)), Ok(vec![(4, vec![]), (0, vec![4])]));
        assert_eq!(split(part(4, 0)), Ok(vec![(2, vec![]), (2, vec![])]));
        assert_eq!(split(part(0, 1)), Ok(vec![(0, vec![2]), (0, vec![2])]));
        assert_eq!(split(part(1, 0)), Err(None));
        let whole = [Op::add(head(1)), Op::delete(endpoint(0, 1)), Op::add(endpoint(0, 2))];
        let groups = vec![(&service, whole.iter().collect())];
        assert_eq!(split(Part { shared: Vec::new(), groups }), Err(Some(service.clone())));
    }
}
