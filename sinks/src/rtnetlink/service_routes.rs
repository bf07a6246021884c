//! Routes to the networks of Services, for the connections of the node itself.
//!
//! A connection needs a route before any rule can translate it. Ours is in a table of its own, which
//! a rule of policy routing looks into after all others: any other route takes precedence, and
//! packets that the node forwards never see it. It leads to `lo`, which is always there: a packet
//! that no rule translates ends there, and the kernel chooses one of the node's addresses as the
//! source. (In the table `main`, a forwarded packet would go through `lo` until its TTL is over.)

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc::{
    EEXIST, ENOENT, ESRCH, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RT_TABLE_UNSPEC, RTA_DST, RTA_OIF,
    RTA_TABLE, RTM_DELROUTE, RTM_DELRULE, RTM_GETROUTE, RTM_GETRULE, RTM_NEWROUTE, RTM_NEWRULE,
    RTN_UNICAST,
};
use rulec_compiler::net::Family;

use super::{LOOPBACK, ROUTE_LEN, ROUTE_PROTOCOL, address_of, number, with_octets};
use crate::netlink::{
    Bus, Message, NLM_F_CREATE, NLM_F_EXCL, Open, Requests, Writer, attributes, u32_at,
};

/// The number of the table, in which nobody else is expected: CNIs use low numbers, and those of
/// VRFs.
const TABLE: u32 = 11_400;

/// The place of the rule: after the tables `main` (32766) and `default` (32767).
const PRIORITY: u32 = 33_000;

/// `struct fib_rule_hdr`, and from <linux/fib_rules.h>.
const RULE_LEN: usize = 12;
const FR_ACT_TO_TBL: u8 = 1;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;

/// The routes in the network namespace of the thread that opened them.
pub struct ServiceRoutes {
    requests: Requests,
    networks: BTreeSet<IpNet>,
    /// The families with a rule.
    rules: BTreeSet<Family>,
}

/// What has become of networks that need a route.
#[derive(Debug, Default)]
pub struct Added {
    /// Those whose route was missing, and is there now.
    pub networks: BTreeSet<IpNet>,
    /// Those without a route, and why.
    pub failed: BTreeMap<IpNet, io::Error>,
}

impl ServiceRoutes {
    /// Reads the routes that are there.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or its routes change all the time.
    pub fn open() -> io::Result<Self> {
        let mut requests = Requests::open(Bus::Route)?;
        let rules = requests.dump(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETRULE, flags, seq);
                writer.raw(&[0; RULE_LEN]);
                message
            },
            |found: &mut BTreeSet<Family>, message| found.extend(read_rule(message)),
        )?;
        let networks = requests.dump(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETROUTE, flags, seq);
                writer.raw(&[0; ROUTE_LEN]);
                message
            },
            |found: &mut BTreeSet<IpNet>, message| found.extend(read_route(message)),
        )?;
        Ok(Self { requests, networks, rules })
    }

    /// Returns the networks that they lead to, as far as is known.
    pub fn networks(&self) -> &BTreeSet<IpNet> {
        &self.networks
    }

    /// Makes routes to these networks, also if others have deleted them. One that the kernel refuses
    /// does not keep the others from being made: a node may have switched off a family.
    pub fn add(&mut self, networks: &BTreeSet<IpNet>) -> Added {
        let mut outcome = Added::default();
        for network in networks {
            match self.add_one(*network) {
                Ok(false) => {}
                Ok(true) => drop(outcome.networks.insert(*network)),
                Err(error) => drop(outcome.failed.insert(*network, error)),
            }
        }
        outcome
    }

    /// Removes the routes to all other networks, and returns those.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. What is left is removed by the next call.
    pub fn keep_only(&mut self, networks: &BTreeSet<IpNet>) -> io::Result<BTreeSet<IpNet>> {
        let surplus: BTreeSet<IpNet> = self.networks.difference(networks).copied().collect();
        for network in &surplus {
            // Another process may have deleted it, or the device was down.
            self.ask(&[ESRCH], |writer, flags, seq| {
                write_route(writer, RTM_DELROUTE, flags, seq, *network)
            })?;
            self.networks.remove(network);
        }
        let used: BTreeSet<Family> = networks.iter().map(|it| Family::of(it.addr())).collect();
        let unused: Vec<Family> = self.rules.difference(&used).copied().collect();
        for family in unused {
            self.ask(&[ENOENT], |writer, flags, seq| {
                write_rule(writer, RTM_DELRULE, flags, seq, family)
            })?;
            self.rules.remove(&family);
        }
        Ok(surplus)
    }

    /// Makes a route and its rule. Returns true if one of them was missing.
    fn add_one(&mut self, network: IpNet) -> io::Result<bool> {
        let family = Family::of(network.addr());
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let is_new_route = self.ask(&[EEXIST], |writer, flags, seq| {
            write_route(writer, RTM_NEWROUTE, flags | create, seq, network)
        })?;
        self.networks.insert(network);
        let is_new_rule = self.ask(&[EEXIST], |writer, flags, seq| {
            write_rule(writer, RTM_NEWRULE, flags | create, seq, family)
        })?;
        self.rules.insert(family);
        Ok(is_new_route || is_new_rule)
    }

    /// Returns false if the kernel answered with one of these error numbers: it is so already.
    fn ask(
        &mut self,
        already: &[i32],
        write: impl FnMut(&mut Writer, u16, u32) -> Open,
    ) -> io::Result<bool> {
        match self.requests.ask(write, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error().is_some_and(|it| already.contains(&it)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn write_route(writer: &mut Writer, kind: u16, flags: u16, seq: u32, network: IpNet) -> Open {
    let message = writer.header(kind, flags, seq);
    let family = Family::of(network.addr());
    // IPv6 has no scopes of routes.
    let scope = match family {
        Family::Ipv4 => RT_SCOPE_LINK,
        Family::Ipv6 => RT_SCOPE_UNIVERSE,
    };
    let bits = network.prefix_len();
    let table = RT_TABLE_UNSPEC;
    writer.raw(&[number(family), bits, 0, 0, table, ROUTE_PROTOCOL, scope, RTN_UNICAST]);
    writer.raw(&[0; 4]);
    writer.ne32(RTA_TABLE, TABLE);
    with_octets(network.network(), |octets| writer.attribute(RTA_DST, octets));
    writer.ne32(RTA_OIF, LOOPBACK);
    message
}

/// Writes a rule for packets that "arrive" on `lo`: those that the node itself sends.
fn write_rule(writer: &mut Writer, kind: u16, flags: u16, seq: u32, family: Family) -> Open {
    let message = writer.header(kind, flags, seq);
    writer.raw(&[number(family), 0, 0, 0, RT_TABLE_UNSPEC, 0, 0, FR_ACT_TO_TBL]);
    writer.raw(&[0; 4]);
    writer.text(FRA_IIFNAME, "lo");
    writer.ne32(FRA_PRIORITY, PRIORITY);
    writer.ne32(FRA_TABLE, TABLE);
    writer.attribute(FRA_PROTOCOL, &[ROUTE_PROTOCOL]);
    message
}

/// Reads the network of one of our routes.
pub(super) fn read_route(message: &Message<'_>) -> Option<IpNet> {
    let &[_, bits, _, _, _, protocol, ..] = message.payload else { return None };
    let attributes = attributes(message.payload.get(ROUTE_LEN..)?);
    let is_ours = message.kind == RTM_NEWROUTE
        && protocol == ROUTE_PROTOCOL
        && attributes.clone().ne32(RTA_TABLE) == Some(TABLE);
    let address: IpAddr = address_of(attributes.find(RTA_DST).filter(|_| is_ours)?)?;
    IpNet::new(address, bits).ok()
}

/// Reads the family of one of our rules.
pub(super) fn read_rule(message: &Message<'_>) -> Option<Family> {
    let family = *message.payload.first()?;
    let attributes = attributes(message.payload.get(RULE_LEN..)?);
    let is_ours = message.kind == RTM_NEWRULE
        && attributes.clone().find(FRA_PROTOCOL) == Some(&[ROUTE_PROTOCOL])
        && attributes.clone().ne32(FRA_PRIORITY) == Some(PRIORITY)
        && attributes.ne32(FRA_TABLE) == Some(TABLE)
        && u32_at(message.payload, 8)? == 0;
    Family::ALL.into_iter().find(|it| is_ours && number(*it) == family)
}

#[cfg(test)]
pub(super) mod tests {
    use rulec_testkit::{Namespace, require_root};

    use super::*;

    /// Runs all readers: none may panic, whatever the bytes are.
    pub(in crate::rtnetlink) fn read_all(message: &Message<'_>) {
        for kind in [RTM_NEWROUTE, RTM_NEWRULE] {
            let message = Message { kind, ..*message };
            let _ = (read_route(&message), read_rule(&message));
        }
    }

    fn networks(all: &[&str]) -> BTreeSet<IpNet> {
        all.iter().map(|it| it.parse().unwrap()).collect()
    }

    #[test]
    fn only_our_own_routes_and_rules_are_read_and_removed() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("service-routes");
        // Other tables, protocols and places.
        namespace.sh("ip route add 10.1.0.0/16 dev lo proto 114
             ip route add 10.2.0.0/16 dev lo table 11400
             ip rule add iif lo lookup 11400 pref 33001 protocol 114
             ip rule add iif lo lookup 11401 pref 33000 protocol 114
             ip -6 rule add iif lo lookup 11400 pref 33000");
        let list = || {
            namespace.sh("ip rule; ip -6 rule; ip route show table all proto 114;
             ip route show table 11400; ip -6 route show table 11400 2>/dev/null || :")
        };
        let before = list();
        namespace.run(|| {
            let mut routes = ServiceRoutes::open().unwrap();
            assert_eq!((routes.networks.len(), routes.rules.len()), (0, 0));
            let [one, both] = [&["10.96.0.0/16"][..], &["10.96.0.0/16", "fd00:96::/112"]];
            assert_eq!(routes.add(&networks(one)).networks, networks(one));
            let added = routes.add(&networks(both));
            assert_eq!((added.networks, added.failed.len()), (networks(&both[1..]), 0));
            assert_eq!(routes.keep_only(&networks(both)).unwrap(), networks(&[]));
            let mut again = ServiceRoutes::open().unwrap();
            assert_eq!((&again.networks, &again.rules), (&networks(both), &routes.rules));
            assert_eq!(again.rules.len(), 2);
            assert_eq!(again.keep_only(&networks(one)).unwrap(), networks(&both[1..]));
            assert_eq!(again.rules, BTreeSet::from([Family::Ipv4]));
            // The first handle does not know that they are gone.
            assert_eq!(routes.keep_only(&networks(&[])).unwrap(), networks(both));
        });
        assert_eq!(list(), before);
    }

    #[test]
    fn a_refused_route_is_named_and_the_others_are_made() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("refused-routes");
        namespace.sh("ip link set lo down");
        let (first, second) = ("10.96.0.0/16", "fd00:96::/112");
        namespace.run(|| {
            let mut routes = ServiceRoutes::open().unwrap();
            let failed = |routes: &mut ServiceRoutes| -> BTreeSet<IpNet> {
                routes.add(&networks(&[first, second])).failed.into_keys().collect()
            };
            assert_eq!(failed(&mut routes), networks(&[first, second]), "lo is down");
            namespace.sh("ip link set lo up; sysctl -qw net.ipv6.conf.lo.disable_ipv6=1");
            assert_eq!(failed(&mut routes), networks(&[second]), "lo has no IPv6");
            assert!(routes.networks.contains(&first.parse().unwrap()));
            assert!(namespace.sh("ip route get 10.96.0.1 2>&1 || :").contains("dev lo"));
            let gone = routes.keep_only(&networks(&[second])).unwrap();
            assert_eq!(gone, networks(&[first]), "a family without routes keeps nothing else up");
        });
    }
}
