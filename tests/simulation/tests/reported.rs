//! What others' proxies were reported for, as histories: stale backends and black holes. Each ends
//! with everything at rest, when a new daemon must find nothing to do.
//!
//! Reports about flows of UDP that outlive their endpoints are not here: conntrack is not simulated.
//! `tests/it/conntrack` has them on a kernel.

use std::time::Duration;

use rulec_simulation::{Cluster, Disk, Files, Hindrance, Kernel, Plan, Server, Step, What, run};

/// How many latencies each history is tried with.
const SEEDS: u64 = 3;

fn cluster(what: Cluster) -> What {
    What::Cluster(what)
}

/// Carries out what happens, each with the seconds since the thing before.
fn laws_hold(steps: &[(f64, What)]) {
    let step = |(after, what): &(f64, What)| Step {
        after: Duration::from_secs_f64(*after),
        what: what.clone(),
    };
    let mut steps: Vec<Step> = steps.iter().map(step).collect();
    steps.push(Step { after: Duration::ZERO, what: What::Calm });
    for seed in 0..SEEDS {
        let summary = run(&Plan { seed, steps: steps.clone() });
        let summary = summary.unwrap_or_else(|breach| panic!("seed {seed}: {breach}"));
        assert!(summary.rests > 0 && summary.commits > 0, "{summary:?}");
    }
}

/// Two Services with endpoints.
fn begin() -> Vec<(f64, What)> {
    vec![
        (0.5, cluster(Cluster::Service(0, 0))),
        (0.0, cluster(Cluster::Slice(0, 3))),
        (0.0, cluster(Cluster::Service(1, 2))),
        (0.0, cluster(Cluster::Slice(1, 4))),
        (1.0, cluster(Cluster::Noise(1))),
    ]
}

/// The slice reaches its last form while the server is away, and nobody writes it again.
/// cilium/cilium#48050, #45198.
#[test]
fn removals_while_the_server_is_away_are_not_lost() {
    for (down, up) in [
        (Server::Down, Server::Up),
        (Server::Deaf(true), Server::Deaf(false)),
        (Server::Freeze, Server::Drop),
    ] {
        for forgets in [false, true] {
            let mut steps = begin();
            steps.push((0.0, What::Server(down.clone())));
            steps.push((1.0, cluster(Cluster::Slice(0, 1))));
            steps.push((0.0, cluster(Cluster::NoSlice(1))));
            if forgets {
                steps.push((0.0, What::Server(Server::Compact)));
            }
            steps.push((20.0, What::Server(up.clone())));
            // Silence is noticed only after the time of a watch.
            steps.push((400.0, What::Expect { service: 0, backends: 1 }));
            steps.push((0.0, What::Expect { service: 1, backends: 0 }));
            laws_hold(&steps);
        }
    }
}

/// A new process has heard of some slices only, and removes the backends of the others.
/// cilium/cilium#27215, #26912.
#[test]
fn a_restart_removes_nothing_that_it_has_not_heard_of_yet() {
    for disk in [Disk::Newest, Disk::Old, Disk::Empty, Disk::Broken] {
        let mut steps = begin();
        // Lists are slow, and break off.
        steps.push((0.0, What::Server(Server::Hinder(Hindrance::Cut(300), 3))));
        steps.push((0.0, What::Server(Server::Hinder(Hindrance::Delay(4_000), 4))));
        steps.push((0.0, What::Kill { away: Duration::from_millis(100), disk }));
        steps.push((30.0, cluster(Cluster::Noise(2))));
        laws_hold(&steps);
    }
}

/// The backend goes while there is no process, and no event follows. cilium/cilium#45441.
#[test]
fn what_goes_while_there_is_no_daemon_is_removed_without_another_event() {
    for disk in [Disk::Newest, Disk::Old] {
        let mut steps = begin();
        steps.push((1.0, What::Kill { away: Duration::from_millis(1), disk }));
        steps.push((1.0, What::Server(Server::Down)));
        steps.push((0.0, What::Kill { away: Duration::from_secs(1), disk }));
        steps.push((5.0, cluster(Cluster::Slice(0, 0))));
        steps.push((0.0, cluster(Cluster::NoService(1))));
        steps.push((0.0, What::Server(Server::Compact)));
        steps.push((30.0, What::Expect { service: 0, backends: 3 }));
        steps.push((0.0, What::Server(Server::Up)));
        steps.push((40.0, What::Expect { service: 0, backends: 0 }));
        steps.push((0.0, What::Expect { service: 1, backends: 0 }));
        laws_hold(&steps);
    }
}

/// Backends that are removed from a file stay. cilium/cilium#46493.
#[test]
fn backends_that_a_file_no_longer_names_are_removed() {
    let write = |slice, heard| {
        What::Files(Files::Write { file: 0, service: 0, slice, takes_over: false, heard })
    };
    for heard in [true, false] {
        laws_hold(&[
            (1.0, write(4, true)),
            (1.0, write(1, heard)),
            (0.0, What::Kernel(Kernel::LostAnswer)),
            (60.0, write(0, heard)),
            (0.0, What::Files(Files::Break(1))),
        ]);
    }
}

/// One event that cannot be read, and the update is missed for good. kubernetes/kubernetes#28674.
#[test]
fn an_event_that_cannot_be_read_does_not_lose_the_next_one() {
    for kind in 0..8 {
        let mut steps = begin();
        steps.push((0.0, What::Server(Server::Garble(kind))));
        steps.push((0.0, cluster(Cluster::Slice(0, 1))));
        steps.push((60.0, What::Expect { service: 0, backends: 1 }));
        laws_hold(&steps);
    }
}

/// What the kernel has lost comes back only with the next change of the same Service.
/// kubernetes/kubernetes#121362, #122048.
#[test]
fn what_the_kernel_has_lost_unnoticed_comes_back() {
    for at in [0, 150, 300, 450] {
        let mut steps = begin();
        steps.push((0.0, What::Kernel(Kernel::Tamper(at, false))));
        steps.push((0.0, What::Kernel(Kernel::Flush(u8::try_from(at / 2).unwrap(), false))));
        laws_hold(&steps);
    }
}

/// The server no longer knows the version, and the watch never recovers.
/// kubernetes/kubernetes#3216.
#[test]
fn a_version_that_is_forgotten_leads_to_a_new_list() {
    let mut steps = begin();
    steps.push((0.0, What::Server(Server::Drop)));
    steps.push((0.0, cluster(Cluster::Slice(0, 2))));
    steps.push((0.0, cluster(Cluster::NoService(1))));
    steps.push((0.0, What::Server(Server::Compact)));
    steps.push((0.0, What::Server(Server::Hinder(Hindrance::Status(410), 4))));
    steps.push((0.0, What::Server(Server::Streams(false))));
    laws_hold(&steps);
}

/// One of two servers goes, and the other one lags: its endpoints come back.
/// kubernetes/kubernetes#67875.
#[test]
fn a_replica_that_lags_does_not_bring_back_what_is_gone() {
    for streams in [true, false] {
        let mut steps = begin();
        steps.push((0.0, What::Server(Server::Streams(streams))));
        steps.push((0.0, cluster(Cluster::Slice(0, 1))));
        steps.push((1.0, What::Expect { service: 0, backends: 1 }));
        steps.push((0.0, What::Server(Server::Hinder(Hindrance::Old(6), 8))));
        // It must be listed again, by the replica that lags.
        steps.push((0.0, What::Server(Server::Garble(1))));
        steps.push((5.0, What::Server(Server::Drop)));
        steps.push((2.0, What::Kill { away: Duration::from_millis(10), disk: Disk::Newest }));
        laws_hold(&steps);
    }
}

/// A failed synchronisation is not repeated before the next change. kubernetes/kubernetes#47589.
#[test]
fn a_commit_that_fails_is_repeated_without_another_change() {
    let failures = [Kernel::LostAnswer, Kernel::LostRequest, Kernel::Half, Kernel::Unreadable(3)];
    for failure in failures {
        let mut steps = begin();
        steps.push((0.0, What::Kernel(failure.clone())));
        steps.push((0.0, What::Kernel(failure)));
        steps.push((0.0, cluster(Cluster::Slice(1, 1))));
        steps.push((30.0, What::Expect { service: 1, backends: 1 }));
        laws_hold(&steps);
    }
}

/// One Service that the kernel refuses blocks all others. kubernetes/kubernetes#99299 is one report of
/// rules that are behind for minutes.
#[test]
fn a_refused_service_does_not_keep_others_behind() {
    let mut steps = begin();
    steps.push((0.0, What::Kernel(Kernel::Refuse(0))));
    steps.push((0.0, cluster(Cluster::Slice(0, 2))));
    steps.push((0.0, cluster(Cluster::Slice(1, 1))));
    steps.push((1.0, What::Expect { service: 1, backends: 1 }));
    steps.push((0.0, What::Expect { service: 0, backends: 3 }));
    steps.push((100.0, What::Kernel(Kernel::Accept)));
    steps.push((30.0, What::Expect { service: 0, backends: 2 }));
    laws_hold(&steps);
}
