//! One operation in the kernel, and the stage of a change in which it takes effect.

use serde::{Deserialize, Serialize};

use crate::nft::element::Element;
use crate::{ipvs, nft};

/// One operation in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Change our nf_tables tables.
    Nft(nft::Op),
    /// Change IPVS, or the addresses of this node.
    Ipvs(ipvs::Op),
}

/// The stages of a change, in order. A packet that looked something up before a stage still finds
/// what that leads to after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Add what nothing leads to yet.
    Prepare,
    /// Change what packets find.
    Switch,
    /// Delete what nothing leads to any more.
    Retire,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 3] = [Self::Prepare, Self::Switch, Self::Retire];
}

impl Op {
    /// Returns the operation that adds an element.
    pub fn add(element: Element) -> Self {
        Self::Nft(nft::Op::Add(element))
    }

    /// Returns the operation that deletes an element.
    pub fn delete(element: Element) -> Self {
        Self::Nft(nft::Op::Delete(element))
    }

    /// Returns the operation on our tables, if it is one.
    pub fn as_nft(&self) -> Option<&nft::Op> {
        if let Self::Nft(op) = self { Some(op) } else { None }
    }

    /// Returns the operation on IPVS, if it is one.
    pub fn as_ipvs(&self) -> Option<&ipvs::Op> {
        if let Self::Ipvs(op) = self { Some(op) } else { None }
    }

    /// Returns the element that it adds, if it adds one.
    pub fn added(&self) -> Option<&Element> {
        if let Self::Nft(nft::Op::Add(element)) = self { Some(element) } else { None }
    }

    /// Returns the element that it deletes, if it deletes one.
    pub fn deleted(&self) -> Option<&Element> {
        if let Self::Nft(nft::Op::Delete(element)) = self { Some(element) } else { None }
    }

    /// Returns the element that it adds or deletes, if it does.
    pub fn element(&self) -> Option<&Element> {
        self.added().or_else(|| self.deleted())
    }

    /// Returns the operation as one or more commands of `nft`, each on a line of its own; an
    /// operation on IPVS, for which `nft` has none, as a comment. `mark` requests masquerading.
    pub fn commands(&self, mark: u32) -> String {
        match self {
            Self::Nft(op) => nft::text::commands(op, mark),
            Self::Ipvs(op) => format!("# {}\n", ipvs::text::describe(op)),
        }
    }
}

impl From<nft::Op> for Op {
    fn from(op: nft::Op) -> Self {
        Self::Nft(op)
    }
}

impl From<ipvs::Op> for Op {
    fn from(op: ipvs::Op) -> Self {
        Self::Ipvs(op)
    }
}
