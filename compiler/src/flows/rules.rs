//! The rules by which flows are judged.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::{Flow, Pair, Which};
use crate::frontend::Frontend;
use crate::name::NamespacedName;
use crate::net::{Backend, Family, Protocol};
use crate::nft::element::Key;
use crate::program::{Program, Winner};

/// The rules by which flows are judged.
#[derive(Clone, Debug)]
pub struct Rules {
    program: Program,
    /// The addresses that node ports answer on.
    node_addresses: BTreeSet<IpAddr>,
    /// The ranges of addresses that only Services have.
    ranges: Vec<IpNet>,
    /// Services whose content in the kernel is not known.
    unknown: BTreeSet<NamespacedName>,
}

impl Rules {
    /// Returns the rules of a program that a kernel holds, except for Services whose content is
    /// unknown.
    pub fn new(
        program: &Program,
        node_addresses: BTreeSet<IpAddr>,
        unknown: BTreeSet<NamespacedName>,
    ) -> Self {
        let ranges = program.node().iter();
        let range = |key: &Key| if let Key::ServiceCidr(range) = key { Some(*range) } else { None };
        let ranges = ranges.filter_map(range).collect();
        Self { program: program.clone(), node_addresses, ranges, unknown }
    }

    /// Returns true if a UDP flow, or a connection without an answer, is one of those that may
    /// contradict the rules and does so.
    ///
    /// A flow to a frontend may continue to a backend that gets new flows or, over UDP, to any
    /// backend that is still serving. A flow to an address and port that are no frontend is ours
    /// only if we have translated it: it was sent to a frontend that is known to have existed, or
    /// to an address that only Services can have.
    pub fn contradict(&self, flow: &Flow, which: &Which) -> bool {
        // No frontend has port 0.
        if flow.destination.port() == 0 {
            return false;
        }
        let mut frontends = self.frontends(flow);
        if !which.all && !frontends.clone().any(|frontend| which.names(frontend)) {
            return false;
        }
        if let Some((frontend, winner)) = self.winner(flow) {
            let is_asked = which.all || which.names(frontend);
            return is_asked
                && !self.unknown.contains(&winner.owner.service)
                && !winner.lets_go_on(flow);
        }
        flow.is_translated()
            && (frontends.any(|frontend| which.gone.contains(&frontend))
                || which.all
                    && self.unknown.is_empty()
                    && self.is_of_services(flow.destination.ip()))
    }

    /// Returns true if a flow is to be deleted: it is among the suspects, and contradicts the rules.
    pub fn rule_out(&self, flow: &Flow, suspects: Pair<'_>) -> bool {
        let Pair { translated, untranslated } = suspects;
        self.contradict(flow, if flow.is_translated() { translated } else { untranslated })
    }

    /// Returns the frontend that a new flow to the same destination reaches, and its owner.
    pub(super) fn winner(&self, flow: &Flow) -> Option<(Frontend, Winner<'_>)> {
        self.frontends(flow).find_map(|it| Some((it, self.program.winner(it)?)))
    }

    /// Returns what may be a frontend, in the order in which the rules look them up.
    fn frontends(&self, flow: &Flow) -> impl Iterator<Item = Frontend> + Clone {
        let Flow { protocol, destination, .. } = *flow;
        let address = destination.ip();
        let is_here = self.node_addresses.contains(&address);
        let family = Family::of(address);
        let port = NonZeroU16::new(destination.port());
        let frontends = port.map(|port| {
            let node_port = Frontend::NodePort { family, protocol, port };
            [Some(Frontend::Address { address, protocol, port }), is_here.then_some(node_port)]
        });
        frontends.into_iter().flatten().flatten()
    }

    fn is_of_services(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
            || self.program.member_owner(Key::ClusterIp(address)).is_some()
    }
}

impl Winner<'_> {
    /// Returns the backends to which UDP flows may continue.
    pub(super) fn serving(&self) -> &[Backend] {
        self.target.serving.as_deref().unwrap_or_default()
    }

    pub(super) fn lets_go_on(&self, flow: &Flow) -> bool {
        let Some(backend) = flow.backend() else { return false };
        if flow.protocol == Protocol::Udp {
            return self.serving().binary_search(&backend).is_ok();
        }
        let mut groups = [&self.target.group].into_iter().chain(self.local());
        groups.any(|group| group.slots.iter().any(|slot| slot.backend == backend))
    }
}

/// Returns the addresses that node ports answer on, of a node with these addresses.
pub fn node_port_addresses(
    program: &Program,
    own: impl Iterator<Item = IpAddr> + Clone,
) -> BTreeSet<IpAddr> {
    let localhost = program.families_at_localhost();
    answering(program.node().iter(), &localhost, own)
}

/// Likewise, by the keys that say where node ports answer, and the families in which they do so on
/// `localhost`.
pub(super) fn answering<'a>(
    keys: impl Iterator<Item = &'a Key> + Clone,
    localhost: &[Family],
    own: impl Iterator<Item = IpAddr> + Clone,
) -> BTreeSet<IpAddr> {
    let address = |key: &Key| if let Key::NodeIp(address) = key { Some(*address) } else { None };
    let named = keys.clone().filter_map(address);
    let is_everywhere = |family: Family| {
        keys.clone().any(|key| matches!(key, Key::NodePortProtocol(of, _) if *of == family))
    };
    let everywhere = Family::ALL.map(|family| is_everywhere(family).then_some(family));
    let own = own.filter(|ip| everywhere.contains(&Some(Family::of(*ip))) && !ip.is_loopback());
    named.chain(own).chain(localhost.iter().map(|family| family.localhost())).collect()
}
