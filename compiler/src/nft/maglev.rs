//! Maglev's tables: a hash of the client leads to a slot, and a slot to a backend.
//!
//! Every backend asks for the slots in an order of its own, and the backends take one slot each in
//! turn until all are taken (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", 2016, section 3.4). So the table depends on nothing but the backends, all have the
//! same number of slots but for one, and a backend that comes or goes moves few slots of others: the
//! more slots there are for a backend, the fewer.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::net::{Backend, Fnv};

/// What of the client is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// Its address and its port: connections of a client go to several backends.
    Connection,
    /// Its address.
    Source,
}

impl Hash {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Connection, Self::Source];
}

/// The number of slots of a table: a prime, so that every step leads through all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct TableSize(u8);

impl TableSize {
    const SLOTS: [u32; 5] = [251, 1_021, 4_093, 16_381, 65_521];

    /// Returns all sizes, the smallest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).zip(Self::SLOTS).map(|(place, _)| Self(place))
    }

    /// Returns the number of slots.
    pub fn slots(self) -> u32 {
        Self::SLOTS.get(usize::from(self.0)).copied().unwrap_or(u32::MAX)
    }

    /// Returns the place in the list, from 0.
    pub(super) fn place(self) -> u32 {
        u32::from(self.0)
    }
}

/// 16,381 slots: enough for about 30 backends, if one that goes shall move hardly any connection of
/// the others. It is also the default of Cilium.
impl Default for TableSize {
    fn default() -> Self {
        Self(3)
    }
}

impl From<TableSize> for u32 {
    fn from(size: TableSize) -> Self {
        size.slots()
    }
}

impl TryFrom<u32> for TableSize {
    type Error = String;

    fn try_from(slots: u32) -> Result<Self, Self::Error> {
        Self::all().find(|size| size.slots() == slots).ok_or_else(|| {
            let sizes = Self::SLOTS.map(|slots| slots.to_string()).join(", ");
            format!("{slots} is no size of a Maglev table, use one of {sizes}")
        })
    }
}

impl FromStr for TableSize {
    type Err = String;

    fn from_str(slots: &str) -> Result<Self, Self::Err> {
        let number = slots.parse::<u32>().map_err(|error| format!("{slots:?}: {error}"))?;
        Self::try_from(number)
    }
}

/// A table of a group, without its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Maglev {
    /// What of the client leads to a slot.
    pub hash: Hash,
    /// The number of slots.
    pub size: TableSize,
}

impl Maglev {
    /// Returns all tables.
    pub fn all() -> impl Iterator<Item = Self> {
        let sizes = |hash| TableSize::all().map(move |size| Self { hash, size });
        Hash::ALL.into_iter().flat_map(sizes)
    }

    /// Returns the place among all tables, counted from `first`.
    pub(super) fn number(self, first: u32) -> u32 {
        let sizes = TableSize::SLOTS.len() as u32;
        let of_hash = match self.hash {
            Hash::Connection => 0,
            Hash::Source => sizes,
        };
        first + of_hash + self.size.place()
    }

    /// Returns the table with this place.
    pub(super) fn from_number(number: u32, first: u32) -> Option<Self> {
        Self::all().find(|table| table.number(first) == number)
    }
}

/// A backend that asks for slots in its order.
struct Asking {
    backend: Backend,
    next: u64,
    step: u64,
    weight: u32,
    /// What is left of earlier turns, in parts of the largest weight.
    credit: u32,
}

/// Returns the backend of each slot, none if there is no backend. The backends are in any order, at
/// most as many as slots; each has a share that is not 0.
pub fn fill(size: TableSize, backends: &[(Backend, u32)]) -> Vec<Backend> {
    let slots = u64::from(size.slots());
    let heaviest = backends.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    let mut asking: Vec<Asking> = backends
        .iter()
        .map(|(backend, weight)| {
            let [start, step] = hashes(*backend);
            let (next, step) = (start % slots, step % (slots - 1) + 1);
            Asking { backend: *backend, next, step, weight: *weight, credit: 0 }
        })
        .collect();
    asking.sort_unstable_by_key(|it| it.backend);
    let mut table: Vec<Option<Backend>> = vec![None; size.slots() as usize];
    let mut free = table.len();
    while free > 0 && heaviest > 0 {
        for it in &mut asking {
            it.credit += it.weight;
            if it.credit < heaviest || free == 0 {
                continue;
            }
            it.credit -= heaviest;
            let place = it.find(&mut table, slots);
            *place = Some(it.backend);
            free -= 1;
        }
    }
    table.into_iter().flatten().collect()
}

impl Asking {
    /// Returns the first free slot in this backend's order. There is one.
    fn find<'a>(
        &mut self,
        table: &'a mut [Option<Backend>],
        slots: u64,
    ) -> &'a mut Option<Backend> {
        loop {
            let place = usize::try_from(self.next).unwrap_or(0);
            self.next = (self.next + self.step) % slots;
            if table[place].is_none() {
                return &mut table[place];
            }
        }
    }
}

/// Returns two hashes of a backend, which are the same on every node.
fn hashes(backend: Backend) -> [u64; 2] {
    [b's', b't'].map(|salt| {
        let mut hash = Fnv::default();
        hash.write(&[salt]);
        hash.write_backend(backend);
        hash.mixed()
    })
}

#[cfg(test)]
mod tests;
