//! `rulec check`: what it finds, its formats, its exit status, and that it needs nothing of a node.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::ValueEnum;
use rulec::cli::Rule;
use rulec_testkit::require_root;
use serde_json::Value;

use crate::daemon::Manifests;
use crate::support::{RULEC, Ran, finish};

/// The manifests with every kind of finding, and a directory with a broken one.
const FOUND: [&str; 2] = ["manifests", "broken"];

/// Checks in a directory.
fn check_in(directory: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(RULEC);
    command.env_remove("RULEC_LOG").current_dir(directory).arg("check").args(args);
    finish(command)
}

/// Checks the manifests of the golden tests.
fn check(args: &[&str]) -> Ran {
    check_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check"), args)
}

fn document(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

/// Returns the rules of the findings.
fn rules(ran: &Ran) -> BTreeSet<String> {
    let found = document(ran);
    list(&found["findings"]).iter().map(|it| it["rule"].as_str().unwrap().to_owned()).collect()
}

/// Returns the rules and messages of what is found in a text.
fn findings(text: &str, args: &[&str]) -> Vec<(String, String)> {
    let manifests = Manifests::of(text);
    let ran = check_in(&manifests.path(), &[&["-o", "json", "."], args].concat());
    let found = document(&ran);
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    list(&found["findings"]).iter().map(|it| (text(it, "rule"), text(it, "message"))).collect()
}

#[test]
fn the_text_reads_like_the_files_at_80_columns() {
    for directory in FOUND {
        let ran = check(&[directory]);
        assert_eq!((ran.status, ran.stderr.as_str()), (1, ""), "{ran:?}");
        let wide: Vec<_> = ran.stdout.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:#?}");
        insta::assert_snapshot!(directory, ran.stdout);
    }
}

#[test]
fn json_says_the_same() {
    let ran = check(&["manifests", "-o", "json"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    insta::assert_snapshot!("json", ran.stdout);
}

#[test]
fn sarif_says_the_same() {
    let ran = check(&["manifests", "-o", "sarif"]);
    assert_eq!((ran.status, ran.stderr.as_str()), (1, ""));
    let version = format!("\"version\": {:?}", env!("CARGO_PKG_VERSION"));
    insta::assert_snapshot!("sarif", ran.stdout.replace(&version, "\"version\": \"VERSION\""));
}

/// What the schema of SARIF 2.1.0 requires, and what code scanning needs.
#[test]
fn sarif_has_what_its_readers_require() {
    let json = document(&check(&["manifests", "-o", "json"]));
    let sarif = document(&check(&["manifests", "-o", "sarif"]));
    assert_eq!(sarif["version"], "2.1.0");
    let [run] = list(&sarif["runs"]) else { panic!("one run: {sarif:#}") };
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "rulec");
    let known: BTreeSet<&str> =
        list(&driver["rules"]).iter().map(|rule| rule["id"].as_str().unwrap()).collect();
    assert_eq!(run["invocations"][0]["executionSuccessful"], true);
    let results = list(&run["results"]);
    assert_eq!(results.len(), list(&json["findings"]).len());
    for result in results {
        assert!(known.contains(result["ruleId"].as_str().unwrap()), "{result:#}");
        let level = result["level"].as_str().unwrap();
        assert!(["error", "warning", "note"].contains(&level), "{result:#}");
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let [location] = list(&result["locations"]) else { panic!("one place: {result:#}") };
        let place = &location["physicalLocation"];
        let uri = place["artifactLocation"]["uri"].as_str().unwrap();
        assert!(uri == "manifests" || uri.starts_with("manifests/"), "{uri} is relative");
        for key in ["startLine", "startColumn"] {
            assert!(place["region"][key].as_u64().unwrap() >= 1, "{result:#}");
        }
    }
}

/// A path is a URI: relative to where the check runs, and encoded.
#[test]
fn paths_become_uris() {
    let manifests = Manifests::new();
    manifests.write("a b#1%.yaml", "kind: service\n");
    let root = manifests.path();
    let outside = tempfile::tempdir().unwrap();
    let uri = |directory: &Path| {
        let ran = check_in(directory, &["-o", "sarif", root.to_str().unwrap()]);
        let found = document(&ran);
        let place = &found["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        place["artifactLocation"]["uri"].as_str().unwrap().to_owned()
    };
    assert_eq!(uri(root.parent().unwrap()), "manifests/a%20b%231%25.yaml");
    let whole = uri(outside.path());
    assert_eq!(whole, format!("file://{}/a%20b%231%25.yaml", root.display()));
}

#[test]
fn every_rule_is_found_and_documented() {
    let page = include_str!("../../docs/check.md");
    let mut found: BTreeSet<String> = FOUND
        .iter()
        .chain(&["missing"])
        .flat_map(|directory| rules(&check(&[directory, "-o", "json"])))
        .collect();
    for rule in Rule::value_variants() {
        let (id, summary) = (rule.id(), rule.summary());
        assert!(found.remove(&id), "{id}: no example");
        assert!(page.contains(&format!("| `{id}` |")), "{id} is not documented");
        assert!(!summary.is_empty() && page.contains(&summary), "{id}: {summary:?}");
    }
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn every_field_is_documented() {
    let page = include_str!("../../docs/check-json.md");
    let found = document(&check(&["manifests", "-o", "json"]));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for field in keys(&found).iter().filter(|field| *field != "findings") {
        assert!(page.contains(&format!("`{field}`")), "{field} is not documented");
    }
    for field in keys(&found["summary"]) {
        assert!(page.contains(&format!("`summary.{field}`")), "{field} is not documented");
    }
    let fields: BTreeSet<String> = list(&found["findings"]).iter().flat_map(keys).collect();
    assert_eq!(fields.len(), 8, "the manifests have a finding with each field: {fields:?}");
    for field in fields {
        assert!(page.contains(&format!("`findings[].{field}`")), "{field} is not documented");
    }
}

const CLEAN: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}}
";

#[test]
fn the_exit_status_shows_the_result() {
    let clean = Manifests::of(CLEAN);
    let cases: [(&[&str], i32, &str); 14] = [
        (&["."], 0, "1 file read, nothing found.\n"),
        (&["all.yaml", "-o", "json"], 0, "\"findings\": []"),
        // A note is nothing to mend.
        (&["noted"], 0, "1 file read: 1 note.\n"),
        (&["empty"], 1, "no manifests in it: nothing was checked [not-read]\n"),
        (
            &["hollow/a.yaml"],
            1,
            "has no document: there is nothing in it but blank lines, comments or ---\n",
        ),
        (&["odd.yaml"], 1, "1 file read: 1 warning.\n"),
        (&["odd.yaml", "--ignore", "not-read,unknown-field"], 0, "nothing found"),
        (&["missing", "odd.yaml"], 2, "1 file read: 1 error, 1 warning.\n"),
        (&["missing", "--ignore", "unreadable"], 2, "0 files read, nothing found.\n"),
        (&["linked"], 2, "a dangling symbolic link"),
        (&[".", "./all.yaml"], 3, "so that it would be read twice"),
        (&["https://web.example/all.yaml"], 3, "only rulec run fetches manifests"),
        (&[".", "--ignore", "nothing"], 3, "nothing"),
        (&[], 3, "PATH"),
    ];
    let root = clean.path();
    for directory in ["noted", "linked", "empty", "hollow"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    fs::write(root.join("noted/README.md"), "").unwrap();
    fs::write(root.join("noted/a.json"), "{\"apiVersion\": \"v1\", \"kind\": \"List\"}").unwrap();
    fs::write(root.join("hollow/a.yaml"), "---\n# nothing\n").unwrap();
    symlink("nowhere", root.join("linked/a.yaml")).unwrap();
    let odd = CLEAN.replace("spec: {clusterIP: None", "spec: {clusterIP: None, tpyo: 1");
    for (args, status, word) in cases {
        // It would be found in the directory, too.
        let has_odd = args.contains(&"odd.yaml");
        if has_odd {
            fs::write(root.join("odd.yaml"), &odd).unwrap();
        }
        // What is in directories is a finding of its own.
        let more: &[&str] = if args == ["."] { &["--ignore", "not-read"] } else { &[] };
        let ran = check_in(&root, &[args, more].concat());
        assert_eq!(ran.status, status, "{args:?}: {ran:?}");
        assert!(ran.stdout.contains(word) || ran.stderr.contains(word), "{args:?}: {ran:?}");
        if has_odd {
            fs::remove_file(root.join("odd.yaml")).unwrap();
        }
    }
}

#[test]
fn the_standard_input_is_a_file() {
    let piped = |text: &str| {
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG").args(["check", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(piped(CLEAN), (0, "1 file read, nothing found.\n".to_owned()));
    let service = |port: u32| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {{\"name\": \"a\"}},\n \
             \"spec\": {{\"ports\": [{{\"port\": {port}}}]}}}}\n"
        )
    };
    assert_eq!(piped(&service(80)).0, 0);
    let (status, text) = piped(&service(70_000));
    let place = "-:2:30: error: Service default/a\n    spec.ports[0].port: 70000 is not in";
    assert!(status == 1 && text.starts_with(place), "{text}");
}

/// What Services select may be in a file that cannot be read.
#[test]
fn nothing_is_missed_that_may_be_in_a_file_that_cannot_be_read() {
    let missed = "selector-matches-nothing".to_owned();
    assert!(!rules(&check(&["broken", "-o", "json"])).contains(&missed));
    assert!(rules(&check(&["broken/web.yaml", "-o", "json"])).contains(&missed));
    assert!(!rules(&check(&["broken/web.yaml", "missing", "-o", "json"])).contains(&missed));
}

/// Whatever has a template of Pods is a workload, also in a list whose items do not say their kind.
#[test]
fn a_workload_is_known_by_its_template() {
    let template = "template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a}]}}";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
                   spec: {selector: {app: web}, ports: [{port: 80}]}\n---\n";
    let workload = |of: &str| findings(&format!("{service}{of}"), &[]);
    for (version, kind) in [
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"),
        ("argoproj.io/v1alpha1", "Rollout"),
    ] {
        let head = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n");
        assert_eq!(workload(&format!("{head}spec: {{{template}}}\n")), [], "{kind}");
    }
    let list =
        format!("apiVersion: apps/v1\nkind: DeploymentList\nitems: [{{spec: {{{template}}}}}]\n");
    assert_eq!(workload(&list), []);
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {app: web}}\n";
    assert_eq!(workload(config).len(), 1, "a ConfigMap has no Pods");
    // Slices that are written by hand stand for what the selector would match.
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {name: web, labels: {kubernetes.io/service-name: web}}\n\
                 addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\n\
                 ports: [{name: '', port: 80}]\n";
    assert_eq!(workload(slice), []);
}

/// Objects of all kinds can be there twice, also broken ones and items of lists.
#[test]
fn an_object_of_any_kind_can_be_defined_twice() {
    let object = |version: &str, kind: &str, metadata: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{{metadata}}}\n---\n")
    };
    let duplicates = |objects: &[String]| {
        let found = findings(&objects.concat(), &[]);
        let is_it = |(rule, _): &&(String, String)| rule == "duplicate-object";
        found.iter().filter(is_it).map(|(_, message)| message.clone()).collect::<Vec<_>>()
    };
    let said = |places: &str| [format!("also defined in {places}; the last definition counts")];
    let role = object("rbac.authorization.k8s.io/v1", "ClusterRole", "name: a");
    assert_eq!(duplicates(&[role.clone(), role.clone(), role]), said("all.yaml:1, all.yaml:5"));
    let config = |metadata: &str| object("v1", "ConfigMap", metadata);
    let other = config("name: a, namespace: other");
    assert_eq!(duplicates(&[config("name: a"), other, config("name: b")]), [""; 0]);
    let spelt_out = config("name: a, namespace: default");
    assert_eq!(duplicates(&[config("name: a"), spelt_out]), said("all.yaml:1"));
    let of = |group: &str| object(&format!("{group}/v1"), "Service", "name: a");
    assert_eq!(
        duplicates(&[of("serving.knative.dev"), object("v1", "Service", "name: a")]),
        [""; 0]
    );
    let broken = object("v1", "Service", "name: a").replace("---", "spec: {ports: 1}\n---");
    assert_eq!(duplicates(&[broken.clone(), broken]), said("all.yaml:1"));
    let list = "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}}]\n";
    assert_eq!(duplicates(&[object("v1", "Service", "name: a"), list.into()]), said("all.yaml:1"));
    let generated = object("batch/v1", "Job", "generateName: a");
    assert_eq!(duplicates(&[generated.clone(), generated]), [""; 0]);
}

/// Of several labels, the closest is meant; a short one must be very close.
#[test]
fn the_closest_label_is_what_was_meant() {
    let pod = |labels: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {}}}\n---\n", {
            let name: String = labels.chars().filter(char::is_ascii_alphanumeric).collect();
            format!("{name}, labels: {{{labels}}}")
        })
    };
    let pods: String = ["app: worker-10", "app: worker-1", "app: db, tier: back"].map(pod).concat();
    let meant = |selector: &str| {
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
        let spec = format!("spec: {{selector: {{{selector}}}, ports: [{{port: 80}}]}}\n");
        let found = findings(&format!("{pods}{service}{spec}"), &[]);
        let [(rule, message)] = &found[..] else { panic!("{selector}: {found:?}") };
        assert_eq!(rule, "selector-matches-nothing");
        let meant = message.split_once("did you mean ").map(|(_, meant)| meant);
        meant.and_then(|meant| meant.split_once(", as in ")).map(|(meant, _)| meant.to_owned())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(meant("app: worker-2"), some("app: worker-1"));
    assert_eq!(meant("app: worker-20"), some("app: worker-10"));
    assert_eq!(meant("App: db"), some("app: db"));
    assert_eq!(meant("app: db, tire: back"), some("tier: back"));
    assert_eq!(meant("app: web"), None);
    assert_eq!(meant("App: web, tier: front"), None);
}

/// Sidecars are init containers that run beside the others.
#[test]
fn a_target_port_may_be_that_of_a_sidecar() {
    let pod = |more: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  template:\n    \
             metadata: {{labels: {{app: web}}}}\n    spec:\n      containers: [{{name: a}}]\n      \
             initContainers: [{{name: b, {more}ports: [{{name: http, containerPort: 80}}]}}]\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}\n"
        )
    };
    assert_eq!(findings(&pod("restartPolicy: Always, "), &[]), []);
    let [(rule, message)] = &findings(&pod(""), &[])[..] else { panic!("one finding") };
    assert_eq!(rule, "unknown-target-port");
    assert_eq!(message, "no container port http/TCP in Deployment default/web (all.yaml:1)");
}

/// The API server gives a node port to one Service, whatever the protocol.
#[test]
fn services_are_compared_in_all_that_they_ask_for() {
    let service = |name: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let both = |one: &str, two: &str| {
        let found = findings(&(service("a", one) + &service("b", two)), &[]);
        found
            .into_iter()
            .map(|(rule, message)| {
                let (what, _) = message.split_once(": ").unwrap();
                assert_eq!(rule, "frontend-conflict");
                what.to_owned()
            })
            .collect::<Vec<_>>()
    };
    let node_port = |protocol: &str| {
        format!("type: NodePort, ports: [{{port: 80, protocol: {protocol}, nodePort: 30080}}]")
    };
    assert_eq!(both(&node_port("TCP"), &node_port("TCP")), ["node port 30080/TCP"]);
    assert_eq!(both(&node_port("TCP"), &node_port("UDP")), ["node port 30080"]);
    let check = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30080, \
                 ports: [{port: 80}]";
    assert_eq!(both(&node_port("TCP"), check), ["node port 30080"]);
    let external = |port| format!("externalIPs: [192.0.2.1], ports: [{{port: {port}}}]");
    assert_eq!(both(&external(80), &external(80)), ["192.0.2.1:80/TCP"]);
    assert_eq!(both(&external(80), &external(81)), [""; 0]);
    let balanced = |address: &str| {
        let status = format!("status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}");
        format!("type: LoadBalancer, ports: [{{port: 80}}]}}\n{status} #")
    };
    assert_eq!(both(&balanced("192.0.2.1"), &balanced("192.0.2.1")), ["192.0.2.1:80/TCP"]);
    assert_eq!(both(&balanced("192.0.2.1"), &external(80)), ["192.0.2.1:80/TCP"]);
    assert_eq!(both(&balanced("192.0.2.1"), &balanced("192.0.2.2")), [""; 0]);
    // An address with several ports is lost once.
    let cluster = "clusterIP: 10.96.0.10, ports: [{name: a, port: 80}, {name: b, port: 81}]";
    assert_eq!(both(cluster, cluster), ["10.96.0.10:80/TCP, 10.96.0.10:81/TCP"]);
    let six = "clusterIP: 'fd00::10', ports: [{port: 80}]";
    assert_eq!(both(six, &six.replace("fd00::10", "fd00:0::10")), ["[fd00::10]:80/TCP"]);
}

#[test]
fn the_mode_decides_which_annotations_have_no_effect() {
    let service = |annotation: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, annotations: {{{annotation}}}}}\n\
             spec: {{ports: [{{port: 80}}]}}\n"
        )
    };
    let (limit, how) = ("rulec.io/max-connections: '7'", "rulec.io/load-balancing: maglev");
    let ipvs: &[&str] = &["--proxy-mode", "ipvs"];
    for (annotation, args, count) in
        [(limit, &[][..], 1), (limit, ipvs, 0), (how, &[], 0), (how, ipvs, 1)]
    {
        let found = findings(&service(annotation), args);
        assert_eq!(found.len(), count, "{annotation} {args:?}: {found:?}");
    }
}

#[test]
fn ranges_are_options() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n\
                   spec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}\n";
    assert_eq!(findings(service, &[])[0].0, "outside-range");
    assert_eq!(findings(service, &["--service-node-port-range", "1-100"]), []);
    let dual = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n\
                spec: {ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}\n";
    assert_eq!(findings(dual, &[]), []);
    let found = findings(dual, &["--service-cidr", "10.0.0.0/16"]);
    assert!(found[0].0 == "outside-range" && found[0].1.contains("IPv6"), "{found:?}");
    let manifests = Manifests::of(service);
    let ran = check_in(&manifests.path(), &[".", "--service-cidr", "10.0.0.0/33"]);
    assert!(ran.status == 3 && ran.stderr.contains("--service-cidr"), "{ran:?}");
}

/// Another user, without `/proc`, without `/sys`, and in a network namespace where nothing is up.
#[test]
fn a_check_needs_neither_rights_nor_a_kernel() {
    if !require_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // The directories may be closed to other users. Another process makes the copy, as in the test
    // of `diff`.
    for path in [Path::new(RULEC), Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check"))] {
        let copied = Command::new("cp").arg("-r").arg(path).arg(directory.path()).status();
        assert!(copied.unwrap().success());
    }
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let hide = "exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all \
                sh -c 'test ! -e /proc/net && test ! -e /sys/class && exec \"$@\"' - \"$@\"";
    let mut nobody = Command::new("unshare");
    nobody.args(["--mount", "--net", "sh", "-c"]);
    nobody.arg(format!("mount -t tmpfs none /sys && mount -t tmpfs none /proc && {hide}"));
    nobody.args(["-", "../rulec", "check", "manifests"]).env_remove("RULEC_LOG");
    nobody.current_dir(directory.path().join("check"));
    let ran = finish(nobody);
    assert_eq!((ran.status, ran.stdout), (1, check(&["manifests"]).stdout), "{}", ran.stderr);
}
