//! Against a web server in this process. Nothing is asserted about how long anything takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rulec_compiler::Change;
use rulec_compiler::object::Object;
use rulec_kubelet::HttpKubelet;
use rulec_testkit::{Reply, Web};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{plain, write};
use crate::state::StateDir;
use crate::tests::pass_without_authorities;
use crate::{ManifestOptions, ManifestRoots, ManifestUrls, Nudge, Update};

/// After this, a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Roots, and what they have told so far: the port of each Service, and where it is from.
struct Told {
    updates: mpsc::Receiver<Update>,
    _roots: JoinSet<()>,
    nudge: Nudge,
    known: BTreeMap<String, String>,
    last: Option<Update>,
    suppressed: u64,
    count: usize,
}

impl Told {
    fn by(roots: ManifestRoots) -> Self {
        let (out, updates) = mpsc::channel(16);
        let nudge = roots.nudge();
        let mut task = JoinSet::new();
        task.spawn(async move { roots.run(out).await.expect("it does not fail") });
        Self {
            updates,
            _roots: task,
            nudge,
            known: BTreeMap::new(),
            last: None,
            suppressed: 0,
            count: 0,
        }
    }

    fn of(urls: ManifestUrls) -> Self {
        Self::by(roots(Vec::new(), urls))
    }

    async fn next(&mut self, what: &str) {
        let update = timeout(PATIENCE, self.updates.recv()).await;
        let Ok(Some(update)) = update else { panic!("never: {what}: {:?}", self.last) };
        for change in &update.changes {
            let all = match change {
                Change::Apply(sourced) => std::slice::from_ref(sourced),
                Change::Remove(key) => {
                    self.known.remove(key.to_string().as_str());
                    &[]
                }
                Change::Replace { objects, .. } => {
                    self.known.clear();
                    objects
                }
            };
            for sourced in all {
                let Object::Service(service) = &sourced.object else { panic!("{sourced:?}") };
                let from = sourced.provenance.0.rsplit('/').next().unwrap();
                let text = format!("{} {from}", service.ports[0].port);
                self.known.insert(sourced.object.key().to_string(), text);
            }
        }
        self.suppressed += update.suppressed;
        self.count += 1;
        self.last = Some(update);
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.next(what).await;
        }
    }

    /// Waits until exactly these Services are told.
    async fn are(&mut self, services: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> = services
            .iter()
            .map(|(name, what)| (format!("Service default/{name}"), (*what).to_owned()))
            .collect();
        let is_so = |told: &Self| told.last.is_some() && told.known == wanted;
        self.until(&format!("{wanted:?}"), is_so).await;
    }

    /// Waits until there is a problem with these words.
    async fn complains(&mut self, words: &str) {
        let is_so = |told: &Self| told.problems().iter().any(|text| text.contains(words));
        self.until(words, is_so).await;
    }

    /// Waits until nothing is wrong.
    async fn is_content(&mut self) {
        let is_so = |told: &Self| {
            told.last.as_ref().is_some_and(|last| last.problems.is_empty() && !last.unavailable)
        };
        self.until("no problem", is_so).await;
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.last.iter().flat_map(|last| &last.problems);
        problems.map(ToString::to_string).collect()
    }

    fn last(&self) -> &Update {
        self.last.as_ref().unwrap()
    }
}

fn roots(paths: Vec<PathBuf>, urls: ManifestUrls) -> ManifestRoots {
    ManifestRoots::new(paths, ManifestOptions::default()).with_urls(Some(urls))
}

/// Returns how to ask these, often.
fn asked(urls: &[String]) -> ManifestUrls {
    ManifestUrls {
        urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
        period: Duration::from_millis(20),
        first_retry: Duration::from_millis(1),
        answer: Duration::from_millis(500),
        first_answer: Duration::from_millis(500),
        ..ManifestUrls::default()
    }
}

fn url(server: &Web) -> String {
    format!("http://{}/web.yaml", server.address())
}

/// Waits until the server was asked so many times more.
async fn asks(server: &Web, more: usize) {
    let before = server.requests().len();
    while server.requests().len() < before + more {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn head(lines: &str) -> String {
    format!("HTTP/1.1 {lines}\r\n\r\n").replace('\n', "\r\n").replace("\r\r", "\r")
}

fn bytes(lines: &str, body: &[u8]) -> Reply {
    Reply::Bytes([head(lines).as_bytes(), body].concat())
}

#[tokio::test]
async fn a_url_is_asked_again_and_again() {
    let server = Web::start(Reply::page("\"1\"", &plain("a", 1)));
    let minute = Duration::from_secs(60);
    let asked = ManifestUrls { answer: minute, first_answer: minute, ..asked(&[url(&server)]) };
    let mut told = Told::of(asked);
    told.are(&[("a", "1 web.yaml")]).await;
    assert!(told.last().complete);
    asks(&server, 2).await;
    let request = server.requests().pop().unwrap().to_lowercase();
    assert!(request.contains("\r\nif-none-match: \"1\"\r\n"), "{request}");
    assert!(request.contains("\r\naccept-encoding: identity\r\n"), "{request}");
    let both = format!("{}---\n{}", plain("a", 2), plain("b", 1));
    server.set(Reply::page("\"2\"", &both));
    told.are(&[("a", "2 web.yaml"), ("b", "1 web.yaml")]).await;
    server.set(Reply::page("\"3\"", &plain("b", 1)));
    told.are(&[("b", "1 web.yaml")]).await;
    assert_eq!((told.count, told.suppressed), (3, 1), "an answer without news tells nothing");
}

#[tokio::test]
async fn content_that_has_not_changed_is_not_read() {
    // Without a tag, only its hash tells.
    let server = Web::start(Reply::page("", &plain("a", 1)));
    let mut told = Told::of(asked(&[url(&server)]));
    told.are(&[("a", "1 web.yaml")]).await;
    asks(&server, 5).await;
    let request = server.requests().pop().unwrap().to_lowercase();
    assert!(!request.contains("if-"), "{request}");
    server.set(Reply::page("", &format!("# The same.\n{}", plain("a", 1))));
    told.until("the same", |told| told.suppressed == 1).await;
    assert_eq!(told.count, 2, "other bytes that mean the same were compared once");
}

/// An older file may take the place of a newer one, and a tag may be made of the time.
#[tokio::test]
async fn a_date_is_no_reason_not_to_send_an_answer() {
    const DATE: &str = "Mon, 30 Nov 2026 10:00:00 GMT";
    let text = plain("a", 1);
    let page = |more: &str, date: &str| {
        let length = text.len();
        let lines =
            format!("200 OK\nLast-Modified: {DATE}\nDate: {date}{more}\nContent-Length: {length}");
        bytes(&lines, text.as_bytes())
    };
    let later = "Mon, 30 Nov 2026 10:00:01 GMT";
    let server = Web::start(page("", later));
    let mut told = Told::of(asked(&[url(&server)]));
    told.are(&[("a", "1 web.yaml")]).await;
    let request = || server.requests().pop().unwrap().to_lowercase();
    for (reply, has_tag) in [
        (page("", later), false),
        (page("\nETag: \"1\"", DATE), false),
        (page("\nETag: \"1\"", later), true),
    ] {
        server.set(reply);
        asks(&server, 3).await;
        let request = request();
        assert_eq!(request.contains("\r\nif-none-match: \"1\"\r\n"), has_tag, "{request}");
        assert!(!request.contains("if-modified"), "{request}");
    }
}

#[tokio::test]
async fn whatever_the_server_does_the_last_good_content_stays() {
    let server = Web::start(Reply::page("\"1\"", &plain("a", 1)));
    let mut told = Told::of(asked(&[url(&server)]));
    told.are(&[("a", "1 web.yaml")]).await;
    let a = plain("a", 1);
    let half = format!("200 OK\nContent-Length: {}", a.len() + 1);
    let large = vec![b'#'; (10 << 20) + 1];
    let cases: Vec<(Reply, &str)> = vec![
        (Reply::Nothing, "it has not answered in 0.5 s"),
        (Reply::Bytes(Vec::new()), "the request failed"),
        (Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "the request failed"),
        (bytes("404 Not Found\nContent-Length: 0", b""), "it answers with HTTP status 404"),
        (bytes("500 Oops\nContent-Length: 0", b""), "it answers with HTTP status 500"),
        (bytes("204 No Content", b""), "it answers with HTTP status 204"),
        (
            bytes("302 Found\nLocation: http://127.0.0.1:1/\nContent-Length: 0", b""),
            "it redirects (HTTP status 302",
        ),
        (Reply::page("\"2\"", ""), "its answer is empty"),
        (Reply::page("\"2\"", "\r\n"), "its answer is empty"),
        (bytes(&half, a.as_bytes()), "its answer breaks off"),
        (bytes("200 OK\nTransfer-Encoding: chunked", b"5\r\nkind:\r\n"), "its answer breaks off"),
        (bytes("200 OK", a.as_bytes()), "its answer does not say how long it is"),
        (
            bytes("200 OK\nContent-Encoding: gzip\nContent-Length: 2", b"\x1f\x8b"),
            "its answer is encoded (\"gzip\")",
        ),
        (
            bytes(&format!("200 OK\nContent-Length: {}", large.len()), &large),
            "its answer is larger than 10 MiB",
        ),
        (Reply::page("\"3\"", "<html>Log in</html>\n"), "its answer is no manifest"),
        (Reply::page("\"4\"", "kind: ["), "web.yaml:1:7: not YAML"),
        (Reply::page("\"6\"", "null\n"), "has no object of a kind that is read"),
        (Reply::page("\"7\"", "~\n# nothing\n"), "has no object of a kind that is read"),
        (
            Reply::page("\"8\"", "{\"kind\": \"Status\", \"apiVersion\": \"v1\", \"code\": 503}"),
            "has no object of a kind that is read",
        ),
        (
            Reply::page("\"9\"", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"),
            "has no object of a kind that is read",
        ),
        (
            bytes("200 OK\nTransfer-Encoding: chunked, identity", a.as_bytes()),
            "its answer does not say how long it is",
        ),
        (Reply::page("\"5\"", "{\"kind\": \"Service\","), "web.yaml:1:"),
        (bytes("200 OK\nContent-Length: 2", b"\xff\xfe"), "is not valid UTF-8"),
    ];
    for (reply, words) in cases {
        server.set(reply);
        told.complains(words).await;
        let stays = "its last good content stays: 1 Service, 1 object in all";
        told.complains(stays).await;
        assert!(told.last().unavailable, "{words}");
        assert_eq!(told.known.len(), 1, "{words}");
        server.set(Reply::page("\"1\"", &plain("a", 1)));
        told.is_content().await;
    }
    let changes = told.suppressed;
    // It dies, and another takes its place.
    drop(server);
    told.complains("Connection refused").await;
    assert!(told.last().unavailable && told.known.len() == 1);
    assert_eq!(told.suppressed, changes);
}

#[tokio::test]
async fn a_fault_is_told_once_and_so_is_its_end() {
    let server = Web::start(Reply::page("\"1\"", &plain("a", 1)));
    let mut told = Told::of(asked(&[url(&server)]));
    told.are(&[("a", "1 web.yaml")]).await;
    server.set(Reply::page("\"2\"", "kind: ["));
    // Its tag is known by now, so that it is not sent again.
    asks(&server, 4).await;
    told.complains("its answer is no manifest").await;
    server.set(bytes("503 Busy\nContent-Length: 0", b""));
    asks(&server, 4).await;
    told.complains("it answers with HTTP status 503").await;
    server.set(Reply::page("\"2\"", "kind: ["));
    told.complains("its answer is no manifest").await;
    server.set(Reply::page("\"1\"", &plain("a", 1)));
    told.is_content().await;
    assert_eq!(told.count, 5, "one update for each");
}

#[tokio::test]
async fn an_object_that_is_wrong_leaves_the_others_alone() {
    let both = |a: &str, b: &str| format!("{a}---\n{b}");
    let server = Web::start(Reply::page("", &both(&plain("a", 1), &plain("b", 1))));
    let mut told = Told::of(asked(&[url(&server)]));
    told.are(&[("a", "1 web.yaml"), ("b", "1 web.yaml")]).await;
    let wrong = plain("b", 1).replace("port: 1", "port: 70000");
    server.set(Reply::page("", &both(&plain("a", 2), &wrong)));
    told.are(&[("a", "2 web.yaml"), ("b", "1 web.yaml")]).await;
    let [problem] = &told.problems()[..] else { panic!("{:?}", told.problems()) };
    let expected = "Service default/b: spec.ports[0].port: 70000 is not in 1..65535";
    assert!(problem.starts_with("http://127.0.0.1:") && problem.ends_with(expected), "{problem}");
    let line = both(&plain("a", 2), &wrong).lines().position(|line| line.contains("70000"));
    assert!(problem.contains(&format!("/web.yaml:{}:", line.unwrap() + 1)), "{problem}");
    assert!(!told.last().unavailable, "it can be read");
    // What says nothing about objects removes none.
    server.set(Reply::page("", "{\"error\": \"try later\"}"));
    told.complains("web.yaml:1:1: the document has no kind").await;
    assert!(told.known.len() == 2 && told.last().unavailable, "{:?}", told.problems());
    // A comment does: somebody wants no objects. So does an empty list.
    server.set(Reply::page("", "# Nothing.\n"));
    told.are(&[]).await;
    server.set(Reply::page("", &plain("a", 1)));
    told.are(&[("a", "1 web.yaml")]).await;
    server.set(Reply::page("", "{\"kind\": \"List\", \"apiVersion\": \"v1\", \"items\": []}"));
    told.are(&[]).await;
}

#[tokio::test]
async fn json_is_told_by_its_first_character() {
    let service = |name: &str, port: u16| -> serde_json::Value {
        serde_saphyr::from_str(&plain(name, port)).unwrap()
    };
    let list = serde_json::json!({
        "apiVersion": "v1", "kind": "List", "items": [service("a", 1), service("b", 2)],
    });
    // With tabs, it is no YAML.
    let text = serde_json::to_string_pretty(&list).unwrap().replace("  ", "\t");
    let server = Web::start(Reply::page("", &text));
    let mut told = Told::of(asked(&[url(&server)]));
    told.are(&[("a", "1 web.yaml"), ("b", "2 web.yaml")]).await;
}

#[tokio::test]
async fn what_is_on_the_node_takes_precedence_and_then_the_last_url() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write(path, "local.yaml", &plain("a", 1));
    let [first, second] = [("", "a", 2), ("", "b", 2)].map(|(tag, name, port)| {
        let text = format!("{}---\n{}", plain(name, port), plain("c", port));
        Web::start(Reply::page(tag, &text))
    });
    second.set(Reply::page("", &format!("{}---\n{}", plain("b", 3), plain("c", 3))));
    let urls = asked(&[url(&first), format!("{}?of=second", url(&second))]);
    let mut told = Told::by(roots(vec![path.to_owned()], urls));
    told.are(&[("a", "1 local.yaml"), ("b", "3 web.yaml?…"), ("c", "3 web.yaml?…")]).await;
    let problems = told.problems();
    assert!(
        problems.iter().any(|text| text.contains("Service default/a: also defined in http://"))
    );
    assert!(
        problems.iter().any(|text| text.contains("Service default/c: also defined in http://"))
    );
    fs::remove_file(path.join("local.yaml")).unwrap();
    told.are(&[("a", "2 web.yaml"), ("b", "3 web.yaml?…"), ("c", "3 web.yaml?…")]).await;
    second.set(Reply::page("", &plain("b", 3)));
    told.are(&[("a", "2 web.yaml"), ("b", "3 web.yaml?…"), ("c", "2 web.yaml")]).await;
    told.is_content().await;
}

#[tokio::test]
async fn a_url_that_cannot_be_read_does_not_hide_others() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "local.yaml", &plain("a", 1));
    let dead = "http://127.0.0.1:1/x.yaml?n=";
    let urls = || asked(&[format!("{dead}1"), format!("{dead}2")]);
    let mut told = Told::of(urls());
    told.complains("no objects are added or removed until it can be read").await;
    told.until("both", |told| told.last().problems.len() == 2).await;
    assert!(told.last().unavailable && !told.last().complete);
    let names: Vec<_> = told.last().problems.iter().map(|problem| &*problem.path).collect();
    assert_eq!(names, ["http://127.0.0.1:1/x.yaml?…", "http://127.0.0.1:1/x.yaml?… (2)"]);

    let mut told = Told::by(roots(vec![directory.path().to_owned()], urls()));
    told.are(&[("a", "1 local.yaml")]).await;
    assert!(told.last().unavailable && told.last().complete);
    assert_eq!(told.last().unread, 2, "what they would define may be what the kernel holds");
}

#[tokio::test]
async fn a_server_that_hangs_does_not_hold_up_a_start() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "local.yaml", &plain("a", 1));
    let server = Web::start(Reply::Nothing);
    let urls = ManifestUrls {
        first_answer: Duration::from_millis(50),
        answer: Duration::from_secs(100_000),
        // The next request is never made.
        first_retry: Duration::from_secs(100_000),
        period: Duration::from_secs(100_000),
        ..asked(&[url(&server)])
    };
    let mut told = Told::by(roots(vec![directory.path().to_owned()], urls));
    told.are(&[("a", "1 local.yaml")]).await;
    told.complains("it has not answered in 0.05 s").await;
    assert!(told.last().complete && told.last().unread == 1);
}

#[tokio::test]
async fn the_next_start_has_the_last_good_content() {
    let directory = tempfile::tempdir().unwrap();
    let start = |urls: ManifestUrls| {
        let state = StateDir::new(directory.path().to_owned());
        (Told::by(roots(Vec::new(), urls).with_state(Some(state.clone()))), state)
    };
    let server = Web::start(Reply::page("\"1\"", &plain("a", 1)));
    let other = Web::start(Reply::page("\"1\"", &plain("b", 1)));
    let [first, second] = [&server, &other].map(url);
    let (mut told, state) = start(asked(&[first.clone(), second.clone()]));
    told.are(&[("a", "1 web.yaml"), ("b", "1 web.yaml")]).await;
    server.set(Reply::page("\"2\"", "kind: ["));
    told.complains("its answer is no manifest").await;
    drop(told);
    assert!(state.finish(PATIENCE));

    // One is dead, and the other one has changed.
    drop(server);
    other.set(Reply::page("\"2\"", &plain("c", 1)));
    let (mut told, state) = start(asked(&[first.clone(), second.clone()]));
    told.are(&[("a", "1 web.yaml"), ("c", "1 web.yaml")]).await;
    assert!(told.last().unavailable && told.last().complete && told.last().stale.is_some());
    drop(told);
    assert!(state.finish(PATIENCE));

    // What another URL has answered is not used, even if only its query differs.
    let (mut told, _state) = start(asked(&[format!("{first}?a"), second]));
    told.are(&[("c", "1 web.yaml")]).await;
    told.complains("web.yaml?…: the request failed").await;
    assert!(told.known.len() == 1 && told.last().unread == 1);
}

#[tokio::test]
async fn a_nudge_asks_at_once() {
    let server = Web::start(Reply::page("\"1\"", &plain("a", 1)));
    let period = Duration::from_secs(100_000);
    let mut told = Told::of(ManifestUrls { period, ..asked(&[url(&server)]) });
    told.are(&[("a", "1 web.yaml")]).await;
    server.set(Reply::page("\"2\"", &plain("a", 2)));
    assert_eq!(server.requests().len(), 1);
    told.nudge.look();
    told.are(&[("a", "2 web.yaml")]).await;
}

#[tokio::test]
async fn headers_are_read_for_each_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("headers");
    fs::write(&path, "Authorization: Bearer one\n\nX-B:2\n").unwrap();
    let server = Web::start(Reply::page("\"1\"", &plain("a", 1)));
    let headers = ["X-A: 1", "X-B: 1"].map(|text| text.parse().unwrap()).to_vec();
    let header_file = Some(path.clone());
    let mut told = Told::of(ManifestUrls { headers, header_file, ..asked(&[url(&server)]) });
    told.are(&[("a", "1 web.yaml")]).await;
    let request = || server.requests().pop().unwrap().to_lowercase();
    for line in ["authorization: bearer one", "x-a: 1", "x-b: 2"] {
        assert_eq!(request().matches(&format!("\r\n{line}\r\n")).count(), 1, "{}", request());
    }
    fs::write(&path, "Authorization: Bearer two\n").unwrap();
    asks(&server, 2).await;
    assert!(request().contains("bearer two"), "{}", request());
    fs::write(&path, "X-A: 1\nBearer secret\n").unwrap();
    told.complains("headers:2: not of the form NAME:VALUE").await;
    assert!(!told.problems().iter().any(|text| text.contains("secret")));
    fs::remove_file(&path).unwrap();
    told.complains("headers: cannot be read").await;
    assert_eq!(told.known.len(), 1);
}

/// A node may have no certificates of its own.
#[test]
fn the_authorities_of_the_system_are_needed_only_to_verify_by_them() {
    pass_without_authorities(&["manifests::tests::url::a_server_of_https_is_verified".to_owned()]);
}

#[tokio::test]
async fn a_server_of_https_is_verified() {
    let (server, credentials) = HttpKubelet::secured(&[]);
    server.answer(200, plain("a", 1).as_bytes());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    fs::write(&path, &credentials.authority).unwrap();
    let token = format!("Authorization: Bearer {}", credentials.token);
    let urls = ManifestUrls {
        certificate_authority: Some(path),
        headers: vec![token.parse().unwrap()],
        ..asked(&[format!("https://{}/pods", server.address())])
    };
    Told::of(urls).are(&[("a", "1 pods")]).await;
}

#[tokio::test]
async fn a_server_of_https_proves_who_it_is() {
    let (server, credentials) = HttpKubelet::secured(&[]);
    server.answer(200, plain("a", 1).as_bytes());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let token = format!("Authorization: Bearer {}", credentials.token);
    let urls = ManifestUrls {
        certificate_authority: file("ca.crt", &credentials.authority),
        headers: vec![token.parse().unwrap()],
        ..asked(&[format!("https://{}/pods", server.address())])
    };
    Told::of(urls.clone()).are(&[("a", "1 pods")]).await;

    let refused = |urls: ManifestUrls, words: &'static str| async move {
        let mut told = Told::of(urls);
        told.complains(words).await;
        assert!(told.known.is_empty());
    };
    refused(ManifestUrls { headers: Vec::new(), ..urls.clone() }, "HTTP status 401").await;
    let (_other, others) = HttpKubelet::secured(&[]);
    let authority =
        |path: Option<PathBuf>| ManifestUrls { certificate_authority: path, ..urls.clone() };
    refused(authority(file("other.crt", &others.authority)), "invalid peer certificate").await;
    // The system does not know its authority.
    refused(authority(None), "invalid peer certificate").await;
    let missing: &Path = &directory.path().join("missing.crt");
    refused(authority(Some(missing.to_owned())), "missing.crt: cannot be read").await;
    // It does not talk to those who do not encrypt.
    let plain_url = asked(&[format!("http://{}/pods", server.address())]);
    refused(ManifestUrls { urls: plain_url.urls, ..urls }, "the request failed").await;
}
