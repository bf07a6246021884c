//! Addresses that are given out to Services of manifests, and several paths of manifests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;

use rulec_testkit::{Namespace, require_root};

use crate::daemon::{Daemon, Manifests};
use crate::health::Metrics;
use crate::support::{SETTINGS, diff, eventually, file, rulec, service, slice};

/// A Service that writes neither an address nor node ports.
fn bare(name: &str) -> String {
    let written = service(name, "", "  type: NodePort\n");
    written.replace("  clusterIP: \"\"\n", "")
}

/// Returns what the kernel has for a Service: addresses and node ports.
fn held(namespace: &Namespace, name: &str) -> Vec<String> {
    let listing = namespace.sh("nft list map ip rulec services; nft list map ip rulec nodeports");
    let comment = format!("comment \"default/{name}:http\"");
    let elements = listing.split(['{', '}', ',']).filter(|element| element.contains(&comment));
    elements.map(|element| element.split(" comment").next().unwrap().trim().to_owned()).collect()
}

fn with_endpoint(name: &str) -> String {
    file(&[bare(name), slice(name, &["10.50.1.5"])])
}

#[test]
fn a_service_without_an_address_gets_one_and_keeps_it() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("giving");
    let (manifests, state) = (Manifests::of(&with_endpoint("web")), tempfile::tempdir().unwrap());
    let path = manifests.path();
    let state = state.path().to_str().unwrap();
    let args = [&SETTINGS[..], &["--state-dir", state, "--service-cidr", "10.90.0.0/24"]].concat();
    let mut daemon = Daemon::start(&namespace, &path, &args);
    let first = held(&namespace, "web");
    assert_eq!(first.len(), 2, "an address and a node port: {first:?}");
    assert!(first.iter().any(|element| element.starts_with("10.90.0.")), "{first:?}");
    assert!(Path::new(state).join("allocations.state").exists());
    // The tools show the same.
    let same = diff(&namespace, "kernel", path.to_str().unwrap(), &args[SETTINGS.len()..]);
    assert_eq!(same.status, 0, "{same:?}");
    // An edit, another file, and a restart do not change it.
    daemon.after(|| manifests.write("other.yaml", &with_endpoint("other")));
    daemon.after(|| manifests.remove("all.yaml"));
    daemon.after(|| manifests.write("renamed.yaml", &with_endpoint("web")));
    assert_eq!(held(&namespace, "web"), first);
    daemon.kill9();
    let mut daemon = Daemon::start(&namespace, &path, &args);
    assert_eq!(held(&namespace, "web"), first);
    // A written address wins, and the one that was given out moves, with a warning.
    let address = first.iter().find(|element| element.starts_with("10.90.0.")).unwrap();
    let address = address.split(' ').next().unwrap();
    let late = file(&[service("late", address, ""), slice("late", &["10.50.1.6"])]);
    daemon.after(|| manifests.write("late.yaml", &late));
    daemon.wait_for(&format!("Service default/web moves from {address} to 10.90.0."));
    assert!(held(&namespace, "late")[0].starts_with(address));
    assert_eq!(held(&namespace, "web").len(), 2);
    let same = diff(&namespace, "kernel", path.to_str().unwrap(), &args[SETTINGS.len()..]);
    assert_eq!(same.status, 0, "{same:?}");
}

#[test]
fn a_state_of_a_later_version_is_an_error_and_survives() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("later-state");
    let (manifests, state) = (Manifests::new(), tempfile::tempdir().unwrap());
    let state_dir = state.path().to_str().unwrap();
    let own = ["--state-dir", state_dir, "--service-cidr", "10.90.0.0/28"];
    let args = [&SETTINGS[..], &own, &["--rescan-seconds", "1"]].concat();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &args);
    // In so small a network, some have to give way to those that come before them, and the order
    // in which they come is the opposite of that of their names.
    for number in (0..10).rev() {
        let name = format!("s{number}");
        daemon.after(|| manifests.write(&format!("{name}.yaml"), &with_endpoint(&name)));
    }
    let all = || (0..10).map(|number| held(&namespace, &format!("s{number}"))).collect::<Vec<_>>();
    let first = all();
    assert!(first.iter().all(|of| of.len() == 2), "{first:?}");
    // Without the state, a comparison knows it from the kernel.
    let stateless = ["--state-dir", "/nonexistent", "--service-cidr", "10.90.0.0/28"];
    let path = manifests.path();
    let path = path.to_str().unwrap();
    for (from, to) in [("kernel", path), (path, "kernel")] {
        let same = diff(&namespace, from, to, &stateless);
        assert_eq!(same.status, 0, "{same:?}");
    }
    daemon.stop();
    let file = state.path().join("allocations.state");
    let mut later = fs::read(&file).unwrap();
    later[8] = 9;
    fs::write(&file, &later).unwrap();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &args);
    daemon.wait_for("has format 9, but this program reads format 1");
    assert_eq!(all(), first, "what the kernel holds stays");
    assert_eq!(fs::read(&file).unwrap(), later, "it is not overwritten");
    // Once it is out of the way, what is in use is saved.
    fs::remove_file(&file).unwrap();
    eventually("it is written again", || file.exists());
}

#[test]
fn a_network_that_the_node_uses_is_refused() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("used-network");
    namespace.sh("ip link add up0 type veth peer name up1
         ip link set up0 up
         ip link set up1 up
         ip addr add 10.96.3.1/24 dev up0");
    let manifests = Manifests::of(&file(&[
        with_endpoint("web"),
        service("written", "10.96.9.9", ""),
        slice("written", &["10.50.1.5"]),
    ]));
    let path = manifests.path();
    let ran = rulec(
        &namespace,
        &["run", "--manifests", path.to_str().unwrap(), "--service-cidr", "10.96.0.0/20"],
    );
    assert_eq!(ran.status, 3, "{ran:?}");
    let error =
        "--service-cidr: 10.96.0.0/20 is in use on this node: up0 has the address 10.96.3.1";
    assert!(ran.stderr.contains(error), "{}", ran.stderr);
    // A route into the range hides addresses as well. One to exactly the range is for Services.
    namespace.sh("ip route add 10.90.0.0/20 dev up0");
    let with = |network: &str| {
        let path = path.to_str().unwrap();
        rulec(&namespace, &["run", "--manifests", path, "--service-cidr", network])
    };
    for network in ["10.90.0.0/16", "10.90.1.0/24"] {
        let error =
            format!("{network} is in use on this node: a route to 10.90.0.0/20 leads to up0");
        let ran = with(network);
        assert!(ran.status == 3 && ran.stderr.contains(&error), "{}", ran.stderr);
    }
    let exactly = [&SETTINGS[..], &["--service-cidr", "10.90.0.0/20"]].concat();
    let daemon = Daemon::start(&namespace, &path, &exactly);
    assert!(held(&namespace, "web").iter().any(|element| element.starts_with("10.90.")));
    daemon.stop();
    // The default does not keep the node from serving what is written.
    let mut daemon = Daemon::start(&namespace, &path, &SETTINGS);
    daemon.wait_for("10.96.0.0/16 is in use on this node (up0 has the address 10.96.3.1)");
    assert_eq!(held(&namespace, "written").len(), 1);
    assert_eq!(held(&namespace, "web"), [""; 0]);
}

#[test]
fn the_last_of_several_paths_takes_precedence() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("several-paths");
    let of = |address: &str| file(&[service("web", address, ""), slice("web", &["10.50.1.5"])]);
    let (first, second) = (Manifests::of(&of("10.96.0.1")), Manifests::of(&of("10.96.0.2")));
    let single = second.path().join("../single.yaml");
    fs::write(&single, with_endpoint("single")).unwrap();
    let paths = [first.path(), second.path(), single.clone()];
    let paths = paths.map(|path| path.to_str().unwrap().to_owned());
    let mut args: Vec<&str> = SETTINGS.to_vec();
    for path in &paths {
        args.extend(["--manifests", path]);
    }
    let mut daemon = Daemon::spawn_with(&namespace, &args);
    daemon.wait_for(crate::daemon::SETTLED);
    assert!(held(&namespace, "web")[0].starts_with("10.96.0.2 "));
    assert_eq!(held(&namespace, "single").len(), 2);
    daemon.wait_for("addresses are given out by name alone: there is no --state-dir");
    let [one, two] = [&paths[0], &paths[1]].map(|path| format!("{path}/all.yaml"));
    daemon.wait_for(&format!("{two}: Service default/web: also defined in {one}; {two} takes"));
    // The tools read the same.
    let to = paths.iter().flat_map(|path| ["--to", path]);
    let compare: Vec<&str> = ["diff"].into_iter().chain(to).chain(SETTINGS).collect();
    let same = rulec(&namespace, &compare);
    assert!(same.stdout.is_empty() || same.status == 2, "{same:?}");
    assert!(same.stderr.contains("also defined in"), "{}", same.stderr);
    // What the last one no longer defines is the other's again.
    daemon.after(|| second.write("all.yaml", "# Nothing.\n"));
    assert!(held(&namespace, "web")[0].starts_with("10.96.0.1 "));
}

#[test]
fn a_missing_path_does_not_hide_the_others() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("missing-path");
    let (there, later) = (Manifests::of(&with_endpoint("there")), Manifests::new());
    let (path, missing) = (there.path(), later.path());
    later.write("all.yaml", &with_endpoint("later"));
    let args: Vec<&str> = [
        &SETTINGS[..],
        &["--manifests", path.to_str().unwrap(), "--manifests", missing.to_str().unwrap()],
    ]
    .concat();
    let mut daemon = Daemon::spawn_with(&namespace, &args);
    daemon.wait_for(crate::daemon::SETTLED);
    assert_eq!(held(&namespace, "later").len(), 2);
    daemon.kill9();
    // At a start, the kernel keeps what the missing one may define; the other one is followed.
    let hidden = missing.with_file_name("hidden");
    fs::rename(&missing, &hidden).unwrap();
    let mut daemon = Daemon::spawn_with(&namespace, &args);
    daemon.wait_for(crate::daemon::SETTLED);
    daemon.wait_for(&format!("{}: there is no such file or directory", missing.display()));
    daemon.after(|| there.write("more.yaml", &with_endpoint("more")));
    assert_eq!([held(&namespace, "more").len(), held(&namespace, "later").len()], [2, 2]);
    let available =
        || Metrics::of(&namespace).value("rulec_source_available", "{source=\"manifests\"}");
    assert_eq!(available(), 0.0);
    fs::rename(&hidden, &missing).unwrap();
    eventually("it is back", || available() == 1.0);
    later.write("all.yaml", "# Nothing.\n");
    eventually("it is followed", || held(&namespace, "later").is_empty());
    assert_eq!(held(&namespace, "there").len(), 2);
}
