//! The page for people: the real daemon, over HTTP, and in a browser if there is one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::process::Command;

use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests};
use crate::support::{eventually, file, get, request, service, slice};

const METRICS: &str = "127.0.0.1:10249";

/// A browser that needs no display, in Debian.
const BROWSER: &str = "chromium";

/// Two Services, one of them with an endpoint that is not ready, in a file with a hostile name.
fn manifests() -> Manifests {
    let manifests = Manifests::new();
    let ready = "  - addresses: [10.50.9.9]\n    nodeName: nb\n    conditions: {ready: false}\n";
    let web = slice("web", &["10.50.1.1"]).trim_end().to_owned() + "\n" + ready;
    let all = [service("web", "10.96.0.10", ""), web, service("idle", "10.96.0.11", "")];
    manifests.write("<script>alert(1)<b>.yaml", &file(&all));
    manifests
}

#[test]
fn the_page_is_off_by_default() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("no-page");
    let _daemon = Daemon::start(&namespace, &manifests().path(), &[]);
    for method in ["GET", "POST"] {
        assert_eq!(request(&namespace, method, METRICS, "/page").unwrap().code, 404);
    }
    assert_eq!(get(&namespace, METRICS, "/metrics").code, 200);
}

#[test]
fn the_page_shows_services_and_the_reasons_of_their_endpoints() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("page");
    let manifests = manifests();
    let _daemon = Daemon::start(&namespace, &manifests.path(), &["--page"]);
    let answer = get(&namespace, METRICS, "/page");
    assert_eq!(answer.code, 200, "{}", answer.body);
    for text in ["default/web", "10.50.9.9:8080", "no: not ready", "default/idle", "no endpoints"] {
        assert!(answer.body.contains(text), "{text}: {}", answer.body);
    }
    assert!(answer.body.contains("&lt;script&gt;alert(1)&lt;b&gt;.yaml"), "{}", answer.body);
    assert!(!answer.body.contains("<script"), "{}", answer.body);
    assert!(answer.body.contains(">@1</td>"), "the change of the start: {}", answer.body);
    assert!(answer.body.contains("<svg"), "how long the first commit took: {}", answer.body);
    assert!(!answer.body.contains("New connections"), "they are not counted: {}", answer.body);

    let one = get(&namespace, METRICS, "/page?q=10.96.0.11:80&namespace=default").body;
    assert!(one.contains("1 of 2 Services") && one.contains("default/idle"), "{one}");
    assert!(!one.contains("default/web"), "{one}");
    let none = get(&namespace, METRICS, "/page?namespace=other").body;
    assert!(none.contains("0 of 2 Services"), "{none}");
}

#[test]
fn the_page_draws_connections_if_they_are_counted() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("page-traffic");
    namespace
        .sh("ip link set lo up; ip addr add 192.0.2.10/32 dev lo; ip route add default dev lo");
    let manifests = manifests();
    let udp =
        service("web", "10.96.0.10", "").replace("port: 80\n", "port: 80\n      protocol: UDP\n");
    let endpoints =
        slice("web", &["10.50.1.1"]).replace("port: 8080\n", "port: 8080\n    protocol: UDP\n");
    manifests.write(
        "udp.yaml",
        &file(&[udp.replace("web", "dns").replace(".10", ".20"), endpoints.replace("web", "dns")]),
    );
    let _daemon =
        Daemon::start(&namespace, &manifests.path(), &["--page", "--traffic", "services"]);
    namespace.run(|| {
        for port in 22_000..22_020 {
            let socket = UdpSocket::bind(("192.0.2.10", port)).unwrap();
            socket.send_to(b"x", "10.96.0.20:80").unwrap();
        }
    });
    eventually("the Service is drawn", || {
        let body = get(&namespace, METRICS, "/page").body;
        assert!(body.contains("id=\"traffic\"") && body.contains("Busiest Services"), "{body}");
        body.contains("default/dns: ") && body.contains("1 Service with new connections")
    });
}

#[test]
fn the_page_is_only_read_and_kept_nowhere() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("page-get");
    let manifests = manifests();
    let _daemon = Daemon::start(&namespace, &manifests.path(), &["--page"]);
    let answer = get(&namespace, METRICS, "/page");
    let policy = &answer.headers["content-security-policy"];
    assert!(policy.starts_with("default-src 'none'; style-src 'unsafe-inline';"), "{policy}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert!(!answer.headers.contains_key("set-cookie"));
    for method in ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let code = request(&namespace, method, METRICS, "/page").unwrap().code;
        assert_eq!(code, 405, "{method}");
    }
    let wrong = get(&namespace, METRICS, "/page?name=web");
    assert_eq!((wrong.code, wrong.body.contains("\"name\"")), (400, true), "{}", wrong.body);
}

/// Runs the browser without a display, and returns what it prints.
fn browse(namespace: &Namespace, profile: &TempDir, args: &[&str]) -> String {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let fixed = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"];
    let all = [&["60"], &fixed[..], &[&profile], args].concat();
    let output = namespace.command("timeout", all).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the width that a document takes in a window of some width, as the browser lays it out.
fn width(namespace: &Namespace, profile: &TempDir, document: &str, window: u32) -> u32 {
    let text = document.replace('&', "&amp;").replace('<', "&lt;");
    let page = profile.path().join("frame.html");
    let frame = format!(
        "<!DOCTYPE html><title>none</title><textarea id=t>{text}</textarea>\
         <iframe id=f width={window} height=800 style='border:0'></iframe><script>f.onload = () => \
         document.title = f.contentDocument.documentElement.scrollWidth; f.srcdoc = t.value;</script>"
    );
    fs::write(&page, frame).unwrap();
    let url = format!("file://{}", page.display());
    let dom = browse(namespace, profile, &["--virtual-time-budget=5000", "--dump-dom", &url]);
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    title.unwrap_or_else(|| panic!("{dom}")).0.parse().unwrap_or_else(|_| panic!("{dom}"))
}

#[test]
fn a_browser_shows_the_page_and_it_fits_a_phone() {
    if !require_root() {
        return;
    }
    if Command::new(BROWSER).arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "skipped: there is no {BROWSER}");
        return;
    }
    let namespace = Namespace::new("page-browser");
    let manifests = manifests();
    let long = "a-very-long-name-that-nothing-breaks-".repeat(2);
    manifests.write("long.yaml", &service(&long[..62], "10.96.0.12", ""));
    let args = ["--page", "--traffic", "services"];
    let _daemon = Daemon::start(&namespace, &manifests.path(), &args);
    let profile = TempDir::new().unwrap();
    let url = format!("http://{METRICS}/page");

    let dom = browse(&namespace, &profile, &["--dump-dom", &url]);
    assert!(dom.contains("<svg viewBox") && dom.contains("no: not ready"), "{dom}");
    let image = profile.path().join("page.png");
    let to = format!("--screenshot={}", image.display());
    browse(&namespace, &profile, &["--window-size=1180,900", &to, &url]);
    let png = fs::read(&image).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{} bytes", png.len());

    // All of it, also what is closed at first.
    let opened =
        get(&namespace, METRICS, "/page").body.replace("<details", "<details open=\"open\"");
    for window in [360, 390, 1180] {
        assert_eq!(width(&namespace, &profile, &opened, window), window);
    }
}
