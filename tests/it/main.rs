//! The integration tests of `rulec`, as one binary: the real program on the real kernel, in network
//! namespaces that the tests create.

mod api;
mod asked;
mod cases;
mod check;
mod check_manifests;
mod cni;
mod compiling;
mod completions;
mod conntrack;
mod crash;
mod daemon;
mod deploy;
mod diff;
mod diff_giving;
mod diff_reading;
mod explain;
mod fleet;
mod giving;
mod golden;
mod health;
mod help;
mod ipvs;
mod kube_proxy;
mod kubelet;
mod log;
mod manifests;
mod names;
mod nft_versions;
mod node;
mod page;
mod podman;
mod recording;
mod relay;
mod reload;
mod schemas;
mod settings;
mod show;
mod show_counts;
mod sink;
mod status;
mod support;
mod sysctl;
mod tamper;
mod top;
mod trace;
mod traffic;
mod urls;
mod user_namespace;
mod watch;

/// A file that no `mod` names would not be compiled.
#[test]
fn no_test_file_is_forgotten() {
    let this = include_str!("main.rs");
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    for entry in std::fs::read_dir(directory).expect("the folder of this file") {
        let path = entry.expect("an entry of it").path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        if is_source && stem != "main" {
            assert!(this.contains(&format!("mod {stem};")), "{stem} is not a module");
        }
    }
}
