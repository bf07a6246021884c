//! The schedulers by which IPVS chooses among the real servers of a virtual server.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A scheduler. Each is a kernel module, named `ip_vs_` and the scheduler's name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Round robin.
    #[default]
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Locality-based least connections.
    Lblc,
    /// Locality-based least connections with replication.
    Lblcr,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Maglev hashing (Linux 4.18).
    Mh,
}

impl Scheduler {
    /// All schedulers.
    pub const ALL: [Self; 11] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Lblc,
        Self::Lblcr,
        Self::Dh,
        Self::Sh,
        Self::Sed,
        Self::Nq,
        Self::Mh,
    ];

    /// Returns its name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Dh => "dh",
            Self::Sh => "sh",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Mh => "mh",
        }
    }
}

impl Scheduler {
    /// Returns true if new connections go elsewhere while a real server drains (weight 0). `dh`
    /// sends all connections to an address to one real server, and drops them if it takes none
    /// (seen on Linux 6.1).
    pub fn can_drain(self) -> bool {
        self != Self::Dh
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheduler {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|scheduler| scheduler.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is not an IPVS scheduler, use one of {names}")
        })
    }
}

/// The flags of a scheduler, as the kernel's bits (`IP_VS_SVC_F_SCHED1` … `3`). Their meaning
/// depends on the scheduler: for `sh` and `mh`, `flag-1` is `sh-fallback` or `mh-fallback`, and
/// `flag-2` is `sh-port` or `mh-port`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SchedulerFlags(u32);

impl SchedulerFlags {
    /// The kernel's bits for the three flags.
    pub const MASK: u32 = 0x38;

    /// `sh-fallback` and `mh-fallback`.
    const FALLBACK: u32 = 0x08;

    /// `sh-port` and `mh-port`.
    const PORT: u32 = 0x10;

    const NAMES: [(&'static str, u32); 7] = [
        ("flag-1", 0x08),
        ("flag-2", 0x10),
        ("flag-3", 0x20),
        ("sh-fallback", Self::FALLBACK),
        ("sh-port", Self::PORT),
        ("mh-fallback", Self::FALLBACK),
        ("mh-port", Self::PORT),
    ];

    /// Returns the scheduler's flags among the kernel's flags of a virtual server.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & Self::MASK)
    }

    /// Returns the kernel's bits.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Returns true if no flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for SchedulerFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().take(3).filter(|(_, bit)| self.0 & bit != 0);
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for SchedulerFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses names separated by commas.
impl FromStr for SchedulerFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(Self::flag).try_fold(Self::default(), |all, flag| Ok(Self(all.0 | flag?)))
    }
}

impl SchedulerFlags {
    fn flag(name: &str) -> Result<u32, String> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, bit)| *bit).ok_or_else(|| {
            let names = Self::NAMES.map(|(name, _)| name).join(", ");
            format!("{name:?} is not a scheduler flag, use any of {names}")
        })
    }
}

/// A scheduler and its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scheduling {
    /// The scheduler.
    pub scheduler: Scheduler,
    /// Its flags.
    pub flags: SchedulerFlags,
}

impl Scheduling {
    /// Returns a scheduler with its default flags: `mh` also hashes ports, or every connection of a
    /// client would get the same backend (as in kube-proxy).
    pub fn new(scheduler: Scheduler) -> Self {
        let flags = if scheduler == Scheduler::Mh { SchedulerFlags::PORT } else { 0 };
        Self::with_flags(scheduler, SchedulerFlags(flags))
    }

    /// Returns a scheduler with these flags.
    ///
    /// `sh` and `mh` always get their `fallback` flag. Their tables keep the place of a real server
    /// that drains (weight 0), and without the flag a new connection that is hashed to it is
    /// dropped (seen on Linux 6.1). While no real server drains, the flag has no effect.
    pub fn with_flags(scheduler: Scheduler, flags: SchedulerFlags) -> Self {
        let fallback = match scheduler {
            Scheduler::Sh | Scheduler::Mh => SchedulerFlags::FALLBACK,
            Scheduler::Rr
            | Scheduler::Wrr
            | Scheduler::Lc
            | Scheduler::Wlc
            | Scheduler::Lblc
            | Scheduler::Lblcr
            | Scheduler::Dh
            | Scheduler::Sed
            | Scheduler::Nq => 0,
        };
        Self { scheduler, flags: SchedulerFlags(flags.0 | fallback) }
    }
}

impl Default for Scheduling {
    fn default() -> Self {
        Self::new(Scheduler::default())
    }
}

/// The settings of a Service port for its virtual servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// The scheduling.
    pub scheduling: Scheduling,
    /// The longest time, in seconds, that draining real servers keep their connections.
    pub drain: u32,
    /// The maximum number of connections to each real server at a time.
    pub max_connections: Option<NonZeroU32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedulers_are_parsed_by_their_names() {
        for scheduler in Scheduler::ALL {
            assert_eq!(scheduler.name().parse(), Ok(scheduler));
        }
        let error = "fastest".parse::<Scheduler>().unwrap_err();
        assert!(error.starts_with("\"fastest\" is not an IPVS scheduler, use one of rr, wrr"));
        assert!("RR".parse::<Scheduler>().is_err());
    }

    #[test]
    fn flags_have_general_and_scheduler_specific_names() {
        let flags: SchedulerFlags = "mh-fallback, mh-port".parse().unwrap();
        assert_eq!((flags.bits(), flags.to_string().as_str()), (0x18, "flag-1,flag-2"));
        assert_eq!("flag-2,flag-1".parse(), Ok(flags));
        assert_eq!("".parse(), Ok(SchedulerFlags::default()));
        assert!("flag-4".parse::<SchedulerFlags>().is_err());
        // All other flags of a virtual server are ignored.
        assert_eq!(SchedulerFlags::from_bits(0x1b), "flag-1,flag-2".parse().unwrap());
    }

    #[test]
    fn maglev_hashing_includes_ports_by_default() {
        assert_eq!(Scheduling::new(Scheduler::Mh).flags.to_string(), "flag-1,flag-2");
    }

    #[test]
    fn hashing_schedulers_always_fall_back_and_others_have_no_flags() {
        for scheduler in Scheduler::ALL {
            let is_hashing = matches!(scheduler, Scheduler::Sh | Scheduler::Mh);
            let flags = Scheduling::with_flags(scheduler, SchedulerFlags::default()).flags;
            assert_eq!(flags.to_string(), if is_hashing { "flag-1" } else { "" }, "{scheduler}");
        }
    }
}
