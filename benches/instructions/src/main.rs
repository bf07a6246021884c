//! One hot path of `rulec`, run once: `.ci/instructions` counts what it needs.
//!
//! ```text
//! rulec-instructions          the names of all scenarios
//! rulec-instructions NAME     runs one, and prints its allocations
//! ```
//!
//! - [`scenarios`] has the paths; [`cluster`] an engine with a kernel in memory, and `kinds` and
//!   `world` of the other benches the objects; [`texts`] what sources read.
//! - [`meter`] is what is counted: callgrind counts the instructions of one function in it, and the
//!   allocator the allocations meanwhile. Everything before it prepares, and does not count.
//!
//! It is a package of its own, and not one of the `[[bench]]` targets: as a member of the workspace
//! it is built by `cargo build --release` with the same features as the daemon, so that nothing is
//! built twice.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod cluster;
#[path = "../../kinds/mod.rs"]
mod kinds;
mod meter;
mod scenarios;
mod texts;
#[path = "../../world/mod.rs"]
mod world;

use std::process::ExitCode;

use crate::meter::Meter;
use crate::scenarios::SCENARIOS;

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        SCENARIOS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, run)) = SCENARIOS.iter().find(|(known, _)| *known == name) else {
        eprintln!("there is no scenario {name}: without an argument, all are listed");
        return ExitCode::FAILURE;
    };
    let mut meter = Meter::default();
    run(&mut meter);
    println!("allocations {}\nbytes {}", meter.allocations, meter.bytes);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each path asserts that it does its work.
    #[test]
    fn every_path_does_its_work_and_has_a_baseline() {
        let baseline = include_str!("../baseline.toml");
        for (name, run) in SCENARIOS {
            let mut meter = Meter::default();
            run(&mut meter);
            assert!(meter.allocations > 0 && meter.bytes > 0, "{name}: {meter:?}");
            let line = format!("\n{name} = {{ instructions = ");
            assert_eq!(baseline.matches(&line).count(), 1, "{name}");
        }
        assert_eq!(baseline.matches(" = { instructions = ").count(), SCENARIOS.len());
    }
}
