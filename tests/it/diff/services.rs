//! What `rulec diff` says of Services, beyond the golden cases.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::{offline, unwrapped, web};
use crate::daemon::Manifests;
use crate::support::{SETTINGS, file, service, slice};

#[test]
fn thousands_of_ports_that_go_are_one_change() {
    let with = |ports: u16| {
        let mut text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  \
                        clusterIP: 10.96.0.10\n  ports:\n"
            .to_owned();
        for port in 1..=ports {
            writeln!(text, "    - name: p{port}\n      port: {port}").unwrap();
        }
        Manifests::of(&text)
    };
    let (many, one) = (with(3_000), with(1));
    let ran = offline(&many.path(), &one.path(), &[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.starts_with("1 Service changed; 1 dangerous change."), "{}", ran.stdout);
    assert!(ran.stdout.contains("10.96.0.10:3000/TCP"), "{}", ran.stdout);
}

/// A slice or a Pod that is there, but has no such port, is not "no endpoint".
#[test]
fn a_port_that_no_endpoint_has_is_named() {
    let good = web(&["10.50.1.5"]);
    let renamed = fs::read_to_string(good.path().join("all.yaml")).unwrap();
    let renamed = Manifests::of(&renamed.replace("ports:\n  - name: http", "ports:\n  - name: h"));
    let ran = offline(&good.path(), &renamed.path(), &[]);
    let place = renamed.path().join("all.yaml").display().to_string();
    let says = format!(
        "Service default/web ({place}): EndpointSlice default/web-v4 ({place}): no port http/TCP"
    );
    assert!(unwrapped(&ran.stdout).contains(&says), "{}", ran.stdout);

    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web-1\n  labels: {app: web}\nspec:\n  \
               containers:\n    - ports: [{name: main, containerPort: 8080}]\nstatus:\n  \
               podIPs: [{ip: 10.50.1.5}]\n  conditions: [{type: Ready, status: 'True'}]\n";
    let with = |target: &str| {
        let service = service("web", "10.96.0.10", "  selector: {app: web}\n");
        Manifests::of(&file(&[service.replace("8080", target), pod.to_owned()]))
    };
    let (good, bad) = (with("main"), with("wbe"));
    let ran = offline(&good.path(), &bad.path(), &[]);
    let place = bad.path().join("all.yaml").display().to_string();
    let says = format!("Pod default/web-1 ({place}): no container port wbe/TCP (targetPort)");
    let text = unwrapped(&ran.stdout);
    assert!(text.contains(&format!("Service default/web ({place}): {says}")), "{text}");
    // The backend has the same reason.
    assert_eq!(text.matches(&says).count(), 2, "{text}");
}

/// An object that cannot be read on one side is not compared: nobody removes it, or its Service.
#[test]
fn what_cannot_be_read_is_not_called_removed() {
    let ranges = |range: &str| {
        let text = "  type: LoadBalancer\n  allocateLoadBalancerNodePorts: false\n";
        service("web", "10.96.0.10", &format!("{text}  loadBalancerSourceRanges: [{range}]\n"))
    };
    let with = |web: String, endpoints: &str| {
        let manifests = Manifests::of(&file(&[web, slice("web", &["10.50.1.5"])]));
        let text = fs::read_to_string(manifests.path().join("all.yaml")).unwrap();
        manifests.write("all.yaml", &text.replace("8080\nendpoints", endpoints));
        manifests.write("other.yaml", &service("other", "10.96.0.11", ""));
        manifests
    };
    let good = || ranges("192.0.2.0/24");
    let whole = with(good(), "8080\nendpoints");
    let bad = [
        (with(ranges("192.0.2.0/99"), "8080\nendpoints"), "Service default/web: "),
        (with(good(), "80800\nendpoints"), "EndpointSlice default/web-v4: "),
        (with(good(), "8080\n  nonsense: [\nendpoints"), "not YAML"),
    ];
    for (bad, says) in &bad {
        for (from, to) in [(&whole, bad), (bad, &whole)] {
            let ran = offline(&from.path(), &to.path(), &[]);
            assert_eq!(ran.status, 2, "{says}: {ran:?}");
            let summary = "No difference in what could be compared.\n\nNot compared";
            assert!(ran.stdout.starts_with(summary), "{says}: {}", ran.stdout);
            assert!(ran.stdout.contains(says), "{says}: {}", ran.stdout);
        }
    }
    // A kernel has no objects, but the names of Services.
    let (kernel, _directory) = kernel(&whole);
    let [(bad_service, _), ..] = &bad;
    let ran = offline(&kernel, &bad_service.path(), &[]);
    assert!(ran.stdout.starts_with("No difference in what could be"), "{}", ran.stdout);
    // What has nothing to do with the error is compared.
    let more = with(good().replace("port: 80\n", "port: 81\n"), "8080\nendpoints");
    let [_, (bad_slice, _), _] = &bad;
    let ran = offline(&bad_slice.path(), &more.path(), &[]);
    assert!(ran.stdout.starts_with("1 Service changed; 1 dangerous change."), "{}", ran.stdout);
    assert!(!ran.stdout.contains("backend"), "{}", ran.stdout);
}

/// Nothing in the kernel tells that a Service asks for what another one has.
#[test]
fn a_claim_that_loses_is_dangerous() {
    let all = |names: &[&str]| {
        let services: Vec<_> = names.iter().map(|name| service(name, "10.96.0.10", "")).collect();
        Manifests::of(&file(&services))
    };
    let (one, two) = (all(&["web"]), all(&["web", "zzz"]));
    let ran = offline(&one.path(), &two.path(), &[&SETTINGS[..], &["-o", "json"]].concat());
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.status, &document["equal"]), (1, &false.into()));
    let [danger] = document["dangers"].as_array().unwrap().as_slice() else { panic!("{ran:?}") };
    assert_eq!((&danger["name"], &danger["what"]), (&"zzz".into(), &"frontendRefused".into()));
    assert_eq!(danger["holder"], "default/web");
    assert_eq!(document["summary"]["servicesAdded"], 1);
    // It is no news if it was so before. When it goes, nothing is lost.
    assert_eq!(offline(&two.path(), &two.path(), &[]).status, 0);
    let ran = offline(&two.path(), &one.path(), &[]);
    assert!(ran.stdout.starts_with("1 Service removed.\n"), "{}", ran.stdout);
    // One that wins takes over, which is told once.
    let ran = offline(&one.path(), &all(&["aaa", "web"]).path(), &[]);
    assert!(ran.stdout.starts_with("1 Service added, 1 changed; 1 dangerous"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("refused"), "{}", ran.stdout);
    // A kernel does not know what was asked for, so it is told, and is no difference.
    let kernel = kernel(&one);
    let ran = offline(&kernel.0, &two.path(), &[]);
    let text = "No difference.\n\nRefused, whether or not it was so before\n  Service default/zzz: \
                10.96.0.10:80/TCP\n      Service default/web has it\n";
    assert_eq!((ran.status, ran.stdout.as_str()), (0, text));
}

/// Returns a snapshot that knows as much as a kernel that holds these manifests.
fn kernel(manifests: &Manifests) -> (PathBuf, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel.json");
    let save = [&SETTINGS[..], &["--save", path.to_str().unwrap()]].concat();
    assert_eq!(offline(&manifests.path(), &manifests.path(), &save).status, 0);
    let mut text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    text["objects"] = Value::Null;
    fs::write(&path, text.to_string()).unwrap();
    (path, directory)
}

/// The first endpoint is on another node: clients from outside are not served.
#[test]
fn a_first_endpoint_elsewhere_does_not_serve_clients_from_outside() {
    let text = "  type: NodePort\n  externalTrafficPolicy: Local\n";
    let api = service("api", "10.96.0.11", text) + "      nodePort: 30080\n";
    let none = Manifests::of(&file(std::slice::from_ref(&api)));
    let one = Manifests::of(&file(&[api, slice("api", &["10.50.1.5"])]));
    let ran = offline(&none.path(), &one.path(), &[]);
    let text = unwrapped(&ran.stdout);
    assert!(text.starts_with("1 Service changed.\n"), "{text}");
    let outside = "nodePort 30080/TCP (IPv4) from outside no endpoints on this node, connections \
                   are dropped Service default/api";
    assert!(text.contains(outside), "{text}");
    let inside = "10.96.0.11:80/TCP, nodePort 30080/TCP (IPv4) has endpoints now";
    assert!(text.contains(inside), "{text}");
    // Then one comes to this node.
    let text = fs::read_to_string(one.path().join("all.yaml")).unwrap();
    let here = Manifests::of(&text.replace("nodeName: nb", "nodeName: na"));
    let ran = offline(&one.path(), &here.path(), &[]);
    let text = unwrapped(&ran.stdout);
    assert!(
        text.contains("frontend nodePort 30080/TCP (IPv4) from outside has endpoints"),
        "{text}"
    );
}
