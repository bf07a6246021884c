//! EndpointSlices: how several of them form one Service, and which of their endpoints count.

use rulec_testkit::{Family, Options, Protocol, address, ask, ask_many, require_root};

use super::{HTTP, PROTOCOLS, Seen, Sender, Site, cluster_ip, endpoint, endpoints, service, slice};

/// Returns a Service with one TCP port.
fn web() -> String {
    service("web", 10, "ports: [{name: http, port: 80, targetPort: 8080}]")
}

/// Returns the Service with slices for both families, each given as (backend, conditions) pairs.
fn with_slices(slices: &[&[(&str, &str)]]) -> String {
    let mut yaml = web();
    for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        for (idx, endpoints) in slices.iter().enumerate() {
            let endpoints: Vec<String> = endpoints
                .iter()
                .map(|(backend, conditions)| endpoint(family, backend, conditions))
                .collect();
            let name = format!("web-{idx}-{}", kind.to_lowercase());
            yaml += &slice(&name, "web", kind, HTTP, &endpoints);
        }
    }
    yaml
}

/// Asserts which backends serve a pod in both families; if none, that it is refused.
#[track_caller]
fn check(site: &Site, by: &[&str]) {
    let addresses = Family::BOTH.map(|family| cluster_ip(family, 10, 80));
    if by.is_empty() {
        site.refused(&[Sender::Pod], &[Protocol::Tcp], &addresses);
    } else {
        for to in addresses {
            site.served(Sender::Pod, Protocol::Tcp, to, by, Seen::Own);
        }
    }
}

#[test]
fn slices_have_separate_target_ports() {
    if !require_root() {
        return;
    }
    // A named target port resolves to a port for each pod.
    let mut yaml = web();
    for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let endpoint = |backend| [endpoint(family, backend, "{}")];
        let name = |number: usize| format!("web-{number}-{}", kind.to_lowercase());
        yaml += &slice(&name(1), "web", kind, "[{name: http, port: 8080}]", &endpoint("a"));
        yaml += &slice(&name(2), "web", kind, "[{name: http, port: 9090}]", &endpoint("b"));
        // One pod with two ports is two endpoints.
        yaml += &slice(&name(3), "web", kind, "[{name: http, port: 8080}]", &endpoint("c"));
        yaml += &slice(&name(4), "web", kind, "[{name: http, port: 9090}]", &endpoint("c"));
    }
    check(&Site::start(&yaml), &["a", "b:9090", "c", "c:9090"]);
}

#[test]
fn a_target_port_changes_only_with_the_slice() {
    if !require_root() {
        return;
    }
    let service = |target| {
        service("web", 10, &format!("ports: [{{name: http, port: 80, targetPort: {target}}}]"))
    };
    let slices =
        |port| endpoints("web", &format!("[{{name: http, port: {port}}}]"), &["a", "b", "c"]);
    let mut site = Site::start(&(service(8080) + &slices(8080)));
    check(&site, &["a", "b", "c"]);
    site.apply(&(service(9090) + &slices(8080)));
    check(&site, &["a", "b", "c"]);
    site.apply(&(service(9090) + &slices(9090)));
    check(&site, &["a:9090", "b:9090", "c:9090"]);
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    if !require_root() {
        return;
    }
    let ready = "{ready: true}";
    let twice: &[&[(&str, &str)]] = &[&[("a", ready), ("a", ready)], &[("a", ready), ("b", ready)]];
    let mut site = Site::start(&with_slices(twice));
    check(&site, &["a", "b"]);
    for family in Family::BOTH {
        let from = &site.world.pod(2).namespace;
        let counts = ask_many(from, Protocol::Tcp, cluster_ip(family, 10, 80), 600);
        // If it were counted twice, `a` would have 400 of them.
        assert!((240..=360).contains(&counts["a"]), "{counts:?}");
    }
    // The endpoint stays until the last slice that has it is changed.
    site.apply(&with_slices(&[&[("b", ready)], &[("a", ready)]]));
    check(&site, &["a", "b"]);
    site.apply(&with_slices(&[&[("b", ready)], &[]]));
    check(&site, &["b"]);
}

#[test]
fn conditions_decide_which_endpoints_serve() {
    if !require_root() {
        return;
    }
    const READY: &str = "{ready: true, serving: true, terminating: false}";
    const UNREADY: &str = "{ready: false, serving: false, terminating: false}";
    const TERMINATING: &str = "{ready: false, serving: true, terminating: true}";
    const DYING: &str = "{ready: false, serving: false, terminating: true}";
    // As for a Service with publishNotReadyAddresses.
    const PUBLISHED: &str = "{ready: true, serving: false, terminating: true}";
    type Endpoints<'t> = &'t [(&'t str, &'t str)];
    let cases: &[(Endpoints<'_>, &[&str])] = &[
        // Omitted conditions have their most favourable value.
        (&[("a", "{}"), ("b", "{serving: true}"), ("c", UNREADY)], &["a", "b"]),
        (&[("a", "{ready: false}"), ("b", READY)], &["b"]),
        (&[("a", "{ready: false}")], &[]),
        // Terminating endpoints serve only if there are no others, and only while they are serving.
        (&[("a", READY), ("b", TERMINATING), ("c", READY)], &["a", "c"]),
        (&[("a", TERMINATING), ("b", TERMINATING), ("c", DYING)], &["a", "b"]),
        (&[("a", TERMINATING), ("b", UNREADY), ("c", TERMINATING)], &["a", "c"]),
        (&[("a", TERMINATING), ("b", READY), ("c", TERMINATING)], &["b"]),
        (&[("b", DYING)], &[]),
        (&[("a", PUBLISHED), ("b", TERMINATING), ("c", UNREADY)], &["a"]),
        (&[("a", UNREADY), ("b", UNREADY), ("c", UNREADY)], &[]),
    ];
    let mut site = Site::start(&web());
    for (endpoints, by) in cases {
        site.apply(&with_slices(&[endpoints]));
        check(&site, by);
    }

    // The same endpoint in two slices, during a move between them: in either order, it counts as
    // ready.
    for slices in [[TERMINATING, READY], [READY, TERMINATING]] {
        site.apply(&with_slices(&[&[("a", slices[0]), ("b", READY)], &[("a", slices[1])]]));
        check(&site, &["a", "b"]);
    }
    site.apply(&with_slices(&[&[("a", TERMINATING), ("b", READY)]]));
    check(&site, &["b"]);
}

#[test]
fn only_the_first_address_of_an_endpoint_is_used() {
    if !require_root() {
        return;
    }
    let (a, b) = (address::pod(0), address::pod(1));
    let mut yaml = web();
    for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let (first, second) = (family.of(a), family.of(b));
        let endpoints =
            [format!("{{addresses: ['{first}', '{second}']}}"), "{addresses: []}".into()];
        yaml += &slice(&format!("web-{}", kind.to_lowercase()), "web", kind, HTTP, &endpoints);
    }
    check(&Site::start(&yaml), &["a"]);
}

#[test]
fn addresses_may_have_leading_zeros() {
    if !require_root() {
        return;
    }
    let yaml = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.90.000.010
  externalIPs: [198.51.100.030]
  ports: [{name: http, port: 80, targetPort: 8080}]
status:
  loadBalancer: {ingress: [{ip: 198.051.100.020}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.50.01.005], nodeName: na}
";
    let site = Site::start(yaml);
    for to in ["10.90.0.10:80", "198.51.100.30:80", "198.51.100.20:80"] {
        site.served(Sender::Client, Protocol::Tcp, to.parse().unwrap(), &["a"], Seen::Masqueraded);
    }
    let to = cluster_ip(Family::V4, 10, 80);
    // The endpoint is stored in canonical form, so that its hairpin is masqueraded.
    let answer = ask(site.backend("a"), Protocol::Tcp, to, Options::default());
    assert_eq!(answer.unwrap().name, "a");
}

#[test]
fn ports_match_by_name_and_protocol() {
    if !require_root() {
        return;
    }
    let one = |name: &str, number, port: &str, ports: &str| {
        service(name, number, &format!("ports: [{port}]")) + &endpoints(name, ports, &["a"])
    };
    let yaml = [
        one("other-name", 11, "{name: http, port: 80}", "[{name: web, port: 8080}]"),
        one("other-protocol", 12, "{port: 80}", "[{name: '', port: 8080, protocol: UDP}]"),
        // The API server's default for a port's name is the empty one.
        one("no-name", 13, "{port: 80}", "[{port: 8080, name: null}]"),
        one("no-number", 14, "{port: 80}", "[{name: ''}]"),
        one("unnamed", 15, "{port: 80}", "[{name: '', port: 8080}]"),
        // Unusable ports do not affect usable ones.
        one(
            "mixed",
            16,
            "{name: http, port: 80}, {name: none, port: 81}",
            "[{name: none, port: 0}, {name: http, port: 8080}]",
        ),
    ];
    let site = Site::start(&yaml.concat());
    for family in Family::BOTH {
        for number in [13, 15, 16] {
            let to = cluster_ip(family, number, 80);
            site.served(Sender::Pod, Protocol::Tcp, to, &["a"], Seen::Own);
        }
    }
    let refused: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            let dead = [11, 12, 14].map(|number| cluster_ip(family, number, 80)).into_iter();
            dead.chain([cluster_ip(family, 16, 81)])
        })
        .collect();
    site.refused(&[Sender::Pod], &[Protocol::Tcp], &refused);
}

#[test]
fn foreign_slices_and_services_are_ignored() {
    if !require_root() {
        return;
    }
    let labelled =
        |yaml: &str, label: &str| yaml.replace("labels: {", &format!("labels: {{{label}: '', "));
    let slices = endpoints("web", HTTP, &["a"]);
    let mut site = Site::start(&(web() + &slices));
    check(&site, &["a"]);

    // Headless slices and slices of no Service add no endpoints to a Service with an address.
    site.apply(&(web() + &labelled(&slices, "service.kubernetes.io/headless")));
    check(&site, &[]);
    site.apply(&(web() + &slices));
    check(&site, &["a"]);
    site.apply(&(web() + &slices.replace("kubernetes.io/service-name: web", "")));
    check(&site, &[]);
    site.apply(&(web() + &slices.replace("service-name: web", "service-name: another")));
    check(&site, &[]);
    site.apply(&(web() + &slice("web-names", "web", "FQDN", HTTP, &["{addresses: [a.example]}"])));
    check(&site, &[]);

    // A Service for another proxy is ignored.
    let others = web().replace(
        "{name: web}",
        "{name: web, labels: {service.kubernetes.io/service-proxy-name: other}}",
    );
    let addresses = Family::BOTH.map(|family| cluster_ip(family, 10, 80));
    site.apply(&(others + &slices));
    site.silent(&Sender::ALL, &PROTOCOLS, &addresses);
    // So is a headless one, and one of type ExternalName.
    for (from, to) in [
        ("clusterIP: 10.90.0.10\n    clusterIPs: [10.90.0.10, 'fd90::10']", "clusterIP: None"),
        ("ports:", "type: ExternalName\n    externalName: example.org\n    ports:"),
    ] {
        let web = web();
        assert!(web.contains(from), "{web}");
        site.apply(&(web.clone() + &slices));
        check(&site, &["a"]);
        site.apply(&(web.replace(from, to) + &slices));
        site.silent(&[Sender::Pod], &[Protocol::Tcp], &addresses);
    }
    site.apply(&(web() + &slices));
    check(&site, &["a"]);
}
