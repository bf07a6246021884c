//! `rulec show`: its output in every format, the names that it takes, and the reason for each endpoint
//! that is not used.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests};
use crate::support::{RULEC, Ran, SETTINGS, finish, rulec};

const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: na, labels: {topology.kubernetes.io/zone: z1}}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.90.0.10
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [203.0.113.0/24]
  ports: [{name: http, port: 80, nodePort: 30080, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.20}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.50.1.5], nodeName: na}
- {addresses: [10.50.2.5], nodeName: nb}
- {addresses: [10.50.3.5], nodeName: nc, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: kube-system}
spec: {clusterIP: 10.90.0.11, sessionAffinity: ClientIP, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{port: 5432}]}
";

/// Shows manifests, without a kernel.
fn offline(objects: &str, args: &[&str]) -> Ran {
    let manifests = Manifests::of(objects);
    let mut command = Command::new(RULEC);
    command.env_remove("RULEC_LOG").env("NO_COLOR", "1").current_dir(manifests.path());
    command.arg("show").args(args).args(["--state", "."]).args(SETTINGS);
    finish(command)
}

fn shown(args: &[&str]) -> String {
    let Ran { status, stdout, stderr } = offline(OBJECTS, args);
    assert_eq!((status, stderr.as_str()), (0, ""), "{args:?}: {stdout}");
    stdout
}

fn json(objects: &str, args: &[&str]) -> Value {
    let ran = offline(objects, &[args, &["-o", "json"]].concat());
    assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Nothing but the wide format needs more than 80 columns for names of this length.
#[test]
fn the_output_is_as_expected() {
    for args in [
        &["services"][..],
        &["services", "default/web"],
        &["services", "kube-system/dns"],
        &["services", "db"],
        &["endpoints"],
        &["node"],
        &["sources"],
    ] {
        let text = shown(args);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{args:?}:\n{text}");
        insta::assert_snapshot!(args.join("-").replace('/', "-"), text);
    }
    for args in [&["services", "-o", "wide"][..], &["endpoints", "-o", "wide"]] {
        insta::assert_snapshot!(args.join("-"), shown(args));
    }
    for what in ["services", "endpoints", "node", "sources"] {
        let json = shown(&[what, "-o", "json"]);
        insta::assert_snapshot!(format!("{what}-json"), json);
    }
    insta::assert_snapshot!("endpoints-yaml", shown(&["endpoints", "-o", "yaml"]));
}

#[test]
fn a_service_has_many_names() {
    let described = shown(&["services", "default/web"]);
    for name in [
        "web",
        "web:80",
        "default/web:http",
        "web.default.svc.cluster.local",
        "10.90.0.10",
        "10.90.0.10:80/tcp",
        "198.51.100.20",
        ":30080",
        "192.0.2.10:30080",
        "http://10.90.0.10/path",
        "http://web.default.svc/",
        "tcp://198.51.100.20:80",
    ] {
        assert_eq!(shown(&["svc", name]), described, "{name}");
    }
    for name in ["nowhere", "other/web", "web:81", ":30081", "10.90.0.10:53/udp", "udp://web:80"] {
        let ran = offline(OBJECTS, &["services", name]);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{name}: {ran:?}");
        assert!(ran.stderr.contains("nothing of this name"), "{name}: {}", ran.stderr);
    }
    let other = "---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: b}
spec: {clusterIP: 10.90.0.12, ports: [{port: 80}]}
";
    let several = OBJECTS.to_owned() + other;
    let listed = offline(&several, &["services", "web"]).stdout;
    assert!(listed.starts_with("NAMESPACE"), "several Services are listed: {listed}");
    let of_b = offline(&several, &["services", "web", "-n", "b"]).stdout;
    assert!(of_b.starts_with("Name:             b/web\n"), "{of_b}");
}

/// A Service with these endpoints, and more of its `spec`.
fn one(spec: &str, endpoints: &str) -> String {
    let node = OBJECTS.split("---").next().unwrap();
    format!(
        "{node}---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIP: 10.90.0.10, {spec} ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
{endpoints}
"
    )
}

/// Each endpoint that is not used, and why.
fn unused(objects: &str) -> Vec<String> {
    let mut found = Vec::new();
    let said = json(objects, &["endpoints"]);
    for row in said["items"].as_array().unwrap() {
        for why in row["unused"].as_array().unwrap() {
            let policy = why.get("policy").and_then(Value::as_str);
            let policy = policy.map(|it| format!("{it}: ")).unwrap_or_default();
            let (endpoint, reason) = (&row["endpoint"], &why["reason"]);
            found.push(format!(
                "{} {policy}{}",
                endpoint.as_str().unwrap(),
                reason.as_str().unwrap()
            ));
        }
    }
    found
}

#[test]
fn each_endpoint_that_is_not_used_has_a_reason() {
    let ready = "- {addresses: [10.50.1.1], nodeName: na}\n";
    let with = |more: &str| format!("{ready}- {{addresses: [10.50.1.2], {more}}}");
    let hinted = |zone: &str, last: u8| {
        format!("- {{addresses: [10.50.1.{last}], hints: {{forZones: [{{name: {zone}}}]}}}}\n")
    };
    let cases: [(String, &[&str]); 8] = [
        (one("", &with("conditions: {ready: false}")), &["10.50.1.2:8080 not ready"]),
        (
            one("", &with("conditions: {ready: false, serving: true, terminating: true}")),
            &["10.50.1.2:8080 serving, but terminating"],
        ),
        (
            one("", &with("conditions: {ready: false, serving: false, terminating: true}")),
            &["10.50.1.2:8080 terminating"],
        ),
        (
            one("internalTrafficPolicy: Local,", &with("nodeName: nb")),
            &["10.50.1.2:8080 ready, but on another node"],
        ),
        (
            one("internalTrafficPolicy: Local,", &with("conditions: {ready: true}")),
            &["10.50.1.2:8080 ready, but it has no nodeName, so it does not count as local"],
        ),
        (
            one("", &(hinted("z1", 1) + &hinted("z2", 2))),
            &["10.50.1.2:8080 ready, but its hints do not name zone z1, and those of others do"],
        ),
        (
            one("", ready)
                .replace("ports: [{name: http, port: 8080}]", "ports: [{name: web, port: 8080}]"),
            &["10.50.1.1 its slice has no port http/TCP"],
        ),
        (
            one(
                "externalIPs: [198.51.100.1], type: NodePort, externalTrafficPolicy: Local,",
                &with("nodeName: nb"),
            ),
            &["10.50.1.2:8080 Local: ready, but on another node"],
        ),
    ];
    for (objects, expected) in cases {
        assert_eq!(unused(&objects), expected, "{objects}");
    }
    let weightless = one("", ready).replace(
        "{name: web-1, labels",
        "{name: web-1, annotations: {rulec.io/weight: '0'}, labels",
    );
    assert_eq!(
        unused(&weightless),
        ["10.50.1.1:8080 ready, but its weight is 0 (annotation rulec.io/weight)"]
    );
    let selecting = "selector: {app: web},";
    let pod = |name: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\n{more}\n"
        )
    };
    let pods = one(selecting, ready)
        + &pod("bare", "spec: {nodeName: na}")
        + &pod("host", "spec: {nodeName: nz, hostNetwork: true}");
    let said = unused(&pods);
    assert_eq!(
        said,
        [" no address (status.podIPs)", " host network, and its node has no known address"]
    );
    let named = pods.replace("port: 80}]}", "port: 80, targetPort: main}]}");
    assert_eq!(unused(&named), [" no container port main/TCP (targetPort)"; 2]);
    // Another Service has the only frontend.
    let taken = one("", ready) + "---\n" + &one("", ready).replace("name: web", "name: also");
    let lost = "10.50.1.1:8080 each frontend is of another Service: default/also:http";
    assert_eq!(unused(&taken), [lost]);
}

/// IPVS has one list for all clients of a frontend: under external policy Local, the endpoints on this
/// node, if there are any.
#[test]
fn the_lists_of_ipvs_are_shown() {
    let ipvs = |objects: &str| {
        let ran = offline(objects, &["services", "web", "--proxy-mode", "ipvs"]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
        ran.stdout
    };
    let text = ipvs(OBJECTS);
    assert!(text.contains("Load balancing:   rr\n"), "{text}");
    assert!(text.contains("  192.0.2.10:30080/TCP  Local    1 endpoint\n"), "{text}");
    assert!(text.contains("  10.50.1.5:8080  1/2      1/1    na "), "{text}");
    let remote = ipvs(&OBJECTS.replace("nodeName: na", "nodeName: other"));
    let dropped = "192.0.2.10:30080/TCP  Local    inside: 2 endpoints, outside: dropped\n";
    assert!(remote.contains(dropped), "{remote}");
    let found = offline(OBJECTS, &["services", ":30080", "--proxy-mode", "ipvs"]).stdout;
    assert_eq!(found, text, "node ports are addresses");
}

/// The daemon, the kernel, a snapshot of the daemon and the manifests show the same.
#[test]
fn every_state_shows_the_same() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("show");
    node.sh("ip link set lo up; ip addr add 192.0.2.10/32 dev lo");
    let directory = TempDir::new().unwrap();
    let (socket, saved) = (directory.path().join("s"), directory.path().join("saved"));
    let [socket, saved] = [&socket, &saved].map(|path| path.to_str().unwrap());
    let manifests = Manifests::of(OBJECTS);
    let args = [&SETTINGS[..], &["--socket", socket, "--snapshot", saved]].concat();
    let mut daemon = Daemon::start(&node, &manifests.path(), &args);
    daemon.signal("USR1");
    daemon.wait_for("saved a snapshot");
    let show = |args: &[&str]| {
        let ran = rulec(&node, &[&["show"], args].concat());
        assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
        ran
    };
    let path = manifests.path();
    let path = path.to_str().unwrap();
    for args in [
        &["services"][..],
        &["services", "default/web"],
        &["endpoints"],
        &["services", "-o", "wide"],
    ] {
        let of_daemon = show(&[args, &["--socket", socket]].concat());
        let says = if args.contains(&"wide") { "new connections are not shown: " } else { "" };
        assert!(of_daemon.stderr.starts_with(says), "{args:?}: {of_daemon:?}");
        assert_eq!(of_daemon.stderr.lines().count(), usize::from(!says.is_empty()), "{args:?}");
        let of_snapshot = show(&[args, &["--state", saved]].concat()).stdout;
        let of_manifests = show(&[args, &["--state", path], &SETTINGS].concat()).stdout;
        assert_eq!(of_daemon.stdout, of_snapshot, "{args:?}");
        assert_eq!(of_daemon.stdout, of_manifests, "{args:?}");
    }
    let sources = show(&["sources", "--socket", socket]).stdout;
    assert!(sources.contains("manifests  in sync"), "{sources}");
    let of_kernel = show(&[&["services", "web", "--state", "kernel"], &SETTINGS[..]].concat());
    insta::assert_snapshot!("services-of-the-kernel", of_kernel.stdout);

    // Without a daemon, it says what it shows instead.
    daemon.stop();
    let of_kernel = show(&[&["services", "--socket", socket], &SETTINGS[..]].concat());
    assert!(of_kernel.stderr.starts_with(&format!("no daemon listens at {socket}: ")));
    let what = "shown is what the kernel holds, which knows no objects\n";
    assert!(of_kernel.stderr.ends_with(what), "{}", of_kernel.stderr);
    assert!(of_kernel.stdout.contains("10.90.0.10"), "{}", of_kernel.stdout);
}

/// What the daemon could not use is named where one looks for it.
#[test]
fn problems_of_objects_are_shown() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("show-problems");
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("s");
    let socket = socket.to_str().unwrap();
    let manifests = Manifests::of(&one("internalPolicy: Local,", "- {addresses: [10.50.1.1]}"));
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: \
                 {name: web-2, labels: {kubernetes.io/service-name: web}}, ports: [{name: http, port: \
                 8080}], endpoints: [{addresses: [10.50.1.256]}]}";
    manifests.write("bad.yaml", slice);
    let daemon = Daemon::start(&node, &manifests.path(), &["--socket", socket]);
    let show = |args: &[&str]| {
        let ran = rulec(&node, &[&["show", "--socket", socket], args].concat());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}: {ran:?}");
        ran.stdout
    };
    let text = show(&["services", "web"]);
    let note = "Note:             all.yaml:";
    assert!(text.contains(note) && text.contains("internalPolicy"), "{text}");
    // The other endpoints of a slice with an invalid address are used.
    assert!(
        text.contains("Note:             bad.yaml:1:") && text.contains("10.50.1.256"),
        "{text}"
    );
    let text = show(&["sources", "manifests"]);
    assert!(text.contains("State:            in sync\n"), "{text}");
    assert!(text.contains("Problem:          bad.yaml:1:"), "{text}");
    assert!(text.contains("10.50.1.256") && text.contains("internalPolicy"), "{text}");
    let wide = show(&["sources", "-o", "wide"]);
    assert!(wide.contains("LAST ERROR\n") && wide.contains("internalPolicy"), "{wide}");
    let ran = rulec(&node, &["show", "--socket", socket, "sources", "nobody"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran:?}");
    assert!(ran.stderr.contains("Sources: manifests, kernel"), "{}", ran.stderr);
    let ran = rulec(&node, &["show", "--socket", socket, "node", "nz"]);
    assert!(ran.stderr.contains("there is no Node nz. Known nodes: na"), "{}", ran.stderr);
    daemon.stop();
}

/// Every field of the JSON is in docs/show.md.
#[test]
fn every_field_is_documented() {
    fn check(page: &str, value: &Value, found: &mut usize) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    *found += 1;
                    assert!(page.contains(&format!("`{name}`")), "{name} is not documented");
                    check(page, value, found);
                }
            }
            Value::Array(all) => all.iter().for_each(|value| check(page, value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let page = include_str!("../../docs/show.md");
    let mut found = 0;
    for what in ["services", "endpoints", "node", "sources"] {
        check(page, &json(OBJECTS, &[what]), &mut found);
    }
    assert!(found > 100, "{found} fields");
}

#[test]
fn explain_takes_the_same_names() {
    let explain = |args: &[&str]| {
        let manifests = Manifests::of(OBJECTS);
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG").current_dir(manifests.path());
        let from = ["--from", "203.0.113.7", "--state", "."];
        command.arg("explain").args(args).args(from).args(SETTINGS);
        finish(command)
    };
    let said = |name: &str| {
        let ran = explain(&[name]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{name}: {ran:?}");
        ran.stdout
    };
    let web = said("10.90.0.10:80");
    for name in ["default/web", "web", "web:http", "http://web.default.svc/x", "http://10.90.0.10"]
    {
        assert_eq!(said(name), web, "{name}");
    }
    assert_eq!(said(":30080"), said("192.0.2.10:30080"));
    let json = explain(&["web", "-o", "json"]).stdout;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["kind"], "Explanation");
    for (name, why) in [
        ("nowhere", "there is no such Service"),
        ("db", "it is not served"),
        ("web:81", "Service default/web has no such port (81): default/web:http at "),
        ("tcp://10.90.0.10", "name the port"),
    ] {
        let ran = explain(&[name]);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{name}: {ran:?}");
        assert!(ran.stderr.contains(why), "{name}: {}", ran.stderr);
    }
    // Each port of a Service is explained.
    let two = OBJECTS.replace(
        "{port: 53, protocol: UDP}",
        "{name: u, port: 53, protocol: UDP}, {name: t, port: 53}",
    );
    let manifests = Manifests::of(&two);
    let mut command = Command::new(RULEC);
    command.env_remove("RULEC_LOG").current_dir(manifests.path());
    command.args(["explain", "dns", "--from", "10.50.1.9", "--state", ".", "-o", "json"]);
    let list: Value = serde_json::from_str(&finish(command).stdout).unwrap();
    assert_eq!(list["kind"], "ExplanationList");
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "{list}");
}
