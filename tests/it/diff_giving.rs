//! `rulec diff` of Services that do not write their addresses: what they are given on both sides.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use crate::daemon::Manifests;
use crate::diff::offline;
use crate::support::{Ran, SETTINGS, file, service, slice};

/// A Service that writes no address.
fn bare(name: &str, extra: &str) -> String {
    service(name, "", extra).replace("  clusterIP: \"\"\n", "")
}

fn with_endpoints(services: &[(&str, String)]) -> Manifests {
    let of = |(name, service): &(&str, String)| [service.clone(), slice(name, &["10.50.1.5"])];
    Manifests::of(&file(&services.iter().flat_map(of).collect::<Vec<_>>()))
}

fn compare(from: &Manifests, to: &Manifests, more: &[&str]) -> Ran {
    let more = [&SETTINGS[..], &["--state-dir", "/nonexistent"], more].concat();
    offline(&from.path(), &to.path(), &more)
}

/// Returns what a Service is given: an address and a node port.
fn given(name: &str) -> [String; 2] {
    let nothing = Manifests::of("apiVersion: v1\nkind: List\nitems: []\n");
    let one = with_endpoints(&[(name, bare(name, "  type: NodePort\n"))]);
    let ran = compare(&nothing, &one, &[]);
    let frontends = ran.stdout.lines().filter_map(|line| line.trim().strip_prefix("+ frontend "));
    let [address, port] = frontends.collect::<Vec<_>>().try_into().unwrap();
    let address = address.strip_suffix(":80/TCP").unwrap();
    let port = port.strip_prefix("nodePort ").unwrap().split_once('/').unwrap().0;
    [address.to_owned(), port.to_owned()]
}

/// A list of the cluster has all addresses, and the manifests in a repository have none.
#[test]
fn what_one_side_writes_is_given_to_the_same_service_on_the_other() {
    let local = "  type: LoadBalancer\n  externalTrafficPolicy: Local\n";
    let repository = with_endpoints(&[("web", bare("web", "")), ("lb", bare("lb", local))]);
    // One is in the range of Services, and one is not.
    let written = service("lb", "172.20.0.7", &format!("{local}  healthCheckNodePort: 31001\n"))
        .replace("      port: 80\n", "      port: 80\n      nodePort: 31000\n");
    let cluster = with_endpoints(&[("web", service("web", "10.96.0.10", "")), ("lb", written)]);
    for (from, to) in [(&cluster, &repository), (&repository, &cluster)] {
        let ran = compare(from, to, &[]);
        assert_eq!((ran.status, ran.stdout.as_str()), (0, "No difference.\n"), "{ran:?}");
    }
    // Another port still has a node port of its own.
    let more = "    - name: more\n      port: 81\n";
    let more = with_endpoints(&[("web", bare("web", "")), ("lb", bare("lb", local) + more)]);
    let ran = compare(&cluster, &more, &[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(!ran.stdout.contains("- frontend") && ran.stdout.contains(":81/TCP"), "{ran:?}");
    // Whoever writes the address now has it.
    let taken = [("web", bare("web", "")), ("zzz", service("zzz", "10.96.0.10", ""))];
    let only = with_endpoints(&[("web", service("web", "10.96.0.10", ""))]);
    let ran = compare(&only, &with_endpoints(&taken), &[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("10.96.0.10:80/TCP") && ran.stdout.contains("default/zzz"));
}

#[test]
fn both_families_of_the_cluster_are_those_of_the_repository() {
    let addresses = "  clusterIPs: [10.96.0.10, \"2001:db8:96::10\"]\n  ipFamilyPolicy: ";
    let dual = |policy: &str| {
        with_endpoints(&[("web", service("web", "10.96.0.10", &format!("{addresses}{policy}\n")))])
    };
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let asked = bare("web", &format!("  ipFamilyPolicy: {policy}\n"));
        let ran = compare(&dual(policy), &with_endpoints(&[("web", asked)]), &[]);
        assert_eq!((ran.status, ran.stdout.as_str()), (0, "No difference.\n"), "{ran:?}");
    }
    let v6 = "  ipFamilies: [IPv6]\n";
    let single = with_endpoints(&[("web", service("web", "2001:db8:96::10", v6))]);
    for asked in ["", v6] {
        let ran = compare(&single, &with_endpoints(&[("web", bare("web", asked))]), &[]);
        assert_eq!((ran.status, ran.stdout.as_str()), (0, "No difference.\n"), "{ran:?}");
    }
}

/// Nobody has an address yet that is only compared, so nobody has to give one up.
#[test]
fn what_one_side_writes_moves_no_other_service() {
    let [address, port] = given("web");
    let web = || ("web", bare("web", "  type: NodePort\n"));
    let external = format!("  externalIPs: [\"{address}\"]\n");
    let node_port = service("zzz", "10.96.0.20", "  type: NodePort\n")
        .replace("      port: 80\n", &format!("      port: 80\n      nodePort: {port}\n"));
    let others = [service("zzz", &address, ""), service("zzz", "10.96.0.20", &external), node_port];
    let only = with_endpoints(&[web()]);
    for other in others {
        let both = with_endpoints(&[web(), ("zzz", other.clone())]);
        for (from, to, change) in [(&only, &both, "added"), (&both, &only, "removed")] {
            let ran = compare(from, to, &[]);
            assert_eq!(ran.status, 1, "{ran:?}");
            assert!(ran.stdout.starts_with(&format!("1 Service {change}")), "{other}: {ran:?}");
            assert!(!ran.stdout.contains("default/web"), "{other}: {ran:?}");
        }
    }
}

/// In a range that is full, a Service that comes does not get what one that goes has had.
#[test]
fn an_address_of_one_side_is_not_used_again_on_the_other() {
    let of = |numbers: std::ops::Range<u32>| {
        let names: Vec<String> = numbers.map(|number| format!("s{number}")).collect();
        with_endpoints(&names.iter().map(|it| (it.as_str(), bare(it, ""))).collect::<Vec<_>>())
    };
    let ran = compare(&of(0..6), &of(1..7), &["--service-cidr", "10.96.0.0/29"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(!ran.stdout.contains("taken over"), "{ran:?}");
    let full = "every address of 10.96.0.0/29 is in use on one side or the other";
    assert!(ran.stderr.contains(full), "{ran:?}");
    let ran = compare(&of(0..6), &of(1..7), &["--service-cidr", "10.96.0.0/28"]);
    assert!(ran.stdout.starts_with("1 Service added, 1 removed; 1 dangerous change"), "{ran:?}");
}
