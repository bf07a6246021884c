//! Pods and selectors instead of EndpointSlices, as in a plain directory of manifests.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use rulec_testkit::{Family, Options, Protocol, Server, address, ask, require_root};

use super::{NODE, Seen, Sender, Site, cluster_ip, each_of, service};

/// Returns a Service that selects Pods, with a named target port.
fn web() -> String {
    let spec = "
        selector: {app: web}
        type: NodePort
        ports:
        - {name: http, port: 80, targetPort: http, nodePort: 30080}
        - {name: admin, port: 81, targetPort: 9090}";
    service("web", 10, spec)
}

/// Returns a Pod with one container; `spec` and `status` are further fields.
fn pod(name: &str, labels: &str, port: u16, spec: &str, status: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{labels}}}}}
spec:
  containers:
  - {{name: web, image: web, ports: [{{name: http, containerPort: {port}}}]}}
{spec}
status: {{{status}}}
"
    )
}

fn pod_ips(backend: &str) -> String {
    let (v4, v6) = match backend {
        "a" => address::pod(0),
        "b" => address::pod(1),
        "c" => address::remote_pod(0),
        other => panic!("no backend is named {other}"),
    };
    format!("podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]")
}

#[test]
fn selected_pods_serve_without_slices() {
    if !require_root() {
        return;
    }
    let a = pod("a", "app: web", 8080, "", &pod_ips("a"));
    let b = pod("b", "app: web, tier: front", 9090, "", &pod_ips("b"));
    let c = pod("c", "app: web", 8080, "  nodeName: nb", &pod_ips("c"));
    let mut site = Site::start(&format!("{}{a}{b}{c}{NODE}", web()));
    for family in Family::BOTH {
        let by = ["a", "b:9090", "c"];
        let node = SocketAddr::new(family.of(address::NODE), 30080);
        site.served(Sender::Pod, Protocol::Tcp, cluster_ip(family, 10, 80), &by, Seen::Own);
        site.served(
            Sender::Host,
            Protocol::Tcp,
            cluster_ip(family, 10, 80),
            &by,
            Seen::Masqueraded,
        );
        site.served(Sender::Client, Protocol::Tcp, node, &by, Seen::Masqueraded);
        let by = ["a:9090", "b:9090", "c:9090"];
        site.served(Sender::Pod, Protocol::Tcp, cluster_ip(family, 10, 81), &by, Seen::Own);
        // Without a node name, it counts as a Pod of this node, so that its hairpin works.
        each_of(&["a", "b:9090", "c"], "a -> itself", || {
            let to = cluster_ip(family, 10, 80);
            ask(site.backend("a"), Protocol::Tcp, to, Options::default()).unwrap()
        });
    }

    // Pods that lose the label, are not ready, have finished or have no address do not serve.
    let with = |status: &str| pod("b", "app: web", 8080, "", &(pod_ips("b") + ", " + status));
    let unfit = [
        pod("b", "app: webb", 8080, "", &pod_ips("b")),
        pod("b", "app: web", 8080, "", ""),
        with("conditions: [{type: Ready, status: 'False'}]"),
        with("phase: Succeeded"),
    ];
    let served = |site: &Site, by: &[&str]| {
        for family in Family::BOTH {
            let to = cluster_ip(family, 10, 80);
            site.served(Sender::Pod, Protocol::Tcp, to, by, Seen::Own);
        }
    };
    for b in unfit {
        site.apply(&format!("{}{a}{b}{c}", web()));
        served(&site, &["a", "c"]);
        let fit = with("phase: Running, conditions: [{type: Ready, status: 'True'}]");
        site.apply(&format!("{}{a}{fit}{c}", web()));
        served(&site, &["a", "b", "c"]);
    }
    // A Pod that lacks the named port does not serve it; the numbered port is served by all.
    let unnamed = b.replace("name: http, ", "");
    site.apply(&format!("{}{a}{unnamed}", web()));
    served(&site, &["a"]);
    for family in Family::BOTH {
        let to = cluster_ip(family, 10, 81);
        site.served(Sender::Pod, Protocol::Tcp, to, &["a:9090", "b:9090"], Seen::Own);
    }
    site.apply(&web());
    let refused = Family::BOTH.map(|family| cluster_ip(family, 10, 80));
    site.refused(&Sender::ALL, &[Protocol::Tcp], &refused);
}

#[test]
fn a_host_network_pod_is_reached_at_the_node_address() {
    if !require_root() {
        return;
    }
    let host = pod("host", "app: web", 7070, "  hostNetwork: true", "");
    let a = pod("a", "app: web", 8080, "", &pod_ips("a"));
    let mut site = Site::start(&format!("{}{host}{a}", web()));
    let _host = Server::start(&site.world.node, "host", &[(Protocol::Tcp, 7070)]);
    let addresses = Family::BOTH.map(|family| cluster_ip(family, 10, 80));
    // Without a Node object, the node's address is the one from which it sends.
    for to in addresses {
        site.served(Sender::Pod, Protocol::Tcp, to, &["a", "host:7070"], Seen::Own);
    }
    site.apply(&format!("{}{host}{a}{NODE}", web()));
    for to in addresses {
        site.served(Sender::Pod, Protocol::Tcp, to, &["a", "host:7070"], Seen::Own);
        // The process on the node sees the client's source: a packet that does not leave the node
        // is not masqueraded.
        for sender in [Sender::Client, Sender::Host] {
            let mut seen = BTreeSet::new();
            each_of(&["a", "host:7070"], &format!("{sender:?} -> {to}"), || {
                let answer = sender.ask(&site.world, Protocol::Tcp, to).unwrap();
                seen.insert((answer.name.clone(), answer.source));
                answer
            });
            let node = super::family_of(to).of(address::NODE);
            assert!(seen.contains(&("a".to_owned(), node)), "{sender:?} -> {to}: {seen:?}");
        }
        // The node port leads to the process on the node, too.
        for sender in Sender::ALL {
            let to = SocketAddr::new(super::family_of(to).of(address::NODE), 30080);
            each_of(&["a", "host:7070"], &format!("{sender:?} -> {to}"), || {
                sender.ask(&site.world, Protocol::Tcp, to).unwrap()
            });
        }
    }
}

#[test]
fn endpoints_of_pods_and_slices_are_combined() {
    if !require_root() {
        return;
    }
    // The same Pod from a slice and by its labels is one endpoint; a Pod in no slice still serves.
    let a = pod("a", "app: web", 8080, "", &pod_ips("a"));
    let slices = super::endpoints("web", super::HTTP, &["a", "c"]);
    let mut site = Site::start(&format!("{}{a}{slices}", web()));
    let served = |site: &Site, by: &[&str]| {
        for family in Family::BOTH {
            let to = cluster_ip(family, 10, 80);
            site.served(Sender::Pod, Protocol::Tcp, to, by, Seen::Own);
        }
    };
    served(&site, &["a", "c"]);
    let b = pod("b", "app: web", 8080, "", &pod_ips("b"));
    site.apply(&format!("{}{b}{slices}", web()));
    served(&site, &["a", "b", "c"]);
    site.apply(&[web(), b].concat());
    served(&site, &["b"]);
}
