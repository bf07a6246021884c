//! The effect of changes on connections, and the counts of connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rulec::host::sysctl::{Adjustment, Arp, Sysctls};
use rulec_compiler::ipvs::{Attributes, Op, RealServer, Scheduler, Scheduling};
use rulec_compiler::net::{Backend, Protocol};
use rulec_sinks::ipvs::Ipvs;
use rulec_testkit::{Connection, Family, LongServer, World, WorldSpec, flow};

use super::{VIPS, open, plain, server};

/// A node with two pods that keep connections open.
struct Site {
    world: World,
    _servers: [LongServer; 2],
}

impl Site {
    fn new() -> Self {
        let world = World::new(WorldSpec { local_pods: 2, remote_pods: 0 });
        let servers = [(0, "e0"), (1, "e1")]
            .map(|(idx, name)| LongServer::start(&world.pod(idx).namespace, name, 8080));
        world.node.run(|| {
            for setting in Sysctls::default().apply_ipvs(Arp::Unchanged) {
                assert!(!matches!(setting.outcome, Adjustment::Refused(_)), "{setting:?}");
            }
        });
        Self { world, _servers: servers }
    }

    fn backends(&self, family: Family) -> [Backend; 2] {
        [0, 1].map(|idx| Backend {
            address: self.world.pod(idx).ip(family),
            port: 8080.try_into().unwrap(),
        })
    }

    /// Opens a connection from outside, and returns the name of the server that answers.
    fn connect(&self, to: SocketAddr) -> (Connection, String) {
        let mut connection = flow(&self.world.client, to).unwrap();
        let answer = connection.exchange("?").unwrap();
        (connection, answer.strip_suffix(" ?").unwrap().to_owned())
    }

    /// Opens connections, and returns them by the names of the servers that answer.
    fn answers(&self, to: SocketAddr, n: usize) -> BTreeMap<String, Vec<Connection>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for _ in 0..n {
            let (connection, name) = self.connect(to);
            all.entry(name).or_default().push(connection);
        }
        all
    }
}

fn apply(ipvs: &mut Ipvs, ops: &[Op]) {
    let refused = ipvs.apply(ops).unwrap();
    assert!(refused.is_empty(), "{refused:?} of {ops:?}");
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn changes_in_place_keep_connections_and_weight_0_gets_no_new_ones() {
    let site = Site::new();
    for (family, vip) in Family::BOTH.into_iter().zip(VIPS) {
        let web = server(vip, Protocol::Tcp, 80);
        let to = SocketAddr::new(web.address, 80);
        let [e0, e1] = site.backends(family);
        // Only the requests of this closure are sent in the node's namespace.
        site.world.node.run(|| {
            let mut ipvs = open();
            apply(
                &mut ipvs,
                &[
                    Op::AddServer(web, plain(Scheduler::Rr)),
                    Op::AddReal(web, e0, RealServer::ACTIVE),
                    Op::AddReal(web, e1, RealServer::ACTIVE),
                    Op::Bind(web.address),
                ],
            );
            let mut open = site.answers(to, 4);
            let counts: Vec<usize> = open.values().map(Vec::len).collect();
            assert_eq!(counts, [2, 2], "{vip}: in turn");
            let counted = ipvs.connections(&[web]).unwrap();
            assert_eq!(counted, BTreeMap::from([((web, e0), 2), ((web, e1), 2)]));

            let heavy = RealServer { weight: 3, threshold: None };
            let sticky = Attributes { persistence: Some(60), ..plain(Scheduler::Wlc) };
            for op in [
                Op::SetServer(web, plain(Scheduler::Wlc)),
                Op::SetServer(web, sticky),
                Op::SetServer(web, plain(Scheduler::Rr)),
                Op::SetReal(web, e0, heavy),
                Op::SetReal(web, e0, RealServer::draining(1)),
            ] {
                apply(&mut ipvs, std::slice::from_ref(&op));
                for (name, connections) in &mut open {
                    for connection in connections {
                        let answer = connection.exchange("still").unwrap();
                        assert_eq!(answer, format!("{name} still"), "{op:?}");
                    }
                }
            }

            // The first real server now keeps its connections and gets no new ones.
            let new = site.answers(to, 4);
            assert_eq!(new.keys().collect::<Vec<_>>(), ["e1"]);
            let counted = ipvs.connections(&[web]).unwrap();
            assert_eq!(counted, BTreeMap::from([((web, e0), 2), ((web, e1), 6)]));
            apply(&mut ipvs, &[Op::SetReal(web, e0, RealServer::ACTIVE)]);
            assert_eq!(site.answers(to, 4).len(), 2, "it gets connections again");

            // Deleting a real server ends its connections, but not those of the other one.
            apply(&mut ipvs, &[Op::DeleteReal(web, e0)]);
            let mut of = |name: &str| open.get_mut(name).unwrap().remove(0);
            let (mut ended, mut kept) = (of("e0"), of("e1"));
            assert!(ended.exchange("still").is_err());
            assert_eq!(kept.exchange("still").unwrap(), "e1 still");

            apply(&mut ipvs, &[Op::DeleteServer(web), Op::Unbind(web.address)]);
            assert_eq!(ipvs.connections(&[web]).unwrap(), BTreeMap::new(), "gone");
        });
    }
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn a_client_keeps_its_real_server_until_that_drains() {
    let site = Site::new();
    for (family, vip) in Family::BOTH.into_iter().zip(VIPS) {
        let web = server(vip, Protocol::Tcp, 80);
        let to = SocketAddr::new(web.address, 80);
        let backends = site.backends(family);
        site.world.node.run(|| {
            let mut ipvs = open();
            let sticky = Attributes { persistence: Some(600), ..plain(Scheduler::Rr) };
            apply(&mut ipvs, &[Op::AddServer(web, sticky), Op::Bind(web.address)]);
            apply(&mut ipvs, &backends.map(|it| Op::AddReal(web, it, RealServer::ACTIVE)));
            let answers = site.answers(to, 4);
            assert_eq!(answers.len(), 1, "{vip}: {answers:?}");
            let first = answers.keys().next().unwrap().clone();
            let idx = usize::from(first == "e1");
            let counted = ipvs.connections(&[web]).unwrap();
            assert_eq!(counted[&(web, backends[idx])], 5, "4 connections and a template");
            assert_eq!(counted[&(web, backends[1 - idx])], 0);

            // With `expire_quiescent_template`, the client is sent to another real server.
            apply(&mut ipvs, &[Op::SetReal(web, backends[idx], RealServer::draining(9))]);
            let later = site.answers(to, 4);
            assert!(later.len() == 1 && !later.contains_key(&first), "{later:?}");
        });
    }
}

/// The number of connections of each attempt below.
const CONNECTIONS: usize = 12;

/// Opens connections while one of two real servers drains, and returns how many fail.
fn lost_while_draining(
    site: &Site,
    (family, vip): (Family, &str),
    scheduling: Scheduling,
    draining: usize,
) -> usize {
    let web = server(vip, Protocol::Tcp, 80);
    let to = SocketAddr::new(web.address, 80);
    let backends = site.backends(family);
    let expected = ["e1 ?", "e0 ?"][draining];
    site.world.node.run(|| {
        let mut ipvs = open();
        let attributes = Attributes { scheduling, persistence: None };
        apply(
            &mut ipvs,
            &[
                Op::AddServer(web, attributes),
                Op::AddReal(web, backends[0], RealServer::ACTIVE),
                Op::AddReal(web, backends[1], RealServer::ACTIVE),
                Op::Bind(web.address),
                Op::SetReal(web, backends[draining], RealServer::draining(9)),
            ],
        );
        let reached = (0..CONNECTIONS).filter(|_| {
            let connection = flow(&site.world.client, to);
            let answer = connection.and_then(|mut connection| connection.exchange("?"));
            answer.is_ok_and(|answer| answer == expected)
        });
        let lost = CONNECTIONS - reached.count();
        apply(&mut ipvs, &[Op::DeleteServer(web), Op::Unbind(web.address)]);
        lost
    })
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn no_new_connection_is_lost_while_a_real_server_drains() {
    let site = Site::new();
    for (family, vip) in Family::BOTH.into_iter().zip(VIPS) {
        for scheduler in Scheduler::ALL.into_iter().filter(|scheduler| scheduler.can_drain()) {
            let lost = lost_while_draining(&site, (family, vip), Scheduling::new(scheduler), 0);
            assert_eq!(lost, 0, "{scheduler} at {vip}");
        }
    }
}

/// These are the reasons for `Scheduling::with_flags` and `Scheduler::can_drain`.
#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn the_kernel_loses_connections_that_are_hashed_to_a_draining_server() {
    let site = Site::new();
    let at = (Family::V4, VIPS[0]);
    // The client's port is hashed, so about half of the connections meet the draining server.
    for scheduler in [Scheduler::Sh, Scheduler::Mh] {
        let flags = "flag-2".parse().unwrap();
        let lost = lost_while_draining(&site, at, Scheduling { scheduler, flags }, 0);
        assert!(0 < lost && lost < CONNECTIONS, "{scheduler}: {lost}");
    }
    // One of the two is the only server for the address.
    let lost = [0, 1].map(|it| lost_while_draining(&site, at, Scheduling::new(Scheduler::Dh), it));
    assert_eq!(lost.iter().sum::<usize>(), CONNECTIONS, "dh: {lost:?}");
}
