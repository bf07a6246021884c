//! Clients that call all the time, and judge every answer by the states of the cluster that it may
//! be from.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use rulec_testkit::{Failure, Family, Protocol, World, brief};

use super::cluster::{Cluster, Frontend, shown};
use crate::traffic::{PATIENCE, Sender};

/// The ports of clients, above those of the daemon and below node ports. Every flow has a pair of
/// address and port that no flow has had for long.
const PORTS: Range<usize> = 11_000..30_000;
/// The addresses of each sender and family.
const ADDRESSES: usize = 8;

/// A SYN that is not answered is sent again after a second.
const LATE: Duration = Duration::from_millis(900);

/// The states of the cluster, in the order in which the daemon got them.
#[derive(Debug)]
pub(super) struct History {
    states: RwLock<Vec<Cluster>>,
    /// The last state that the kernel is known to hold; those after it are on their way.
    settled: AtomicUsize,
}

impl History {
    pub(super) fn new(first: Cluster) -> Self {
        Self { states: RwLock::new(vec![first]), settled: AtomicUsize::new(0) }
    }

    /// Adds a state that the daemon will get.
    pub(super) fn begin(&self, next: Cluster) {
        self.states.write().unwrap().push(next);
    }

    /// Says that the kernel holds the last state.
    pub(super) fn settle(&self) {
        self.settled.store(self.states.read().unwrap().len() - 1, Ordering::SeqCst);
    }

    fn settled(&self) -> usize {
        self.settled.load(Ordering::SeqCst)
    }
}

/// A way to call.
#[derive(Debug, Clone, Copy)]
struct Way {
    frontend: Frontend,
    family: Family,
    protocol: Protocol,
}

/// What the callers have in common.
#[derive(Debug)]
pub(super) struct Calls<'w> {
    world: &'w World,
    history: &'w History,
    stop: AtomicBool,
    /// The number of flows of each sender and family so far; gives the next source.
    sources: [[AtomicUsize; 2]; 3],
    pub(super) answered: [AtomicU64; 2],
    /// Datagrams that were sent again.
    pub(super) repeated: AtomicU64,
    /// Connections for which a packet had to be sent again, or that waited for something else.
    pub(super) late: Mutex<Vec<String>>,
    /// Flows whose frontend was not there all the time.
    pub(super) unjudged: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl<'w> Calls<'w> {
    pub(super) fn new(world: &'w World, history: &'w History) -> Self {
        Self {
            world,
            history,
            stop: AtomicBool::new(false),
            sources: Default::default(),
            answered: Default::default(),
            repeated: AtomicU64::new(0),
            late: Mutex::new(Vec::new()),
            unjudged: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Gives the senders their addresses.
    pub(super) fn prepare(world: &World) {
        for sender in Sender::ALL {
            let device = if sender == Sender::Host { "uplink" } else { "eth0" };
            for family in Family::BOTH {
                let more = (1..ADDRESSES).map(|number| source_ip(sender, family, number));
                for ip in more {
                    let (length, rest) = match (family, sender) {
                        (Family::V4, Sender::Host) => (24, ""),
                        (Family::V6, Sender::Host) => (64, "nodad preferred_lft 0"),
                        (Family::V4, Sender::Pod | Sender::Client) => (32, ""),
                        (Family::V6, Sender::Pod | Sender::Client) => (128, "nodad"),
                    };
                    let add = format!("ip addr add {ip}/{length} dev {device} {rest}");
                    sender.of(world).sh(&add);
                    if sender == Sender::Pod {
                        world.node.sh(&format!("ip route add {ip} dev pod2"));
                    }
                }
            }
        }
    }

    /// Calls from a namespace until there is a failure or [`Self::stop`].
    pub(super) fn call(&self, sender: Sender, protocols: &[Protocol]) {
        let mut ways = Vec::new();
        for frontend in Frontend::ALL {
            for family in Family::BOTH {
                let way = |protocol: &Protocol| Way { frontend, family, protocol: *protocol };
                ways.extend(protocols.iter().map(way));
            }
        }
        sender.of(self.world).run(|| {
            for way in ways.iter().cycle() {
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(failure) = self.one(sender, *way) {
                    self.failure.lock().unwrap().get_or_insert(failure);
                    self.stop();
                }
            }
        });
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns the first failure.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap().clone()
    }

    fn one(&self, sender: Sender, way: Way) -> Result<(), String> {
        let since = self.history.settled();
        let Some(to) = self.there_since(since, way) else { return Ok(()) };
        let source = self.source(sender, way.family);
        let started = Instant::now();
        let outcome = brief(way.protocol, source, to, PATIENCE);
        let took = started.elapsed();
        let states = self.history.states.read().unwrap();
        let states = &states[since..];
        let is_there =
            |it: &Cluster| it.address(way.frontend, way.family, way.protocol) == Some(to);
        if !states.iter().all(is_there) {
            self.unjudged.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let what =
            || format!("{sender:?} {source} -> {:?} {}", way.frontend, shown(way.protocol, to));
        let brief = outcome.map_err(|failure: Failure| format!("{}: {failure:?}", what()))?;
        if way.protocol == Protocol::Tcp && took > LATE {
            let time = jiff::Timestamp::now();
            self.late.lock().unwrap().push(format!("{time}: {} took {took:?}", what()));
        }
        let by = (brief.answer.name.as_str(), brief.answer.port);
        if !states.iter().any(|it| it.may_answer(way.frontend, sender, by)) {
            return Err(format!("{}: {by:?} answered, but in states {states:#?}", what()));
        }
        self.answered[usize::from(way.protocol == Protocol::Udp)].fetch_add(1, Ordering::Relaxed);
        self.repeated.fetch_add(brief.repeated.into(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns the address of a frontend that is in all states since one.
    fn there_since(&self, since: usize, way: Way) -> Option<SocketAddr> {
        let states = self.history.states.read().unwrap();
        let mut all =
            states[since..].iter().map(|it| it.address(way.frontend, way.family, way.protocol));
        let first = all.next()??;
        all.all(|it| it == Some(first)).then_some(first)
    }

    fn source(&self, sender: Sender, family: Family) -> SocketAddr {
        let of = &self.sources[sender as usize][family as usize];
        let number = of.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + number / ADDRESSES % PORTS.len();
        let ip = source_ip(sender, family, number % ADDRESSES);
        SocketAddr::new(ip, u16::try_from(port).unwrap())
    }
}

/// Returns an address of a sender; the first is the one that it has in every test.
fn source_ip(sender: Sender, family: Family, number: usize) -> IpAddr {
    if number == 0 {
        return sender.ip(family);
    }
    let number = 120 + number;
    let text = match (sender, family) {
        (Sender::Pod, Family::V4) => format!("10.50.1.{number}"),
        (Sender::Pod, Family::V6) => format!("2001:db8:50:1::{number}"),
        (Sender::Host, Family::V4) => format!("192.0.2.{number}"),
        (Sender::Host, Family::V6) => format!("2001:db8::{number}"),
        (Sender::Client, Family::V4) => format!("203.0.113.{number}"),
        (Sender::Client, Family::V6) => format!("2001:db8:113::{number}"),
    };
    text.parse().unwrap()
}
