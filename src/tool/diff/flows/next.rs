//! Where the next packet of a deleted flow goes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use anyhow::Context;
use rulec_compiler::State;
use rulec_compiler::net::Protocol;
use rulec_compiler::oracle::{self, Packet, Verdict};
use rulec_compiler::settings::DetectLocal;
use rulec_sinks::conntrack::Live;
use rulec_sinks::{Device, Lookup, Way};

use crate::tool::diff::comparison::Comparison;
use crate::tool::explain::is_own;

/// Asks the oracle once for all flows with the same answer.
pub(super) struct Next<'a> {
    state: &'a State,
    mark: u32,
    own: &'a [IpAddr],
    /// Known answers; with the client only where it depends on that.
    known: HashMap<(Protocol, SocketAddr, Option<IpAddr>), Verdict>,
    interfaces: Option<Interfaces>,
}

/// The devices by which packets of clients arrive, as the way back tells them: conntrack does not.
struct Interfaces {
    lookup: Lookup,
    devices: BTreeMap<u32, Device>,
    error: Option<std::io::Error>,
}

const LOOKING: &str = "--flows: looking at routes and devices";

impl<'a> Next<'a> {
    /// Asks about packets to the new state, on a node with these addresses.
    pub(super) fn new(comparison: &'a Comparison, own: &'a [IpAddr]) -> anyhow::Result<Self> {
        let is_asked = matches!(comparison.to.settings.detect_local, DetectLocal::Interface(_));
        let interfaces = is_asked.then(Interfaces::open).transpose().context(LOOKING)?;
        let mark = comparison.to.settings.masquerade_bit.mark();
        Ok(Self { state: &comparison.new, mark, own, known: HashMap::new(), interfaces })
    }

    /// Returns what happens to the next packet of a flow that is deleted. Of several backends, it
    /// is any.
    pub(super) fn of(&mut self, live: &Live, depends_on_client: bool) -> Verdict {
        let (protocol, destination) = (live.flow.protocol, live.flow.destination);
        let source = live.client.ip();
        let key = (protocol, destination, depends_on_client.then_some(source));
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let is_own = is_own(self.own);
        let is_from_elsewhere = depends_on_client && !is_own(source);
        let interfaces = self.interfaces.as_mut().filter(|_| is_from_elsewhere);
        let interface = interfaces.and_then(|interfaces| interfaces.to(source));
        let transport = NonZeroU16::new(destination.port()).map(|port| (protocol, port));
        let packet = Packet { source, interface, destination: destination.ip(), transport };
        let fates = oracle::explain(self.state, &packet, self.mark, &is_own);
        let mut verdicts = fates.iter().map(|fate| fate.verdict);
        let is_backend = |verdict: &Verdict| matches!(verdict, Verdict::Backend(_));
        let backend = verdicts.clone().find(is_backend);
        let verdict = backend.or_else(|| verdicts.next()).unwrap_or(Verdict::Pass);
        self.known.insert(key, verdict);
        verdict
    }

    /// Ends the questions.
    ///
    /// # Errors
    ///
    /// If the kernel did not tell the way to a client.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self.interfaces.and_then(|interfaces| interfaces.error) {
            Some(error) => Err(error).context(LOOKING),
            None => Ok(()),
        }
    }
}

impl Interfaces {
    fn open() -> std::io::Result<Self> {
        let mut lookup = Lookup::open()?;
        let devices = lookup.devices()?;
        Ok(Self { lookup, devices, error: None })
    }

    fn to(&mut self, client: IpAddr) -> Option<String> {
        match self.lookup.way(client) {
            Ok(Some(Way::Device(index))) => Some(self.devices.get(&index)?.name.clone()),
            Ok(Some(Way::Own) | None) => None,
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }
}
