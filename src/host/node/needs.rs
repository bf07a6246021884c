//! What Services need of the node: routes to these networks, and ways to these endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rulec_compiler::net::Family;
use rulec_compiler::nft::Key;
use rulec_compiler::{Program, Settings};

/// How many endpoints are looked at: of those on this node, and of others in each family. They
/// take the same few ways.
const LOCAL: usize = 256;
const OTHERS: usize = 16;

/// What Services need of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The networks of Services that the node itself connects to.
    pub(super) networks: BTreeSet<IpNet>,
    /// Endpoints that may be on this node, but are not the node itself.
    pub(super) local: BTreeSet<IpAddr>,
    /// Other endpoints.
    pub(super) others: BTreeSet<IpAddr>,
    /// Whether all connections to cluster addresses are masqueraded.
    pub(super) masquerades_all: bool,
    /// Whether IPVS translates connections, so that conntrack does not know which.
    pub(super) is_ipvs: bool,
    /// A client, and the device that its packets arrive on.
    pub(super) client: Option<(IpAddr, String)>,
}

impl Needs {
    /// Returns the needs of no Services.
    pub fn new(settings: &Settings) -> Self {
        let (masquerades_all, is_ipvs) = (settings.masquerade_all, settings.ipvs().is_some());
        Self { masquerades_all, is_ipvs, ..Self::default() }
    }

    /// Returns what the Services of a program need. `networks` are those that cluster addresses are
    /// given out of, and `own` the node's addresses.
    pub fn of(program: &Program, networks: &BTreeSet<IpNet>, own: &[IpAddr]) -> Self {
        let mut needs = Self::new(program.settings());
        let ports = || program.services().flat_map(|(_, fragment)| fragment.iter());
        for key in ports().flat_map(|port| port.members.iter().copied()) {
            if let Key::ClusterIp(address) = key {
                needs.reach(address, networks);
            } else if let Key::Hairpin(address) = key
                && needs.local.len() < LOCAL
                && !own.contains(&address)
            {
                needs.local.insert(address);
            }
        }
        let mut room = Family::ALL.map(|family| (family, OTHERS));
        let slots = ports().flat_map(|port| port.groups()).flat_map(|group| group.slots.iter());
        for address in slots.map(|slot| slot.backend.address) {
            let of = room.iter_mut().find(|(family, _)| *family == Family::of(address));
            if let Some((_, room)) = of.filter(|(_, room)| *room > 0)
                && !own.contains(&address)
                && !needs.local.contains(&address)
                && needs.others.insert(address)
            {
                *room -= 1;
            }
            if room.iter().all(|(_, room)| *room == 0) {
                break;
            }
        }
        needs
    }

    /// Adds a cluster address that the node itself connects to: its network, or itself if it is in
    /// none of them. One such address of each family is enough.
    pub fn reach(&mut self, address: IpAddr, networks: &BTreeSet<IpNet>) {
        let single = IpNet::from(address);
        let network = networks.iter().find(|it| it.contains(&address)).copied().unwrap_or(single);
        let length = |it: &IpNet| (it.max_prefix_len(), it.prefix_len());
        if network != single || self.networks.iter().all(|it| length(it) != length(&single)) {
            self.networks.insert(network);
        }
    }

    /// Adds an endpoint that is not the node itself.
    pub fn serve(&mut self, address: IpAddr, is_local: bool) {
        let endpoints = if is_local { &mut self.local } else { &mut self.others };
        endpoints.insert(address);
    }

    /// Says on which device the packets of a client arrive.
    pub fn arrive(&mut self, client: IpAddr, device: &str) {
        self.client = Some((client, device.to_owned()));
    }

    /// Returns whether there is a network of Services.
    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Returns whether there is an endpoint that is not the node itself.
    pub fn has_endpoints(&self) -> bool {
        self.endpoints().next().is_some()
    }

    /// Leaves out the networks.
    pub fn forget_networks(&mut self) {
        self.networks.clear();
    }

    /// Leaves out the endpoints.
    pub fn forget_endpoints(&mut self) {
        self.local.clear();
        self.others.clear();
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = IpAddr> {
        self.local.iter().chain(&self.others).copied()
    }

    /// Returns the addresses whose ways matter.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let client = self.client.iter().map(|(client, _)| *client);
        self.networks.iter().map(sample).chain(self.endpoints()).chain(client).collect()
    }
}

/// Returns an address of a network that Services may have.
pub(super) fn sample(network: &IpNet) -> IpAddr {
    network.hosts().next().unwrap_or(network.addr())
}
