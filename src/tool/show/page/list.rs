//! Which Services the page lists: those with something wrong first, and not more than a person
//! reads.

use super::super::frontend::FrontendView;
use super::super::known::Known;
use super::super::service::{self, ServiceView};
use crate::cli::name::Asked;
use crate::observe::page::Wanted;

/// How many Services are listed at most.
pub(super) const LISTED: usize = 200;

/// Services, and how many there are.
pub(super) struct List {
    /// The first of them, in order of what is wrong with them, and then of their names.
    pub(super) services: Vec<(Level, ServiceView)>,
    /// How many match the query.
    pub(super) matching: usize,
    /// How many there are.
    pub(super) all: usize,
    /// How many of those that match are at each level.
    pub(super) levels: [usize; 4],
}

/// How a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Connections to it fail, or some do.
    Bad,
    /// It has no endpoint, or something that has no effect.
    Odd,
    /// All of it works.
    Good,
    /// There is nothing to serve.
    Unserved,
}

impl Level {
    pub(super) const ALL: [Self; 4] = [Self::Bad, Self::Odd, Self::Good, Self::Unserved];

    pub(super) fn of(service: &ServiceView) -> Self {
        let (used, all) = service.endpoints();
        let mut frontends = service.ports.iter().flat_map(|port| &port.frontends);
        let is_missing = |it: &FrontendView| it.taken_by.is_some() || it.paths.is_empty();
        if service.refused.is_some() || frontends.any(is_missing) || (used == 0 && all > 0) {
            Self::Bad
        } else if service.ports.is_empty() {
            Self::Unserved
        } else if used < all || all == 0 || !service.notes.is_empty() {
            Self::Odd
        } else {
            Self::Good
        }
    }

    /// Returns its class in the style.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Odd => "odd",
            Self::Good => "good",
            Self::Unserved => "unserved",
        }
    }

    /// Returns it in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Bad => "fail",
            Self::Odd => "to look at",
            Self::Good => "work",
            Self::Unserved => "not served",
        }
    }
}

impl List {
    /// Returns the Services that are wanted.
    pub(super) fn of(known: &Known, wanted: &Wanted) -> Self {
        let mut found = service::all(known);
        let all = found.len();
        if !wanted.namespace.is_empty() {
            found.retain(|service| service.namespace == wanted.namespace);
        }
        if !wanted.name.is_empty() {
            found = named(known, found, &wanted.name);
        }
        Self::ordered(found, all)
    }

    /// Puts the Services in order, and leaves out what is too much.
    pub(super) fn ordered(found: Vec<ServiceView>, all: usize) -> Self {
        let mut services: Vec<(Level, ServiceView)> =
            found.into_iter().map(|service| (Level::of(&service), service)).collect();
        services.sort_by(|(one, this), (other, that)| (one, &this.key).cmp(&(other, &that.key)));
        let count = |level| services.iter().filter(|(it, _)| *it == level).count();
        let levels = Level::ALL.map(count);
        let matching = services.len();
        services.truncate(LISTED);
        Self { services, matching, all, levels }
    }
}

/// Returns those with a part of their name that is asked for, or else those that are reached there,
/// as `rulec show services` finds them.
fn named(known: &Known, found: Vec<ServiceView>, name: &str) -> Vec<ServiceView> {
    let lower = name.to_lowercase();
    let is_part = |service: &ServiceView| {
        format!("{}/{}", service.namespace, service.name).to_lowercase().contains(&lower)
    };
    let parts: Vec<ServiceView> = found.iter().filter(|it| is_part(it)).cloned().collect();
    match name.parse::<Asked>() {
        Ok(asked) if parts.is_empty() => super::super::matching(known, found, &asked),
        _ => parts,
    }
}
