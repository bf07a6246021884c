//! One allocation per distinct string.

use std::collections::HashSet;
use std::sync::Arc;

/// Hands out shared strings. A cluster has few names of nodes, zones and ports, but repeats them
/// for each endpoint: without sharing, 200,000 endpoints hold 200,000 copies of some hundred
/// strings.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    known: HashSet<Arc<str>>,
    /// The number of strings at which those that are not in use any more are dropped.
    limit: usize,
}

impl Interner {
    /// Returns the shared copy of a text.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }

    /// Takes over the strings of another one, except those of which it has a copy.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.known.extend(other.known);
    }

    /// Drops strings that are not in use, if many were added since the last time. The limit doubles
    /// with the number in use, so that the cost stays proportional to the strings added.
    pub(crate) fn tidy(&mut self) {
        const SMALLEST: usize = 1024;
        if self.known.len() > self.limit.max(SMALLEST) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.limit = self.known.len() * 2;
        }
    }

    /// Returns the number of strings held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}
