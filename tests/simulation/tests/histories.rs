//! Histories by seed. `.ci/histories` runs more of them, by new seeds.

use rulec_simulation::{Plan, run};

/// A few hours each: what every build goes through.
#[test]
fn the_laws_hold_in_histories_of_the_first_seeds() {
    for seed in 0..40 {
        let plan = Plan::of(seed);
        if let Err(breach) = run(&plan) {
            panic!("seed {seed}: {breach}");
        }
    }
}

#[test]
fn a_seed_always_makes_the_same_history() {
    for seed in 40..45 {
        let plan = Plan::of(seed);
        assert_eq!(run(&plan), run(&plan), "seed {seed}");
    }
}
