//! Tests of explanations of manifests.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use rulec_compiler::Settings;
use rulec_compiler::name::NodeName;
use rulec_compiler::net::{Backend, Protocol};
use rulec_compiler::oracle::Verdict;

use super::*;
use crate::cli::ApiArgs;
use crate::config::options::SocketArgs;

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata:\n  name: na\n  labels: \
                    {topology.kubernetes.io/zone: z1}\nstatus:\n  addresses:\n    - {type: \
                    InternalIP, address: 192.0.2.10}\n    - {type: InternalIP, address: \
                    192.0.2.11}\n";

/// Returns manifests of Service web with a node port and an external IP; `more` is part of its
/// `spec`. One endpoint is on this node, one elsewhere, and both have hints for a zone.
fn web(more: &str, zones: [&str; 2]) -> String {
    let [here, there] = zones;
    format!(
        "{NODE}---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: \
         NodePort\n  clusterIP: 10.96.0.1\n  externalIPs: [198.51.100.1]\n  ports: [{{name: http, \
         port: 80, nodePort: 30080}}]\n{more}---\napiVersion: discovery.k8s.io/v1\nkind: \
         EndpointSlice\nmetadata:\n  name: web-1\n  labels: {{kubernetes.io/service-name: \
         web}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n  - \
         {{addresses: [10.244.1.1], nodeName: na, hints: {{forZones: [{{name: {here}}}]}}}}\n  - \
         {{addresses: [10.244.2.1], nodeName: nb, hints: {{forZones: [{{name: {there}}}]}}}}\n"
    )
}

fn explain(manifest: &str, from: [u8; 4], to: [u8; 4], port: u16) -> Explanation {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.yaml");
    std::fs::write(&path, manifest).unwrap();
    let mut settings = Settings::new(NodeName::from("na"));
    let pods = "10.244.0.0/16".parse().unwrap();
    settings.detect_local = rulec_compiler::settings::DetectLocal::ClusterCidr(vec![pods]);
    let nobody = NodeAddresses::default();
    let mut giving = Giving::defaults().unwrap();
    let paths = [path.to_str().unwrap()];
    let nowhere = SocketArgs { socket: std::path::PathBuf::new() };
    let places = Places::of(&ApiArgs::default(), &nowhere, &settings);
    let side = Side::read(&paths, &places, &Arc::new(settings), &nobody, &mut giving).unwrap();
    assert_eq!(side.problems, [], "the manifest is good");
    let state = side.compile(&State::default()).unwrap().state();
    let packet = Packet {
        source: IpAddr::from(from),
        interface: None,
        destination: IpAddr::from(to),
        transport: Some((Protocol::Tcp, NonZeroU16::new(port).unwrap())),
    };
    let own = own_addresses(&side, &state, &nobody).unwrap();
    Explanation::of(&side, &state, packet, &|address| {
        address.is_loopback() || own.contains(&address)
    })
}

const OUTSIDE: [u8; 4] = [203, 0, 113, 1];
const POD: [u8; 4] = [10, 244, 1, 9];
const EXTERNAL: [u8; 4] = [198, 51, 100, 1];

fn verdicts(explanation: &Explanation) -> Vec<Verdict> {
    explanation.outcomes.iter().map(|explained| explained.outcome.verdict).collect()
}

#[test]
fn node_ports_are_served_only_at_their_addresses() {
    let manifest = web("", ["z1", "z1"]);
    let served = explain(&manifest, OUTSIDE, [192, 0, 2, 10], 30080);
    assert_eq!(verdicts(&served).len(), 2);
    let frontend = served.frontend.unwrap();
    assert_eq!(frontend.frontend.to_string(), "nodePort 30080/TCP (IPv4)");
    // Only the primary address answers, and loopback never does.
    for other in [[192, 0, 2, 11], [127, 0, 0, 1]] {
        let passed = explain(&manifest, OUTSIDE, other, 30080);
        assert_eq!(verdicts(&passed), [Verdict::Pass]);
        assert!(passed.frontend.is_none(), "no Service has it");
        let reason = &passed.outcomes[0].reasons[0];
        assert!(reason.starts_with("nodePort 30080/TCP (IPv4) does not answer at"), "{reason}");
        assert_eq!(passed.left_out, [""; 0]);
    }
}

/// A rejected frontend at the node's address does not hide a node port that is served there.
#[test]
fn the_frontend_is_the_one_the_rules_applied_to() {
    let also = "---\napiVersion: v1\nkind: Service\nmetadata: {name: also}\nspec:\n  clusterIP: \
                10.96.0.2\n  externalIPs: [192.0.2.10]\n  ports: [{port: 30080}]\n";
    let node_port = format!("{}{also}", web("", ["z1", "z1"]));
    let name = |explanation: &Explanation| {
        let Served { frontend, owner, .. } = explanation.frontend.as_ref().unwrap();
        format!("{frontend} of {}", owner.as_ref().unwrap())
    };
    let served = explain(&node_port, OUTSIDE, [192, 0, 2, 10], 30080);
    assert_eq!(name(&served), "nodePort 30080/TCP (IPv4) of default/web:http");
    let verdicts_of = |hosts: [u8; 2]| {
        let port = NonZeroU16::new(8080).unwrap();
        let address = |host| IpAddr::from([10, 244, host, 1]);
        hosts.map(|host| Verdict::Backend(Backend { address: address(host), port }))
    };
    assert_eq!(verdicts(&served), verdicts_of([1, 2]));
    for Explained { reasons, .. } in &served.outcomes {
        assert!(reasons[0].starts_with("Service default/web ("), "{reasons:?}");
        assert!(reasons[1].contains("EndpointSlice default/web-1"), "{reasons:?}");
    }
    assert_eq!(served.left_out, [""; 0]);

    // If nothing else is served there, its own frontend is rejected.
    let alone = node_port.replace("nodePort: 30080", "nodePort: 30081");
    let refused = explain(&alone, OUTSIDE, [192, 0, 2, 10], 30080);
    assert_eq!(verdicts(&refused), [Verdict::Reject]);
    assert_eq!(name(&refused), "192.0.2.10:30080/TCP of default/also");
    let why = refused.outcomes[0].reasons.last().unwrap();
    assert!(why.ends_with("has no usable endpoint"), "{why}");
}

/// In the kernel, a port whose key is too long for a comment has a shorter name.
#[test]
fn a_service_is_found_by_its_shortened_name() {
    let long = "w".repeat(63);
    let namespace = "n".repeat(63);
    let manifest = web("", ["z1", "z2"]).replace("name: web-1\n", "name: web-1\n  namespace: NS\n");
    let manifest = manifest
        .replace("metadata: {name: web}", &format!("metadata: {{name: {long}, namespace: NS}}"))
        .replace("service-name: web", &format!("service-name: {long}"))
        .replace("NS", &namespace);
    let found = explain(&manifest, OUTSIDE, EXTERNAL, 80);
    let owner = found.frontend.as_ref().unwrap().owner.as_ref().unwrap();
    assert_eq!(owner.to_string(), format!("{namespace}/{long}:http"));
    let reasons = &found.outcomes[0].reasons;
    let service = format!("Service {namespace}/{long} (all.yaml) spec.externalIPs: ");
    assert!(reasons[0].starts_with(&service), "{reasons:?}");
    assert!(reasons[1].contains(&format!("EndpointSlice {namespace}/web-1")), "{reasons:?}");
    assert_eq!(found.left_out.len(), 1, "by topology: {:?}", found.left_out);
}

#[test]
fn endpoints_excluded_by_topology_or_policy_are_explained() {
    let by_zone = explain(&web("", ["z2", "z1"]), OUTSIDE, EXTERNAL, 80);
    let why = "10.244.1.1:8080: ready, but its hints do not name zone z1, and those of others do";
    assert_eq!(by_zone.left_out, [why]);

    // With policy Local, clients from outside go to endpoints on this node, whatever the hints, and
    // Pods go to endpoints by hints, whatever the node.
    let local = web("  externalTrafficPolicy: Local\n", ["z2", "z1"]);
    let outside = explain(&local, OUTSIDE, EXTERNAL, 80);
    assert_eq!(outside.left_out, ["10.244.2.1:8080: ready, but on another node"]);
    let reasons = &outside.outcomes[0].reasons;
    assert!(
        reasons.iter().any(|why| why.contains("externalTrafficPolicy is Local")),
        "{reasons:?}"
    );
    let hinted_here = local.replace("{name: z1}", "{name: z3}").replace("z2", "z1");
    let left_out = explain(&hinted_here, OUTSIDE, EXTERNAL, 80).left_out;
    assert_eq!(left_out, ["10.244.2.1:8080: ready, but on another node"]);
    assert_eq!(explain(&local, POD, EXTERNAL, 80).left_out, [why]);
    assert_eq!(explain(&local, POD, [10, 96, 0, 1], 80).left_out, [why]);

    let internal = web("  internalTrafficPolicy: Local\n", ["z2", "z1"]);
    let inside = explain(&internal, POD, [10, 96, 0, 1], 80);
    assert_eq!(inside.left_out, ["10.244.2.1:8080: ready, but on another node"]);
    assert_eq!(explain(&internal, POD, EXTERNAL, 80).left_out, [why]);
}

#[test]
fn drops_and_rejections_are_explained() {
    let remote = |policy: &str| web(policy, ["z1", "z1"]).replace("nodeName: na", "nodeName: nc");
    let reason = |explanation: &Explanation| {
        let [explained] = explanation.outcomes.as_slice() else {
            panic!("{:?}", verdicts(explanation))
        };
        (explained.outcome.verdict, explained.reasons.join("; "))
    };
    let external = explain(&remote("  externalTrafficPolicy: Local\n"), OUTSIDE, EXTERNAL, 80);
    let (verdict, why) = reason(&external);
    assert_eq!(verdict, Verdict::Drop);
    assert!(why.contains("spec.externalTrafficPolicy is Local, no endpoint is on this"), "{why}");
    let elsewhere = ["10.244.1.1:8080", "10.244.2.1:8080"];
    assert_eq!(external.left_out, elsewhere.map(|it| format!("{it}: ready, but on another node")));

    let to = [10, 96, 0, 1];
    let internal = explain(&remote("  internalTrafficPolicy: Local\n"), POD, to, 80);
    let (verdict, why) = reason(&internal);
    assert_eq!(verdict, Verdict::Drop);
    assert!(why.contains("spec.internalTrafficPolicy is Local, and no endpoint"), "{why}");

    let (verdict, why) = reason(&explain(&remote(""), POD, to, 81));
    assert_eq!(verdict, Verdict::Reject);
    assert_eq!(why, "10.96.0.1 is a cluster address that has no port 81/TCP");
}
