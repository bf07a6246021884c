//! Sets sysctls at the start: those of conntrack (the number of flows, and how long they last
//! without packets), and in `ipvs` those that IPVS needs.
//!
//! A setting is written only if it was requested and differs. A setting that cannot be written (a
//! read-only /proc/sys, a network namespace that does not own the setting) is reported; the caller
//! decides what to do.

mod ipvs;

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

pub use self::ipvs::Arp;

/// The upper limit of `nf_conntrack_max`, for any number of CPUs: about 300 MB of kernel memory
/// when full.
const MAX_FLOWS: u32 = 1 << 20;

/// The file with the number of conntrack's hash buckets.
const HASHSIZE: &str = "module/nf_conntrack/parameters/hashsize";

/// The requested settings; `None` leaves a setting as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `nf_conntrack_max`, the maximum number of flows. It is only raised, since a higher value was
    /// set because someone needs it. The hash table is raised to a quarter of it if it is smaller,
    /// and never shrunk. It can be set only in the initial network namespace.
    pub max: Option<NonZeroU32>,
    /// `nf_conntrack_tcp_timeout_established`, in seconds.
    pub tcp_timeout_established: Option<NonZeroU32>,
    /// `nf_conntrack_tcp_timeout_close_wait`, in seconds.
    pub tcp_timeout_close_wait: Option<NonZeroU32>,
    /// `nf_conntrack_tcp_be_liberal`: whether TCP packets outside the window are valid.
    pub tcp_be_liberal: Option<bool>,
    /// `nf_conntrack_udp_timeout`, in seconds.
    pub udp_timeout: Option<NonZeroU32>,
    /// `nf_conntrack_udp_timeout_stream`, in seconds.
    pub udp_timeout_stream: Option<NonZeroU32>,
}

/// Returns the `nf_conntrack_max` for a number of CPUs: `per_core` for each, at least `min` and at
/// most 1048576. `None`, which leaves it as it is, if `per_core` is 0.
pub fn conntrack_max(per_core: u32, min: u32, cpus: usize) -> Option<NonZeroU32> {
    let per_core = NonZeroU32::new(per_core)?;
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let max = per_core.get().saturating_mul(cpus).max(min).min(MAX_FLOWS);
    NonZeroU32::new(max)
}

/// A setting and its outcome.
#[derive(Debug)]
pub struct Setting {
    /// Its file.
    pub path: PathBuf,
    /// The requested value.
    pub wanted: u32,
    /// The outcome.
    pub outcome: Adjustment,
}

/// The outcome of a setting.
#[derive(Debug)]
pub enum Adjustment {
    /// It already had the value (or a higher one, for the number of flows and the hash table).
    Already {
        /// Its value.
        value: u32,
    },
    /// It was changed.
    Set {
        /// The previous value.
        from: u32,
        /// The new value as the kernel reports it: it rounds the size of the hash table.
        to: u32,
    },
    /// It could not be read, or could not be set.
    Refused(SysctlError),
}

/// The reason why a setting is not as requested. The file is named beside it.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// It cannot be read; `NotFound` if this kernel does not have it (yet).
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is not a number.
    #[error("holds {0:?}, which is not a number")]
    NoNumber(String),
    /// It has another value, and cannot be written.
    #[error("is {value} and cannot be written")]
    Write {
        /// The current value.
        value: u32,
        /// The reason.
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
    /// Looks for the settings in other places than `/proc/sys` and `/sys`, for example in a
    /// container that has the host's mounted elsewhere.
    pub fn at(proc_sys: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self { proc_sys: proc_sys.into(), sys: sys.into() }
    }

    /// Applies the requested settings, and returns the outcome of each.
    pub fn apply(&self, request: &Wanted) -> Vec<Setting> {
        let mut settings = Vec::new();
        if let Some(max) = request.max {
            let setting = raise(self.conntrack("max"), max.get());
            let is_so = !matches!(setting.outcome, Adjustment::Refused(_));
            settings.push(setting);
            // Without the flows, a larger hash table would only waste memory.
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

/// Raises a setting to at least this value.
fn raise(path: PathBuf, wanted: u32) -> Setting {
    make(path, wanted, |value| value >= wanted)
}

fn make(path: PathBuf, wanted: u32, is_right: impl Fn(u32) -> bool) -> Setting {
    let outcome = (|| {
        let value = read(&path)?;
        if is_right(value) {
            return Ok(Adjustment::Already { value });
        }
        write(&path, wanted).map_err(|error| SysctlError::Write { value, error })?;
        Ok(Adjustment::Set { from: value, to: read(&path)? })
    })()
    .unwrap_or_else(Adjustment::Refused);
    Setting { path, wanted, outcome }
}

fn read(path: &Path) -> Result<u32, SysctlError> {
    let text = fs::read_to_string(path).map_err(SysctlError::Read)?;
    let text = text.trim();
    text.parse().map_err(|_| SysctlError::NoNumber(text.to_owned()))
}

/// Writes without creating a file: the kernel either has the setting or not.
fn write(path: &Path, value: u32) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
    // In one call, since the kernel takes the data of each call as a value.
    file.write_all(format!("{value}\n").as_bytes())
}
