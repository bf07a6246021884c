//! Other versions of `nft` than the installed one: administrators list our tables with them, save
//! the listing and load it again, perhaps with yet another version.
//!
//! `TEST_ASSET_NFT` names the other `nft`; `tests/nft/fetch` unpacks Debian 13's and prints its
//! path.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::env;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use rulec_compiler::{Delta, Program};
use rulec_sinks::Sink as _;
use rulec_sinks::nft::Ownership;
use rulec_testkit::{Namespace, require_root};

use crate::sink::{everything, install, open};

/// An `nft`.
struct Nft {
    path: PathBuf,
    version: Vec<u32>,
}

impl Nft {
    fn of(path: PathBuf, namespace: &Namespace) -> Self {
        let output = namespace.command(&path, ["--version"]).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", path.display());
        // nftables v1.0.6 (Lester Gooch #5)
        let text = String::from_utf8(output.stdout).unwrap();
        let version = text.split_whitespace().find_map(|word| word.strip_prefix('v'));
        let version = version.unwrap_or_else(|| panic!("{}: {text}", path.display()));
        let version = version.split('.').map(|part| part.parse().unwrap()).collect();
        Self { path, version }
    }

    fn list(&self, namespace: &Namespace) -> String {
        let output = namespace.command(&self.path, ["list", "ruleset"]).output().unwrap();
        assert!(output.status.success(), "{:?}: {output:?}", self.version);
        String::from_utf8(output.stdout).unwrap()
    }

    fn load(&self, namespace: &Namespace, listing: &str, what: &str) {
        let mut command = namespace.command(&self.path, ["-f", "-"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // If it ends early, its output says why.
        let _ = child.stdin.take().unwrap().write_all(listing.as_bytes());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {stderr}");
    }
}

/// Returns the `nft` that `TEST_ASSET_NFT` names; `None`, with a message, if it is not set.
///
/// # Panics
///
/// When the file does not exist: a test that was asked for must not pass without running.
#[expect(clippy::print_stderr, reason = "a test that does not run has to say so")]
fn named() -> Option<PathBuf> {
    let Some(path) = env::var_os("TEST_ASSET_NFT").map(PathBuf::from) else {
        eprintln!("not run: TEST_ASSET_NFT names no other nft; tests/nft/fetch prints one");
        return None;
    };
    assert!(path.is_file(), "TEST_ASSET_NFT: there is no file {}", path.display());
    Some(path)
}

/// Each version loads its own listings, and the newer one those of the older.
///
/// The other way round cannot be: 1.1.3 writes the priority of a chain of the output hook as
/// `dstnat`, which 1.0.6 accepts only as -100; and 1.0.6 crashes when it lists sets that 1.1.3 has
/// loaded, whose notes for nft itself it does not expect. Neither depends on us.
#[test]
fn a_listing_loads_with_its_version_and_with_a_newer_one() {
    if !require_root() {
        return;
    }
    let Some(path) = named() else { return };
    let wire = Namespace::new("wire");
    let versions = [Nft::of("nft".into(), &wire), Nft::of(path, &wire)];
    assert_ne!(versions[0].version, versions[1].version, "TEST_ASSET_NFT is not another version");
    let program = everything();
    wire.run(|| install(&mut open(Ownership::Shared), &program));
    for lister in &versions {
        let listing = lister.list(&wire);
        for loader in versions.iter().filter(|loader| loader.version >= lister.version) {
            let what = format!("listed by {:?}, loaded by {:?}", lister.version, loader.version);
            let again = Namespace::new("again");
            loader.load(&again, &listing, &what);
            assert_eq!(loader.list(&again), loader.list(&wire), "{what}");
            holds(&again, &program, &what);
        }
    }
}

/// Asserts that the tables of a namespace are those of the program, as the daemon reads them.
fn holds(namespace: &Namespace, program: &Program, what: &str) {
    let held = namespace.run(|| open(Ownership::Shared).read().unwrap().0);
    let repairs = Delta::reconcile(&held, program);
    assert!(repairs.is_empty(), "{what}: {repairs:?}");
    assert_eq!(held, program.state(), "{what}");
}
