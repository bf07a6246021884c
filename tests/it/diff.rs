//! `rulec diff`: its exit status, its formats, and the snapshots that it reads and writes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod flows;
mod services;

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
pub(crate) fn offline(from: &Path, to: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(RULEC);
    command.env_remove("RULEC_LOG");
    command.arg("diff").arg("--from").arg(from).arg("--to").arg(to);
    if !more.contains(&"--node-name") {
        command.args(SETTINGS);
    }
    command.args(more);
    finish(command)
}

/// Returns the text with each reason in one line.
fn unwrapped(text: &str) -> String {
    text.replace("\n      ", " ")
}

pub(crate) fn web(endpoints: &[&str]) -> Manifests {
    Manifests::of(&file(&[service("web", "10.96.0.10", ""), slice("web", endpoints)]))
}

#[test]
fn the_exit_status_shows_the_result() {
    let (one, two) = (web(&["10.50.1.5"]), web(&["10.50.1.5", "10.50.1.6"]));
    let missing = one.path().join("missing");
    let again = one.path().join("./all.yaml");
    let again = ["--node-name", "na", "--to", again.to_str().unwrap()];
    let cases: [(&Path, &Path, &[&str], i32, &str); 8] = [
        (&two.path(), &one.path(), &again, 3, "so that it would be read twice"),
        (&one.path(), &one.path(), &[], 0, ""),
        (&one.path(), &two.path(), &[], 1, ""),
        (&one.path(), &missing, &[], 3, "missing"),
        (&missing, &one.path(), &[], 3, "missing"),
        (&one.path(), &one.path(), &["--node-name", " "], 3, "--node-name: must not be empty"),
        (
            &one.path(),
            &one.path(),
            &["--node-name", "na", "--cluster-cidr", "10.0.0.0/33"],
            3,
            "33",
        ),
        (&one.path(), &one.path(), &["--node-name", "na", "-o", "xml"], 3, "xml"),
    ];
    for (from, to, more, status, word) in cases {
        let ran = offline(from, to, more);
        assert_eq!(ran.status, status, "{more:?}: {ran:?}");
        assert!(ran.stderr.contains(word), "{more:?}: {ran:?}");
        assert_eq!(ran.stdout.is_empty(), status == 3, "only a comparison prints data");
    }
    let two_of_a_kind = ["--node-name", "na", "--cluster-cidr", "10.0.0.0/8,10.1.0.0/16"];
    let ran = offline(&one.path(), &one.path(), &two_of_a_kind);
    assert_eq!(ran.status, 3);
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
    let fault = |side: &str| {
        let path = bad.path();
        format!("{side} {}/bad.yaml:5:7: not YAML: unclosed bracket '['\n", path.display())
    };
    for (from, to, side) in [(&good, &bad, "--to"), (&bad, &good, "--from")] {
        let ran = offline(&from.path(), &to.path(), &[]);
        let fault = fault(side);
        let text = format!(
            "No difference in what could be compared.\n\n\
             Not compared, so that there may be more differences\n  {fault}"
        );
        assert_eq!((ran.status, ran.stdout), (2, text));
        assert_eq!(ran.stderr, fault, "the error is reported once, with its place");
        let ran = offline(&from.path(), &to.path(), &[&SETTINGS[..], &["-o", "json"]].concat());
        let document: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.status, &document["equal"]), (2, &false.into()));
        assert_eq!(document["incomplete"], serde_json::json!([fault.trim_end()]));
    }
    // Valid objects are compared; objects that are only unusual are no error.
    let more = web(&["10.50.1.5", "10.50.1.6"]);
    let ran = offline(&bad.path(), &more.path(), &[]);
    assert_eq!((ran.status, ran.stderr), (2, fault("--from")));
    assert!(ran.stdout.contains("+ backend 10.50.1.6:8080"), "{}", ran.stdout);
    assert!(ran.stdout.ends_with(&fault("--from")), "{}", ran.stdout);
    let odd = service("web", "10.96.0.10", "  publishNotReadyAddress: true\n");
    let odd = Manifests::of(&file(&[odd, slice("web", &["10.50.1.5"])]));
    let ran = offline(&good.path(), &odd.path(), &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "No difference.\n"));
    let warning = format!("--to {}/all.yaml:", odd.path().display());
    assert!(ran.stderr.starts_with(&warning), "{}", ran.stderr);
    assert!(ran.stderr.contains("publishNotReadyAddress: unknown field"), "{}", ran.stderr);
    // What is odd on both sides is said once; an error is one of each side.
    let ran = offline(&odd.path(), &odd.path(), &[]);
    assert_eq!(ran.stderr.matches("unknown field").count(), 1, "{}", ran.stderr);
    let ran = offline(&bad.path(), &bad.path(), &[]);
    assert_eq!((ran.status, ran.stderr), (2, fault("--from") + &fault("--to")));
}

/// Nothing that may hold Services is passed over as if it held none.
#[test]
fn what_is_not_read_is_never_an_all_clear() {
    let good = web(&["10.50.1.5"]);
    let incomplete = |to: &Path, says: &str| {
        let ran = offline(&good.path(), to, &[]);
        assert_eq!(ran.status, 2, "{says}: {ran:?}");
        assert!(ran.stdout.starts_with("No difference in what could be compared.\n"), "{ran:?}");
        let last = ran.stdout.lines().last().unwrap();
        assert!(last.starts_with("  --to ") && last.contains(says), "{says}: {ran:?}");
        assert!(ran.stderr.contains(says), "{ran:?}");
    };
    let refused = |to: &Path, says: &str| {
        for (from, to) in [(good.path().as_path(), to), (to, &good.path())] {
            let ran = offline(from, to, &[]);
            assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{says}: {ran:?}");
            assert!(ran.stderr.contains(says), "{says}: {ran:?}");
            assert!(ran.stderr.contains(to.to_str().unwrap()) || ran.stderr.contains("--from"));
        }
    };
    let nested = web(&["10.50.1.5"]);
    fs::create_dir(nested.path().join("overlays")).unwrap();
    fs::create_dir(nested.path().join(".git")).unwrap();
    incomplete(&nested.path(), "sub-directories are not read: overlays");
    for name in ["kustomization.yaml", "Kustomization"] {
        let recipe = web(&["10.50.1.5"]);
        recipe.write(name, "resources: [all.yaml]\n");
        incomplete(&recipe.path(), &format!("{name} is not applied"));
    }
    let recipe = web(&["10.50.1.5"]);
    let text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
    recipe.write("more.yaml", text);
    incomplete(&recipe.path(), "more.yaml:2:7: kind: a Kustomization is not applied");

    let odd = tempfile::tempdir().unwrap();
    let path = |name: &str| odd.path().join(name);
    fs::write(path("recipe.yaml"), text).unwrap();
    refused(&path("recipe.yaml"), "a Kustomization is not applied");
    refused(&path("missing"), "No such file or directory");
    let made = Command::new("mkfifo").arg(path("pipe.yaml")).status().unwrap();
    assert!(made.success());
    refused(&path("pipe.yaml"), "neither a directory nor a regular file");
    let _socket = std::os::unix::net::UnixListener::bind(path("socket.yaml")).unwrap();
    refused(&path("socket.yaml"), "neither a directory nor a regular file");
    fs::write(path("broken.yaml"), "spec: [").unwrap();
    refused(&path("broken.yaml"), "nothing of it can be used");
}

/// A file that cannot be read is an error, and not a file without objects.
#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    if !require_root() {
        return;
    }
    let to = web(&["10.50.1.5"]);
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed.yaml");
    fs::write(&closed, "kind: List\n").unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    let ran = without_privileges(&[directory.path(), to.path().parent().unwrap()], |nobody| {
        nobody.arg("--from").arg(&closed).arg("--to").arg(to.path());
    });
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.stderr.contains("closed.yaml"), "{ran:?}");
    assert!(ran.stderr.contains("Permission denied"), "{ran:?}");
}

/// A Service has the same address on both sides, whoever else comes and goes, and whatever the
/// other side is.
#[test]
fn services_without_an_address_are_compared_under_the_same_one() {
    let bare = |name: &str| service(name, "", "").replace("  clusterIP: \"\"\n", "");
    let with = |names: &[&str]| {
        let of = |name: &&str| [bare(name), slice(name, &["10.50.1.5"])];
        Manifests::of(&file(&names.iter().flat_map(of).collect::<Vec<_>>()))
    };
    // With two addresses for two, those that come first decide.
    let small = ["--service-cidr", "10.90.0.0/30", "--state-dir", "/nonexistent"];
    let small = [&SETTINGS[..], &small].concat();
    let web = with(&["web"]);
    for other in ["a", "b", "c", "d", "x", "z"] {
        let both = with(&["web", other]);
        for (from, to, change) in [(&web, &both, "added"), (&both, &web, "removed")] {
            let ran = offline(&from.path(), &to.path(), &small);
            assert_eq!(ran.status, 1, "{other}: {ran:?}");
            let summary = format!("1 Service {change}");
            assert!(ran.stdout.starts_with(&summary), "{other}: {ran:?}");
            assert!(!ran.stdout.contains("default/web"), "{other}: {ran:?}");
        }
        // A snapshot knows what they have.
        let directory = tempfile::tempdir().unwrap();
        let snapshot = directory.path().join("snapshot.json");
        let save = ["--save", snapshot.to_str().unwrap()];
        let saved = offline(&web.path(), &both.path(), &[&small[..], &save].concat());
        assert_eq!(saved.status, 1);
        for (from, to) in [(&snapshot, &both.path()), (&both.path(), &snapshot)] {
            assert_eq!(offline(from, to, &small).status, 0, "{other}");
        }
    }
}

/// A table that goes as a whole takes its Services with it.
#[test]
fn the_services_of_a_deleted_table_are_named() {
    let two = file(&[
        service("web", "10.96.0.10", ""),
        slice("web", &["10.50.1.5"]),
        service("api", "10.96.0.11", ""),
        slice("api", &["10.50.1.6"]),
    ]);
    let manifests = Manifests::of(&two);
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot.json");
    let save = [&SETTINGS[..], &["--save", snapshot.to_str().unwrap()]].concat();
    assert_eq!(offline(&manifests.path(), &manifests.path(), &save).status, 0);
    let mut text: Value = serde_json::from_slice(&fs::read(&snapshot).unwrap()).unwrap();
    text["tables"] = serde_json::json!({});
    text["objects"] = Value::Null;
    let empty = directory.path().join("empty.json");
    fs::write(&empty, text.to_string()).unwrap();
    let ran = offline(&snapshot, &empty, &[]);
    assert_eq!(ran.status, 1);
    let summary = "2 Services removed; 2 dangerous changes.\n";
    assert!(ran.stdout.starts_with(summary), "{}", ran.stdout);
    for address in
        ["api: removed\n !- frontend 10.96.0.11", "web: removed\n !- frontend 10.96.0.10"]
    {
        assert!(
            ran.stdout.contains(&format!("Service default/{address}:80/TCP")),
            "{}",
            ran.stdout
        );
    }
    let ran = offline(&snapshot, &empty, &[&SETTINGS[..], &["-o", "json"]].concat());
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["summary"]["servicesRemoved"], 2);
    assert_eq!(document["dangers"].as_array().unwrap().len(), 2);
}

/// Standard input can be a side, with a list as kubectl writes it.
#[test]
fn standard_input_is_a_side() {
    let compare = |input: &str, more: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("input");
        fs::write(&path, input).unwrap();
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG").arg("diff").args(more).args(SETTINGS);
        let output = command.stdin(fs::File::open(path).unwrap()).output().unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
        Ran { status: output.status.code().unwrap(), stdout, stderr }
    };
    let manifests = web(&["10.50.1.5"]);
    let path = manifests.path();
    let side = ["--from", path.to_str().unwrap(), "--to", "-"];
    let ran = compare(KUBECTL_LIST, &side);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "No difference.\n"), "{ran:?}");
    assert_eq!(ran.stderr, "");
    let ran = compare(&KUBECTL_LIST.replace("10.50.1.5", "10.50.1.6"), &side);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("EndpointSlice default/web-v4 (-) endpoint 10.50.1.6: ready"));
    let refused = [
        ("", "--to -: nothing of it can be used"),
        ("Error from server (Forbidden)", "--to -: nothing of it can be used: -:1"),
        ("{\"kind\":\"Snapshot\"}", "standard input is a snapshot"),
    ];
    for (input, says) in refused {
        let ran = compare(input, &side);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{input}: {ran:?}");
        assert!(ran.stderr.contains(says), "{input}: {ran:?}");
    }
    let ran = compare(KUBECTL_LIST, &["--from", "-", "--to", "-"]);
    assert!(ran.status == 3 && ran.stderr.contains("only once"), "{ran:?}");
    let ran = compare(KUBECTL_LIST, &["--from", "-", "--from", path.to_str().unwrap()]);
    assert!(ran.status == 3 && ran.stderr.contains("can be named together"), "{ran:?}");
}

/// As `kubectl get services,endpointslices -o yaml --show-managed-fields` writes it.
const KUBECTL_LIST: &str = r#"apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Service","metadata":{"annotations":{},"name":"web"}}
    creationTimestamp: "2026-11-30T12:00:00Z"
    managedFields:
    - apiVersion: v1
      fieldsType: FieldsV1
      fieldsV1:
        f:metadata:
          f:annotations:
            .: {}
            f:kubectl.kubernetes.io/last-applied-configuration: {}
        f:spec:
          f:internalTrafficPolicy: {}
          f:ports:
            .: {}
            k:{"port":80,"protocol":"TCP"}:
              .: {}
              f:port: {}
      manager: kubectl-client-side-apply
      operation: Update
      time: "2026-11-30T12:00:00Z"
    name: web
    namespace: default
    resourceVersion: "540"
    uid: 3b1f7f2c-4b7c-4f0f-9d3c-0c8a4ad2c5aa
  spec:
    clusterIP: 10.96.0.10
    clusterIPs:
    - 10.96.0.10
    internalTrafficPolicy: Cluster
    ipFamilies:
    - IPv4
    ipFamilyPolicy: SingleStack
    ports:
    - name: http
      port: 80
      protocol: TCP
      targetPort: 8080
    sessionAffinity: None
    type: ClusterIP
  status:
    loadBalancer: {}
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints:
  - addresses:
    - 10.50.1.5
    conditions:
      ready: true
      serving: true
      terminating: false
    nodeName: nb
    targetRef:
      kind: Pod
      name: web-5d4f
      namespace: default
      uid: 0d3a5c0e-7f1f-4d0b-8c56-2f3e0a1b2c3d
  kind: EndpointSlice
  metadata:
    creationTimestamp: "2026-11-30T12:00:00Z"
    generateName: web-
    generation: 3
    labels:
      endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
      kubernetes.io/service-name: web
    managedFields:
    - apiVersion: discovery.k8s.io/v1
      fieldsType: FieldsV1
      fieldsV1:
        f:addressType: {}
        f:endpoints: {}
      manager: kube-controller-manager
      operation: Update
      time: "2026-11-30T12:00:00Z"
    name: web-v4
    namespace: default
    ownerReferences:
    - apiVersion: v1
      blockOwnerDeletion: true
      controller: true
      kind: Service
      name: web
      uid: 3b1f7f2c-4b7c-4f0f-9d3c-0c8a4ad2c5aa
    resourceVersion: "541"
    uid: 5f2f7f2c-4b7c-4f0f-9d3c-0c8a4ad2c5ab
  ports:
  - name: http
    port: 8080
    protocol: TCP
kind: List
metadata:
  resourceVersion: ""
"#;

/// A changed way of load balancing, weight or limit is named, alone and beside changed backends.
#[test]
fn changes_of_load_balancing_are_named() {
    const LOAD_BALANCING: &str = "metadata.annotations[rulec.io/load-balancing] or the settings";
    const WEIGHT: &str = "metadata.annotations[rulec.io/weight] of Pods or EndpointSlices";
    const LIMIT: &str = "metadata.annotations[rulec.io/max-connections]";
    let annotated = |kind: &str, annotation: &str, endpoints: &[&str]| {
        let text = file(&[service("web", "10.96.0.10", ""), slice("web", endpoints)]);
        let from = format!("kind: {kind}\nmetadata:\n");
        assert!(text.contains(&from), "{text}");
        let to = format!("{from}  annotations: {{{annotation}}}\n");
        Manifests::of(&text.replace(&from, &to))
    };
    let two = ["10.50.1.5", "10.50.1.6"];
    let of_service = |annotation: &str| annotated("Service", annotation, &two);
    let how = |how: &str| of_service(&format!("rulec.io/load-balancing: {how}"));
    let plain = web(&two);
    let three = ["10.50.1.5", "10.50.1.6", "10.50.1.7"];
    let small: &[&str] = &["--maglev-table-size", "251"];
    let ipvs: &[&str] = &["--proxy-mode", "ipvs"];
    let limit = |limit: &str| of_service(&format!("rulec.io/max-connections: '{limit}'"));
    let cases = [
        (&plain, &how("maglev"), small, LOAD_BALANCING),
        (&how("maglev"), &how("maglev-source"), small, LOAD_BALANCING),
        (&how("maglev"), &how("round-robin"), small, LOAD_BALANCING),
        (&how("round-robin"), &plain, small, LOAD_BALANCING),
        (
            &plain,
            &annotated("Service", "rulec.io/load-balancing: maglev", &three),
            small,
            LOAD_BALANCING,
        ),
        (&web(&three), &how("round-robin"), small, LOAD_BALANCING),
        (&limit("3"), &limit("4"), ipvs, LIMIT),
        (&plain, &limit("4"), ipvs, LIMIT),
        (&limit("4"), &plain, ipvs, LIMIT),
    ];
    for (number, (from, to, args, field)) in cases.into_iter().enumerate() {
        let ran = offline(&from.path(), &to.path(), &[&SETTINGS[..], args].concat());
        assert_eq!(ran.status, 1, "{number}: {ran:?}");
        let altered = "  ~ frontend 10.96.0.10:80/TCP\n      handled differently\n";
        assert!(ran.stdout.contains(altered), "{number}: {}", ran.stdout);
        assert!(unwrapped(&ran.stdout).contains(field), "{number}: {}", ran.stdout);
        assert!(ran.stdout.contains("1 Service changed."), "{number}: {}", ran.stdout);
    }
    // One of two endpoints is in a slice of its own, which has a weight.
    let other = |weight: &str, how: &str| {
        let second = slice("web", &two[1..]).replace("name: web-v4", "name: web-more");
        let weighted = format!("metadata:\n  annotations: {{rulec.io/weight: '{weight}'}}\n");
        let asks = format!("metadata:\n  annotations: {{rulec.io/load-balancing: {how}}}\n");
        let service = service("web", "10.96.0.10", "").replace("metadata:\n", &asks);
        let second = second.replace("metadata:\n", &weighted);
        Manifests::of(&file(&[service, slice("web", &two[..1]), second]))
    };
    for (args, how) in [(small, "random"), (small, "maglev"), (ipvs, "random")] {
        let ran = offline(
            &other("1", how).path(),
            &other("3", how).path(),
            &[&SETTINGS[..], args].concat(),
        );
        let text = unwrapped(&ran.stdout);
        assert!(ran.status == 1 && text.contains(WEIGHT), "{how}: {ran:?}");
        assert!(text.contains("1 Service changed."), "{how}: {text}");
        // An endpoint whose weight becomes 0 is not used any more.
        let ran = offline(
            &other("1", how).path(),
            &other("0", how).path(),
            &[&SETTINGS[..], args].concat(),
        );
        assert!(ran.stdout.contains("- backend 10.50.1.6:8080"), "{how}: {ran:?}");
        assert!(unwrapped(&ran.stdout).contains("ready, but its weight is 0"), "{how}: {ran:?}");
    }
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
        text.replace("rulec.io/v1alpha2", "rulec.io/v9"),
        text.replacen("\"tables\"", "\"tabels\"", 1),
        text.replacen("\"nodeName\"", "\"nodeNames\"", 1),
        text.replacen("{", "{\"more\":1,", 1),
        format!("{text}{text}"),
    ];
    for (number, text) in broken.iter().enumerate() {
        fs::write(&snapshot, text).unwrap();
        for (from, to) in [(&snapshot, &manifests.path()), (&manifests.path(), &snapshot)] {
            let ran = offline(from, to, &[]);
            assert_eq!(ran.status, 3, "{number}: {ran:?}");
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
    let place = two.path().join("all.yaml").display().to_string();
    let found = format!("EndpointSlice {namespace}/web-v4 ({place}) endpoint 10.50.1.6: ready");
    let ran = offline(&one.path(), &two.path(), &[]);
    assert!(unwrapped(&ran.stdout).contains(&found), "{}", ran.stdout);
    let named = format!("1 Service changed.\n\nService {namespace}/{name}\n");
    assert!(ran.stdout.starts_with(&named), "{}", ran.stdout);
    let ran = offline(&two.path(), &one.path(), &[]);
    assert!(unwrapped(&ran.stdout).contains(&format!("was {found}")), "{}", ran.stdout);
}

/// Comparing manifests needs neither rights nor the kernel.
#[test]
fn manifests_are_compared_without_privileges() {
    if !require_root() {
        return;
    }
    let (from, to) = (web(&["10.50.1.5"]), web(&["10.50.1.5", "10.50.1.6"]));
    let closed = [from.path(), to.path()];
    let closed = closed.each_ref().map(|path| path.parent().unwrap());
    let ran = without_privileges(&closed, |nobody| {
        nobody.arg("--from").arg(from.path()).arg("--to").arg(to.path());
    });
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("+ backend 10.50.1.6:8080"), "{}", ran.stdout);

    let ran = without_privileges(&closed, |nobody| {
        nobody.arg("--to").arg(to.path());
    });
    assert_eq!(ran.status, 3, "reading the kernel needs rights: {ran:?}");
    assert!(ran.stderr.contains("are you root?"), "{}", ran.stderr);
}

/// Compares as a user without rights, who may enter these directories.
fn without_privileges(closed: &[&Path], sides: impl FnOnce(&mut Command)) -> Ran {
    let directory = tempfile::tempdir().unwrap();
    // Another process makes the copy: if this one had the file open for writing, so might a child
    // of another test, and executing the file would fail.
    let binary = directory.path().join("rulec");
    assert!(Command::new("cp").arg(RULEC).arg(&binary).status().unwrap().success());
    for closed in closed.iter().copied().chain([directory.path()]) {
        fs::set_permissions(closed, Permissions::from_mode(0o755)).unwrap();
    }
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    nobody.arg(&binary).arg("diff").args(SETTINGS);
    sides(&mut nobody);
    finish(nobody)
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
        set(&[
            "apiVersion",
            "kind",
            "from",
            "to",
            "equal",
            "incomplete",
            "refused",
            "summary",
            "dangers",
            "base",
            "services"
        ])
    );
    assert_eq!(document["apiVersion"], "rulec.io/v1alpha1");
    assert_eq!(document["kind"], "Diff");
    assert_eq!(document["from"], from.path().to_str().unwrap());
    assert_eq!(document["to"], to.path().to_str().unwrap());
    assert_eq!(document["equal"], false);
    assert_eq!(
        document["summary"],
        serde_json::json!({
            "services": 1, "servicesAdded": 0, "servicesRemoved": 0, "dangers": 0,
            "elementsAdded": 2, "elementsDeleted": 1, "otherOperations": 0
        })
    );
    assert_eq!(document["base"], serde_json::json!([]));
    let [service] = document["services"].as_array().unwrap().as_slice() else { panic!("{ran:?}") };
    assert_eq!(keys(service), set(&["namespace", "name", "presence", "changes", "operations"]));
    assert_eq!(service["presence"], "changed");
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
    let told = |when: &str| {
        let more = [&SETTINGS[..], &["--color", when]].concat();
        offline(&from.path(), &to.path(), &more).stdout
    };
    assert_eq!(told("never"), plain);
    assert_eq!(told("auto"), plain);
    assert_eq!(told("always"), forced);
}

/// Runs a shell command whose output and errors go to a terminal. Returns what that shows.
fn on_terminal(command: &str, environment: &[(&str, &str)]) -> String {
    let mut script = Command::new("script");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RULEC_LOG", "PAGER", "LESS"] {
        script.env_remove(name);
    }
    script.env("TERM", "xterm").envs(environment.iter().copied());
    script.args(["--quiet", "--command", command, "/dev/null"]);
    finish(script).stdout
}

#[test]
fn a_terminal_gets_a_pager() {
    let (from, to) = (web(&["10.50.1.5"]), web(&["10.50.1.5", "10.50.1.6"]));
    let [from, to] = [from.path(), to.path()].map(|path| path.display().to_string());
    let settings = SETTINGS.join(" ");
    let command = format!("{RULEC} diff --from {from} --to {to} {settings}");
    let paged = on_terminal(&command, &[("PAGER", "sed s/^/paged:/")]);
    assert!(paged.contains("paged:") && paged.contains("+\u{1b}[0m"), "with colours: {paged:?}");
    assert_eq!(paged.matches("paged:").count(), 6, "{paged:?}");
    let plain = on_terminal(&command, &[("PAGER", "")]);
    assert!(plain.contains("backend") && !plain.contains("paged"), "{plain:?}");
    let json = on_terminal(&format!("{command} -o json"), &[("PAGER", "sed s/^/paged:/")]);
    assert!(json.contains("backendAdded") && !json.contains("paged"), "{json:?}");
}

#[test]
fn a_terminal_shows_what_takes_long() {
    let manifests = web(&["10.50.1.5"]);
    let path = manifests.path().display().to_string();
    let settings = SETTINGS.join(" ");
    let late = |seconds: &str| {
        let command = format!(
            "(sleep {seconds}; cat {path}/all.yaml) | \
             {RULEC} diff --from {path} --to - {settings}"
        );
        on_terminal(&command, &[("PAGER", "")])
    };
    let shown = late("2");
    let says = format!("reading --from {path} and --to - ...") + "\r\u{1b}[K";
    assert!(shown.contains(&says), "and removes it: {shown:?}");
    assert!(shown.contains("No difference."), "{shown:?}");
    assert!(!late("0").contains("reading"), "what is quick is not told");
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
            // A snapshot does not know where the directory was.
            let text = unwrapped(text).replace(&format!("({path}/"), "(");
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
    let now = manifests.path().join("all.yaml");
    for reason in [
        &format!("EndpointSlice default/web-v4 ({}) endpoint 10.50.1.6: ready", now.display()),
        "was EndpointSlice default/web-v4 (all.yaml) endpoint 10.50.1.5: ready",
    ] {
        assert!(unwrapped(&ran.stdout).contains(reason), "{}", ran.stdout);
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
    let nothing = Manifests::new();
    let settings = ["--node-name", "na", "--cluster-cidr", "10.50.0.0/16", "--proxy-mode", "ipvs"];
    let settings = [&settings[..], &["--verbose"]].concat();
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
