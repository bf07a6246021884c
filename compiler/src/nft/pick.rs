//! Pick codes: how to choose among the backends of a frontend, encoded in the 32 bits of a data
//! map.
//!
//! The code of a frontend selects a chain, which all frontends with the same code share:
//!
//! ```text
//!  31        30     29          28    27 ............ 0
//!  affinity  split  masquerade  ipvs  number of backends        (affinity = 0)
//!  affinity  split  masquerade  timeout (17) | backends (12)    (affinity = 1)
//! ```
//!
//! No pick needs both the split and the masquerade bit, so the code with exactly these two bits
//! means that connections are dropped. If IPVS chooses, the rules have no backends.

use std::fmt;

use serde::{Deserialize, Serialize};

const AFFINITY: u32 = 1 << 31;
const SPLIT: u32 = 1 << 30;
const MASQUERADE: u32 = 1 << 29;
const DROP: u32 = SPLIT | MASQUERADE;
const TIMEOUT_SHIFT: u32 = 12;
const TIMEOUT_MASK: u32 = (1 << 17) - 1;
const IPVS: u32 = 1 << 28;
const PLAIN_MASK: u32 = IPVS - 1;

/// The maximum number of backends of a frontend with session affinity: the code has no room for
/// more.
pub const MAX_AFFINITY_BACKENDS: usize = (1 << TIMEOUT_SHIFT) - 1;

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pick {
    /// The treatment of the clients.
    pub clients: Clients,
    /// With session affinity, the timeout of a client's record in seconds.
    pub affinity: Option<u32>,
    /// The number of backends; 0 if IPVS chooses, and for `Pick::DROP`.
    pub backends: u32,
}

/// The treatment of a frontend's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Clients {
    /// The pick chain leaves client addresses alone: for cluster addresses, where `dispatch`
    /// decides about masquerading, and for clients from outside under policy Local.
    Kept,
    /// Clients are masqueraded: external frontends under policy Cluster.
    Masqueraded,
    /// External frontends under policy Local: clients from outside continue in the local view, Pods
    /// keep their addresses, and the node itself is masqueraded.
    Split,
    /// Connections are dropped.
    Dropped,
}

impl Pick {
    /// Drops connections silently: there are backends, but the policy lets no client reach them.
    pub const DROP: Self = Self { clients: Clients::Dropped, affinity: None, backends: 0 };

    /// Returns the pick that leaves the choice to IPVS.
    pub const fn by_ipvs(clients: Clients) -> Self {
        Self { clients, affinity: None, backends: 0 }
    }

    /// Returns true if IPVS chooses.
    pub fn is_by_ipvs(self) -> bool {
        self.backends == 0 && self != Self::DROP
    }

    /// Returns the code in the map.
    pub fn code(self) -> u32 {
        let clients = match self.clients {
            Clients::Kept => 0,
            Clients::Masqueraded => MASQUERADE,
            Clients::Split => SPLIT,
            Clients::Dropped => return DROP,
        };
        match self.affinity {
            None if self.backends == 0 => clients | IPVS,
            None => clients | (self.backends & PLAIN_MASK),
            Some(timeout) => {
                AFFINITY | clients | (timeout & TIMEOUT_MASK) << TIMEOUT_SHIFT | self.backends
            }
        }
    }

    /// Returns the pick with a code that was read from a kernel; `None` if the code is not valid.
    pub fn from_code(code: u32) -> Option<Self> {
        if code == DROP {
            return Some(Self::DROP);
        }
        let clients = match code & (SPLIT | MASQUERADE) {
            0 => Clients::Kept,
            MASQUERADE => Clients::Masqueraded,
            SPLIT => Clients::Split,
            _ => return None,
        };
        let pick = if code == code & (SPLIT | MASQUERADE) | IPVS {
            Self::by_ipvs(clients)
        } else if code & AFFINITY == 0 {
            Self { clients, affinity: None, backends: code & PLAIN_MASK }
        } else {
            let timeout = code >> TIMEOUT_SHIFT & TIMEOUT_MASK;
            let backends = code & ((1 << TIMEOUT_SHIFT) - 1);
            Self { clients, affinity: Some(timeout), backends }
        };
        let is_one = pick.backends > 0 || pick.affinity.is_none();
        (is_one && pick.affinity != Some(0) && pick.code() == code).then_some(pick)
    }

    /// Returns the pick whose chain name has this stem.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == Self::DROP.to_string() {
            return Some(Self::DROP);
        }
        let known = [("masquerade-", Clients::Masqueraded), ("split-", Clients::Split)];
        let (clients, rest) = known
            .into_iter()
            .find_map(|(prefix, clients)| Some((clients, name.strip_prefix(prefix)?)))
            .unwrap_or((Clients::Kept, name));
        let (affinity, rest) = match rest.strip_prefix("affinity-") {
            Some(rest) => {
                let (timeout, rest) = rest.split_once('-')?;
                (Some(timeout.parse().ok()?), rest)
            }
            None => (None, rest),
        };
        let backends = match rest {
            "ipvs" => 0,
            _ => rest.strip_prefix("pick-")?.parse().ok()?,
        };
        let pick = Self { clients, affinity, backends };
        // A number has several spellings, and not every pick has a code.
        let is_own_name = Self::from_code(pick.code()) == Some(pick) && pick.to_string() == name;
        is_own_name.then_some(pick)
    }
}

/// The stem of the chain's name: `pick-3`, `masquerade-affinity-10800-pick-3`, `ipvs`, `dropped`.
/// None of these is a keyword of `nft`, which could not read such a name back.
impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.clients {
            Clients::Kept => {}
            Clients::Masqueraded => f.write_str("masquerade-")?,
            Clients::Split => f.write_str("split-")?,
            Clients::Dropped => return f.write_str("dropped"),
        }
        if self.is_by_ipvs() {
            return f.write_str("ipvs");
        }
        if let Some(timeout) = self.affinity {
            write!(f, "affinity-{timeout}-")?;
        }
        write!(f, "pick-{}", self.backends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_round_trip() {
        let mut codes = std::collections::BTreeSet::from([Pick::DROP.code()]);
        assert_eq!(Pick::from_code(Pick::DROP.code()), Some(Pick::DROP));
        for clients in [Clients::Kept, Clients::Masqueraded, Clients::Split] {
            for affinity in [None, Some(1), Some(4), Some(10_800), Some(86_400)] {
                for backends in [1, 2, 3, 4_095] {
                    let pick = Pick { clients, affinity, backends };
                    assert!(codes.insert(pick.code()), "{pick} shares its code");
                    assert_eq!(Pick::from_code(pick.code()), Some(pick));
                    assert_eq!(Pick::from_name(&pick.to_string()), Some(pick));
                }
            }
            let ipvs = Pick::by_ipvs(clients);
            assert!(codes.insert(ipvs.code()) && ipvs.is_by_ipvs(), "{ipvs}");
            assert_eq!(Pick::from_code(ipvs.code()), Some(ipvs));
            assert_eq!(Pick::from_name(&ipvs.to_string()), Some(ipvs));
        }
        assert!(!Pick::DROP.is_by_ipvs());
        let many = Pick { clients: Clients::Masqueraded, affinity: None, backends: 1_000_000 };
        assert_eq!(Pick::from_code(many.code()), Some(many));
    }

    #[test]
    fn invalid_names_are_refused() {
        assert_eq!(Pick::from_name("dropped"), Some(Pick::DROP));
        for name in [
            "",
            "pick-",
            "pick-0",
            "pick-03",
            "pick-+3",
            "split-dropped",
            "drop",
            "affinity-0-pick-1",
            "affinity-5-ipvs",
            "Pick-1",
        ] {
            assert_eq!(Pick::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn invalid_codes_are_refused() {
        for code in [
            0,
            MASQUERADE,
            SPLIT,
            DROP | 1,
            DROP | IPVS,
            IPVS | 1,
            AFFINITY | DROP | 1 << 12 | 1,
            AFFINITY,
            AFFINITY | 5,
        ] {
            assert_eq!(Pick::from_code(code), None, "{code:#x}");
        }
    }
}
