//! Tests of the options of manifests, of what their Services are given, and of names.

use super::{errors, load_in, printed};
use crate::config::HostsFile;

const MANIFESTS: &str = "--manifests=m";

#[test]
fn the_ranges_have_defaults_and_can_be_empty() {
    let ranges = |options: &[&str]| {
        let all = [&[MANIFESTS], options].concat();
        let loaded = load_in(&all, None, false).unwrap();
        assert_eq!(printed(&loaded.warnings), [""; 0]);
        let ranges = loaded.config.ranges.unwrap();
        let networks: Vec<String> = ranges.cluster_ips().iter().map(ToString::to_string).collect();
        (networks.join(" "), ranges.node_ports.map(|ports| ports.to_string()))
    };
    let ports = |text: &str| Some(text.to_owned());
    assert_eq!(ranges(&[]), ("10.96.0.0/16".to_owned(), ports("30000-32767")));
    let both = "--service-cidr=fd00:96::/112,10.90.0.0/16";
    let expected = "fd00:96::/112 10.90.0.0/16".to_owned();
    assert_eq!(ranges(&[both]), (expected.clone(), ports("30000-32767")));
    let twice = ["--service-cidr=fd00:96::/112", "--service-cidr=10.90.0.0/16"];
    assert_eq!(ranges(&twice), (expected, ports("30000-32767")));
    let none = ["--service-cidr=", "--service-node-port-range="];
    assert_eq!(ranges(&none), (String::new(), None));
    let few = ["--service-node-port-range=31000-31099"];
    assert_eq!(ranges(&few), ("10.96.0.0/16".to_owned(), ports("31000-31099")));
}

#[test]
fn wrong_options_are_named() {
    let error = |options: &[&str]| errors(load_in(&[&[MANIFESTS], options].concat(), None, false));
    assert_eq!(
        error(&["--service-cidr=10.96.0.0", "--service-node-port-range=a"]),
        [
            "--service-cidr: \"10.96.0.0\" is not a network such as 10.96.0.0/16",
            "--service-node-port-range: \"a\" is not a range of ports such as 30000-32767",
        ]
    );
    assert_eq!(
        error(&["--service-cidr=10.96.0.0/16,10.97.0.0/16"]),
        ["--service-cidr: 10.97.0.0/16 is a second network of IPv4"]
    );
    assert_eq!(error(&[MANIFESTS]), ["--manifests: m is given twice"]);
    assert_eq!(error(&["--manifests=./m"]), ["--manifests: m is given twice, as ./m too"]);
    assert_eq!(
        error(&["--manifests=m/a.yaml"]),
        ["--manifests: m/a.yaml is in m, so that it would be read twice: leave out one of both"]
    );
    assert_eq!(
        error(&["--hosts-file=h", "--cluster-domain=a b"]),
        ["--cluster-domain: \"a b\" is not a domain such as cluster.local"]
    );
    assert_eq!(error(&["--hosts-file=/"]), ["--hosts-file: / is not a file"]);
}

#[test]
fn with_an_api_server_nothing_is_given_out() {
    let options = ["--kubeconfig=/k", MANIFESTS, "--service-cidr=10.96.0.0/16"];
    let loaded = load_in(&options, None, false).unwrap();
    assert_eq!(loaded.config.ranges, None);
    assert_eq!(
        printed(&loaded.warnings),
        ["--service-cidr: has no effect: the API server gives out addresses and node ports"]
    );
    let loaded = load_in(&["--kubeconfig=/k", MANIFESTS], None, false).unwrap();
    assert_eq!((loaded.config.ranges, printed(&loaded.warnings)), (None, Vec::new()));
}

#[test]
fn the_domain_is_that_of_the_file_of_names() {
    let load = |options: &[&str]| load_in(&[&[MANIFESTS], options].concat(), None, false).unwrap();
    let file = |domain: &str| Some(HostsFile { path: "h".into(), domain: domain.to_owned() });
    assert_eq!(load(&[]).config.hosts, None);
    assert_eq!(load(&["--hosts-file=h"]).config.hosts, file("cluster.local"));
    let own = ["--hosts-file=h", "--cluster-domain=Corp.Example."];
    assert_eq!(load(&own).config.hosts, file("corp.example"));
    assert_eq!(
        printed(&load(&["--cluster-domain=a"]).warnings),
        ["--cluster-domain: has no effect: there is no --hosts-file"]
    );
}

#[test]
fn urls_are_a_source_like_paths() {
    let url = "--manifests-url=https://a/b?t=se-cret";
    let options = [
        url,
        "--manifests-url=http://c/",
        "--manifests-url-header=A: se-cret",
        "--manifests-url-poll-seconds=5",
        "--manifests-url-certificate-authority=ca.crt",
    ];
    let loaded = load_in(&options, None, true).unwrap();
    assert_eq!(printed(&loaded.warnings), [""; 0]);
    assert_eq!((&loaded.config.api, loaded.config.manifests.len()), (&None, 0));
    assert!(loaded.config.ranges.is_some(), "addresses are given out");
    let urls = loaded.config.manifest_urls.clone().unwrap();
    assert_eq!((urls.urls.len(), urls.headers.len(), urls.period.as_secs()), (2, 1, 5));
    let period = load_in(&[url], None, false).unwrap().config.manifest_urls.unwrap().period;
    assert_eq!(period.as_secs(), 20, "as the kubelet's");
    let shown = format!("{:?} {} {}", loaded.config, loaded.json(), loaded.yaml().unwrap());
    assert!(!shown.contains("se-cret"), "{shown}");
}

#[test]
fn wrong_urls_and_headers_are_named_but_not_quoted() {
    let error = |options: &[&str]| errors(load_in(options, None, false));
    assert_eq!(
        error(&["--manifests-url=se-cret", "--manifests-url-header=se-cret"]),
        [
            "--manifests-url: not a URL that begins with http:// or https://",
            "--manifests-url-header: not of the form NAME:VALUE",
        ]
    );
    assert_eq!(
        error(&["--manifests-url=http://a/?b", "--manifests-url=http://u:se-cret@a/"]),
        ["--manifests-url: number 2: a URL with user and password; \
             use a header Authorization instead"]
    );
    assert_eq!(
        error(&["--manifests-url=http://a/?b", "--manifests-url=http://a/?b"]),
        ["--manifests-url: http://a/?… is given twice"]
    );
    let of_urls = [MANIFESTS, "--manifests-url-header=A:b", "--manifests-url-header-file=f"];
    assert_eq!(
        printed(&load_in(&of_urls, None, false).unwrap().warnings),
        [
            "--manifests-url-header: has no effect: there is no --manifests-url",
            "--manifests-url-header-file: has no effect: there is no --manifests-url",
        ]
    );
    let plain = ["--manifests-url=http://a/", "--manifests-url-certificate-authority=f"];
    assert_eq!(
        printed(&load_in(&plain, None, false).unwrap().warnings),
        ["--manifests-url-certificate-authority: has no effect: \
             no --manifests-url begins with https://"]
    );
}

#[test]
fn the_page_needs_the_server_of_the_metrics() {
    let load = |options: &[&str]| load_in(&[&[MANIFESTS], options].concat(), None, false).unwrap();
    let pages = [&[][..], &["--page"], &["--page=false"]].map(|it| load(it).config.page);
    assert_eq!(pages, [false, true, false]);
    let unserved = load(&["--page", "--metrics-bind-address="]);
    assert!(!unserved.config.page);
    assert_eq!(
        printed(&unserved.warnings),
        ["--page: has no effect: the server of the metrics is turned off"]
    );
}
