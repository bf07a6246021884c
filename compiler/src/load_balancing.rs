//! How our rules choose among the backends of a Service, and the weights of backends.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::net::Backend;

/// How a backend is chosen for a new connection, in nftables mode.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum LoadBalancing {
    /// At random.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// By a consistent hash of the client's address and port: any node, and this one without its
    /// records of connections, chooses the same backend for a connection.
    Maglev,
    /// By a consistent hash of the client's address.
    MaglevSource,
}

impl LoadBalancing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Random, Self::RoundRobin, Self::Maglev, Self::MaglevSource];

    /// Returns the name in options and annotations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::Maglev => "maglev",
            Self::MaglevSource => "maglev-source",
        }
    }
}

impl fmt::Display for LoadBalancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LoadBalancing {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is no way of load balancing, use one of {names}")
        })
    }
}

/// The share of new connections that a backend gets, in relation to those of the others: 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct Weight(u8);

impl Weight {
    /// No new connections.
    pub const NONE: Self = Self(0);

    const MAX: u8 = 100;

    /// Returns true if a backend gets no new connections.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Returns true if this is the weight of a backend that states none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the number.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// The weight of a backend that states none.
impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl From<Weight> for u8 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl TryFrom<u8> for Weight {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        if number <= Self::MAX {
            Ok(Self(number))
        } else {
            Err(format!("{number} is no weight, which is a number from 0 to 100"))
        }
    }
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse::<u8>().ok().filter(|_| text.bytes().all(|it| it.is_ascii_digit()));
        let weight = number.and_then(|number| Self::try_from(number).ok());
        weight.ok_or_else(|| format!("{text:?} is no weight, which is a number from 0 to 100"))
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The weights of the backends of a Service port. Empty for most: backends that are not listed have
/// the default weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights(BTreeMap<Backend, Weight>);

impl Weights {
    /// Returns the weight of a backend.
    pub fn of(&self, backend: Backend) -> Weight {
        self.0.get(&backend).copied().unwrap_or_default()
    }

    /// Returns true if all backends have the default weight.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Backend, Weight)> for Weights {
    fn from_iter<T: IntoIterator<Item = (Backend, Weight)>>(weights: T) -> Self {
        Self(weights.into_iter().filter(|(_, weight)| !weight.is_default()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for it in LoadBalancing::ALL {
            assert_eq!(it.to_string().parse(), Ok(it));
        }
        let error = "Maglev".parse::<LoadBalancing>().unwrap_err();
        assert!(error.contains("random, round-robin, maglev, maglev-source"), "{error}");
    }

    #[test]
    fn weights_are_numbers_from_0_to_100() {
        assert_eq!("0".parse(), Ok(Weight::NONE));
        assert_eq!("100".parse::<Weight>().map(Weight::get), Ok(100));
        for text in ["101", "-1", "+1", "1.5", "", "256", " 1"] {
            assert!(text.parse::<Weight>().is_err(), "{text:?}");
        }
    }
}
