//! What must hold.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use rulec_compiler::State;
use rulec_compiler::net::Protocol;
use rulec_compiler::oracle::{self, Packet, Verdict};

use crate::cluster::{self, BASE, CLOCK, From};

/// The mark that requests masquerading, by default.
const MARK: u32 = 0x4000;

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which one.
    pub law: &'static str,
    /// What was seen.
    pub what: String,
}

impl Breach {
    pub(crate) fn new(law: &'static str, what: String) -> Self {
        Self { law, what }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the law {:?} does not hold: {}", self.law, self.what)
    }
}

/// The Services that nobody touches, once they are in the kernel: no packet to them is ever refused,
/// lost or sent elsewhere, whatever happens to others, to the sources or to the daemon.
#[derive(Debug, Default)]
pub(crate) struct Served {
    from_server: Watched,
    from_file: Watched,
    clock: Clock,
}

/// How many changes of the server the kernel has seen: never fewer than before.
#[derive(Debug, Default)]
struct Clock {
    seen: u16,
    /// Whether the daemon cannot know what was seen, and has committed nothing yet.
    is_forgotten: bool,
}

/// Whether a Service must be served.
#[derive(Debug, Default)]
struct Watched(bool);

impl Served {
    /// Others have changed the kernel: nothing is expected until it is mended.
    pub(crate) fn excuse(&mut self) {
        self.from_server = Watched::default();
        self.from_file = Watched::default();
    }

    /// A daemon has started that cannot know what the one before has seen.
    pub(crate) fn forget_the_time(&mut self) {
        self.clock.is_forgotten = true;
    }

    /// A daemon has committed all that it wants.
    pub(crate) fn committed(&mut self, state: &State) {
        if std::mem::take(&mut self.clock.is_forgotten) {
            self.clock.seen = Clock::of(state).unwrap_or_default();
        }
    }

    /// Looks at a state that packets may meet.
    pub(crate) fn look(&mut self, state: &State) -> Result<(), Breach> {
        self.from_server.look(state, From::Server)?;
        self.from_file.look(state, From::File)?;
        self.clock.look(state)
    }
}

impl Clock {
    /// Returns how many changes the content of a kernel has seen, if it has the clock.
    fn of(state: &State) -> Option<u16> {
        let fates = fates(state, From::Server, CLOCK, 80);
        let seen = fates.iter().filter_map(|fate| match fate {
            Verdict::Backend(backend) => cluster::changes(*backend),
            Verdict::Pass | Verdict::Reject | Verdict::Drop => None,
        });
        seen.min()
    }

    fn look(&mut self, state: &State) -> Result<(), Breach> {
        let Some(now) = Self::of(state).filter(|_| !self.is_forgotten) else { return Ok(()) };
        if now < self.seen {
            let what = format!("after {} changes, those of {now} are in the kernel", self.seen);
            return Err(Breach::new("endpoints never go back in time", what));
        }
        self.seen = now;
        Ok(())
    }
}

impl Watched {
    fn look(&mut self, state: &State, from: From) -> Result<(), Breach> {
        let backends: BTreeSet<Verdict> =
            cluster::base_backends(from).into_iter().map(Verdict::Backend).collect();
        let fates = fates(state, from, BASE, 80);
        let is_served = fates == backends;
        if self.0 && !is_served {
            let what = format!("packets to {}: {fates:?}", cluster::name(from, BASE));
            return Err(Breach::new("what nobody touches is served at every moment", what));
        }
        self.0 |= is_served;
        Ok(())
    }
}

/// Returns what may happen to the first packet of a Pod to a Service.
pub(crate) fn fates(state: &State, from: From, number: u8, port: u16) -> BTreeSet<Verdict> {
    let packet = Packet {
        source: IpAddr::V4(Ipv4Addr::new(10, 50, 9, 9)),
        interface: Some("veth0".to_owned()),
        destination: cluster::address(from, number),
        transport: Some((Protocol::Tcp, cluster::port(port))),
    };
    let is_local = |address| address == IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
    let fates = oracle::explain(state, &packet, MARK, &is_local);
    fates.into_iter().map(|fate| fate.verdict).collect()
}
