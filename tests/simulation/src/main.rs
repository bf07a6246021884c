//! Runs histories by their seeds; see the crate's documentation.

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use rulec_simulation::{Plan, Summary, run, shrink};

/// Runs histories of a node by their seeds, in virtual time.
#[derive(Debug, Parser)]
struct Args {
    /// Run this one alone, and show its steps.
    #[arg(long, conflicts_with_all = ["first", "histories", "seconds"])]
    seed: Option<u64>,
    /// The first seed. [default: by the time of day]
    #[arg(long)]
    first: Option<u64>,
    /// How many.
    #[arg(long)]
    histories: Option<NonZeroU64>,
    /// For how long.
    #[arg(long)]
    seconds: Option<u64>,
    /// How many threads. [default: one for each processor]
    #[arg(long)]
    threads: Option<usize>,
}

#[allow(clippy::print_stdout, reason = "a program for people")]
fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        let plan = Plan::of(seed);
        for step in &plan.steps {
            println!("{:>9.3} s  {:?}", step.after.as_secs_f64(), step.what);
        }
        return match run(&plan) {
            Ok(summary) => {
                println!("{summary:?}");
                ExitCode::SUCCESS
            }
            Err(_) => report(&plan),
        };
    }
    let first = args.first.unwrap_or_else(seed_of_today);
    let most = args.histories.map_or(u64::MAX, NonZeroU64::get);
    let most = if args.seconds.is_none() { most.min(1_000) } else { most };
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let threads =
        args.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<Plan>> = Mutex::default();
    let total: Mutex<Summary> = Mutex::default();
    let is_over = || {
        end.is_some_and(|end| Instant::now() >= end)
            || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    };
    println!("seeds from {first}");
    std::thread::scope(|scope| {
        for _ in 0..threads.unwrap_or(1) {
            scope.spawn(|| {
                while !is_over() {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= most {
                        return;
                    }
                    let plan = Plan::of(first.wrapping_add(number));
                    match run(&plan) {
                        Ok(summary) => {
                            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                            total.passed += summary.passed;
                            total.commits += summary.commits;
                            total.rests += summary.rests;
                        }
                        Err(_) => {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.get_or_insert(plan);
                        }
                    }
                }
            });
        }
    });
    if let Some(plan) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return report(&plan);
    }
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let histories = next.load(Relaxed).min(most);
    let days = total.passed.as_secs() / 86_400;
    println!(
        "{histories} histories of {days} days in all, {} commits: the laws held {} times",
        total.commits, total.rests
    );
    ExitCode::SUCCESS
}

/// Returns a seed that differs from run to run.
fn seed_of_today() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs()) * 1_000_000
}

/// Shortens a plan that breaks a law, and shows it.
#[allow(clippy::print_stdout, reason = "a program for people")]
fn report(plan: &Plan) -> ExitCode {
    println!("seed {}: making it shorter", plan.seed);
    let (shorter, breach) = shrink(plan);
    for step in &shorter.steps {
        println!("{:>9.3} s  {:?}", step.after.as_secs_f64(), step.what);
    }
    println!("{breach}");
    println!("again: cargo run -p rulec-simulation -- --seed {}", plan.seed);
    ExitCode::FAILURE
}
