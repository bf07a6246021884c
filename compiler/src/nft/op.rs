//! One operation on our tables.

use serde::{Deserialize, Serialize};

use super::chain::ChainId;
use super::element::Element;
use super::set::SetId;
use crate::net::Family;

/// One operation on our tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Create the table.
    AddTable(Family),
    /// Delete the table and all that is in it.
    DeleteTable(Family),
    /// Create a set or map.
    AddSet(Family, SetId),
    /// Delete a set or map and its elements.
    DeleteSet(Family, SetId),
    /// Create a chain, without rules.
    AddChain(Family, ChainId),
    /// Delete the rules of a chain.
    FlushChain(Family, ChainId),
    /// Add the rules of a chain.
    FillChain(Family, ChainId),
    /// Delete a chain and its rules.
    DeleteChain(Family, ChainId),
    /// Add an element, which must not exist.
    Add(Element),
    /// Delete an element, which must exist.
    Delete(Element),
}

impl Op {
    /// Returns true if it adds or deletes an element.
    pub fn is_element(&self) -> bool {
        matches!(self, Self::Add(_) | Self::Delete(_))
    }
}
