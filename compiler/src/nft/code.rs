//! Codes: what the maps tell a packet about its frontend, in the 32 bits of the scratch register.
//!
//! ```text
//!  31 ......... 12   11 10     9 ........ 0
//!  group             clients   class           of a frontend
//!  group             member                    of a backend that records name
//! ```
//!
//! A group is the backends of one Service port under one policy; every frontend of the port names
//! it. The class tells how a backend of the group is chosen, and leads to a chain that all
//! frontends of the class share.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::maglev::Maglev;
use super::size::Size;

/// The bits of the group.
pub const GROUP_MASK: u32 = !((1 << GROUP_SHIFT) - 1);
/// The bits of the treatment of clients.
pub const CLIENTS_MASK: u32 = 3 << CLIENTS_SHIFT;
/// The bits of the class.
pub const CLASS_MASK: u32 = (1 << CLIENTS_SHIFT) - 1;

const GROUP_SHIFT: u32 = 12;
const CLIENTS_SHIFT: u32 = 10;

/// The number of buckets of clients in each group with session affinity: one record for each. So
/// the records of one Service port, whoever sends to it, leave room for those of others.
pub const BUCKETS: u32 = 4_096;

/// The number of groups that share one map of records: it has room for all records of as many. The
/// records of a group that is gone stay until they expire, and take room until then.
pub const GROUPS_PER_MAP: usize = (AFFINITY_RECORDS / BUCKETS) as usize;

/// The maximum number of records in a map that names no other number (`nft_dynset_init`).
pub const AFFINITY_RECORDS: u32 = 65_535;

/// The maximum number of backends of a group with members: a code has no room for more.
pub const MAX_MEMBERS: usize = 1 << GROUP_SHIFT;

/// A group: the backends of one Service port under one policy. Its number is given out once and is
/// kept as long as the group exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct GroupId(u32);

impl GroupId {
    /// The largest number; the smallest is 1.
    pub const MAX: u32 = (1 << (32 - GROUP_SHIFT)) - 1;

    /// Returns the group with this number.
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// Returns the number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Returns the group as a code.
    pub fn code(self) -> u32 {
        self.0 << GROUP_SHIFT
    }

    /// Returns the group with this code; `None` if the other bits are not 0.
    pub fn from_code(code: u32) -> Option<Self> {
        if code & !GROUP_MASK == 0 { Self::new(code >> GROUP_SHIFT) } else { None }
    }
}

impl From<GroupId> for u32 {
    fn from(group: GroupId) -> Self {
        group.0
    }
}

impl TryFrom<u32> for GroupId {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        Self::new(number).ok_or_else(|| format!("{number} is not a group"))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.0)
    }
}

/// A backend of a group, whatever its slot, as records name it: those of clients, with session
/// affinity, and of turns, with round robin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The group.
    pub group: GroupId,
    /// Which one, below `MAX_MEMBERS`.
    pub number: u16,
}

impl Member {
    /// Returns the member of a group; `None` if the number is too large.
    pub fn new(group: GroupId, number: u32) -> Option<Self> {
        let number = u16::try_from(number).ok().filter(|it| usize::from(*it) < MAX_MEMBERS)?;
        Some(Self { group, number })
    }

    /// Returns the code.
    pub fn code(self) -> u32 {
        self.group.code() | u32::from(self.number)
    }

    /// Returns the member with this code.
    pub fn from_code(code: u32) -> Option<Self> {
        let group = GroupId::from_code(code & GROUP_MASK)?;
        Self::new(group, code & !GROUP_MASK)
    }
}

/// The code of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Code {
    /// The group of its backends.
    pub group: GroupId,
    /// The treatment of its clients.
    pub clients: Clients,
    /// How a backend is chosen.
    pub class: Class,
}

/// The treatment of a frontend's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Clients {
    /// They keep their addresses: clients from outside under policy Local.
    Kept,
    /// Those that are not known to be Pods are masqueraded: cluster addresses.
    Internal,
    /// They are masqueraded: external frontends under policy Cluster.
    Masqueraded,
    /// External frontends under policy Local: clients from outside continue in the local group,
    /// Pods keep their addresses, and the node itself is masqueraded.
    Split,
}

impl Clients {
    /// All treatments.
    pub const ALL: [Self; 4] = [Self::Kept, Self::Internal, Self::Masqueraded, Self::Split];

    /// Returns the bits in a code.
    pub fn bits(self) -> u32 {
        let number = match self {
            Self::Kept => 0,
            Self::Internal => 1,
            Self::Masqueraded => 2,
            Self::Split => 3,
        };
        number << CLIENTS_SHIFT
    }
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// None is: connections are dropped silently. There are backends, but the policy lets no client
    /// reach them.
    Dropped,
    /// IPVS chooses.
    Ipvs,
    /// At random.
    Random(Size),
    /// By a hash of the client.
    Maglev(Maglev),
    /// One after the other.
    RoundRobin,
    /// The one that the client had, or else one of the group's choice.
    Affinity(AffinityId),
}

impl Class {
    const MAGLEV: u32 = Size::COUNT + 1;
    const ROUND_ROBIN: u32 = 63;
    const DROPPED: u32 = 1_022;
    const IPVS: u32 = 1_023;

    /// Returns the classes that exist whatever Services there are.
    pub fn constant() -> impl Iterator<Item = Self> {
        let single = [Self::Dropped, Self::Ipvs, Self::RoundRobin];
        single.into_iter().chain(Draw::all().map(Self::from))
    }

    /// Returns the number in a code.
    pub fn number(self) -> u32 {
        match self {
            Self::Dropped => Self::DROPPED,
            Self::Ipvs => Self::IPVS,
            Self::Random(size) => size.number(),
            Self::Maglev(table) => table.number(Self::MAGLEV),
            Self::RoundRobin => Self::ROUND_ROBIN,
            Self::Affinity(id) => u32::from(id.0),
        }
    }

    /// Returns the class with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            Self::DROPPED => Some(Self::Dropped),
            Self::IPVS => Some(Self::Ipvs),
            Self::ROUND_ROBIN => Some(Self::RoundRobin),
            number => Size::from_number(number)
                .map(Self::Random)
                .or_else(|| Maglev::from_number(number, Self::MAGLEV).map(Self::Maglev))
                .or_else(|| AffinityId::new(number).map(Self::Affinity)),
        }
    }
}

/// How a slot of a group is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Draw {
    /// At random.
    Random(Size),
    /// By a hash of the client.
    Maglev(Maglev),
}

impl Draw {
    /// Returns all of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Size::all().map(Self::Random).chain(Maglev::all().map(Self::Maglev))
    }
}

impl From<Draw> for Class {
    fn from(draw: Draw) -> Self {
        match draw {
            Draw::Random(size) => Self::Random(size),
            Draw::Maglev(table) => Self::Maglev(table),
        }
    }
}

impl TryFrom<Class> for Draw {
    type Error = ();

    fn try_from(class: Class) -> Result<Self, Self::Error> {
        match class {
            Class::Random(size) => Ok(Self::Random(size)),
            Class::Maglev(table) => Ok(Self::Maglev(table)),
            Class::Dropped | Class::Ipvs | Class::RoundRobin | Class::Affinity(_) => Err(()),
        }
    }
}

/// The number of a class with session affinity. Which timeout and map it stands for is a matter of
/// the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub struct AffinityId(u16);

impl AffinityId {
    const FIRST: u16 = 64;
    const LAST: u16 = 1_021;

    /// Returns the class with this number.
    pub fn new(number: u32) -> Option<Self> {
        let number = u16::try_from(number).ok()?;
        (Self::FIRST..=Self::LAST).contains(&number).then_some(Self(number))
    }

    /// Returns all of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (Self::FIRST..=Self::LAST).map(Self)
    }
}

impl From<AffinityId> for u16 {
    fn from(id: AffinityId) -> Self {
        id.0
    }
}

impl TryFrom<u16> for AffinityId {
    type Error = String;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        Self::new(number.into()).ok_or_else(|| format!("{number} is not a class with affinity"))
    }
}

/// A timeout of session affinity, and one of the maps with records for it: a chain and a map belong
/// to each. Prints as `affinity-10800`, and from the second map of a timeout on as
/// `affinity-10800-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Affinity {
    /// The timeout in seconds.
    pub timeout: u32,
    /// Which map, from 1.
    pub map: u16,
}

impl Affinity {
    /// The longest timeout that Kubernetes allows, in seconds.
    pub const MAX_TIMEOUT: u32 = 86_400;

    /// Returns the affinity with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("affinity-")?;
        let (timeout, map) = rest.split_once('-').unwrap_or((rest, "1"));
        let affinity = Self { timeout: timeout.parse().ok()?, map: map.parse().ok()? };
        // A number has several spellings.
        (affinity.is_valid() && affinity.to_string() == name).then_some(affinity)
    }

    /// Returns true if there can be such a map.
    pub fn is_valid(self) -> bool {
        (1..=Self::MAX_TIMEOUT).contains(&self.timeout) && self.map > 0
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "affinity-{}", self.timeout)?;
        if self.map > 1 { write!(f, "-{}", self.map) } else { Ok(()) }
    }
}

impl Code {
    /// Returns the number in the map.
    pub fn code(self) -> u32 {
        self.group.code() | self.clients.bits() | self.class.number()
    }

    /// Returns the code with a number that was read from a kernel; `None` if it is not valid.
    pub fn from_code(code: u32) -> Option<Self> {
        let group = GroupId::from_code(code & GROUP_MASK)?;
        let clients = Clients::ALL.into_iter().find(|it| it.bits() == code & CLIENTS_MASK)?;
        let class = Class::from_number(code & CLASS_MASK)?;
        Some(Self { group, clients, class })
    }

    /// Returns true if IPVS chooses.
    pub fn is_by_ipvs(self) -> bool {
        self.class == Class::Ipvs
    }

    /// Returns true if connections are dropped.
    pub fn is_dropped(self) -> bool {
        self.class == Class::Dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u32) -> GroupId {
        GroupId::new(number).unwrap()
    }

    #[test]
    fn codes_are_distinct_and_round_trip() {
        let mut codes = std::collections::BTreeSet::new();
        let classes = Class::constant().chain(AffinityId::all().map(Class::Affinity));
        for class in classes {
            for clients in Clients::ALL {
                for group in [1, 2, GroupId::MAX].map(group) {
                    let code = Code { group, clients, class };
                    assert!(codes.insert(code.code()), "{code:?} shares its number");
                    assert_eq!(Code::from_code(code.code()), Some(code));
                }
            }
        }
    }

    #[test]
    fn members_round_trip() {
        for (of, number) in [(1, 0), (GroupId::MAX, 4_095), (7, 12)] {
            let member = Member::new(group(of), number).unwrap();
            assert_eq!(Member::from_code(member.code()), Some(member));
        }
        assert_eq!(Member::new(group(1), 4_096), None);
        assert_eq!(Member::from_code(5), None, "no group");
    }

    #[test]
    fn invalid_codes_are_refused() {
        // No group; no class; a number between the classes.
        for code in [0, 2, 0x1000, 0x1000 | 50, 0x1c00 | 62] {
            assert_eq!(Code::from_code(code), None, "{code:#x}");
        }
        assert_eq!(GroupId::new(0), None);
        assert_eq!(GroupId::new(GroupId::MAX + 1), None);
        assert_eq!(GroupId::from_code(0x1001), None);
    }

    #[test]
    fn affinities_have_names() {
        for (name, timeout, map) in [("affinity-10800", 10_800, 1), ("affinity-5-2", 5, 2)] {
            let affinity = Affinity { timeout, map };
            assert_eq!(affinity.to_string(), name);
            assert_eq!(Affinity::from_name(name), Some(affinity));
        }
        for name in [
            "affinity",
            "affinity-",
            "affinity-0",
            "affinity-05",
            "affinity-5-1",
            "affinity-5-0",
            "affinity-86401",
            "Affinity-5",
        ] {
            assert_eq!(Affinity::from_name(name), None, "{name}");
        }
    }
}
