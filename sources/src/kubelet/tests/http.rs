//! Against a kubelet in this process, by its HTTP server.

use std::fs;
use std::time::Duration;

use rulec_kubelet::{HttpKubelet, Pod};

use super::follow::{timing, told_by};
use crate::kubelet::{KubeletAccess, KubeletSource, KubeletUrl};
use crate::pods::tests::told::Told;
use crate::tests::pass_without_authorities;

fn url(scheme: &str, kubelet: &HttpKubelet) -> KubeletUrl {
    KubeletUrl {
        url: format!("{scheme}://{}", kubelet.address()).parse().unwrap(),
        certificate_authority: None,
        client_certificate: None,
        client_key: None,
        token_file: None,
        period: Duration::from_millis(20),
    }
}

fn told(url: KubeletUrl) -> Told {
    told_by(KubeletSource::new(KubeletAccess::Url(url)).with_timing(timing()))
}

fn web() -> Pod {
    Pod::of_file("web", &["10.0.0.1"])
}

fn db() -> Pod {
    Pod::new("db", &["10.0.0.2"])
}

#[tokio::test]
async fn pods_are_asked_for_again_and_again() {
    let kubelet = HttpKubelet::start(&[web(), db()]);
    let mut told = told(url("http", &kubelet));
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    kubelet.set(&[web(), Pod { ready: Some(false), ..db() }]);
    told.are(&[("web", "10.0.0.1"), ("db", "")]).await;
    kubelet.set(&[db()]);
    told.are(&[("db", "10.0.0.2")]).await;
}

#[tokio::test]
async fn a_list_that_has_not_changed_is_not_read() {
    let kubelet = HttpKubelet::start(&[web()]);
    let mut told = told(url("http", &kubelet));
    told.are(&[("web", "10.0.0.1")]).await;
    let before = kubelet.requests();
    while kubelet.requests() < before + 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    kubelet.set(&[web(), db()]);
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    assert_eq!(told.last.as_ref().unwrap().suppressed, 1, "one list was compared, and not six");
}

#[tokio::test]
async fn whatever_the_server_answers_the_last_state_stays() {
    let kubelet = HttpKubelet::start(&[web(), db()]);
    let mut told = told(url("http", &kubelet));
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    let answers: [(u16, &[u8], &str); 5] = [
        (503, b"", "it answers with HTTP status 503"),
        (200, b"{", "its answer is not a PodList: EOF"),
        (200, b"{}", "its answer is not a PodList: missing field `kind`"),
        (200, br#"{"kind": "List", "items": []}"#, "its answer is not a PodList; its Pods stay"),
        (200, b"\x00\xff", "its answer is not a PodList"),
    ];
    for (status, body, words) in answers {
        kubelet.answer(status, body);
        told.until(words, |told| told.problems().iter().any(|text| text.contains(words))).await;
        assert_eq!(told.pods.len(), 2, "{words}");
        assert!(told.last.as_ref().unwrap().unavailable);
    }
    kubelet.set(&[web()]);
    told.available(true).await;
    assert_eq!(told.pods.len(), 2, "it may not have found the other one again");
    told.are(&[("web", "10.0.0.1")]).await;
}

#[tokio::test]
async fn a_pod_that_is_wrong_leaves_the_others_alone() {
    let kubelet = HttpKubelet::start(&[web(), db()]);
    let mut told = told(url("http", &kubelet));
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    let mut wrong = db().json();
    wrong["status"]["phase"] = 7.into();
    let next = Pod { ready: Some(false), ..web() }.json();
    let list = serde_json::json!({"kind": "PodList", "items": [wrong, next]});
    kubelet.answer(200, list.to_string().as_bytes());
    told.are(&[("web", ""), ("db", "10.0.0.2")]).await;
    let [problem] = &told.problems()[..] else { panic!("{:?}", told.problems()) };
    assert!(problem.starts_with("kubelet: Pod default/db: status.phase: expected a string"));
}

#[tokio::test]
async fn server_and_client_prove_who_they_are() {
    let (kubelet, credentials) = HttpKubelet::secured(&[web()]);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let bare = KubeletUrl {
        certificate_authority: file("ca.crt", &credentials.authority),
        ..url("https", &kubelet)
    };
    let certified = KubeletUrl {
        client_certificate: file("client.crt", &credentials.certificate),
        client_key: file("client.key", &credentials.key),
        ..bare.clone()
    };
    told(certified.clone()).are(&[("web", "10.0.0.1")]).await;
    let token_file = file("token", &credentials.token);
    told(KubeletUrl { token_file, ..bare.clone() }).are(&[("web", "10.0.0.1")]).await;

    let refused = |url: KubeletUrl, words: &'static str| async move {
        let mut told = told(url);
        let is_said = |told: &Told| {
            told.last.is_some() && told.problems().iter().any(|text| text.contains(words))
        };
        told.until(words, is_said).await;
        assert!(told.pods.is_empty());
    };
    refused(bare, "it answers with HTTP status 401").await;
    // Another authority.
    let (_other, others) = HttpKubelet::secured(&[]);
    let certificate_authority = file("other.crt", &others.authority);
    refused(KubeletUrl { certificate_authority, ..certified.clone() }, "certificate").await;
    let certificate_authority = Some(directory.path().join("missing.crt"));
    refused(KubeletUrl { certificate_authority, ..certified }, "missing.crt").await;
}

#[test]
fn the_authorities_of_the_system_are_not_needed() {
    let tests = ["pods_are_asked_for_again_and_again", "server_and_client_prove_who_they_are"];
    pass_without_authorities(&tests.map(|test| format!("kubelet::tests::http::{test}")));
}
