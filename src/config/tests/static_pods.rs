//! Tests of how the static Pods of the kubelet are found as files.

use std::io;
use std::path::Path;

use super::{errors, load_among, load_in, printed};
use crate::config::{Config, Loaded};

const MANIFESTS: &str = "--manifests=m";
const STATIC: &str = "/etc/kubernetes/manifests";
const CACHE: &str = "/var/lib/cni/results";

/// A node with a kubelet.
fn loaded(options: &[&str]) -> Loaded {
    load_among(|path| Ok([STATIC, CACHE].map(Path::new).contains(&path)), options, None, false)
        .unwrap()
}

/// Returns the paths of manifests, and that of the cache of CNI.
fn read(config: &Config) -> (Vec<&str>, Option<&str>) {
    let paths = config.manifests.iter().filter_map(|path| path.to_str());
    let cache = config.cni_cache.as_ref().and_then(|cache| cache.directory.to_str());
    (paths.collect(), cache)
}

#[test]
fn they_are_found_beside_manifests_if_no_api_server_knows_them() {
    let cases: [(&[&str], Vec<&str>, Option<&str>); 9] = [
        (&[MANIFESTS], vec!["m", STATIC], Some(CACHE)),
        (&["--manifests-url=http://a/"], vec![STATIC], Some(CACHE)),
        (&[MANIFESTS, "--kubeconfig=/k"], vec!["m"], None),
        (&[MANIFESTS, "--kubelet=false"], vec!["m"], None),
        (&[MANIFESTS, "--pod-manifest-path="], vec!["m"], Some(CACHE)),
        (&[MANIFESTS, "--pod-manifest-path=p", "--cni-cache="], vec!["m", "p"], None),
        (
            &[MANIFESTS, "--kubeconfig=/k", "--pod-manifest-path=p", "--cni-cache=/c"],
            vec!["m", "p"],
            Some("/c"),
        ),
        // They are read once if they are named, or are a part of what is named.
        (
            &["--manifests=/etc/kubernetes/./manifests"],
            vec!["/etc/kubernetes/./manifests"],
            Some(CACHE),
        ),
        (
            &["--manifests=/etc/kubernetes/manifests/a.yaml"],
            vec!["/etc/kubernetes/manifests/a.yaml"],
            Some(CACHE),
        ),
    ];
    for (options, paths, cache) in cases {
        let loaded = loaded(options);
        assert_eq!(read(&loaded.config), (paths, cache), "{options:?}");
        assert_eq!(printed(&loaded.warnings), [""; 0], "{options:?}");
    }
    let elsewhere = load_in(&[MANIFESTS], None, false).unwrap();
    assert_eq!(read(&elsewhere.config), (vec!["m"], None), "there is no kubelet");
}

#[test]
fn what_cannot_be_looked_at_is_a_warning() {
    let closed = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
    let loaded = load_among(closed, &[MANIFESTS], None, false).unwrap();
    assert_eq!(read(&loaded.config), (vec!["m"], None));
    let of = |option, path| {
        format!(
            "{option}: is not given, and whether {path} exists cannot be seen: permission denied; \
             it is not read"
        )
    };
    let expected = [of("--pod-manifest-path", STATIC), of("--cni-cache", CACHE)];
    assert_eq!(printed(&loaded.warnings), expected);
}

#[test]
fn a_directory_is_not_read_twice() {
    assert_eq!(
        errors(load_in(&[MANIFESTS, "--pod-manifest-path=./m"], None, false)),
        ["--manifests: m is given twice, as ./m too"]
    );
}

#[test]
fn they_need_manifests_beside_them() {
    let loaded = load_in(&["--cni-cache=/c", "--pod-manifest-path=p"], None, true).unwrap();
    assert_eq!(read(&loaded.config), (vec![], None));
    let of = |option| format!("{option}: has no effect: there are no manifests");
    assert_eq!(printed(&loaded.warnings), [of("--pod-manifest-path"), of("--cni-cache")]);
}

#[test]
fn addresses_are_those_of_this_node() {
    let loaded = load_in(&[MANIFESTS, "--cni-cache=/c", "--node-name=N"], None, false).unwrap();
    assert_eq!(loaded.config.cni_cache.unwrap().node_name.as_str(), "n");
}
