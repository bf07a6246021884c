//! The annotations for load balancing: of a Service, and weights of Pods and EndpointSlices.

use rulec_compiler::load_balancing::{LoadBalancing, Weight};
use rulec_compiler::object::Object;

use super::{problems, yaml};
use crate::decode::Decoded;

fn service(annotations: &str) -> Decoded {
    yaml(&format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations: {annotations}\n\
         spec: {{clusterIP: 10.90.0.10, ports: [{{port: 80}}]}}\n"
    ))
}

fn slice(annotations: &str) -> Decoded {
    yaml(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1\n  \
         annotations: {annotations}\n  labels: {{kubernetes.io/service-name: web}}\n\
         addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [10.0.0.1]}}]\n"
    ))
}

fn pod(annotations: &str) -> Decoded {
    yaml(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web-a\n  annotations: {annotations}\n  \
         labels: {{app: web}}\nspec: {{containers: [{{name: web}}]}}\n\
         status: {{podIP: 10.0.0.1}}\n"
    ))
}

/// Returns what the annotations of a Service ask for. The Service is served in any case.
fn asked(decoded: &Decoded) -> Option<LoadBalancing> {
    let [Object::Service(web)] = &decoded.objects[..] else { panic!("{decoded:?}") };
    assert_eq!(web.ports.len(), 1);
    web.load_balancing
}

/// Returns the weight of the object. It has its endpoint in any case.
fn weight(decoded: &Decoded) -> Weight {
    match &decoded.objects[..] {
        [Object::EndpointSlice(slice)] => {
            assert_eq!(slice.endpoints.len(), 1);
            slice.weight
        }
        [Object::Pod(pod)] => pod.weight,
        other => panic!("{other:?}"),
    }
}

/// Asserts that there is one problem: a warning about this annotation.
#[track_caller]
fn warned(decoded: &Decoded, annotation: &str, expected: &str) {
    let [warning] = &problems(decoded)[..] else { panic!("{:?}", problems(decoded)) };
    let place = format!("metadata.annotations.{annotation}: ");
    let (before, after) = warning.split_once(&place).unwrap_or_else(|| panic!("{warning}"));
    assert!(before.starts_with("web.yaml:5:"), "{warning}");
    assert!(after.starts_with(expected) && after.ends_with("; ignored"), "{warning}");
}

#[test]
fn a_service_asks_for_its_load_balancing() {
    for it in LoadBalancing::ALL {
        let decoded = service(&format!("{{rulec.io/load-balancing: {it}}}"));
        assert_eq!((asked(&decoded), problems(&decoded)), (Some(it), vec![]));
    }
    for none in ["{}", "~", "{rulec.io/load-balancing: ''}", "{rulec.io/load-balance: maglev}"] {
        let decoded = service(none);
        assert_eq!((asked(&decoded), problems(&decoded)), (None, vec![]), "{none}");
    }
}

#[test]
fn an_invalid_load_balancing_is_ignored_with_a_warning() {
    let name = "rulec.io/load-balancing";
    let cases = [
        (
            "Maglev",
            "\"Maglev\" is no way of load balancing, use one of random, round-robin, maglev, \
             maglev-source",
        ),
        ("' random'", "\" random\" is no way of load balancing"),
        ("7", "expected a string, found a number"),
        ("true", "expected a string, found true or false"),
        ("[maglev]", "expected a string, found a list"),
    ];
    for (value, expected) in cases {
        let decoded = service(&format!("{{{name}: {value}}}"));
        assert_eq!(asked(&decoded), None, "{value}");
        warned(&decoded, name, expected);
    }
}

#[test]
fn ciliums_annotation_counts_if_ours_is_absent() {
    let name = "service.cilium.io/lb-algorithm";
    for it in [LoadBalancing::Random, LoadBalancing::Maglev] {
        let decoded = service(&format!("{{{name}: {it}}}"));
        assert_eq!((asked(&decoded), problems(&decoded)), (Some(it), vec![]));
    }
    let both = service(&format!("{{{name}: maglev, rulec.io/load-balancing: round-robin}}"));
    assert_eq!((asked(&both), problems(&both)), (Some(LoadBalancing::RoundRobin), vec![]));
    // There is no warning about an annotation that would not be used anyway.
    let both = service(&format!("{{{name}: least, rulec.io/load-balancing: random}}"));
    assert_eq!((asked(&both), problems(&both)), (Some(LoadBalancing::Random), vec![]));
    // An invalid annotation of ours does not hide Cilium's.
    let both = service(&format!("{{{name}: maglev, rulec.io/load-balancing: least}}"));
    assert_eq!(asked(&both), Some(LoadBalancing::Maglev));
    warned(&both, "rulec.io/load-balancing", "\"least\" is no way of load balancing");

    for (value, expected) in [
        (
            "round-robin",
            "\"round-robin\" is neither random nor maglev: use rulec.io/load-balancing",
        ),
        ("1", "expected a string, found a number"),
    ] {
        let decoded = service(&format!("{{{name}: {value}}}"));
        assert_eq!(asked(&decoded), None, "{value}");
        warned(&decoded, name, expected);
    }
}

#[test]
fn pods_and_slices_have_weights() {
    for of in [slice, pod] {
        for text in ["0", "1", "7", "100"] {
            let decoded = of(&format!("{{rulec.io/weight: '{text}'}}"));
            assert_eq!((weight(&decoded), problems(&decoded)), (text.parse().unwrap(), vec![]));
        }
        for none in ["{}", "~", "{rulec.io/weight: ''}", "{rulec.io/weights: '7'}"] {
            let decoded = of(none);
            assert_eq!((weight(&decoded), problems(&decoded)), (Weight::default(), vec![]));
        }
    }
}

#[test]
fn an_invalid_weight_is_ignored_with_a_warning() {
    let cases = [
        ("'101'", "\"101\" is no weight, which is a number from 0 to 100"),
        ("'-1'", "\"-1\" is no weight"),
        ("'0.5'", "\"0.5\" is no weight"),
        ("heavy", "\"heavy\" is no weight"),
        ("7", "expected a string, found a number"),
        ("{a: 1}", "expected a string, found an object"),
    ];
    for of in [slice, pod] {
        for (value, expected) in cases {
            let decoded = of(&format!("{{rulec.io/weight: {value}}}"));
            assert_eq!(weight(&decoded), Weight::default(), "{value}");
            warned(&decoded, "rulec.io/weight", expected);
        }
        let decoded = of("[rulec.io/weight]");
        assert_eq!(weight(&decoded), Weight::default());
        let [warning] = &problems(&decoded)[..] else { panic!("{:?}", problems(&decoded)) };
        let expected = "metadata.annotations: expected an object, found a list; ignored";
        assert!(warning.ends_with(expected), "{warning}");
    }
}
