//! After any sequence of changes to a directory, the known objects are those that a fresh look
//! finds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rulec_compiler::object::ObjectKey;
use rulec_compiler::{Change, Sourced};

use super::plain;
use crate::{Manifests, Scan, read};

/// A small generator of numbers, so that a failure can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Applies the changes of a scan, as a receiver of all changes does.
fn receive(known: &mut BTreeMap<ObjectKey, Sourced>, scan: Scan) {
    for change in scan.changes {
        match change {
            Change::Apply(sourced) => {
                let key = sourced.object.key();
                assert_ne!(known.insert(key, sourced.clone()), Some(sourced), "told twice");
            }
            Change::Remove(key) => assert!(known.remove(&key).is_some(), "{key} was not known"),
            Change::Replace { objects: all, .. } => {
                *known = all.into_iter().map(|one| (one.object.key(), one)).collect();
            }
        }
    }
}

fn text(dice: &mut Dice) -> String {
    let documents: Vec<_> = (0..=dice.roll(3))
        .map(|_| {
            let name = format!("s{}", dice.roll(6));
            plain(&name, u16::try_from(1 + dice.roll(3)).unwrap())
        })
        .collect();
    documents.join("---\n")
}

/// Makes one change in the directory and returns the names that an event would contain.
fn disturb(directory: &Path, dice: &mut Dice) -> Vec<OsString> {
    let name = |dice: &mut Dice| OsString::from(format!("f{}.yaml", dice.roll(5)));
    let (one, other) = (name(dice), name(dice));
    match dice.roll(6) {
        0..3 => std::fs::write(directory.join(&one), text(dice)).unwrap(),
        3 => {
            // The file may not exist.
            let _ = std::fs::remove_file(directory.join(&one));
        }
        4 => {
            let _ = std::fs::rename(directory.join(&one), directory.join(&other));
            return vec![one, other];
        }
        _ => {
            let temporary = directory.join(".new");
            std::fs::write(&temporary, text(dice)).unwrap();
            std::fs::rename(temporary, directory.join(&one)).unwrap();
            return vec![one, ".new".into()];
        }
    }
    vec![one]
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut manifests = Manifests::new(directory.path().to_owned());
    // All files are old by this clock.
    let now = SystemTime::now() + Duration::from_secs(3600);
    let mut known = BTreeMap::new();
    receive(&mut known, manifests.rescan(now));
    for step in 0..60 {
        let mut names = BTreeSet::new();
        for _ in 0..=dice.roll(3) {
            names.extend(disturb(directory.path(), &mut dice));
        }
        let scan = match dice.roll(4) {
            0 => manifests.rescan(now),
            1 => manifests.refresh(&names, true, now),
            _ => manifests.refresh(&names, false, now),
        };
        receive(&mut known, scan);
        let fresh = read(directory.path()).unwrap();
        let known: Vec<_> = known.values().cloned().collect();
        assert_eq!(known, fresh.objects, "seed {seed}, step {step}");
        let problems: Vec<_> = manifests.problems().iter().cloned().collect();
        assert_eq!(problems, fresh.problems, "seed {seed}, step {step}");
    }
}

#[test]
fn random_edits_converge_to_a_fresh_scan() {
    for seed in 1_u64..40 {
        run(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
}
