//! How often, and by which filter, the kernel has to go through its flows.
//!
//! Each time takes as long as the table is large, however little is found: 100,000 flows of a
//! table of 262,144 buckets take tens of milliseconds. So what one walk can find is found in one walk.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use rulec_compiler::net::{Backend, Family};

use super::wire::Filter;
use super::{Frontend, Gone, Stale};

/// So many filtered deletions are preferred to one dump. A dump of which little is wanted is the
/// shorter walk, but packets of that CPU wait as long as the kernel fills a message of it.
const MAX_DELETIONS: usize = 4;

/// One walk of the kernel through all flows of the node.
#[derive(Debug)]
pub(super) enum Walk<'a> {
    /// The kernel deletes what the filter finds.
    Delete(Filter),
    /// The kernel shows what the filter finds, and what one of these covers is deleted.
    Choose(Filter, Vec<&'a Stale>),
}

/// The walks that find all stale flows; those in which the kernel deletes by itself come first.
pub(super) fn walks(stale: &[Stale], can_delete: bool) -> Vec<Walk<'_>> {
    let mut groups: BTreeMap<(Family, NonZeroU16), Vec<&Stale>> = BTreeMap::new();
    for stale in stale {
        for family in Family::ALL {
            if stale.frontend.addresses().any(|address| Family::of(address) == family) {
                groups.entry((family, stale.frontend.port())).or_default().push(stale);
            }
        }
    }
    let mut deletions = Vec::new();
    let mut choices = Vec::new();
    for ((family, port), group) in groups {
        match exact(family, port, &group) {
            Some(filters) if can_delete => deletions.extend(filters.into_iter().map(Walk::Delete)),
            Some(_) | None => {
                choices.push(Walk::Choose(common(family, port, &group), group));
            }
        }
    }
    deletions.append(&mut choices);
    deletions
}

/// Filters that find exactly what a group covers, if there are some, and few.
fn exact(family: Family, port: NonZeroU16, group: &[&Stale]) -> Option<Vec<Filter>> {
    let mut filters = Vec::new();
    for stale in group {
        for address in stale.frontend.addresses() {
            let IpAddr::V4(destination) = address else {
                if family == Family::Ipv6 {
                    return None;
                }
                continue;
            };
            let (source, reply_port) = match &stale.gone {
                Gone::Backend(Backend { address: IpAddr::V4(address), port }) => (*address, *port),
                // No flow of this family has such an endpoint.
                Gone::Backend(Backend { address: IpAddr::V6(_), .. }) => continue,
                Gone::Untranslated => (destination, port),
                Gone::AllBut(_) => return None,
            };
            let filter = Filter {
                family,
                port,
                destination: Some(destination),
                reply_source: Some(source),
                reply_port: Some(reply_port),
            };
            if !filters.contains(&filter) {
                filters.push(filter);
            }
            if filters.len() > MAX_DELETIONS {
                return None;
            }
        }
    }
    Some(filters)
}

/// The narrowest filter that finds all that a group covers.
fn common(family: Family, port: NonZeroU16, group: &[&Stale]) -> Filter {
    let destinations = group.iter().flat_map(|stale| stale.frontend.addresses());
    // `None` for a source that may be any.
    let sources = || {
        group.iter().map(|stale| match &stale.gone {
            Gone::Backend(backend) => Some(*backend),
            Gone::Untranslated | Gone::AllBut(_) => None,
        })
    };
    let reply_source = sources().map(|source| v4(source?.address));
    Filter {
        family,
        port,
        destination: same(destinations.filter_map(v4).map(Some)).filter(|_| family == Family::Ipv4),
        reply_source: same(reply_source).filter(|_| family == Family::Ipv4),
        reply_port: same(sources().map(|source| Some(source?.port))),
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// What all are, if all are the same.
fn same<T: PartialEq>(mut all: impl Iterator<Item = Option<T>>) -> Option<T> {
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

impl Frontend {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (one, many) = match self {
            Self::Address { address, .. } => (Some(*address), None),
            Self::NodePort { addresses, .. } => (None, Some(addresses.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn port(&self) -> NonZeroU16 {
        match self {
            Self::Address { port, .. } | Self::NodePort { port, .. } => *port,
        }
    }
}
