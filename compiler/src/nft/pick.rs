//! Pick codes: how a frontend says, in the 32 bits of a data map, how to choose among its backends.
//!
//! A frontend's code names a chain that all frontends with the same code share:
//!
//! ```text
//!  31        30       29          28 ................. 0
//!  affinity  0        masquerade  number of backends              (affinity = 0)
//!  affinity  0        masquerade  timeout (17) | backends (12)    (affinity = 1)
//! ```
//!
//! Bit 30 is kept free for the local view of `externalTrafficPolicy: Local`.

use std::fmt;

use serde::{Deserialize, Serialize};

const AFFINITY: u32 = 1 << 31;
const MASQUERADE: u32 = 1 << 29;
const TIMEOUT_SHIFT: u32 = 12;
const TIMEOUT_MASK: u32 = (1 << 17) - 1;
const PLAIN_MASK: u32 = MASQUERADE - 1;

/// The most backends a frontend with session affinity can have: what the code has room for.
pub const MAX_AFFINITY_BACKENDS: usize = (1 << TIMEOUT_SHIFT) - 1;

/// How to choose a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pick {
    /// Replace the client's address by the node's.
    pub masquerade: bool,
    /// The timeout of the client's record in seconds, if connections of a client stick.
    pub affinity: Option<u32>,
    /// The number of backends, at least 1.
    pub backends: u32,
}

impl Pick {
    /// The code in the map.
    pub fn code(self) -> u32 {
        let masquerade = if self.masquerade { MASQUERADE } else { 0 };
        match self.affinity {
            None => masquerade | (self.backends & PLAIN_MASK),
            Some(timeout) => {
                AFFINITY | masquerade | (timeout & TIMEOUT_MASK) << TIMEOUT_SHIFT | self.backends
            }
        }
    }

    /// The meaning of a code read from a kernel; `None` if nothing of ours has this code.
    pub fn from_code(code: u32) -> Option<Self> {
        let masquerade = code & MASQUERADE != 0;
        let pick = if code & AFFINITY == 0 {
            Self { masquerade, affinity: None, backends: code & PLAIN_MASK }
        } else {
            let timeout = code >> TIMEOUT_SHIFT & TIMEOUT_MASK;
            let backends = code & ((1 << TIMEOUT_SHIFT) - 1);
            Self { masquerade, affinity: Some(timeout), backends }
        };
        (pick.backends > 0 && pick.affinity != Some(0) && pick.code() == code).then_some(pick)
    }
}

/// The stem of the chain's name: `pick-3`, `masquerade-affinity-10800-pick-3`.
impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.masquerade {
            f.write_str("masquerade-")?;
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
    fn codes_are_distinct_and_read_back() {
        let mut codes = std::collections::BTreeSet::new();
        for masquerade in [false, true] {
            for affinity in [None, Some(1), Some(4), Some(10_800), Some(86_400)] {
                for backends in [1, 2, 3, 4_095] {
                    let pick = Pick { masquerade, affinity, backends };
                    assert!(codes.insert(pick.code()), "{pick} shares its code");
                    assert_eq!(Pick::from_code(pick.code()), Some(pick));
                }
            }
        }
        let many = Pick { masquerade: true, affinity: None, backends: 1_000_000 };
        assert_eq!(Pick::from_code(many.code()), Some(many));
    }

    #[test]
    fn codes_of_nobody_are_refused() {
        for code in [0, MASQUERADE, AFFINITY, AFFINITY | 5, 1 << 30, 1 << 30 | 2] {
            assert_eq!(Pick::from_code(code), None, "{code:#x}");
        }
    }
}
