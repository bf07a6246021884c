//! The numbers that groups and classes with session affinity have in the kernel. They are given out
//! when they are first needed, stay as long as they are used, and are taken over from a kernel at a
//! start.

use im::ordmap::DiffItem;
use im::{OrdMap, OrdSet};

use super::fragment::PortFragment;
use crate::net::Family;
use crate::nft::chain::ChainId;
use crate::nft::code::{Affinity, AffinityId, Class, GROUPS_PER_MAP, GroupId};
use crate::nft::element::{Element, Key, Value};
use crate::nft::group::{AffinityClass, Group};
use crate::nft::set::SetId;
use crate::state::State;

/// A class with session affinity, and the family whose table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// The family.
    pub family: Family,
    /// The timeout, and which of its maps.
    pub affinity: Affinity,
}

impl AffinityKey {
    /// Returns the chain that chooses.
    pub fn chain(self) -> ChainId {
        ChainId::Affinity(self.affinity)
    }

    /// Returns the map of records.
    pub fn set(self) -> SetId {
        SetId::Affinity(self.affinity)
    }

    /// Returns the element that leads to the chain.
    pub fn element(self, id: AffinityId) -> Element {
        Element::new(Key::Class(self.family, Class::Affinity(id)), Value::Goto(self.chain()))
    }
}

/// A class and the groups that use it; without any, it is unused but stays for a while.
#[derive(Clone, Debug)]
struct Used {
    id: AffinityId,
    groups: OrdSet<GroupId>,
}

/// All numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    groups: OrdSet<(Family, GroupId)>,
    /// The last group that was given out. A number is not used again soon, because the kernel may
    /// refuse to remove the group that had it.
    last: u32,
    /// Groups that a kernel held at the start and that no Service has asked for so far.
    held: OrdSet<(Family, GroupId)>,
    affinities: OrdMap<AffinityKey, Used>,
    /// The last class that was given out: its number is not used again soon either.
    last_class: Option<AffinityId>,
}

impl Numbers {
    /// Returns the numbers of a kernel, all unused.
    pub(super) fn held_by(seed: &State) -> Self {
        let classes = seed.affinity_classes().map(|(family, id, affinity)| {
            (AffinityKey { family, affinity }, Used { id, groups: OrdSet::new() })
        });
        let held: OrdSet<(Family, GroupId)> = seed.groups().collect();
        let last = held.iter().map(|(_, group)| group.number()).max().unwrap_or(0);
        let mut affinities: OrdMap<AffinityKey, Used> = classes.collect();
        // Records of these groups are in the maps already.
        for (family, group, id) in seed.affinity_groups() {
            let mut of_family = affinities.iter().filter(|(key, _)| key.family == family);
            let found = of_family.find(|(_, used)| used.id == id).map(|(key, _)| *key);
            if let Some(used) = found.and_then(|key| affinities.get_mut(&key)) {
                used.groups.insert(group);
            }
        }
        let last_class = affinities.values().map(|used| used.id).max();
        Self { groups: OrdSet::new(), last, held, affinities, last_class }
    }

    /// Forgets which groups of the kernel use a class, unless a Service has asked for them.
    pub(super) fn forget_unclaimed(&mut self) {
        let keys: Vec<AffinityKey> = self.affinities.keys().copied().collect();
        for key in keys {
            if let Some(used) = self.affinities.get_mut(&key) {
                let is_claimed = |group: &&GroupId| self.groups.contains(&(key.family, **group));
                used.groups = used.groups.iter().filter(is_claimed).copied().collect();
            }
        }
    }

    /// Continues with a group that a kernel holds; returns false if another has it.
    pub(super) fn claim(&mut self, family: Family, group: GroupId) -> bool {
        self.held.remove(&(family, group));
        self.groups.insert((family, group)).is_none()
    }

    /// Gives out a number for a group; `None` if all are in use.
    pub(super) fn take(&mut self, family: Family) -> Option<GroupId> {
        let is_free = |group: &GroupId| {
            let group = (family, *group);
            !self.groups.contains(&group) && !self.held.contains(&group)
        };
        let after = (self.last + 1..=GroupId::MAX).chain(1..=self.last);
        let group = after.filter_map(GroupId::new).find(is_free)?;
        self.last = group.number();
        self.groups.insert((family, group));
        Some(group)
    }

    /// Finds a class with this timeout for a group: the one that it had, or else the first whose
    /// map has room for the records of one more group. Returns `None` if there is no number for a
    /// new class.
    pub(super) fn class(
        &mut self,
        family: Family,
        timeout: u32,
        group: GroupId,
        before: Option<AffinityId>,
    ) -> Option<AffinityClass> {
        let key = |map| AffinityKey { family, affinity: Affinity { timeout, map } };
        let of_timeout = || self.affinities.range(key(1)..=key(u16::MAX));
        let kept = of_timeout().find(|(_, used)| Some(used.id) == before);
        let with_room = || of_timeout().find(|(_, used)| used.groups.len() < GROUPS_PER_MAP);
        let found = kept.or_else(with_room).map(|(key, used)| (*key, used.id));
        let (key, id) = match found {
            Some(found) => found,
            None => {
                let map = (1..=u16::MAX).find(|map| !self.affinities.contains_key(&key(*map)))?;
                (key(map), self.free_class(family)?)
            }
        };
        let class = AffinityClass { id, affinity: key.affinity };
        self.use_class(family, group, class);
        Some(class)
    }

    fn free_class(&mut self, family: Family) -> Option<AffinityId> {
        let of_family = self.affinities.iter().filter(|(key, _)| key.family == family);
        let taken: OrdSet<AffinityId> = of_family.map(|(_, used)| used.id).collect();
        let is_later = |id: &AffinityId| Some(*id) > self.last_class;
        let mut later = AffinityId::all().filter(is_later).chain(AffinityId::all());
        let free = later.find(|id| !taken.contains(id))?;
        self.last_class = Some(free);
        Some(free)
    }

    fn use_class(&mut self, family: Family, group: GroupId, class: AffinityClass) {
        let AffinityClass { id, affinity } = class;
        let used = self.affinities.entry(AffinityKey { family, affinity });
        used.or_insert_with(|| Used { id, groups: OrdSet::new() }).groups.insert(group);
    }

    /// Notes that the groups of a port are used.
    pub(super) fn insert(&mut self, port: &PortFragment) {
        for (group, id) in numbered(port) {
            self.claim(port.family, id);
            if let Some(class) = group.affinity {
                self.use_class(port.family, id, class);
            }
        }
    }

    /// Notes that the groups of a port are not used any more.
    pub(super) fn remove(&mut self, port: &PortFragment) {
        for (group, id) in numbered(port) {
            self.groups.remove(&(port.family, id));
            if let Some(AffinityClass { affinity, .. }) = group.affinity {
                let key = AffinityKey { family: port.family, affinity };
                if let Some(used) = self.affinities.get_mut(&key) {
                    used.groups.remove(&id);
                }
            }
        }
    }

    /// Returns true if two ports use the same numbers.
    pub(super) fn are_same(one: &PortFragment, other: &PortFragment) -> bool {
        let used = |port: &'_ PortFragment| -> Vec<(GroupId, Option<AffinityClass>)> {
            numbered(port).map(|(group, id)| (id, group.affinity)).collect()
        };
        one.family == other.family && used(one) == used(other)
    }

    /// Removes classes that were used only between two changes: no kernel has them.
    pub(super) fn remove_passing(&mut self, known: &Self) {
        if self.affinities.ptr_eq(&known.affinities) {
            return;
        }
        let unused = self.idle().filter(|key| !known.affinities.contains_key(key));
        for key in unused.collect::<Vec<_>>() {
            self.affinities.remove(&key);
        }
    }

    /// Returns the unused classes.
    pub(super) fn idle(&self) -> impl Iterator<Item = AffinityKey> {
        self.affinities.iter().filter(|(_, used)| used.groups.is_empty()).map(|(key, _)| *key)
    }

    /// Removes a class if it is unused.
    pub(super) fn retire(&mut self, key: AffinityKey) {
        if self.affinities.get(&key).is_some_and(|used| used.groups.is_empty()) {
            self.affinities.remove(&key);
        }
    }

    /// Returns all classes with session affinity, each with its number.
    pub(crate) fn classes(&self) -> impl Iterator<Item = (AffinityKey, AffinityId)> {
        self.affinities.iter().map(|(key, used)| (*key, used.id))
    }

    /// Returns the classes that differ, each with its number before and after. Parts that both
    /// share are not visited.
    pub(crate) fn diff(&self, wanted: &Self) -> Vec<(AffinityKey, [Option<AffinityId>; 2])> {
        if self.affinities.ptr_eq(&wanted.affinities) {
            return Vec::new();
        }
        let changed = self.affinities.diff(&wanted.affinities).map(|item| match item {
            DiffItem::Add(key, new) => (*key, [None, Some(new.id)]),
            DiffItem::Remove(key, old) => (*key, [Some(old.id), None]),
            DiffItem::Update { old: (key, old), new: (_, new) } => {
                (*key, [Some(old.id), Some(new.id)])
            }
        });
        changed.filter(|(_, [old, new])| old != new).collect()
    }
}

impl PartialEq for Used {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.groups == other.groups
    }
}

/// Returns the groups of a port that have a number, with it.
fn numbered(port: &PortFragment) -> impl Iterator<Item = (&Group, GroupId)> {
    port.groups.iter().filter_map(|group| Some((group, group.id?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Family = Family::Ipv4;

    fn take(numbers: &mut Numbers) -> GroupId {
        numbers.take(V4).unwrap()
    }

    #[test]
    fn a_number_is_not_used_again_soon() {
        let mut numbers = Numbers::default();
        let [first, second] = [take(&mut numbers), take(&mut numbers)];
        assert_eq!([first, second].map(GroupId::number), [1, 2]);
        numbers.groups.remove(&(V4, first));
        assert_eq!(take(&mut numbers).number(), 3);
        numbers.last = GroupId::MAX;
        assert_eq!(take(&mut numbers), first);
        assert_eq!(take(&mut numbers).number(), 4);
    }

    #[test]
    fn numbers_that_a_kernel_holds_are_given_out_only_to_those_that_have_them() {
        let mut numbers = Numbers::default();
        let held = GroupId::new(1).unwrap();
        numbers.held.insert((V4, held));
        assert_eq!(take(&mut numbers).number(), 2);
        assert!(numbers.claim(V4, held));
        assert!(!numbers.claim(V4, held), "claimed twice");
    }

    #[test]
    fn a_map_has_room_for_the_records_of_each_of_its_groups() {
        let mut numbers = Numbers::default();
        let mut maps = Vec::new();
        for _ in 0..=GROUPS_PER_MAP {
            let group = take(&mut numbers);
            maps.push(numbers.class(V4, 10_800, group, None).unwrap());
        }
        assert_eq!(maps.first().unwrap().affinity, Affinity { timeout: 10_800, map: 1 });
        assert_eq!(maps[GROUPS_PER_MAP - 1], maps[0]);
        assert_eq!(maps[GROUPS_PER_MAP].affinity, Affinity { timeout: 10_800, map: 2 });
        // A group stays in its map even if that is full.
        let group = take(&mut numbers);
        let kept = numbers.class(V4, 10_800, group, Some(maps[0].id)).unwrap();
        assert_eq!(kept, maps[0]);
        let other = numbers.class(V4, 60, group, Some(maps[0].id)).unwrap();
        assert_eq!(other.affinity, Affinity { timeout: 60, map: 1 });
    }
}
