//! Packs the steps of a delta into transactions: of limited size, and cut at the boundaries of
//! Services.

use rulec_compiler::Op;
use rulec_compiler::delta::Step;
use rulec_compiler::name::NamespacedName;

/// The approximate maximum number of operations in a transaction, so that it holds the kernel's
/// lock for less than about 10 ms; other users of nf_tables, and packets on this CPU, wait during
/// that time.
const TRANSACTION_OPS: usize = 8_000;

/// The part of a step that one transaction commits.
#[derive(Debug, Default)]
pub(super) struct Part<'a> {
    /// Operations that belong to no Service, before the groups.
    pub(super) shared: &'a [Op],
    /// Operations of Services.
    pub(super) groups: Vec<(&'a NamespacedName, &'a [Op])>,
}

impl<'a> Part<'a> {
    fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.groups.is_empty()
    }

    /// Splits the part into two, for a kernel that does not accept as much at once. Services stay
    /// whole, and operations that belong to no Service keep their order.
    ///
    /// # Errors
    ///
    /// If it is a single operation or a single Service, which is then named.
    pub(super) fn halves(self) -> Result<[Self; 2], Option<NamespacedName>> {
        let Self { shared, mut groups } = self;
        match (shared, groups.len()) {
            ([] | [_], 0) => Err(None),
            (_, 0) => {
                let (first, second) = shared.split_at(shared.len() / 2);
                Ok([first, second].map(|shared| Self { shared, groups: Vec::new() }))
            }
            ([], 1) => Err(groups.pop().map(|(service, _)| service.clone())),
            (_, n) => {
                let rest = groups.split_off(n / 2);
                Ok([Self { shared, groups }, Self { shared: &[], groups: rest }])
            }
        }
    }
}

/// Packs a step into transactions. If it is `atomic`, it is not cut.
pub(super) fn parts<'a>(step: Step<'a>, atomic: bool) -> Vec<Part<'a>> {
    let Step { shared, groups } = step;
    let most = if atomic { usize::MAX } else { TRANSACTION_OPS };
    let mut parts = Vec::new();
    let mut part = Part { shared, groups: Vec::new() };
    // Operations on IPVS are in no transaction.
    let size = |ops: &[Op]| ops.iter().filter(|op| op.as_nft().is_some()).count();
    let mut room = most.saturating_sub(size(shared));
    for (service, ops) in groups {
        let size = size(ops);
        if size > room && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            room = most;
        }
        room = room.saturating_sub(size);
        part.groups.push((service, ops));
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use rulec_compiler::net::Family;
    use rulec_compiler::nft;

    use super::*;

    fn op() -> Op {
        nft::Op::AddTable(Family::Ipv4).into()
    }

    /// Returns the numbers of operations of each part: those of no Service, and those of Services.
    fn sizes<'a>(parts: impl IntoIterator<Item = Part<'a>>) -> Vec<(usize, Vec<usize>)> {
        let of = |part: Part<'_>| {
            (part.shared.len(), part.groups.iter().map(|(_, ops)| ops.len()).collect())
        };
        parts.into_iter().map(of).collect()
    }

    #[test]
    fn a_step_is_cut_between_services_unless_it_is_atomic() {
        let service = NamespacedName::new("default", "web");
        let (shared, ops) = (vec![op(); 2], vec![op(); TRANSACTION_OPS / 2]);
        let step = || Step { shared: &shared, groups: vec![(&service, &ops[..]); 5] };
        let half = TRANSACTION_OPS / 2;
        let cut = [(2, vec![half]), (0, vec![half; 2]), (0, vec![half; 2])];
        assert_eq!(sizes(parts(step(), false)), cut);
        assert_eq!(sizes(parts(step(), true)), [(2, vec![half; 5])]);
    }

    #[test]
    fn a_part_that_is_too_large_is_halved_down_to_a_single_service_or_operation() {
        let service = NamespacedName::new("default", "web");
        let ops = vec![op(); 3];
        let part = |shared, n| Part { shared, groups: vec![(&service, &ops[..]); n] };
        let halves = |shared, n| part(shared, n).halves().map(sizes);
        assert_eq!(halves(&ops, 3), Ok(vec![(3, vec![3]), (0, vec![3, 3])]));
        assert_eq!(halves(&ops, 1), Ok(vec![(3, vec![]), (0, vec![3])]));
        assert_eq!(halves(&ops, 0), Ok(vec![(1, vec![]), (2, vec![])]));
        assert_eq!(halves(&[], 1), Err(Some(service.clone())));
        assert_eq!(halves(&ops[..1], 0), Err(None));
    }
}
