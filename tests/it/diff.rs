//! `rulec diff`: its exit status, its formats, and the snapshots that it reads and writes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;

use crate::daemon::{Daemon, Manifests};
use crate::support::{RULEC, Ran, SETTINGS, diff, file, finish, random_directory, service, slice};

/// Compares two states without a kernel.
fn offline(from: &Path, to: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(RULEC);
    command.env_remove("RULEC_LOG");
    command.arg("diff").arg("--from").arg(from).arg("--to").arg(to);
    if !more.contains(&"--node-name") {
        command.args(SETTINGS);
    }
    command.args(more);
    finish(command)
}

fn web(endpoints: &[&str]) -> Manifests {
    Manifests::of(&file(&[service("web", "10.96.0.10", ""), slice("web", endpoints)]))
}

#[test]
fn the_exit_status_shows_the_result() {
    let (one, two) = (web(&["10.50.1.5"]), web(&["10.50.1.5", "10.50.1.6"]));
    let missing = one.path().join("missing");
    let cases: [(&Path, &Path, &[&str], i32, &str); 7] = [
        (&one.path(), &one.path(), &[], 0, ""),
        (&one.path(), &two.path(), &[], 1, ""),
        (&one.path(), &missing, &[], 2, "missing"),
        (&missing, &one.path(), &[], 2, "missing"),
        (&one.path(), &one.path(), &["--node-name", " "], 2, "--node-name: must not be empty"),
        (
            &one.path(),
            &one.path(),
            &["--node-name", "na", "--cluster-cidr", "10.0.0.0/33"],
            2,
            "33",
        ),
        (&one.path(), &one.path(), &["--node-name", "na", "-o", "xml"], 2, "xml"),
    ];
    for (from, to, more, status, word) in cases {
        let ran = offline(from, to, more);
        assert_eq!(ran.status, status, "{more:?}: {ran:?}");
        assert!(ran.stderr.contains(word), "{more:?}: {ran:?}");
        assert_eq!(ran.stdout.is_empty(), status == 2, "only a comparison prints data");
    }
    let two_of_a_kind = ["--node-name", "na", "--cluster-cidr", "10.0.0.0/8,10.1.0.0/16"];
    let ran = offline(&one.path(), &one.path(), &two_of_a_kind);
    assert_eq!(ran.status, 2);
    assert!(
        ran.stderr.contains("--cluster-cidr: must be one network, or one of each family"),
        "{}",
        ran.stderr
    );
}

#[test]
fn errors_in_manifests_are_reported_and_the_rest_is_compared() {
    let (good, bad) = (web(&["10.50.1.5"]), web(&["10.50.1.5"]));
    bad.write("bad.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec: [\n");
    let message = "bad.yaml:5:7: not YAML: unclosed bracket '['\n";
    for (from, to) in [(&good, &bad), (&bad, &good)] {
        let ran = offline(&from.path(), &to.path(), &[]);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, "No difference.\n"));
        assert_eq!(ran.stderr, message, "the error is reported once, with its place");
    }
    // Valid objects are compared; objects that are only unusual are no error.
    let more = web(&["10.50.1.5", "10.50.1.6"]);
    let ran = offline(&bad.path(), &more.path(), &[]);
    assert_eq!((ran.status, ran.stderr.as_str()), (2, message));
    assert!(ran.stdout.contains("+ backend 10.50.1.6:8080"), "{}", ran.stdout);
    let odd = web(&["10.50.1.5", "127.0.0.1"]);
    let ran = offline(&good.path(), &odd.path(), &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "No difference.\n"));
    assert!(ran.stderr.contains("127.0.0.1 is a loopback address"), "{}", ran.stderr);
}

/// A snapshot that cannot be read must not count as empty: everything would seem to be removed.
#[test]
fn a_broken_snapshot_is_an_error() {
    let manifests = web(&["10.50.1.5"]);
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot.json");
    let save = ["--save", snapshot.to_str().unwrap()];
    let save = [&SETTINGS[..], &save].concat();
    assert_eq!(offline(&manifests.path(), &manifests.path(), &save).status, 0);
    let text = fs::read_to_string(&snapshot).unwrap();
    let broken = [
        text[..text.len() / 2].to_owned(),
        text.replace("rulec.io/v1alpha1", "rulec.io/v9"),
        text.replacen("\"tables\"", "\"tabels\"", 1),
        text.replacen("\"nodeName\"", "\"nodeNames\"", 1),
        text.replacen("{", "{\"more\":1,", 1),
        format!("{text}{text}"),
    ];
    for (number, text) in broken.iter().enumerate() {
        fs::write(&snapshot, text).unwrap();
        for (from, to) in [(&snapshot, &manifests.path()), (&manifests.path(), &snapshot)] {
            let ran = offline(from, to, &[]);
            assert_eq!(ran.status, 2, "{number}: {ran:?}");
            assert!(ran.stderr.contains("snapshot.json"), "{number}: {ran:?}");
        }
    }
}

/// The kernel stores a shortened name for a key that is too long for a comment.
#[test]
fn reasons_are_given_for_services_with_long_names() {
    let (name, namespace) = ("w".repeat(63), "n".repeat(63));
    let with = |endpoints: &[&str]| {
        let slice = slice("NAME", endpoints).replace("name: NAME-v4", "name: web-v4");
        let text = file(&[service("NAME", "10.96.0.10", ""), slice]);
        let metadata = format!("metadata:\n  namespace: {namespace}\n");
        Manifests::of(&text.replace("NAME", &name).replace("metadata:\n", &metadata))
    };
    let (one, two) = (with(&["10.50.1.5"]), with(&["10.50.1.5", "10.50.1.6"]));
    let found = format!("EndpointSlice {namespace}/web-v4 (all.yaml) endpoint 10.50.1.6: ready");
    let ran = offline(&one.path(), &two.path(), &[]);
    assert!(ran.stdout.contains(&found), "{}", ran.stdout);
    let ran = offline(&two.path(), &one.path(), &[]);
    assert!(ran.stdout.contains(&format!("was {found}")), "{}", ran.stdout);
}

/// Comparing manifests needs neither rights nor the kernel.
#[test]
fn manifests_are_compared_without_privileges() {
    if !require_root() {
        return;
    }
    let (from, to) = (web(&["10.50.1.5"]), web(&["10.50.1.5", "10.50.1.6"]));
    let directory = tempfile::tempdir().unwrap();
    // The directories may be closed to other users. Another process makes the copy: if this one had
    // the file open for writing, so might a child of another test, and executing the file would
    // fail.
    let binary = directory.path().join("rulec");
    assert!(Command::new("cp").arg(RULEC).arg(&binary).status().unwrap().success());
    for closed in [directory.path(), from.path().parent().unwrap(), to.path().parent().unwrap()] {
        fs::set_permissions(closed, Permissions::from_mode(0o755)).unwrap();
    }
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    nobody.arg(&binary).arg("diff").arg("--from").arg(from.path()).arg("--to").arg(to.path());
    let ran = finish({
        nobody.args(SETTINGS);
        nobody
    });
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("+ backend 10.50.1.6:8080"), "{}", ran.stdout);

    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    nobody.arg(&binary).arg("diff").arg("--to").arg(to.path()).args(SETTINGS);
    let ran = finish(nobody);
    assert_eq!(ran.status, 2, "reading the kernel needs rights: {ran:?}");
    assert!(ran.stderr.contains("are you root?"), "{}", ran.stderr);
}

#[test]
fn json_has_the_documented_fields() {
    let (from, to) = (web(&["10.50.1.5"]), web(&["10.50.1.5", "10.50.1.6"]));
    let ran = offline(&from.path(), &to.path(), &[&SETTINGS[..], &["-o", "json"]].concat());
    assert_eq!(ran.status, 1);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let set = |words: &[&str]| -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    };
    assert_eq!(
        keys(&document),
        set(&["apiVersion", "kind", "from", "to", "equal", "summary", "base", "services"])
    );
    assert_eq!(document["apiVersion"], "rulec.io/v1alpha1");
    assert_eq!(document["kind"], "Diff");
    assert_eq!(document["from"], from.path().to_str().unwrap());
    assert_eq!(document["to"], to.path().to_str().unwrap());
    assert_eq!(document["equal"], false);
    assert_eq!(
        document["summary"],
        serde_json::json!({
            "services": 1, "elementsAdded": 3, "elementsDeleted": 1, "otherOperations": 2
        })
    );
    let base = document["base"].as_array().unwrap();
    let ops: Vec<&str> = base.iter().map(|op| op["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["addChain", "fillChain", "addElement"]);
    assert_eq!(base[0]["name"], "pick-2");
    assert_eq!(base[2]["set"], "picks");
    assert_eq!(base[2]["family"], "IPv4");
    let [service] = document["services"].as_array().unwrap().as_slice() else { panic!("{ran:?}") };
    assert_eq!(keys(service), set(&["namespace", "name", "changes", "operations"]));
    assert_eq!((&service["namespace"], &service["name"]), (&"default".into(), &"web".into()));
    let [change] = service["changes"].as_array().unwrap().as_slice() else { panic!("{ran:?}") };
    assert_eq!(keys(change), set(&["what", "frontends", "backend", "reason"]));
    assert_eq!(change["what"], "backendAdded");
    assert_eq!(change["frontends"], serde_json::json!(["10.96.0.10:80/TCP"]));
    assert_eq!(change["backend"], "10.50.1.6:8080");
    let reason = change["reason"].as_str().unwrap();
    assert!(reason.contains("EndpointSlice default/web-v4"), "{reason}");
    assert!(reason.contains("all.yaml"), "{reason}");
    let operations = service["operations"].as_array().unwrap();
    assert_eq!(operations.len(), 3);
    for operation in operations {
        assert_eq!(keys(operation), set(&["op", "family", "set", "element"]));
    }

    let ran = offline(&to.path(), &to.path(), &[&SETTINGS[..], &["-o", "json"]].concat());
    assert_eq!(ran.status, 0);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["equal"], true);
    assert_eq!(document["services"], serde_json::json!([]));
    assert_eq!(document["base"], serde_json::json!([]));
    let ran = offline(&to.path(), &to.path(), &[&SETTINGS[..], &["-o", "nft"]].concat());
    assert_eq!((ran.status, ran.stdout.as_str()), (0, ""));
}

/// The output of `-o nft`, loaded with `nft`, changes the kernel like the daemon would.
#[test]
fn nft_loads_the_output_of_diff() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("diff-nft");
    let nft = |directory: &Path| {
        let directory = directory.to_str().unwrap();
        let ran = diff(&namespace, "kernel", directory, &["-o", "nft"]);
        assert!(ran.status <= 1, "{ran:?}");
        assert_eq!(ran.stderr, "");
        namespace.nft(&ran.stdout);
        let ran = diff(&namespace, "kernel", directory, &[]);
        assert_eq!(ran.status, 0, "after loading it, there is still: {}", ran.stdout);
        ran
    };
    for pair in 0..15 {
        let directories = [2 * pair, 2 * pair + 1].map(|seed| random_directory(seed, 14));
        for directory in &directories {
            nft(directory.path());
        }
        // Start from an empty ruleset sometimes, so that not every pair starts from a table with
        // everything.
        if pair % 4 == 3 {
            namespace.nft("flush ruleset");
        }
    }
}

#[test]
fn colours_are_used_only_on_terminals() {
    let (from, to) = (web(&["10.50.1.5"]), web(&["10.50.1.5", "10.50.1.6"]));
    let run = |environment: &[(&str, &str)]| {
        let mut command = Command::new(RULEC);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RULEC_LOG"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        command.arg("diff").arg("--from").arg(from.path()).arg("--to").arg(to.path());
        command.args(SETTINGS);
        finish(command).stdout
    };
    let plain = run(&[]);
    assert!(plain.contains("+ backend"), "{plain}");
    assert!(!plain.contains('\x1b'), "a pipe is no terminal");
    let forced = run(&[("CLICOLOR_FORCE", "1")]);
    assert!(forced.contains('\x1b'), "colours can be forced");
    assert_eq!(run(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), plain);
}

/// A reader that closes the output early does not cause an error.
#[test]
fn a_closed_pipe_is_not_an_error() {
    let empty = Manifests::new();
    let large = random_directory(1, 200);
    for output in ["text", "json", "nft"] {
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG");
        command.arg("diff").arg("--from").arg(empty.path()).arg("--to").arg(large.path());
        command.args(SETTINGS).args(["-o", output]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stderr), "", "{output}");
        assert_eq!(ran.status.code(), Some(1), "{output}");
    }
}

#[test]
fn a_snapshot_equals_the_manifests_it_was_made_of() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot.json");
    for seed in 0..8 {
        let manifests = random_directory(seed, 20);
        let other = random_directory(100 + seed, 20);
        let save = [&SETTINGS[..], &["--save", snapshot.to_str().unwrap()]].concat();
        assert_eq!(offline(manifests.path(), manifests.path(), &save).status, 0);
        for (from, to) in [
            (snapshot.as_path(), manifests.path()),
            (manifests.path(), &snapshot),
            (&snapshot, &snapshot),
        ] {
            let ran = offline(from, to, &[]);
            assert_eq!(ran.status, 0, "seed {seed}: {}", ran.stdout);
        }
        // The same difference, except for the names of the two sides.
        let named = |text: &str| {
            let path = manifests.path().to_str().unwrap();
            text.replace(path, "X").replace(snapshot.to_str().unwrap(), "X")
        };
        let (by_manifests, by_snapshot) =
            (offline(manifests.path(), other.path(), &[]), offline(&snapshot, other.path(), &[]));
        assert_eq!(named(&by_manifests.stdout), named(&by_snapshot.stdout), "seed {seed}");
        assert_eq!(by_snapshot.status, 1, "seed {seed}");
    }
}

#[test]
fn the_daemon_saves_snapshots() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("snapshot");
    let manifests = web(&["10.50.1.5"]);
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot.json");
    let path = snapshot.to_str().unwrap();
    let more = [&SETTINGS[..], &["--snapshot", path]].concat();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &more);
    assert!(!snapshot.exists(), "none is written before the signal");
    daemon.signal("USR1");
    daemon.wait_for("saved a snapshot");
    assert_eq!(diff(&namespace, path, "kernel", &[]).status, 0);
    assert_eq!(diff(&namespace, path, manifests.path().to_str().unwrap(), &[]).status, 0);

    // The snapshot contains the objects, and so the reasons.
    manifests.write(
        "all.yaml",
        &file(&[service("web", "10.96.0.10", ""), slice("web", &["10.50.1.6"])]),
    );
    daemon.settle(&namespace, &manifests.path(), &SETTINGS);
    let ran = diff(&namespace, path, manifests.path().to_str().unwrap(), &[]);
    assert_eq!(ran.status, 1);
    for reason in [
        "EndpointSlice default/web-v4 (all.yaml) endpoint 10.50.1.6: ready",
        "was EndpointSlice default/web-v4 (all.yaml) endpoint 10.50.1.5: ready",
    ] {
        assert!(ran.stdout.contains(reason), "{}", ran.stdout);
    }

    fs::remove_file(&snapshot).unwrap();
    daemon.stop();
    assert_eq!(diff(&namespace, path, "kernel", &[]).status, 0, "saved at the end");
    assert_eq!(diff(&namespace, "kernel", path, &[]).status, 0);
    let leftovers: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(leftovers.len(), 1, "nothing half-written stays: {leftovers:?}");
}

/// The daemon does not stop when a snapshot cannot be written.
#[test]
fn an_unwritable_snapshot_does_not_stop_the_daemon() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("no-snapshot");
    let manifests = web(&["10.50.1.5"]);
    let more = [&SETTINGS[..], &["--snapshot", "/nonexistent/snapshot.json"]].concat();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &more);
    daemon.signal("USR1");
    daemon.wait_for("saving a snapshot: writing /nonexistent/snapshot.json");
    manifests.write(
        "all.yaml",
        &file(&[service("web", "10.96.0.10", ""), slice("web", &["10.50.1.6"])]),
    );
    daemon.settle(&namespace, &manifests.path(), &SETTINGS);
    assert!(daemon.stop().contains("stopping"), "it ends as it should");
}

/// If this node bound the address, it could no longer reach the other node.
#[test]
fn an_address_of_another_node_is_not_bound_in_ipvs_mode() {
    let node = |name: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        )
    };
    let external = "  externalIPs: [192.0.2.11, 192.0.2.12]\n";
    let web = [service("web", "10.96.0.10", external), slice("web", &["10.50.1.5"])];
    let with = |nodes: &[String]| Manifests::of(&file(&[&web[..], nodes].concat()));
    let alone = with(&[node("na", "192.0.2.10")]);
    let both = with(&[node("na", "192.0.2.10"), node("nb", "192.0.2.11")]);
    let nothing = Manifests::of("");
    let settings = ["--node-name", "na", "--cluster-cidr", "10.50.0.0/16", "--proxy-mode", "ipvs"];
    let shown = |to: &Manifests| offline(&nothing.path(), &to.path(), &settings);

    let ran = shown(&alone);
    assert!(ran.stdout.contains("bind 192.0.2.11"), "{ran:?}");
    let ran = shown(&both);
    assert!(!ran.stdout.contains("192.0.2.11"), "{ran:?}");
    assert!(ran.stdout.contains("bind 192.0.2.12"), "{ran:?}");
    let warning = "Service default/web: 192.0.2.11: not served at this address in IPVS mode: \
                   it belongs to Node nb";
    assert!(ran.stderr.contains(warning), "{ran:?}");
}
