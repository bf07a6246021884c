//! Groups of backends, with what they are in the kernel.

use std::sync::Arc;

use super::code::{Affinity, AffinityId, Class, Clients, Code, Draw, GroupId, MAX_MEMBERS};
use super::maglev::Maglev;
use super::size::Size;
use super::slots::{Ids, Slot};
use crate::net::Backend;

/// A group: the backends of a Service port under one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its number. `None` only if all are in use; then it has no backends.
    pub id: Option<GroupId>,
    /// How a backend is chosen for a client that has none.
    pub choice: Choice,
    /// The class of its frontends, with session affinity by our rules.
    pub affinity: Option<AffinityClass>,
    /// The backends by slot.
    pub slots: Arc<[Slot]>,
    /// What a table was filled with, each backend with its weight; `None` if it was read from a
    /// kernel, and without a table.
    pub filled_with: Option<Arc<[(Backend, u32)]>>,
}

/// How one of a group's slots is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// At random.
    #[default]
    Random,
    /// One after the other. With session affinity, at random.
    RoundRobin,
    /// By a table.
    Maglev(Maglev),
}

/// A class with session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityClass {
    /// Its number.
    pub id: AffinityId,
    /// What it stands for.
    pub affinity: Affinity,
}

impl Group {
    /// Returns how a slot is drawn; `None` without backends.
    pub fn draw(&self) -> Option<Draw> {
        let size = Size::of(self.slots.len())?;
        Some(match self.choice {
            Choice::Random | Choice::RoundRobin => Draw::Random(size),
            Choice::Maglev(table) => Draw::Maglev(table),
        })
    }

    /// Returns the code of a frontend of the group, if our rules choose; `None` without backends.
    pub fn code(&self, clients: Clients) -> Option<Code> {
        let draw = self.draw()?;
        let class = match (self.affinity, self.choice) {
            (Some(of), _) => Class::Affinity(of.id),
            (None, Choice::RoundRobin) => Class::RoundRobin,
            (None, Choice::Random | Choice::Maglev(_)) => draw.into(),
        };
        Some(Code { group: self.id?, clients, class })
    }

    /// Returns true if it is certainly the same as another, without looking at any slot.
    pub(crate) fn is_unchanged(&self, other: &Self) -> bool {
        let form = |it: &Self| (it.id, it.choice, it.affinity);
        form(self) == form(other) && Arc::ptr_eq(&self.slots, &other.slots)
    }

    /// Returns true if its members take turns.
    pub fn is_in_turns(&self) -> bool {
        self.affinity.is_none() && self.choice == Choice::RoundRobin
    }

    /// Returns true if records name its backends.
    pub fn has_members(&self) -> bool {
        self.affinity.is_some() || self.is_in_turns()
    }

    /// Returns the maximum number of backends that it has room for.
    pub fn room(&self) -> usize {
        let slots = match (self.id, self.choice) {
            (None, _) => 0,
            (Some(_), Choice::Maglev(table)) => table.size.slots() as usize,
            (Some(_), Choice::Random | Choice::RoundRobin) => Size::MAX_SLOTS,
        };
        if self.has_members() { slots.min(MAX_MEMBERS) } else { slots }
    }

    /// Returns the kind of ids that its slots have.
    pub(crate) fn ids(&self) -> Ids {
        if self.has_members() { Ids::Own } else { Ids::Positions }
    }
}
