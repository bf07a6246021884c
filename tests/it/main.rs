//! The integration tests of `rulec`, as one binary: the real program on the real kernel, in network
//! namespaces that the tests create.

mod api;
mod cases;
mod conntrack;
mod crash;
mod daemon;
mod deploy;
mod diff;
mod explain;
mod golden;
mod health;
mod ipvs;
mod kube_proxy;
mod log;
mod manifests;
mod reload;
mod settings;
mod sink;
mod support;
mod sysctl;
mod tamper;
mod traffic;
mod user_namespace;

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
