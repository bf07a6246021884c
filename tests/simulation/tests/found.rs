//! Histories that a seed has found, made short, each with what the fault was.

use std::time::Duration;

use rulec_simulation::{Cluster, Disk, Plan, Server, Step, What, run};

fn laws_hold(seed: u64, steps: &[(f64, What)]) {
    let step = |(after, what): &(f64, What)| Step {
        after: Duration::from_secs_f64(*after),
        what: what.clone(),
    };
    let steps = steps.iter().map(step).collect();
    if let Err(breach) = run(&Plan { seed, steps }) {
        panic!("{breach}");
    }
}

/// The daemon continued the watch of EndpointSlices from its saved state, but not all of the others,
/// when the server went away. What it had heard was in the kernel and not saved: the next start
/// went back behind it.
#[test]
fn what_is_heard_beside_a_saved_state_is_saved_with_it() {
    let kill = |millis| What::Kill { away: Duration::from_millis(millis), disk: Disk::Newest };
    for seed in 2_220_920_180..2_220_920_190 {
        laws_hold(
            seed,
            &[
                (0.017, What::Cluster(Cluster::Node(1))),
                (0.0, kill(3_878)),
                (0.024, What::Server(Server::Down)),
                (86.382, kill(3_343)),
                (80.049, What::Calm),
            ],
        );
    }
}
