//! A history as data.

use std::time::Duration;

use crate::dice::Dice;

/// How many Services of the API server and of manifests change. There are two more, which are never
/// touched.
pub(crate) const NAMES: u8 = 5;

/// How many meanings a Service can have, and how many an EndpointSlice.
pub(crate) const SERVICES: u8 = 12;
pub(crate) const SLICES: u8 = 8;

/// A history.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of what is not in the steps: latencies and jitter.
    pub seed: u64,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// How long after the one before.
    pub after: Duration,
    /// What it is.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// An object of the cluster changes.
    Cluster(Cluster),
    /// The server, or the way to it, misbehaves.
    Server(Server),
    /// The directory of manifests changes.
    Files(Files),
    /// The kernel refuses, forgets, or is changed by others.
    Kernel(Kernel),
    /// The daemon is killed, and starts again after a while.
    Kill {
        /// How long there is none.
        away: Duration,
        /// What it finds on the disk.
        disk: Disk,
    },
    /// All faults end, and everything has time to settle. Then the laws of rest hold.
    Calm,
    /// Packets to a Service of the server meet this many backends, by now. No seed makes this: it is
    /// for histories that are written by hand.
    Expect {
        /// Which one.
        service: u8,
        /// How many.
        backends: usize,
    },
}

/// A change of an object. The numbers choose among a few names and meanings.
#[derive(Clone, Debug, PartialEq)]
pub enum Cluster {
    /// A Service is as this meaning says.
    Service(u8, u8),
    /// A Service is deleted.
    NoService(u8),
    /// An EndpointSlice is as this meaning says.
    Slice(u8, u8),
    /// An EndpointSlice is deleted.
    NoSlice(u8),
    /// The Node has this zone.
    Node(u8),
    /// An annotation is written that means nothing.
    Noise(u8),
}

/// A fault of the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    /// It refuses connections.
    Down,
    /// It accepts them again.
    Up,
    /// It restarts, and closes all connections.
    Restart,
    /// All connections close.
    Drop,
    /// Open lists and watches fall silent for ever.
    Freeze,
    /// Older versions are forgotten.
    Compact,
    /// Watches get bookmarks.
    Bookmark,
    /// Streaming lists are supported, or not.
    Streams(bool),
    /// It accepts connections and says nothing.
    Deaf(bool),
    /// Requests meet a fault this many times.
    Hinder(Hindrance, u32),
    /// Watches bring something that is none of their events.
    Garble(u8),
    /// Faults of requests end.
    Lift,
}

/// What requests meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hindrance {
    /// A status code.
    Status(u16),
    /// Nothing for this many milliseconds.
    Delay(u32),
    /// No answer at all.
    NoAnswer,
    /// A connection that breaks after this many bytes of the answer.
    Cut(u16),
    /// An answer of this many versions ago, as of a replica that lags.
    Old(u8),
    /// Each event twice.
    Duplicates,
    /// A list that is no list.
    Nonsense,
}

/// A change of the directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Files {
    /// A file defines a Service and its EndpointSlice with these meanings. Events may be lost.
    Write {
        /// Which file.
        file: u8,
        /// The meaning of its Service.
        service: u8,
        /// The meaning of its EndpointSlice.
        slice: u8,
        /// Whether it also defines a Service of the API server.
        takes_over: bool,
        /// Whether the source hears of it.
        heard: bool,
    },
    /// A file is cut off in the middle.
    Break(u8),
    /// A file is gone.
    Remove(u8),
    /// The directory is gone, as if unmounted.
    Hide,
    /// It is back.
    Show,
}

/// A fault of the kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// It commits, and the answer is lost.
    LostAnswer,
    /// The request is lost.
    LostRequest,
    /// It commits half, and the answer is lost.
    Half,
    /// It cannot be read this many times.
    Unreadable(u8),
    /// It refuses a Service of the cluster.
    Refuse(u8),
    /// It refuses nothing any more.
    Accept,
    /// Requests take this many milliseconds from now on.
    Slow(u16),
    /// Another process deletes an element, and the kernel announces that or not.
    Tamper(u16, bool),
    /// Another process deletes a chain's rules, likewise.
    Flush(u8, bool),
    /// Another process deletes a table, likewise.
    Wipe(bool),
}

/// What a daemon finds on the disk at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// What the one before has written last.
    Newest,
    /// What was there at an earlier start: the writes since then were lost.
    Old,
    /// Nothing.
    Empty,
    /// Files that were cut off.
    Broken,
}

impl Plan {
    /// Makes the history of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let count = 10 + dice.below(70);
        let mut steps: Vec<Step> = (0..count).map(|_| step(&mut dice)).collect();
        steps.push(Step { after: Duration::ZERO, what: What::Calm });
        Self { seed, steps }
    }
}

fn step(dice: &mut Dice) -> Step {
    let after = match dice.below(10) {
        0..4 => Duration::ZERO,
        4..7 => Duration::from_millis(dice.below(30)),
        7..9 => Duration::from_millis(dice.below(3_000)),
        _ => Duration::from_secs(dice.below(400)),
    };
    let what = match dice.below(100) {
        0..45 => What::Cluster(cluster(dice)),
        45..63 => What::Server(server(dice)),
        63..80 => What::Files(files(dice)),
        80..91 => What::Kernel(kernel(dice)),
        91..97 => What::Kill {
            away: Duration::from_millis(dice.below(5_000)),
            disk: dice.pick(&[Disk::Newest, Disk::Newest, Disk::Old, Disk::Empty, Disk::Broken]),
        },
        _ => What::Calm,
    };
    Step { after, what }
}

fn cluster(dice: &mut Dice) -> Cluster {
    let name = dice.small(NAMES);
    match dice.below(20) {
        0..6 => Cluster::Service(name, dice.small(SERVICES)),
        6..8 => Cluster::NoService(name),
        8..15 => Cluster::Slice(name, dice.small(SLICES)),
        15..17 => Cluster::NoSlice(name),
        17 => Cluster::Node(dice.small(2)),
        _ => Cluster::Noise(name),
    }
}

fn server(dice: &mut Dice) -> Server {
    match dice.below(24) {
        0..2 => Server::Down,
        2..4 => Server::Up,
        4 => Server::Restart,
        5..7 => Server::Drop,
        7 => Server::Freeze,
        8..10 => Server::Compact,
        10..12 => Server::Bookmark,
        12 => Server::Streams(dice.once_in(2)),
        13 => Server::Deaf(dice.once_in(2)),
        14..21 => {
            let what = match dice.below(9) {
                0 => Hindrance::Delay(u32::try_from(dice.below(40_000)).expect("small")),
                1 => Hindrance::NoAnswer,
                2..4 => Hindrance::Cut(u16::try_from(dice.below(6_000)).expect("small")),
                4 => Hindrance::Old(dice.small(30)),
                5 => Hindrance::Duplicates,
                6 => Hindrance::Nonsense,
                _ => Hindrance::Status(dice.pick(&[401, 403, 404, 410, 429, 500, 503, 504])),
            };
            Server::Hinder(what, 1 + u32::from(dice.small(6)))
        }
        21..23 => Server::Garble(dice.small(8)),
        _ => Server::Lift,
    }
}

fn files(dice: &mut Dice) -> Files {
    let file = dice.small(NAMES);
    match dice.below(12) {
        0..7 => Files::Write {
            file,
            service: dice.small(SERVICES),
            slice: dice.small(SLICES),
            takes_over: dice.once_in(6),
            heard: !dice.once_in(4),
        },
        7..9 => Files::Break(file),
        9 => Files::Remove(file),
        10 => Files::Hide,
        _ => Files::Show,
    }
}

fn kernel(dice: &mut Dice) -> Kernel {
    match dice.below(12) {
        0 => Kernel::LostAnswer,
        1 => Kernel::LostRequest,
        2 => Kernel::Half,
        3 => Kernel::Unreadable(1 + dice.small(3)),
        4..6 => Kernel::Refuse(dice.small(NAMES)),
        6 => Kernel::Accept,
        7 => Kernel::Slow(u16::try_from(dice.below(2_000)).expect("small")),
        8..10 => Kernel::Tamper(u16::try_from(dice.below(1_000)).expect("small"), dice.once_in(2)),
        10 => Kernel::Flush(dice.small(200), dice.once_in(2)),
        _ => Kernel::Wipe(dice.once_in(2)),
    }
}
