//! What `rulec diff` reads, and what it says of the rest: nothing that may matter is passed over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::daemon::Manifests;
use crate::diff::{offline, web};
use crate::support::{RULEC, Ran, SETTINGS, file, finish, service, slice};

fn diff(args: &[&str]) -> Command {
    let mut command = Command::new(RULEC);
    command.env_remove("RULEC_LOG").arg("diff").args(args).args(SETTINGS);
    command
}

/// Compares something with Service `web` from either side, and expects this status and these words.
fn expect(other: &Path, status: i32, says: &str) {
    let good = web(&["10.50.1.5"]);
    for (from, to) in [(good.path().as_path(), other), (other, &good.path()), (other, other)] {
        let ran = offline(from, to, &[]);
        assert_eq!(ran.status, status, "{says}: {ran:?}");
        assert!(ran.stderr.contains(says), "{says}: {ran:?}");
        assert!(status != 3 || ran.stdout.is_empty(), "{says}: {ran:?}");
    }
}

fn from_input(input: &str, to: &Path) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    fs::write(&path, input).unwrap();
    let mut command = diff(&["--from", "-", "--to", to.to_str().unwrap()]);
    command.stdin(fs::File::open(path).unwrap());
    finish(command)
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";

/// Whoever names a file expects something of it.
#[test]
fn a_file_in_which_nothing_is_read_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let alien = "has no object of a kind that is read, and is no empty List";
    let recipe = "a kustomization is not applied";
    let cases = [
        ("kustomization.yaml", "resources: [all.yaml]\n", recipe),
        ("Kustomization", "namePrefix: my-\n", recipe),
        ("base.yaml", "bases:\n- ../base\n", recipe),
        ("values.yaml", "replicaCount: 1\nresources: {limits: {cpu: 1}}\n", alien),
        ("deployment.yaml", DEPLOYMENT, alien),
        ("blank.yaml", "---\n", alien),
    ];
    for (name, text, says) in cases {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        expect(&path, 3, says);
        let good = web(&["10.50.1.5"]);
        let ran = from_input(text, &good.path());
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran:?}");
        assert!(ran.stderr.contains("--from -: nothing of it can be used"), "{ran:?}");
        // Beside another one, it is not compared.
        let all = good.path().join("all.yaml");
        let [all, path] = [&all, &path].map(|path| path.to_str().unwrap());
        let ran = finish(diff(&["--from", all, "--to", all, "--to", path]));
        assert_eq!(ran.status, 2, "{name}: {ran:?}");
        assert!(ran.stderr.contains(says), "{name}: {ran:?}");
    }
    // In a directory, it is one file among others, but a kustomization may make objects.
    let among = web(&["10.50.1.5"]);
    among.write("values.yaml", "replicaCount: 1\nresources: {limits: {cpu: 1}}\n");
    among.write("deployment.yaml", DEPLOYMENT);
    expect(&among.path(), 0, "the document has no kind, ignored");
    among.write("more.yaml", "resources: [all.yaml]\n");
    expect(&among.path(), 2, recipe);
    // In an object, it is a field like any other.
    let odd = file(&[
        service("web", "10.96.0.10", "") + "resources: [x]\n",
        slice("web", &["10.50.1.5"]),
    ]);
    expect(&Manifests::of(&odd).path(), 0, "resources");
}

#[test]
fn sides_without_services_are_noted() {
    let sides = [Manifests::of("# None.\n"), Manifests::of("apiVersion: v1\nkind: List\n")];
    for side in sides {
        for path in [side.path(), side.path().join("all.yaml")] {
            let ran = offline(&path, &path, &[]);
            assert_eq!((ran.status, ran.stdout.as_str()), (0, "No difference.\n"), "{ran:?}");
            let path = path.display();
            let note = format!("--from {path}, --to {path}: there is no Service on either side\n");
            assert!(ran.stderr.contains(&note), "{ran:?}");
        }
        for (from, to) in [(&side, &web(&[])), (&web(&[]), &side), (&web(&[]), &web(&[]))] {
            assert_eq!(offline(&from.path(), &to.path(), &[]).stderr, "");
        }
    }
}

#[test]
fn links_that_lead_nowhere_may_be_directories() {
    let (dangling, circular) = (web(&["10.50.1.5"]), web(&["10.50.1.5"]));
    symlink("nowhere", dangling.path().join("sub")).unwrap();
    expect(&dangling.path(), 2, "sub cannot be followed: No such file or directory");
    symlink("loop", circular.path().join("loop")).unwrap();
    expect(&circular.path(), 2, "loop cannot be followed: Too many levels of symbolic links");
    // The lock of an editor.
    let locked = web(&["10.50.1.5"]);
    symlink("me@host.1", locked.path().join(".#all.yaml")).unwrap();
    expect(&locked.path(), 0, "");
}

#[test]
fn directories_are_named_whatever_their_names() {
    for name in [".x", "old.tmp", "x~", "#x#"] {
        let nested = web(&["10.50.1.5"]);
        fs::create_dir(nested.path().join(name)).unwrap();
        expect(&nested.path(), 2, &format!("sub-directories are not read: {name}; name them, too"));
    }
    let mounted = web(&["10.50.1.5"]);
    for name in [".git", "..2026_01_01_00_00_00.1", "..data"] {
        fs::create_dir(mounted.path().join(name)).unwrap();
    }
    expect(&mounted.path(), 0, "");
}

#[test]
fn a_directory_that_is_named_too_is_read() {
    let nest = web(&["10.50.1.5"]);
    let sub = nest.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let other = file(&[service("other", "10.96.0.11", ""), slice("other", &["10.50.1.6"])]);
    fs::write(sub.join("other.yaml"), other).unwrap();
    // By whatever path.
    let again = nest.path().join("../manifests/sub");
    let [nest, sub, again] = [&nest.path(), &sub, &again].map(|it| it.to_str().unwrap().to_owned());
    let ran = finish(diff(&["--from", &nest, "--from", &sub, "--to", &nest, "--to", &again]));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let ran = finish(diff(&["--from", &nest, "--from", &sub, "--to", &nest]));
    assert_eq!(ran.status, 2, "{ran:?}");
    // What it holds may be there, and is not called removed.
    assert!(ran.stdout.starts_with("No difference in what could be compared.\n"), "{ran:?}");
    assert!(ran.stdout.contains("sub-directories are not read: sub"), "{ran:?}");
}

#[test]
fn a_snapshot_among_manifests_is_an_error() {
    let (from, to) = (web(&["10.50.1.5"]), web(&["10.50.1.5"]));
    let saved = to.path().join("snapshot.yaml");
    let ran = offline(&from.path(), &to.path(), &["--save", saved.to_str().unwrap()]);
    assert_eq!(ran.status, 0, "{ran:?}");
    expect(&to.path(), 2, "a snapshot is not read among manifests: name it alone");
    fs::remove_file(to.path().join("all.yaml")).unwrap();
    expect(&to.path(), 3, "a snapshot is not read among manifests: name it alone");
}

#[test]
fn values_that_are_skipped_are_not_compared() {
    let external = "  externalIPs: [bogus1]\n";
    let external = file(&[service("web", "10.96.0.10", external), slice("web", &["10.50.1.5"])]);
    let old =
        slice("web", &["10.50.1.5"]).replace("discovery.k8s.io/v1\n", "discovery.k8s.io/v1beta1\n");
    let cases = [
        (web(&["bogus1"]), "\"bogus1\" is not an IP address; the endpoint is skipped"),
        (web(&["10.50.1.5", "2001:db8::1"]), "2001:db8::1 is not IPv4; the endpoint is skipped"),
        (web(&["127.0.0.1"]), "127.0.0.1 is a loopback address"),
        (Manifests::of(&external), "\"bogus1\" is not an IP address; it is skipped"),
        (
            Manifests::of(&file(&[service("web", "10.96.0.10", ""), old])),
            "discovery.k8s.io/v1beta1 of EndpointSlice is not read",
        ),
    ];
    for (bad, says) in cases {
        expect(&bad.path(), 2, says);
    }
    // Beyond those that are told, there may be any.
    let many: Vec<String> = (0..101).map(|number| format!("unknown{number}: 1\n")).collect();
    let many = service("web", "10.96.0.10", "") + &many.concat();
    expect(&Manifests::of(&many).path(), 2, "1 more problem");
}

#[test]
fn a_snapshot_of_what_could_not_be_read_is_never_complete() {
    let bad = web(&["10.50.1.5"]);
    bad.write("bad.yaml", "spec: [");
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved.json");
    let ran = offline(&bad.path(), &bad.path(), &["--save", saved.to_str().unwrap()]);
    assert_eq!(ran.status, 2, "{ran:?}");
    let place = format!("it was saved incomplete: {}/bad.yaml:1:7", bad.path().display());
    expect(&saved, 2, &place);
    // What is wrong with the other side is not in it.
    let good = web(&["10.50.1.5"]);
    let ran = offline(&bad.path(), &good.path(), &["--save", saved.to_str().unwrap()]);
    assert_eq!(ran.status, 2, "{ran:?}");
    expect(&saved, 0, "");
}

/// The status is what a script looks at.
#[test]
fn a_full_disk_behind_stderr_changes_no_status() {
    let bad = web(&["10.50.1.5", "127.0.0.1"]);
    let path = bad.path();
    let path = path.to_str().unwrap();
    let commands: [(&[&str], i32); 4] = [
        (&["diff", "--from", path, "--to", path], 2),
        (&["explain", "10.96.0.10:80", "--from", "10.50.1.9", "--state", path], 2),
        (&["show", "services", "--state", path], 2),
        (&["diff", "--from", "/nonexistent", "--to", path], 3),
    ];
    for (args, status) in commands {
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG").args(args).args(SETTINGS).stdout(Stdio::null());
        command.stderr(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert_eq!(command.status().unwrap().code(), Some(status), "{args:?}");
    }
}
