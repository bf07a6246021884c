//! The lengths of source ranges.
//!
//! A range is an exact match: of the client's address without its last bits. So the rules look for
//! the client once for each length that a frontend has ranges of, and a number of 32 bits tells
//! them which: one bit for each length. In IPv4, that is every length. In IPv6, it is every fourth,
//! and a range of another length is several ranges of the next one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::net::Family;

/// A length of source ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Length(u8);

impl Length {
    /// The number of lengths.
    const COUNT: u8 = 32;

    /// Returns all lengths, from the longest.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).rev().map(Self)
    }

    /// Returns the length of a range; `None` if no range may have it.
    pub fn of(range: IpNet) -> Option<Self> {
        let family = Family::of(range.addr());
        Self::all().find(|length| length.bits(family) == range.prefix_len())
    }

    /// Returns the number of bits that all addresses of a range have in common.
    pub fn bits(self, family: Family) -> u8 {
        (self.0 + 1) * step(family)
    }

    /// Returns the mask of a network of this length; `None` if that is a single address.
    pub fn mask(self, family: Family) -> Option<IpAddr> {
        let bits = u32::from(self.bits(family));
        match family {
            Family::Ipv4 => (bits < 32).then(|| Ipv4Addr::from(u32::MAX << (32 - bits)).into()),
            Family::Ipv6 => (bits < 128).then(|| Ipv6Addr::from(u128::MAX << (128 - bits)).into()),
        }
    }

    /// Returns its number in the scratch register: a single bit.
    pub fn number(self) -> u32 {
        1 << self.0
    }

    /// Returns the length with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::all().find(|length| length.number() == number)
    }
}

/// The lengths of the source ranges of a frontend. Without any, no client may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lengths(u32);

impl Lengths {
    /// Returns the lengths of ranges.
    pub fn of(ranges: &[IpNet]) -> Self {
        let numbers = ranges.iter().filter_map(|range| Some(Length::of(*range)?.number()));
        Self(numbers.fold(0, |all, one| all | one))
    }

    /// Returns the number in the scratch register.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Returns the lengths with this number.
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Returns true if this length is one of them.
    pub fn contains(self, length: Length) -> bool {
        self.0 & length.number() != 0
    }
}

/// Returns the ranges that have a length, and together the addresses of this one.
pub fn ranges(range: IpNet) -> impl Iterator<Item = IpNet> {
    let length = range.prefix_len().next_multiple_of(step(Family::of(range.addr())));
    // The length of a range is never more than that of an address, which is a multiple.
    range.subnets(length).into_iter().flatten()
}

fn step(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: &str) -> Vec<String> {
        ranges(range.parse().unwrap()).map(|range| range.to_string()).collect()
    }

    #[test]
    fn every_range_of_ipv4_has_a_length() {
        for length in 1..=32 {
            let range = format!("128.0.0.0/{length}");
            assert_eq!(of(&range), [&*range]);
            let found = Length::of(range.parse().unwrap()).unwrap();
            assert_eq!(found.bits(Family::Ipv4), length);
            assert_eq!(Length::from_number(found.number()), Some(found));
        }
        assert_eq!(Length::of("0.0.0.0/0".parse().unwrap()), None, "no restriction");
    }

    #[test]
    fn ranges_of_ipv6_have_every_fourth_length() {
        for range in ["2001:db8::/32", "2001:db8::7/128", "8000::/4"] {
            assert_eq!(of(range), [range]);
            assert!(Length::of(range.parse().unwrap()).is_some(), "{range}");
        }
        assert_eq!(of("2001:db8::/63"), ["2001:db8::/64", "2001:db8:0:1::/64"]);
        for range in ["2001:db8::/61", "8000::/1", "2001:db8::8/125"] {
            let parts = of(range);
            assert_eq!(parts.len(), 8, "{parts:?}");
            let of_parts: Vec<IpNet> = parts.iter().map(|part| part.parse().unwrap()).collect();
            assert!(of_parts.iter().all(|part| Length::of(*part).is_some()), "{parts:?}");
            assert_eq!(IpNet::aggregate(&of_parts), [range.parse().unwrap()]);
        }
    }

    #[test]
    fn numbers_that_are_no_length_are_refused() {
        assert_eq!([0, 3, u32::MAX].map(Length::from_number), [None; 3]);
        let lengths =
            Lengths::of(&["10.0.0.0/8".parse().unwrap(), "192.0.2.7/32".parse().unwrap()]);
        assert_eq!(lengths.number(), 0x8000_0080);
        let held = Length::all().filter(|length| lengths.contains(*length));
        assert_eq!(held.map(|length| length.bits(Family::Ipv4)).collect::<Vec<u8>>(), [32, 8]);
    }
}
