use rulec_compiler::net::Protocol;
use rulec_compiler::object::{Conditions, Object, PodAddresses};

use super::{Decoded, pod, problems, yaml};

fn text(rest: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\n{rest}\n")
}

fn own(addresses: &[&str]) -> PodAddresses {
    PodAddresses::Own(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

fn addresses(rest: &str) -> PodAddresses {
    pod(&text(&format!("metadata: {{name: web}}\n{rest}"))).addresses.clone()
}

#[test]
fn all_fields_are_read() {
    let web = pod(&text(
        "
metadata: {name: web, labels: {app: web, tier: a}}
spec:
  nodeName: na
  hostname: web-0
  subdomain: peers
  containers:
  - name: main
    ports: [{name: http, containerPort: 8080}, {containerPort: 9}, {name: dns, containerPort: 53, protocol: UDP}]
  - ports: [{name: http, containerPort: 1}]
  initContainers:
  - restartPolicy: Always
    ports: [{name: side, containerPort: 15001}, {name: http, containerPort: 2}]
  - ports: [{name: setup, containerPort: 3}]
status:
  phase: Running
  podIP: 10.50.1.5
  podIPs: [{ip: 'fd50::5'}, {ip: 10.50.1.5}, {ip: 10.50.1.6}]
  conditions: [{type: Initialized, status: 'True'}, {type: Ready, status: 'True'}]
",
    ));
    assert_eq!(web.key.to_string(), "default/web");
    assert_eq!(web.labels.len(), 2);
    assert_eq!(web.node.as_ref().map(|node| node.as_str()), Some("na"));
    let host = web.host.as_ref().unwrap();
    assert_eq!((host.hostname.as_str(), host.subdomain.as_str()), ("web-0", "peers"));
    assert_eq!(web.addresses, own(&["10.50.1.5", "fd50::5"]));
    let ports: Vec<_> =
        web.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port.get())).collect();
    let want =
        [("dns", Protocol::Udp, 53), ("http", Protocol::Tcp, 8080), ("side", Protocol::Tcp, 15001)];
    assert_eq!(ports, want);
    assert_eq!(web.conditions, Conditions::READY);
}

#[test]
fn a_host_without_its_subdomain_or_with_an_odd_name_has_none() {
    let of = |spec: &str| yaml(&text(&format!("metadata: {{name: web}}\nspec: {{{spec}}}")));
    let host = |decoded: &Decoded| {
        let [Object::Pod(pod)] = &decoded.objects[..] else { panic!("{:?}", decoded.objects) };
        pod.host.clone()
    };
    for spec in ["hostname: a", "subdomain: peers", "hostname: '', subdomain: peers"] {
        let decoded = of(spec);
        assert_eq!(problems(&decoded), [""; 0], "{spec}");
        assert_eq!(host(&decoded), None, "{spec}");
    }
    for odd in ["A", "a.b", "-a", "a-"] {
        let decoded = of(&format!("hostname: {odd}, subdomain: peers"));
        assert_eq!(host(&decoded), None, "{odd}");
        let [problem] = &problems(&decoded)[..] else { panic!("{:?}", problems(&decoded)) };
        assert!(
            problem.contains(&format!("spec.hostname: {odd:?} is not a DNS label")),
            "{problem}"
        );
    }
}

#[test]
fn pod_addresses_depend_on_network_and_phase() {
    let cases = [
        ("status: {podIP: 10.0.0.1}", own(&["10.0.0.1"])),
        ("status: {podIP: 10.0.0.1, podIPs: []}", own(&["10.0.0.1"])),
        ("status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.2}]}", own(&["10.0.0.2"])),
        ("spec: {}", own(&[])),
        ("spec: {hostNetwork: true}", PodAddresses::Node),
        ("spec: {hostNetwork: true}\nstatus: {podIP: 10.0.0.1}", own(&["10.0.0.1"])),
        ("spec: {hostNetwork: true}\nstatus: {phase: Succeeded}", own(&[])),
        ("status: {podIP: 10.0.0.1, phase: Succeeded}", own(&[])),
        ("status: {podIP: 10.0.0.1, phase: Failed}", own(&[])),
        ("status: {podIP: 10.0.0.1, phase: Pending}", own(&["10.0.0.1"])),
    ];
    for (rest, want) in cases {
        assert_eq!(addresses(rest), want, "of {rest}");
    }
}

#[test]
fn pod_conditions_follow_readiness_and_deletion() {
    let all = |ready, serving, terminating| Conditions { ready, serving, terminating };
    let deleted = ", deletionTimestamp: 2026-01-01T00:00:00Z";
    let is =
        |status: &str| format!("status: {{conditions: [{{type: Ready, status: '{status}'}}]}}");
    let cases = [
        ("", String::new(), all(true, true, false)),
        (
            "",
            "status: {conditions: [{type: PodScheduled, status: 'True'}]}".into(),
            all(true, true, false),
        ),
        ("", is("True"), all(true, true, false)),
        ("", is("False"), all(false, false, false)),
        ("", is("Unknown"), all(false, false, false)),
        (deleted, is("True"), all(false, true, true)),
        (deleted, is("False"), all(false, false, true)),
        (deleted, String::new(), all(false, true, true)),
    ];
    for (metadata, status, want) in cases {
        let web = pod(&text(&format!("metadata: {{name: web{metadata}}}\n{status}")));
        assert_eq!(web.conditions, want, "of {metadata} {status}");
    }
}

#[test]
fn problems_name_their_field() {
    let cases = [
        ("status: {podIPs: [{ip: x}]}", "status.podIPs[0].ip: \"x\" is not an IP address", 1),
        ("status: {podIP: 127.0.0.1}", "status.podIP: 127.0.0.1 is a loopback address", 1),
        (
            "spec: {containers: [{ports: [{containerPort: 0}]}]}",
            "spec.containers[0].ports[0].containerPort: 0 is not in",
            0,
        ),
        (
            "spec: {containers: [{ports: [{containerPort: 1, protocol: X}]}]}",
            "spec.containers[0].ports[0].protocol: \"X\"",
            0,
        ),
        ("spec: {hostNetwork: 1}", "spec.hostNetwork: expected true or false", 0),
        ("spec: {nodeName: a/b}", "spec.nodeName: \"a/b\" is not a name", 0),
    ];
    for (rest, message, objects) in cases {
        let decoded = yaml(&text(&format!("metadata: {{name: web}}\n{rest}")));
        let all = problems(&decoded);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains(&format!("Pod default/web: {message}")), "{all:?}");
        assert_eq!(decoded.objects.len(), objects, "of {rest}");
    }
    let decoded = yaml(&text("metadata: {name: web, labels: {app: 1.5}}"));
    assert!(
        problems(&decoded)[0].contains("metadata.labels.app: expected a string, found a fraction")
    );
}
