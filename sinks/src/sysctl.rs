//! The kernel's settings at start: conntrack's (how many flows, and how long they last without
//! packets), and in `ipvs` those that IPVS needs.
//!
//! Nothing is written that is right already, and nothing that was not asked for. What cannot be written
//! (a read-only /proc/sys, a network namespace that does not own the setting) is said, not fatal: the
//! caller decides.

mod ipvs;

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

pub use self::ipvs::Arp;

/// The most that is asked of `nf_conntrack_max`, however many CPUs there are: about 300 MB of
/// kernel memory when full.
const MAX_FLOWS: u32 = 1 << 20;

/// Where the kernel has the number of conntrack's buckets.
const HASHSIZE: &str = "module/nf_conntrack/parameters/hashsize";

/// What is wanted; `None` leaves a setting as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `nf_conntrack_max`: how many flows there can be, at least: whoever has made it more needs more. The
    /// hash table grows to a quarter of it if it is smaller, and never shrinks. Belongs to the first
    /// network namespace.
    pub max: Option<NonZeroU32>,
    /// `nf_conntrack_tcp_timeout_established`, in seconds.
    pub tcp_timeout_established: Option<NonZeroU32>,
    /// `nf_conntrack_tcp_timeout_close_wait`, in seconds.
    pub tcp_timeout_close_wait: Option<NonZeroU32>,
    /// `nf_conntrack_tcp_be_liberal`: whether TCP packets outside of the window are valid.
    pub tcp_be_liberal: Option<bool>,
    /// `nf_conntrack_udp_timeout`, in seconds.
    pub udp_timeout: Option<NonZeroU32>,
    /// `nf_conntrack_udp_timeout_stream`, in seconds.
    pub udp_timeout_stream: Option<NonZeroU32>,
}

/// The `nf_conntrack_max` for a machine of so many CPUs: `per_core` for each, at least `min`, at most
/// 1048576. `None`, which leaves it as it is, if `per_core` is 0.
pub fn conntrack_max(per_core: u32, min: u32, cpus: usize) -> Option<NonZeroU32> {
    let per_core = NonZeroU32::new(per_core)?;
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let max = per_core.get().saturating_mul(cpus).max(min).min(MAX_FLOWS);
    NonZeroU32::new(max)
}

/// What became of one setting.
#[derive(Debug)]
pub struct Setting {
    /// Its file.
    pub path: PathBuf,
    /// The value it should have.
    pub wanted: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a setting.
#[derive(Debug)]
pub enum Outcome {
    /// It was so already (or more, for the number of flows and the hash table); nothing was written.
    Already {
        /// Its value.
        value: u32,
    },
    /// It was changed.
    Set {
        /// What it was.
        from: u32,
        /// What it is now, as the kernel says: it rounds the size of the hash table.
        to: u32,
    },
    /// It is not known, or not as it should be.
    Refused(SysctlError),
}

/// Why a setting is not as it should be. The file is named beside it.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// It cannot be read; `NotFound` if this kernel does not have it (yet).
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is no number.
    #[error("holds {0:?}, which is no number")]
    NoNumber(String),
    /// It is another number, and cannot be written.
    #[error("is {value} and cannot be written")]
    Write {
        /// What it is.
        value: u32,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// The places of the kernel's settings.
#[derive(Clone, Debug)]
pub struct Sysctls {
    proc_sys: PathBuf,
    sys: PathBuf,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::at("/proc/sys", "/sys")
    }
}

impl Sysctls {
    /// Looks for the settings elsewhere than in `/proc/sys` and `/sys`, as where the host's are
    /// mounted into a container.
    pub fn at(proc_sys: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self { proc_sys: proc_sys.into(), sys: sys.into() }
    }

    /// Makes the settings as requested, and says what became of each that was.
    pub fn apply(&self, request: &Request) -> Vec<Setting> {
        let mut settings = Vec::new();
        if let Some(max) = request.max {
            let setting = raise(self.conntrack("max"), max.get());
            let is_so = !matches!(setting.outcome, Outcome::Refused(_));
            settings.push(setting);
            // Without the flows, their buckets would be memory for nothing.
            if is_so {
                settings.push(raise(self.sys.join(HASHSIZE), max.get() / 4));
            }
        }
        let liberal = request.tcp_be_liberal.map(u32::from);
        let timeout = |seconds: Option<NonZeroU32>| seconds.map(NonZeroU32::get);
        for (name, wanted) in [
            ("tcp_be_liberal", liberal),
            ("tcp_timeout_established", timeout(request.tcp_timeout_established)),
            ("tcp_timeout_close_wait", timeout(request.tcp_timeout_close_wait)),
            ("udp_timeout", timeout(request.udp_timeout)),
            ("udp_timeout_stream", timeout(request.udp_timeout_stream)),
        ] {
            settings.extend(wanted.map(|wanted| self.set(name, wanted)));
        }
        settings
    }

    fn set(&self, name: &str, wanted: u32) -> Setting {
        make(self.conntrack(name), wanted, |value| value == wanted)
    }

    fn conntrack(&self, name: &str) -> PathBuf {
        self.proc_sys.join(format!("net/netfilter/nf_conntrack_{name}"))
    }
}

/// Makes a setting at least this.
fn raise(path: PathBuf, wanted: u32) -> Setting {
    make(path, wanted, |value| value >= wanted)
}

fn make(path: PathBuf, wanted: u32, is_right: impl Fn(u32) -> bool) -> Setting {
    let outcome = (|| {
        let value = read(&path)?;
        if is_right(value) {
            return Ok(Outcome::Already { value });
        }
        write(&path, wanted).map_err(|error| SysctlError::Write { value, error })?;
        Ok(Outcome::Set { from: value, to: read(&path)? })
    })()
    .unwrap_or_else(Outcome::Refused);
    Setting { path, wanted, outcome }
}

fn read(path: &Path) -> Result<u32, SysctlError> {
    let text = fs::read_to_string(path).map_err(SysctlError::Read)?;
    let text = text.trim();
    text.parse().map_err(|_| SysctlError::NoNumber(text.to_owned()))
}

/// Writes without creating a file: the kernel has the setting or has not.
fn write(path: &Path, value: u32) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
    // In one call: the kernel takes each for a value of its own.
    file.write_all(format!("{value}\n").as_bytes())
}
