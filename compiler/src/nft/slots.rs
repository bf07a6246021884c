//! Slots: the assignment of backends to numbers.
//!
//! A pick draws a slot, 0 to n−1, so slots are dense. A backend that is added takes the next slot;
//! when one is removed, the last moves into its place. No other backend moves, because each changed
//! slot is an operation in the kernel. So slots depend on history; after a start, the slots that
//! the kernel holds continue that history.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::net::{Backend, Fnv};

/// A backend at its slot (the position in the list that holds it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The key in the endpoint maps: the slot itself or, with session affinity, a number that
    /// belongs to the backend at whatever slot, so that a client's record survives moves.
    pub id: u32,
    /// The backend.
    pub backend: Backend,
}

/// The kind of ids that slots have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The slots themselves.
    Positions,
    /// With session affinity, numbers of the backends' own, because records of clients refer to
    /// them.
    Own,
}

impl Ids {
    /// Returns the ids with this timeout of session affinity, if there is affinity.
    pub fn with(affinity: Option<u32>) -> Self {
        if affinity.is_some() { Self::Own } else { Self::Positions }
    }
}

/// The slots that a frontend had before.
#[derive(Clone, Copy, Debug)]
pub struct Previous<'a> {
    /// The slots.
    pub slots: &'a [Slot],
    /// Their ids.
    pub ids: Ids,
}

/// Assigns slots to the `wanted` backends (sorted, no duplicates), deterministically and with as
/// few changes to `previous` as possible. A backend keeps its own number; numbers that were
/// positions are not kept, since no record can refer to them.
pub fn assign(previous: Previous<'_>, wanted: &[Backend], ids: Ids) -> Vec<Slot> {
    let n = wanted.len();
    let has_own = ids == Ids::Own && previous.ids == Ids::Own;
    let kept = |slot: &Slot| (slot.backend, has_own.then_some(slot.id));
    let mut places: Vec<Option<(Backend, Option<u32>)>> = vec![None; n];
    let mut placed: BTreeSet<Backend> = BTreeSet::new();
    let mut moved: Vec<(Backend, Option<u32>)> = Vec::new();
    for (position, slot) in previous.slots.iter().enumerate() {
        if wanted.binary_search(&slot.backend).is_err() || !placed.insert(slot.backend) {
            continue;
        }
        match places.get_mut(position) {
            Some(place) => *place = Some(kept(slot)),
            None => moved.push(kept(slot)),
        }
    }
    let mut taken: BTreeSet<u32> =
        places.iter().flatten().chain(&moved).filter_map(|(_, id)| *id).collect();
    // Backends beyond the end must move; the new ones take the remaining slots in order.
    let new = wanted.iter().filter(|backend| !placed.contains(backend)).map(|b| (*b, None));
    let mut incoming = moved.into_iter().chain(new);

    let mut slots = Vec::with_capacity(n);
    for (position, place) in places.into_iter().enumerate() {
        let Some((backend, id)) = place.or_else(|| incoming.next()) else { continue };
        let id = match ids {
            Ids::Positions => u32::try_from(position).unwrap_or(u32::MAX),
            Ids::Own => id.unwrap_or_else(|| fresh_id(backend, &mut taken)),
        };
        slots.push(Slot { id, backend });
    }
    slots
}

/// Returns a number for a backend: a hash of it, so that an endpoint that comes back after a
/// restart finds the records of its clients, or else the next number that is free.
fn fresh_id(backend: Backend, taken: &mut BTreeSet<u32>) -> u32 {
    let mut hash = Fnv::default();
    match backend.address {
        IpAddr::V4(address) => hash.write(&address.octets()),
        IpAddr::V6(address) => hash.write(&address.octets()),
    }
    hash.write(&backend.port.get().to_be_bytes());
    let mut id = hash.finish32();
    while !taken.insert(id) {
        id = id.wrapping_add(1);
    }
    id
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    /// Assigns from slots of one kind to slots of another.
    fn assign(previous: &[Slot], from: Ids, wanted: &[u8], ids: Ids) -> Vec<Slot> {
        super::assign(Previous { slots: previous, ids: from }, &backends(wanted), ids)
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
}
