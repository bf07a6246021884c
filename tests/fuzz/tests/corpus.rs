//! Runs every target with its corpus and with mutations of it.
//!
//! Time says little on a busy machine, so work is bounded by what is allocated: all bytes that a
//! reader asks for, also those that it gives back. `RULEC_FUZZ_ROUNDS` is the number of mutations of
//! each file, and `RULEC_FUZZ_SEED` chooses others. After a fault that ends the process, such as a
//! stack that is too small, `RULEC_FUZZ_TRACE` leaves the input in a file.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what it has found")]

use std::alloc::System;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rulec_fuzz::mutation::{Dice, mutated};
use rulec_fuzz::{STACK_BYTES, TARGETS, Target};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The count is of the process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Mutations of each file.
const ROUNDS: u64 = 60;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(of: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(of).unwrap_or_else(|error| panic!("{}: {error}", of.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The files of a corpus by name, and an empty one.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = directory().join("corpus").join(target.name);
    let files = names(&directory).into_iter();
    let mut files: Vec<_> = files
        .map(|name| {
            let bytes = fs::read(directory.join(&name)).unwrap();
            (name, bytes)
        })
        .collect();
    files.push(("nothing".to_owned(), Vec::new()));
    files
}

/// What is wrong with a target that is given these bytes.
fn fault(target: &Target, bytes: &[u8]) -> Result<usize, String> {
    let region = Region::new(ALLOCATOR);
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    let allocated = region.change().bytes_allocated;
    let most = target.most(bytes);
    match outcome {
        Err(_) => Err("it panics".to_owned()),
        Ok(()) if allocated > most => {
            Err(format!("it allocates {allocated} bytes for {}, more than {most}", bytes.len()))
        }
        Ok(()) => Ok(allocated),
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}")))
}

/// Runs a target on a stack like that of the daemon's thread.
fn run(name: &'static str) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| run_here(name));
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

fn run_here(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let files = corpus(target);
    let (rounds, first) = (variable("RULEC_FUZZ_ROUNDS", ROUNDS), variable("RULEC_FUZZ_SEED", 1));
    let mut highest = (0, 0, String::new());
    // The first run fills what is made once.
    let _ = fault(target, b"");
    let is_traced = std::env::var_os("RULEC_FUZZ_TRACE").is_some();
    let mut check = |what: String, bytes: &[u8]| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{what}"));
        if is_traced {
            fs::write(&path, bytes).unwrap();
        }
        match fault(target, bytes) {
            Ok(allocated) => highest = highest.clone().max((allocated, bytes.len(), what)),
            Err(reason) => {
                fs::write(&path, bytes).unwrap();
                panic!("{name}: {what}: {reason}; the input is in {}", path.display());
            }
        }
        if is_traced {
            fs::remove_file(&path).unwrap();
        }
    };
    for (index, (file, bytes)) in files.iter().enumerate() {
        check(file.clone(), bytes);
        for round in 0..rounds {
            let seed = first << 40 | (index as u64) << 28 | round;
            let mut dice = Dice::new(seed);
            let (_, other) = &files[usize::try_from(round).unwrap() % files.len()];
            check(format!("{file}-{seed:x}"), &mutated(bytes, other, &mut dice));
        }
    }
    let (allocated, len, what) = highest;
    println!("{name}: at most {allocated} bytes, for the {len} of {what}");
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    addresses api_event api_list cni_cache configuration conntrack ipvs kubelet_list kubelet_stream
    links_and_routes manifest_json manifest_yaml name nftables podman recording relay snapshot state
}

#[test]
fn every_target_is_tested_and_has_a_corpus_and_a_program_for_libfuzzer() {
    let all: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(TESTED.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), all);
    assert_eq!(names(&directory().join("corpus")), all);
    let programs = names(&directory().join("fuzz_targets"));
    assert_eq!(programs, all.iter().map(|name| format!("{name}.rs")).collect());
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    for name in &all {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let least = if name == "name" { 1 } else { 2 };
        assert!(names(&directory().join("corpus").join(name)).len() >= least, "{name}");
    }
}

#[test]
fn a_reader_that_panics_or_allocates_too_much_is_found() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = |run| Target { name: "test", run, least: 1 << 20, factor: 16 };
    let greedy = target(|bytes| drop(vec![1_u8; bytes.len() << 16]));
    // What is given back at once counts, too: it is work.
    let busy = target(|bytes| bytes.iter().for_each(|byte| drop(vec![*byte; 1 << 17])));
    let panics = target(|bytes| assert!(bytes.len() < 64));
    for target in [greedy, busy, panics] {
        assert!(fault(&target, &[1; 4]).is_ok());
        assert!(fault(&target, &[1; 64]).is_err());
    }
}
