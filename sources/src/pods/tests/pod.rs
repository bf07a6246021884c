//! What a Pod of the kubelet means.

use std::net::IpAddr;

use rulec_compiler::load_balancing::Weight;
use rulec_compiler::object::{Conditions, PodAddresses};
use rulec_kubelet::Pod;
use serde_json::value::RawValue;

use crate::decode::intern::Interner;
use crate::pods::pod::{Raw, Report, read};
use crate::problem::Problem;

fn raw(json: &serde_json::Value) -> Raw {
    Raw::Json(RawValue::from_string(json.to_string()).unwrap())
}

fn read_raw(raw: Raw) -> Result<Report, Problem> {
    read(raw, &"kubelet".into(), &mut Interner::default())
}

/// Reads a Pod in both encodings, which must mean the same.
fn both(pod: &Pod) -> Report {
    let report = read_raw(Raw::Protobuf(pod.protobuf().into())).unwrap();
    let other = read_raw(raw(&pod.json())).unwrap();
    assert_eq!((&report.uid, &report.name, &report.pod), (&other.uid, &other.name, &other.pod));
    assert_eq!(report.problems, other.problems);
    report
}

fn good(pod: &Pod) -> rulec_compiler::object::Pod {
    let report = both(pod);
    assert_eq!(report.problems, []);
    (*report.pod.unwrap()).clone()
}

fn addresses(texts: &[&str]) -> PodAddresses {
    PodAddresses::Own(texts.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect())
}

#[test]
fn protobuf_and_json_mean_the_same() {
    let weight = |text: &str| vec![("rulec.io/weight".to_owned(), text.to_owned())];
    let web = Pod::new("web", &["10.0.0.1", "fd00::1", "10.0.0.2"]);
    let (hostname, subdomain) = ("a".to_owned(), "peers".to_owned());
    let named = Pod { hostname, subdomain, annotations: weight("3"), ..web.clone() };
    let pod = good(&named);
    assert_eq!(pod.key.to_string(), "default/web");
    assert_eq!(pod.addresses, addresses(&["10.0.0.1", "fd00::1"]), "the first of each family");
    assert_eq!(pod.conditions, Conditions { ready: true, serving: true, terminating: false });
    assert_eq!(pod.labels.into_iter().collect::<Vec<_>>(), [("app".into(), "web".into())]);
    assert_eq!((pod.ports[0].name.as_str(), pod.ports[0].port.get()), ("http", 8080));
    assert_eq!(pod.node, None, "it is on this node, whatever the kubelet calls it");
    assert_eq!(pod.weight, "3".parse().unwrap());
    let host = pod.host.unwrap();
    assert_eq!((host.hostname.as_str(), host.subdomain.as_str()), ("a", "peers"));
    let odd = both(&Pod { annotations: weight("heavy"), ..web });
    assert_eq!(odd.pod.unwrap().weight, Weight::default());
    let [problem] = &odd.problems[..] else { panic!("{:?}", odd.problems) };
    let words = "kubelet: Pod default/web: metadata.annotations.rulec.io/weight: \"heavy\"";
    assert!(problem.to_string().starts_with(words), "{problem}");
}

#[test]
fn conditions_are_those_of_the_status() {
    let with = |ready, is_deleting| {
        let pod = Pod { ready, is_deleting, ..Pod::new("web", &["10.0.0.1"]) };
        let Conditions { ready, serving, terminating } = good(&pod).conditions;
        (ready, serving, terminating)
    };
    assert_eq!(with(Some(true), false), (true, true, false));
    assert_eq!(with(Some(false), false), (false, false, false));
    assert_eq!(with(Some(true), true), (false, true, true), "serving while it terminates");
    assert_eq!(with(Some(false), true), (false, false, true));
    assert_eq!(with(None, false), (false, false, false), "the kubelet has not looked yet");
}

#[test]
fn a_pod_of_the_host_network_is_at_the_addresses_of_the_node() {
    let host = Pod { host_network: true, ..Pod::new("web", &[]) };
    assert_eq!(good(&host).addresses, PodAddresses::Node);
    let host = Pod { host_network: true, ..Pod::new("web", &["192.0.2.1"]) };
    assert_eq!(good(&host).addresses, addresses(&["192.0.2.1"]));
    let done = Pod { phase: "Succeeded".to_owned(), ..host };
    assert_eq!(good(&done).addresses, addresses(&[]));
    assert_eq!(good(&Pod::new("web", &[])).addresses, addresses(&[]));
}

#[test]
fn a_static_pod_has_the_name_of_its_manifest() {
    let named = |name: &str, node: &str, source: &str| {
        let annotations = vec![("kubernetes.io/config.source".to_owned(), source.to_owned())];
        let pod = Pod { node: node.to_owned(), annotations, ..Pod::new(name, &["10.0.0.1"]) };
        let report = both(&pod);
        assert_eq!(report.name.name.as_str(), name);
        report.pod.unwrap().key.name.as_str().to_owned()
    };
    assert_eq!(named("web-na", "na", "file"), "web");
    assert_eq!(named("web-na", "na", "http"), "web");
    assert_eq!(named("web-node-a.example", "Node-A.example", "file"), "web", "in lower case");
    assert_eq!(named("web-na", "na", "api"), "web-na", "the name that it was created with");
    assert_eq!(named("web", "na", "file"), "web");
    assert_eq!(named("-na", "na", "file"), "-na");
    assert_eq!(named("web-na", "", "file"), "web-na");
}

#[test]
fn what_cannot_be_used_is_named() {
    // A field of the wrong type, in each part of the message.
    let pod = Pod::new("web", &["10.0.0.1"]).protobuf();
    let broken = |part: u8| [&pod[..], &[part << 3 | 2, 2, 0x0a, 9]].concat();
    let spec = read_raw(Raw::Protobuf(broken(2).into())).unwrap();
    assert_eq!((spec.name.to_string().as_str(), &spec.pod), ("default/web", &None));
    let text = spec.problems[0].to_string();
    assert!(text.starts_with("kubelet: Pod default/web: spec: cannot be decoded: "), "{text}");
    let metadata = read_raw(Raw::Protobuf(broken(1).into())).unwrap_err().to_string();
    assert!(metadata.starts_with("kubelet: a Pod cannot be decoded: "), "{metadata}");
    let text = read_raw(Raw::Protobuf(pod[..pod.len() - 1].to_vec().into())).unwrap_err();
    assert!(text.to_string().starts_with("kubelet: a Pod cannot be decoded: "), "{text}");
    assert!(read_raw(Raw::Protobuf(vec![].into())).unwrap_err().to_string().contains("name"));

    let mut json = Pod::new("web", &["10.0.0.1"]).json();
    json["status"]["phase"] = "Walking".into();
    let report = read_raw(raw(&json)).unwrap();
    assert_eq!((&report.pod, report.name.to_string().as_str()), (&None, "default/web"));
    let text = report.problems[0].to_string();
    assert!(text.starts_with("kubelet: Pod default/web: status.phase: \"Walking\""), "{text}");
    json["metadata"]["name"] = 7.into();
    let text = read_raw(raw(&json)).unwrap_err().to_string();
    assert!(text.contains("metadata.name: expected a string, found a number"), "{text}");
}
