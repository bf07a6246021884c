//! Tests of the sources of Services.

use std::path::Path;

use rulec_sources::KubeletAccess;

use super::{HEAD, errors, load_in, printed};
use crate::config::{ApiAccess, Config};

fn sources(options: &[&str], file: Option<&str>, in_cluster: bool) -> (bool, Option<ApiAccess>) {
    let file = file.map(|body| format!("{HEAD}mode: nftables\n{body}"));
    let loaded = load_in(options, file.as_deref(), in_cluster).unwrap();
    assert_eq!(printed(&loaded.warnings), [""; 0]);
    let Config { manifests, api, .. } = loaded.config;
    (!manifests.is_empty(), api)
}

fn api(kubeconfig: Option<&str>, master: Option<&str>) -> Option<ApiAccess> {
    Some(ApiAccess { kubeconfig: kubeconfig.map(Into::into), master: master.map(Into::into) })
}

/// A file that names an API server.
const KUBECONFIG: Option<&str> = Some("clientConnection: {kubeconfig: /k}\n");

#[test]
fn the_api_server_is_a_source_if_named_or_if_nothing_else_is() {
    let in_pod = api(None, None);
    let table = [
        (&["--manifests=m"][..], None, false, (true, None)),
        (&["--manifests=m"], None, true, (true, None)),
        (&["--manifests=m", "--in-cluster"], None, true, (true, in_pod.clone())),
        (&["--manifests=m", "--kubeconfig=/k"], None, false, (true, api(Some("/k"), None))),
        (
            &["--manifests=m", "--master=https://a"],
            None,
            false,
            (true, api(None, Some("https://a"))),
        ),
        (&["--manifests=m"], KUBECONFIG, false, (true, api(Some("/k"), None))),
        (&["--manifests=m"], Some(""), false, (true, None)),
        (&["--manifests=m"], Some(""), true, (true, in_pod.clone())),
        (&[], None, true, (false, in_pod.clone())),
        (&[], Some(""), true, (false, in_pod.clone())),
        (&[], KUBECONFIG, false, (false, api(Some("/k"), None))),
        (&["--master=https://a"], KUBECONFIG, false, (false, api(Some("/k"), Some("https://a")))),
        (&["--kubeconfig=/k", "--master="], None, true, (false, api(Some("/k"), None))),
        (&["--write-config-to=x"], None, false, (false, None)),
        (&["--init-only"], None, false, (false, None)),
        (&["--cleanup"], Some(""), false, (false, in_pod)),
    ];
    for (options, file, in_cluster, expected) in table {
        assert_eq!(
            sources(options, file, in_cluster),
            expected,
            "{options:?} {file:?} {in_cluster}"
        );
    }
}

#[test]
fn a_missing_source_is_an_error() {
    assert_eq!(
        errors(load_in(&[], None, false)),
        [
            "--manifests: is missing, and so are --manifests-url, --relay, --kubeconfig, --master, --config, --state-file and --replay: there is no source of Services"
        ]
    );
    assert_eq!(
        errors(load_in(&[], Some(HEAD), false)),
        ["proxy.conf: clientConnection.kubeconfig: is missing, and this is not a Pod \
          (KUBERNETES_SERVICE_HOST is not set): the address of the API server is not known"]
    );
    assert_eq!(
        errors(load_in(&["--manifests=m", "--in-cluster"], None, false)),
        ["--kubeconfig: is missing, and this is not a Pod (KUBERNETES_SERVICE_HOST is not set): \
             the address of the API server is not known"]
    );
}

#[test]
fn a_relay_takes_the_place_of_the_api_server() {
    const FILES: [&str; 3] = [
        "--relay-certificate-authority=/ca",
        "--relay-client-certificate=/crt",
        "--relay-client-key=/key",
    ];
    let with = |options: &[&'static str]| load_in(&[options, &FILES].concat(), None, true);
    for (given, url) in [
        ("--relay=relay", "https://relay/"),
        ("--relay=relay.example:7", "https://relay.example:7/"),
        ("--relay=https://[2001:db8::1]:18000", "https://[2001:db8::1]:18000/"),
    ] {
        let config = with(&[given]).unwrap().config;
        let relay = config.relay.unwrap();
        assert_eq!(relay.url.to_string(), url);
        assert_eq!(relay.client_key, Some("/key".into()));
        assert!(config.api.is_some(), "it is there, in a Pod");
        let config = with(&[given, "--relay-fallback-seconds=0"]).unwrap().config;
        assert!(config.relay.is_some());
        assert_eq!(config.api, None, "also in a Pod");
        assert_eq!(config.ranges, None, "the API server has given out everything");
    }
    let open = load_in(&["--relay=http://127.0.0.1:18000", "--manifests=m"], None, false).unwrap();
    assert!(open.config.relay.is_some() && !open.config.manifests.is_empty());
    assert_eq!(open.config.api, None, "there is none");
    let refused = "has no effect: --relay-fallback-seconds is 0";
    for option in ["--kubeconfig", "--master", "--in-cluster"] {
        let text: &'static str = match option {
            "--in-cluster" => option,
            "--master" => "--master=https://a",
            _ => "--kubeconfig=/k",
        };
        assert!(with(&["--relay=relay", text]).unwrap().config.api.is_some(), "{option}");
        let never = ["--relay=relay", text, "--relay-fallback-seconds=0"];
        assert_eq!(errors(with(&never)), [format!("{option}: {refused}")]);
    }
    for (url, reason) in [
        ("--relay=ftp://relay", "\"ftp://relay\" must begin with https:// or http://"),
        ("--relay=https://relay/x", "\"https://relay/x\" must have no path"),
        ("--relay=a b", "\"a b\" is not an address"),
    ] {
        assert_eq!(errors(with(&[url])), [format!("--relay: {reason}")]);
    }
    assert_eq!(
        errors(load_in(&["--relay=relay"], None, false)),
        [
            "--relay-certificate-authority: is missing: nothing else says that the server is the \
             relay",
            "--relay-client-certificate: is missing, and so is --relay-token: a relay serves only \
             nodes that show who they are",
        ]
    );
    let token = ["--relay=relay", "--relay-certificate-authority=/ca", "--relay-token=/token"];
    let relay = load_in(&token, None, false).unwrap().config.relay.unwrap();
    assert_eq!((relay.token, relay.client_certificate), (Some("/token".into()), None));
    // Whoever is on the path could take it.
    assert_eq!(
        errors(load_in(&["--relay=http://relay", "--relay-token=/token"], None, false)),
        ["--relay-token: needs a relay with https://"]
    );
    let file = format!("{HEAD}mode: nftables\n{}", KUBECONFIG.unwrap());
    let loaded = load_in(&["--relay=http://a"], Some(&file), false).unwrap();
    assert!(loaded.config.api.is_some() && loaded.config.relay.is_some());
    let never = ["--relay=http://a", "--relay-fallback-seconds=0"];
    let file = load_in(&never, Some(&file), false).unwrap();
    let warning =
        "--relay: takes the place of the API server that clientConnection.kubeconfig names";
    assert!(printed(&file.warnings).contains(&warning.to_owned()), "{:?}", file.warnings);
}

fn kubelet(options: &[&str]) -> Option<KubeletAccess> {
    let loaded = load_in(options, None, false).unwrap();
    assert_eq!(printed(&loaded.warnings), [""; 0]);
    loaded.config.kubelet
}

#[test]
fn the_kubelet_is_a_source_if_it_is_there_and_nothing_else_knows_its_pods() {
    const THERE: &str = "--kubelet-root-dir=/with-pods-api";
    let root = |path: &str| Some(KubeletAccess::Root(path.into()));
    let table = [
        (&["--manifests=m"][..], None),
        (&["--manifests=m", THERE], root("/with-pods-api")),
        (&["--manifests=m", "--kubelet=false"], None),
        (&["--manifests=m", "--kubelet"], root("/var/lib/kubelet")),
        (&["--manifests=m", "--kubelet", "--kubelet-root-dir=/closed"], root("/closed")),
        (&["--kubeconfig=/k"], None),
        (&["--kubeconfig=/k", THERE, "--kubelet"], root("/with-pods-api")),
        (&["--write-config-to=x"], None),
    ];
    for (options, expected) in table {
        assert_eq!(kubelet(options), expected, "{options:?}");
    }
}

/// Returns the warnings; the kubelet must not be a source by its root directory.
fn unused(options: &[&str]) -> Vec<String> {
    let loaded = load_in(options, None, false).unwrap();
    assert!(!matches!(loaded.config.kubelet, Some(KubeletAccess::Root(_))), "{options:?}");
    printed(&loaded.warnings)
}

#[test]
fn options_of_the_kubelet_without_effect_are_named() {
    const DIRECTORY: &str = "--kubelet-root-dir: has no effect: ";
    let table = [
        (&["--manifests=m", "--kubelet-root-dir=/none"][..], "it has no directory pods-api"),
        (
            &["--manifests=m", "--kubelet-root-dir=/with-pods-api", "--kubelet=false"],
            "--kubelet is false",
        ),
        (
            &["--manifests=m", "--kubelet-root-dir=/with-pods-api", "--kubeconfig=/k"],
            "the API server knows the kubelet's Pods; set --kubelet as well",
        ),
        (&["--write-config-to=x", "--kubelet-root-dir=/with-pods-api"], "there are no manifests"),
        (
            &["--manifests=m", "--kubelet-root-dir=/with-pods-api", "--kubelet-url=http://a"],
            "--kubelet-url is asked instead",
        ),
    ];
    for (options, reason) in table {
        let warnings = unused(options);
        assert_eq!(warnings.len(), 1, "{options:?}: {warnings:?}");
        assert!(warnings[0].starts_with(&format!("{DIRECTORY}{reason}")), "{warnings:?}");
    }
    let of_url = ["--manifests=m", "--kubelet-poll-seconds=2", "--kubelet-token-file=/t"];
    let reason = "has no effect: only --kubelet-url needs it";
    assert_eq!(
        unused(&of_url),
        [format!("--kubelet-poll-seconds: {reason}"), format!("--kubelet-token-file: {reason}")]
    );
    let plain = ["--manifests=m", "--kubelet-url=http://a", "--kubelet-certificate-authority=/ca"];
    let reason = "has no effect: --kubelet-url is not https";
    assert_eq!(unused(&plain), [format!("--kubelet-certificate-authority: {reason}")]);
}

#[test]
fn a_kubelet_that_cannot_be_seen_is_not_taken_for_absent() {
    assert_eq!(
        unused(&["--manifests=m", "--kubelet-root-dir=/closed"]),
        ["--kubelet: is not given, and whether the kubelet in /closed has its pods API cannot be \
          seen: permission denied; it is not followed"]
    );
    for others in [&["--kubelet=false"][..], &["--kubeconfig=/k"]] {
        let options = [&["--manifests=m", "--kubelet-root-dir=/closed"], others].concat();
        assert!(unused(&options).iter().all(|warning| !warning.contains("cannot be seen")));
    }
}

#[test]
fn options_of_sources_that_there_are_not_are_named() {
    let rescan = ["--rescan-seconds=9", "--kubeconfig=/k"];
    assert_eq!(unused(&rescan), ["--rescan-seconds: has no effect: there are no manifests"]);
    let grace = ["--state-grace-seconds=9", "--manifests=m", "--state-dir=/s"];
    assert_eq!(
        unused(&grace),
        ["--state-grace-seconds: has no effect: no API server is waited for"]
    );
    let grace = ["--state-grace-seconds=9", "--kubeconfig=/k"];
    assert_eq!(unused(&grace), ["--state-grace-seconds: has no effect: there is no --state-dir"]);
    let all = ["--state-grace-seconds=9", "--kubeconfig=/k", "--state-dir=/s", "--manifests=m"];
    assert_eq!(unused(&[&all[..], &["--rescan-seconds=9"]].concat()), [""; 0]);
}

#[test]
fn the_kubelet_can_be_asked_at_a_url() {
    let with = |more: &[&str]| {
        let Some(KubeletAccess::Url(url)) = kubelet(&[&["--manifests=m"], more].concat()) else {
            panic!("{more:?}")
        };
        url
    };
    for text in ["http://127.0.0.1:10255", "http://127.0.0.1:10255/pods"] {
        let url = with(&["--kubelet-url", text]);
        assert_eq!((url.url, url.period.as_secs()), ("http://127.0.0.1:10255".parse().unwrap(), 2));
    }
    let url = with(&[
        "--kubelet-url=https://na:10250",
        "--kubelet-certificate-authority=/ca",
        "--kubelet-client-certificate=/crt",
        "--kubelet-client-key=/key",
        "--kubelet-poll-seconds=5",
    ]);
    let paths = [url.certificate_authority, url.client_certificate, url.client_key, url.token_file];
    let expected = [Some("/ca".into()), Some("/crt".into()), Some("/key".into()), None];
    assert_eq!((paths, url.period.as_secs()), (expected, 5));
}

#[test]
fn a_kubelet_that_cannot_be_trusted_is_refused() {
    let table: [(&[&str], &str); 6] = [
        (
            &["127.0.0.1:10255"],
            "--kubelet-url: \"127.0.0.1:10255\" must begin with http:// or https://",
        ),
        (&["ftp://a"], "--kubelet-url: \"ftp://a\" must begin with http:// or https://"),
        (&["http://a b"], "--kubelet-url: \"http://a b\" is not a URL"),
        (&["http://a/x"], "--kubelet-url: \"http://a/x\" must have no path other than /pods"),
        (
            &["https://a"],
            "--kubelet-certificate-authority: is missing: nothing else says that the server is the \
             kubelet",
        ),
        (
            &["http://a", "--kubelet-token-file=/t"],
            "--kubelet-url: \"http://a\" must be https for credentials",
        ),
    ];
    for (options, expected) in table {
        let options = [&["--manifests=m", "--kubelet-url"], options].concat();
        assert_eq!(errors(load_in(&options, None, false)), [expected]);
    }
    let unused = ["--manifests=m", "--kubelet", "--kubelet-token-file=/t"];
    assert_eq!(
        printed(&load_in(&unused, None, false).unwrap().warnings),
        ["--kubelet-token-file: has no effect: only --kubelet-url needs it"]
    );
    let off = ["--manifests=m", "--kubelet=false", "--kubelet-url=http://a"];
    assert_eq!(
        printed(&load_in(&off, None, false).unwrap().warnings),
        ["--kubelet-url: has no effect: --kubelet is false"]
    );
}

#[test]
fn podman_is_a_source_if_it_is_there_and_nothing_else_knows_the_pods() {
    const THERE: &str = "--podman-socket=/there/podman.sock";
    const KUBELET: &str = "--kubelet-root-dir=/with-pods-api";
    let run = Some("/run/podman/podman.sock");
    let table = [
        (&["--manifests=m"][..], None),
        (&["--manifests=m", THERE], Some("/there/podman.sock")),
        (&["--manifests=m", "--podman"], run),
        (&["--manifests=m", "--podman", KUBELET], run),
        (&["--manifests=m", KUBELET], None),
        (&["--manifests=m", "--podman=false"], None),
        (&["--kubeconfig=/k", "--podman"], run),
        (&["--kubeconfig=/k"], None),
    ];
    for (options, expected) in table {
        let loaded = load_in(options, None, false).unwrap();
        assert_eq!(printed(&loaded.warnings), [""; 0], "{options:?}");
        assert_eq!(loaded.config.podman.as_deref(), expected.map(Path::new), "{options:?}");
    }
}

#[test]
fn options_of_podman_without_effect_are_named() {
    const THERE: &str = "--podman-socket=/there/podman.sock";
    const SOCKET: &str = "--podman-socket: has no effect: ";
    let table = [
        (&["--manifests=m", THERE, "--podman=false"][..], "--podman is false"),
        (
            &["--manifests=m", THERE, "--kubeconfig=/k"],
            "the API server or the kubelet knows the Pods; set --podman as well",
        ),
        (
            &["--manifests=m", "--podman-socket=/none"],
            "there is no such socket; --podman waits for it",
        ),
    ];
    for (options, reason) in table {
        let loaded = load_in(options, None, false).unwrap();
        assert_eq!(printed(&loaded.warnings), [format!("{SOCKET}{reason}")], "{options:?}");
    }
    let closed = ["--manifests=m", "--podman-socket=/closed/podman.sock"];
    let loaded = load_in(&closed, None, false).unwrap();
    assert_eq!(
        printed(&loaded.warnings),
        ["--podman: is not given, and whether /closed/podman.sock exists cannot be seen: \
             permission denied; podman is not followed"]
    );
}

#[test]
fn a_recording_and_a_state_file_are_the_only_source() {
    let others =
        ["--manifests=m", "--master=https://a", "--in-cluster", "--kubelet", "--kubeconfig=/k"];
    for only in ["--replay", "--state-file"] {
        let given = format!("{only}=x");
        for other in others {
            let name = other.split('=').next().unwrap();
            let found = errors(load_in(&[&given, other], None, true));
            let expected = format!("{name}: cannot be combined with {only}: ");
            assert!(found.iter().any(|it| it.starts_with(&expected)), "{found:?}");
        }
        let config = load_in(&[&given], None, true).unwrap().config;
        assert_eq!(config.api, None, "also in a Pod");
        assert_eq!((config.manifests.len(), config.cni_cache, config.ranges), (0, None, None));
    }
    let both = errors(load_in(&["--replay=x", "--state-file=y"], None, false));
    assert!(both[0].starts_with("--state-file: cannot be combined with --replay: "), "{both:?}");
    let same = errors(load_in(&["--replay=x", "--to-file=x"], None, false));
    assert_eq!(same, ["--to-file: is the recording that is replayed: name another file"]);
    let times = ["--replay=x", "--replay-from=2026-01-02T00:00:00Z"];
    let times = [&times[..], &["--replay-until=2026-01-01T00:00:00Z"]].concat();
    let error = errors(load_in(&times, None, false));
    assert_eq!(error, ["--replay-from: is after --replay-until, 2026-01-01T00:00:00Z"]);
    let unused = load_in(&["--manifests=m", "--replay-speed=2", "--to-file-mask"], None, false);
    let warnings = unused.unwrap().warnings;
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    for expected in [
        "--to-file-mask: has no effect: there is no --to-file",
        "--replay-speed: has no effect: there is no --replay",
    ] {
        assert!(warnings.iter().any(|it| it == expected), "{warnings:?}");
    }
}
