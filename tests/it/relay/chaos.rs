//! Relays, the API server and the daemon go and come back in turn, while endpoints change.
//!
//! Each Service has one endpoint, whose address counts its changes. It must be in the kernel all the
//! time, and never with an earlier address than before; and in the end, the kernel holds what the
//! server says. `RULEC_CHAOS_SECONDS` makes it longer, and `RULEC_CHAOS_SEED` another one.

use std::env;
use std::thread;
use std::time::Instant;

use rulec_testkit::patience;

use super::*;
use crate::support::{Dice, listing};

const SERVICES: u8 = 4;

/// How long it takes if nobody says otherwise.
const SECONDS: u64 = 20;

/// How long everything may take to settle in the end. Nodes wait up to 30 s before they try again.
const SETTLED: Duration = Duration::from_secs(180);

struct Chaos {
    place: Place,
    relays: [Option<Daemon>; 2],
    is_up: bool,
    /// How often each endpoint has changed, and the last address that was seen.
    changes: [u8; SERVICES as usize],
    seen: [u8; SERVICES as usize],
}

fn endpoint(service: u8, change: u8) -> Value {
    let mut slice = slice(service + 1, &["nb"]);
    slice["endpoints"][0]["addresses"][0] = json!(format!("10.50.{}.{change}", service + 1));
    slice
}

impl Chaos {
    fn new() -> Self {
        let place = Place::new("relay-chaos");
        for number in 0..SERVICES {
            place.apply(&[service(number + 1), endpoint(number, 1)]);
        }
        let mut chaos = Self {
            place,
            relays: [None, None],
            is_up: true,
            changes: [1; SERVICES as usize],
            seen: [1; SERVICES as usize],
        };
        chaos.start_relay(0);
        chaos.relays[0].as_mut().unwrap().wait_for("nodes are served");
        chaos.start_daemon();
        chaos.place.daemon.as_mut().unwrap().wait_for("in sync with all sources");
        chaos
    }

    fn start_relay(&mut self, number: usize) {
        let listen = ["127.0.0.1:18000", "[::1]:18000"][number];
        let off = ["--metrics-bind-address=", "--healthz-bind-address="];
        self.relays[number] = Some(self.place.spawn_relay(listen, &off));
    }

    /// Both relays have the name of its relay.
    fn start_daemon(&mut self) {
        let kubeconfig = self.place.text("kubeconfig");
        let more = ["--kubeconfig", &kubeconfig, "--relay-fallback-seconds", "1"];
        self.place.start_daemon_at("localhost:18000", &self.place.own(), &more);
        // From here on, it ends well if it is told to.
        self.place.daemon.as_mut().unwrap().wait_for("following the relay");
    }

    fn step(&mut self, dice: &mut Dice) {
        match dice.roll(8) {
            0..4 => {
                let number = u8::try_from(dice.roll(SERVICES.into())).unwrap();
                let changes = &mut self.changes[usize::from(number)];
                *changes += 1;
                self.place.server.apply(&endpoint(number, *changes));
            }
            4 | 5 => {
                let at = usize::from(dice.roll(2) == 1);
                match self.relays[at].take() {
                    Some(relay) => relay.kill9(),
                    None => self.start_relay(at),
                }
            }
            6 => {
                self.is_up = !self.is_up;
                if self.is_up { self.place.server.up() } else { self.place.server.down() }
            }
            _ => {
                // One that is killed may have to begin with a state that is a moment older.
                self.place.daemon.take().unwrap().stop();
                self.start_daemon();
            }
        }
    }

    /// Looks at the endpoints in the kernel.
    fn look(&mut self) {
        let listed = listing(&self.place.node);
        for at in 0..SERVICES {
            let prefix = format!("10.50.{}.", at + 1);
            let addresses = listed.split(&prefix).skip(1);
            let number =
                |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
            let oldest: Option<u8> = addresses.filter_map(number).min();
            let seen = &mut self.seen[usize::from(at)];
            let log = || self.place.daemon.as_ref().unwrap().log();
            let is_newest = oldest.is_some_and(|oldest| oldest >= *seen);
            assert!(is_newest, "endpoint {at}: {oldest:?} after {seen}; the log:\n{}", log());
            *seen = oldest.unwrap();
        }
    }

    /// Brings everything back, and waits until the kernel holds what the server says.
    fn settle(&mut self) {
        self.place.server.up();
        for at in 0..2 {
            if self.relays[at].is_none() {
                self.start_relay(at);
            }
        }
        let until = Instant::now() + patience(SETTLED);
        while self.seen != self.changes && Instant::now() < until {
            thread::sleep(Duration::from_millis(100));
            self.look();
        }
        let mut objects = vec![node_object()];
        for number in 0..SERVICES {
            let slice = endpoint(number, self.changes[usize::from(number)]);
            objects.extend([service(number + 1), slice]);
        }
        self.place.holds(&objects);
    }
}

#[test]
fn nothing_is_lost_or_older_while_relays_and_servers_come_and_go() {
    if !require_root() {
        return;
    }
    let number = |name: &str, usual: u64| {
        env::var(name).map_or(usual, |text| text.parse().expect("it is a number"))
    };
    let seconds = Duration::from_secs(number("RULEC_CHAOS_SECONDS", SECONDS));
    let mut dice = Dice::new(number("RULEC_CHAOS_SEED", 1));
    let mut chaos = Chaos::new();
    let until = Instant::now() + seconds;
    while Instant::now() < until && chaos.changes.iter().all(|changes| *changes < u8::MAX) {
        chaos.step(&mut dice);
        for _ in 0..dice.roll(6) {
            chaos.look();
            thread::sleep(Duration::from_millis(100));
        }
    }
    chaos.settle();
}
