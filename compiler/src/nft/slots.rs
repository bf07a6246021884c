//! Slots: the assignment of backends to numbers.
//!
//! A chain draws a slot, so slots are dense, 0 to n−1. A backend that is added takes the next slot;
//! when one is removed, the last moves into its place. No other backend moves, because each changed
//! slot is an operation in the kernel. So slots depend on history; after a start, the slots that
//! the kernel holds continue that history.

use std::collections::{BTreeMap, BTreeSet};

use super::code::MAX_MEMBERS;
use super::maglev::TableSize;
use crate::net::{Backend, Fnv};

/// A backend at its slot (the position in the list that holds it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The slot itself or, in a group with members, the number of the member: it belongs to the
    /// backend at whatever slot, so that a record survives moves.
    pub id: u32,
    /// The backend.
    pub backend: Backend,
}

/// The kind of ids that slots have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The slots themselves.
    Positions,
    /// Numbers of the backends' own, because records refer to them.
    Own,
}

/// The slots that a group had before.
#[derive(Clone, Copy, Debug)]
pub struct Previous<'a> {
    /// The slots.
    pub slots: &'a [Slot],
    /// Their ids.
    pub ids: Ids,
}

/// Returns the backend of each slot: each of the `wanted` ones (sorted, no duplicates) has as many
/// slots as it asks for. This is deterministic, with as few changes to `previous` as possible.
pub fn assign(previous: Previous<'_>, wanted: &[(Backend, u32)]) -> Vec<Backend> {
    let total = wanted.iter().map(|(_, count)| *count as usize).sum();
    let mut left: Vec<u32> = wanted.iter().map(|(_, count)| *count).collect();
    let mut places: Vec<Option<Backend>> = vec![None; total];
    let mut moved: Vec<Backend> = Vec::new();
    for (position, Slot { backend, .. }) in previous.slots.iter().enumerate() {
        let found = wanted.binary_search_by_key(backend, |(backend, _)| *backend);
        let Some(left) = found.ok().and_then(|at| left.get_mut(at)).filter(|left| **left > 0)
        else {
            continue;
        };
        *left -= 1;
        match places.get_mut(position) {
            Some(place) => *place = Some(*backend),
            None => moved.push(*backend),
        }
    }
    // Backends beyond the end must move; the new ones take the remaining slots in order.
    let new = wanted.iter().zip(left);
    let new = new.flat_map(|((backend, _), left)| std::iter::repeat_n(*backend, left as usize));
    let mut incoming = moved.into_iter().chain(new);
    places.into_iter().filter_map(|place| place.or_else(|| incoming.next())).collect()
}

/// Returns the slots with these backends. A backend keeps its own number; numbers that were
/// positions are not kept, since no record can refer to them.
pub fn numbered(previous: Previous<'_>, backends: Vec<Backend>, ids: Ids) -> Vec<Slot> {
    if ids == Ids::Positions {
        return (0..).zip(backends).map(|(id, backend)| Slot { id, backend }).collect();
    }
    let mut known: BTreeMap<Backend, u32> = BTreeMap::new();
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    if previous.ids == Ids::Own {
        let wanted: BTreeSet<Backend> = backends.iter().copied().collect();
        for Slot { id, backend } in previous.slots.iter().filter(|it| wanted.contains(&it.backend))
        {
            if !known.contains_key(backend) && taken.insert(*id) {
                known.insert(*backend, *id);
            }
        }
    }
    let slot = |backend: Backend| {
        let id = known.entry(backend).or_insert_with(|| fresh_id(backend, &mut taken));
        Slot { id: *id, backend }
    };
    backends.into_iter().map(slot).collect()
}

/// Returns a number for a backend, of which a group has at most `MAX_MEMBERS`: a hash of it, so that
/// an endpoint that comes back after a restart finds the records of its clients, or else the next
/// number that is free.
fn fresh_id(backend: Backend, taken: &mut BTreeSet<u32>) -> u32 {
    let mut hash = Fnv::default();
    hash.write_backend(backend);
    let members = u32::try_from(MAX_MEMBERS).unwrap_or(u32::MAX);
    let first = hash.finish32() % members;
    let mut ids = (first..members).chain(0..first);
    ids.find(|id| taken.insert(*id)).unwrap_or(first)
}

/// Returns the slots that a kernel holds for a table, with the backend of one before or after it in
/// each that is missing.
pub(crate) fn completed(
    size: TableSize,
    ids: Ids,
    found: impl Fn(u32) -> Option<Slot>,
) -> Vec<Slot> {
    let all: Vec<Option<Slot>> = (0..size.slots()).map(found).collect();
    let Some(mut known) = all.iter().flatten().next().copied() else { return Vec::new() };
    let slot = |(place, slot): (u32, Option<Slot>)| {
        known = slot.unwrap_or(known);
        match ids {
            Ids::Positions => Slot { id: place, ..known },
            Ids::Own => known,
        }
    };
    (0..).zip(all).map(slot).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use super::*;

    /// Assigns from slots of one kind to slots of another.
    fn assign(previous: &[Slot], from: Ids, wanted: &[u8], ids: Ids) -> Vec<Slot> {
        let wanted: Vec<(Backend, u32)> = backends(wanted).into_iter().map(|it| (it, 1)).collect();
        assign_weighted(previous, from, &wanted, ids)
    }

    fn assign_weighted(
        slots: &[Slot],
        from: Ids,
        wanted: &[(Backend, u32)],
        ids: Ids,
    ) -> Vec<Slot> {
        let previous = Previous { slots, ids: from };
        super::numbered(previous, super::assign(previous, wanted), ids)
    }

    fn backends(last_octets: &[u8]) -> Vec<Backend> {
        let mut backends: Vec<Backend> = last_octets
            .iter()
            .map(|octet| Backend {
                address: IpAddr::from([10, 0, 0, *octet]),
                port: NonZeroU16::new(80).unwrap(),
            })
            .collect();
        backends.sort_unstable();
        backends
    }

    fn order(slots: &[Slot]) -> Vec<u8> {
        slots
            .iter()
            .map(|slot| match slot.backend.address {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect()
    }

    #[test]
    fn a_new_backend_takes_the_next_slot() {
        let before = assign(&[], Ids::Positions, &[2, 3], Ids::Positions);
        let after = assign(&before, Ids::Positions, &[1, 2, 3], Ids::Positions);
        assert_eq!(order(&after), [2, 3, 1]);
    }

    #[test]
    fn the_last_backend_fills_the_slot_of_a_removed_one() {
        let before = assign(&[], Ids::Positions, &[1, 2, 3, 4], Ids::Positions);
        let after = assign(&before, Ids::Positions, &[1, 3, 4], Ids::Positions);
        assert_eq!(order(&after), [1, 4, 3]);
    }

    #[test]
    fn a_replacement_takes_the_freed_slot() {
        let before = assign(&[], Ids::Positions, &[1, 2, 3], Ids::Positions);
        let after = assign(&before, Ids::Positions, &[1, 9, 3], Ids::Positions);
        assert_eq!(order(&after), [1, 9, 3]);
    }

    #[test]
    fn a_backend_with_affinity_keeps_its_id_when_it_moves() {
        let before = assign(&[], Ids::Positions, &[1, 2, 3], Ids::Own);
        let after = assign(&before, Ids::Own, &[2, 3], Ids::Own);
        assert_eq!(order(&after), [3, 2]);
        for slot in &after {
            assert!(before.contains(slot), "{slot:?} changed its id");
        }
    }

    #[test]
    fn enabling_affinity_gives_the_ids_of_a_fresh_start() {
        let before = assign(&[], Ids::Positions, &[1, 2, 3], Ids::Positions);
        let after = assign(&before, Ids::Positions, &[2, 3], Ids::Own);
        let from_the_start = assign(&[], Ids::Own, &[2, 3], Ids::Own);
        assert_eq!(order(&after), [3, 2], "slots are kept, ids are new");
        for slot in &after {
            assert!(from_the_start.contains(slot), "{slot:?} has another id");
        }
        // Without affinity, the ids are the slots again.
        let without = assign(&after, Ids::Own, &[2, 3], Ids::Positions);
        assert_eq!(without.iter().map(|slot| slot.id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(order(&without), [3, 2]);
    }

    #[test]
    fn duplicate_slots_from_the_kernel_are_dropped() {
        let slot = assign(&[], Ids::Positions, &[1], Ids::Positions)[0];
        let after = assign(&[slot, slot], Ids::Positions, &[1, 2], Ids::Positions);
        assert_eq!(order(&after), [1, 2]);
    }

    #[test]
    fn a_heavier_backend_has_more_slots_and_one_number() {
        let [one, two] = [1, 2].map(|it| backends(&[it])[0]);
        let before = assign_weighted(&[], Ids::Own, &[(one, 3), (two, 1)], Ids::Own);
        assert_eq!(order(&before), [1, 1, 1, 2]);
        assert_eq!(before[0], before[2]);
        // Only the slots that are given up change.
        let after = assign_weighted(&before, Ids::Own, &[(one, 2), (two, 3)], Ids::Own);
        assert_eq!(order(&after), [1, 1, 2, 2, 2]);
        assert_eq!([after[0], after[3]], [before[0], before[3]]);
    }

    #[test]
    fn missing_slots_of_a_table_are_completed() {
        let size = TableSize::all().next().unwrap();
        let slot = |id: u32| Slot { id, backend: backends(&[u8::try_from(id).unwrap()])[0] };
        let found = |place| [3, 5].contains(&place).then(|| slot(place));
        let slots = completed(size, Ids::Own, found);
        assert_eq!(slots.len(), size.slots() as usize);
        assert_eq!([0, 4, 5, 250].map(|it| slots[it]), [slot(3), slot(3), slot(5), slot(5)]);
        let slots = completed(size, Ids::Positions, found);
        assert_eq!([0, 4].map(|it| slots[it as usize]), [0, 4].map(|id| Slot { id, ..slot(3) }));
        assert_eq!(completed(size, Ids::Positions, |_| None), []);
    }
}
