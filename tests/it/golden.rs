//! The deltas of typical changes, as text next to the manifests before and after.
//!
//! Each directory of `tests/golden` has the manifests before and after, and the expected output of
//! `rulec diff`. A change of these files is a change of what users see, or of the cost of a change.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rulec_testkit::{Namespace, require_root};

use crate::daemon::{Daemon, Manifests};
use crate::support::{RULEC, SETTINGS, diff, eventually, finish};

#[test]
fn each_change_has_the_expected_delta() {
    insta::glob!("../golden", "*/before.yaml", |before| {
        let case = before.parent().unwrap();
        let outputs = [
            ("diff", &[][..]),
            ("verbose", &["--verbose"]),
            ("json", &["-o", "json"]),
            ("nft", &["-o", "nft"]),
        ];
        for (name, args) in outputs {
            let mut command = Command::new(RULEC);
            command.current_dir(case).args(["diff", "--from", "before.yaml", "--to", "after.yaml"]);
            command.args(["--node-name", "na", "--cluster-cidr", "10.244.0.0/16"]);
            command.args(["--state-dir", "/nonexistent"]).args(args);
            let ran = finish(command);
            let is_same = case.ends_with("no-op");
            assert_eq!(ran.status, i32::from(!is_same), "{case:?}: {ran:?}");
            assert_eq!(ran.stderr, "", "the manifests are good");
            if name == "diff" {
                assert_eq!(is_same, ran.stdout == "No difference.\n");
                let wide = |line: &&str| line.chars().count() > 80;
                assert_eq!(ran.stdout.lines().find(wide), None, "for a terminal of 80 columns");
            }

            let mut settings = insta::Settings::clone_current();
            settings.set_snapshot_path(case);
            settings.set_prepend_module_to_snapshot(false);
            settings.remove_snapshot_suffix();
            settings.remove_input_file();
            settings.set_omit_expression(true);
            settings.bind(|| insta::assert_snapshot!(name, ran.stdout));
        }
    });
}

/// `diff` predicts exactly what the daemon then does, including slots and numbers of backends.
#[test]
fn the_daemon_does_what_diff_predicts() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("golden");
    let directory = tempfile::tempdir().unwrap();
    let foretold = directory.path().join("foretold.json");
    let foretold = foretold.to_str().unwrap();
    let manifests = Manifests::of("");
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &SETTINGS);
    for case in cases() {
        manifests.write("all.yaml", &fs::read_to_string(case.join("before.yaml")).unwrap());
        daemon.settle(&namespace, &manifests.path(), &SETTINGS);
        let after = case.join("after.yaml");
        let ran = diff(&namespace, "kernel", after.to_str().unwrap(), &["--save", foretold]);
        assert!(ran.status <= 1, "{case:?}: {ran:?}");
        manifests.write("all.yaml", &fs::read_to_string(after).unwrap());
        daemon.settle(&namespace, &manifests.path(), &SETTINGS);
        let ran = diff(&namespace, foretold, "kernel", &[]);
        assert_eq!(ran.status, 0, "{case:?}: the daemon did something else: {}", ran.stdout);
    }
}

/// Each change is made and undone, so that slots move: afterwards the daemon's record of the
/// kernel's content must still match the kernel.
#[test]
fn each_change_can_be_undone() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("golden-back");
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved.json");
    let manifests = Manifests::of("");
    let more = [&SETTINGS[..], &["--snapshot", saved.to_str().unwrap()]].concat();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &more);
    for case in cases() {
        for name in ["before.yaml", "after.yaml", "before.yaml"] {
            manifests.write("all.yaml", &fs::read_to_string(case.join(name)).unwrap());
            daemon.settle(&namespace, &manifests.path(), &SETTINGS);
        }
        let _ = fs::remove_file(&saved);
        daemon.signal("USR1");
        eventually("a snapshot is written", || saved.exists());
        let ran = diff(&namespace, saved.to_str().unwrap(), "kernel", &[]);
        assert_eq!(ran.status, 0, "{case:?}: the daemon believes something else: {}", ran.stdout);
    }
}

fn cases() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 12, "the cases are there");
    cases
}
