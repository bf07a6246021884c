//! The schedulers by which IPVS chooses among the real servers of a virtual server.

use std::fmt;
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

    const NAMES: [(&'static str, u32); 7] = [
        ("flag-1", 0x08),
        ("flag-2", 0x10),
        ("flag-3", 0x20),
        ("sh-fallback", 0x08),
        ("sh-port", 0x10),
        ("mh-fallback", 0x08),
        ("mh-port", 0x10),
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
        let flags = if scheduler == Scheduler::Mh { 0x10 } else { 0 };
        Self { scheduler, flags: SchedulerFlags(flags) }
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
        assert_eq!(Scheduling::new(Scheduler::Mh).flags.to_string(), "flag-2");
        assert!(Scheduling::new(Scheduler::Sh).flags.is_empty());
    }
}
