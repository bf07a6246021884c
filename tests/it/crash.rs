//! Daemons that are killed at any moment, and their successors.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use rulec_testkit::{Namespace, require_root};

use crate::daemon::{Daemon, Manifests};
use crate::support::{
    Dice, Neighbour, SETTINGS, diff, eventually, file, listing, random_service, rulec, service,
    slice,
};

const SHARED: [&str; 5] = [SETTINGS[0], SETTINGS[1], SETTINGS[2], SETTINGS[3], "--shared-tables"];

fn fill(manifests: &Manifests, services: u64) {
    for number in 0..services {
        let name = format!("s{number}");
        let ip = |host: u64| format!("10.50.{}.{host}", number % 250);
        let [one, two, three] = [1, 2, 3].map(ip);
        let cluster_ip = format!("10.96.{}.{}", number / 200, number % 200 + 1);
        let text = file(&[service(&name, &cluster_ip, ""), slice(&name, &[&one, &two, &three])]);
        manifests.write(&format!("s{number}.yaml"), &text);
    }
}

/// Kills the daemon repeatedly at random moments; in the end the kernel must be in sync as if
/// nothing had happened.
fn survives_kill(args: &[&str], seed: u64) {
    let namespace = Namespace::new("kill");
    let manifests = Manifests::new();
    fill(&manifests, 200);
    let path = manifests.path();
    let mut dice = Dice::new(seed);
    let mut settled = 0;
    for round in 0..25 {
        let mut daemon = Daemon::spawn(&namespace, &path, args);
        if round % 5 == 4 {
            // Sometimes a daemon may finish, so that the next one finds a complete table.
            daemon.settle(&namespace, &path, &SETTINGS);
            settled += 1;
        } else {
            // At any time between before its first socket and after the last installed rule.
            std::thread::sleep(Duration::from_millis(dice.roll(120)));
        }
        for _ in 0..dice.roll(6) {
            let number = dice.roll(210);
            let name = format!("s{number}.yaml");
            match dice.roll(4) {
                0 if path.join(&name).exists() => manifests.remove(&name),
                _ => manifests.write(&name, &random_service(&mut dice, number)),
            }
            std::thread::sleep(Duration::from_millis(dice.roll(15)));
        }
        daemon.kill9();
    }
    assert_eq!(settled, 5);
    let mut daemon = Daemon::start(&namespace, &path, args);
    daemon.settle(&namespace, &path, &SETTINGS);

    // A fresh namespace gets the same content, except for the order of slots.
    let fresh = Namespace::new("fresh");
    let mut other = Daemon::start(&fresh, &path, args);
    other.settle(&fresh, &path, &SETTINGS);
    assert_eq!(meaning(&namespace), meaning(&fresh));
    assert!(meaning(&fresh).len() > 200, "there is something to compare");
}

#[test]
fn a_killed_daemon_leaves_nothing_behind_in_exclusive_tables() {
    if !require_root() {
        return;
    }
    survives_kill(&SETTINGS, 1);
}

#[test]
fn a_killed_daemon_leaves_nothing_behind_in_shared_tables() {
    if !require_root() {
        return;
    }
    survives_kill(&SHARED, 2);
}

/// Returns the elements of a listing, sorted, without what depends on history: slots, the numbers of
/// groups and classes, and classes that are no longer used.
pub(crate) fn meaning(namespace: &Namespace) -> Vec<String> {
    let listing = listing(namespace);
    let mut set = String::new();
    let mut family = "";
    let mut all: Vec<(&str, String, String)> = Vec::new();
    for line in listing.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("table ") {
            family = if rest.starts_with("ip6") { "ip6" } else { "ip" };
        }
        if let Some(name) = line.strip_prefix("set ").or(line.strip_prefix("map ")) {
            set = name.trim_end_matches(" {").to_owned();
        }
        if line.starts_with("chain ") {
            set = String::new();
        }
        let is_elements = line.starts_with("elements = {")
            || [" . ", " : "].iter().any(|part| line.contains(part));
        let skip = ["", "classes", "member-groups", "member-slots"];
        // Maps of affinity records are named after their timeouts.
        let is_records = set
            .strip_prefix("affinity-")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let is_type = line.starts_with("type ") || line.starts_with("typeof ");
        if skip.contains(&set.as_str()) || is_records || !is_elements || is_type {
            continue;
        }
        let line = line.trim_start_matches("elements = {").trim_end_matches('}');
        for element in line.split(", ").map(|element| element.trim().trim_end_matches(',')) {
            if !element.is_empty() {
                all.push((family, set.clone(), element.to_owned()));
            }
        }
    }
    // A group is known by the Service ports whose frontends lead to it.
    let mut owners: BTreeMap<(&str, u32), String> = BTreeMap::new();
    for (family, set, element) in &all {
        if let ("services" | "nodeports", Some((_, rest))) =
            (set.as_str(), element.split_once(" comment "))
        {
            let (owner, code) = rest.rsplit_once(" : ").unwrap();
            owners.insert((family, group(code)), owner.to_owned());
        }
    }
    for (family, set, element) in &all {
        if let ("local-groups", Some((from, to))) = (set.as_str(), element.split_once(" : ")) {
            let owner = format!("{} outside", owners[&(*family, group(from))]);
            owners.insert((family, group(to)), owner);
        }
    }
    let mut meaning: Vec<String> = all
        .iter()
        .map(|(family, set, element)| {
            let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
            match set.as_str() {
                "services" | "nodeports" => format!("{family} {set} {key}"),
                "local-groups" => format!("{family} {set} {}", owners[&(*family, group(key))]),
                "endpoints" | "members" => {
                    let number = key.split(' ').next().unwrap();
                    let owner = owners.get(&(*family, group(number)));
                    format!("{family} {set} {owner:?} {value}")
                }
                _ => format!("{family} {set} {element}"),
            }
        })
        .collect();
    meaning.sort();
    meaning
}

/// Returns the group in a number in the notation of `meta priority`.
fn group(number: &str) -> u32 {
    let (major, minor) = number.split_once(':').unwrap_or_else(|| panic!("{number:?}"));
    let [major, minor] = [major, minor].map(|it| u32::from_str_radix(it.trim(), 16).unwrap());
    (major << 16 | minor) >> 12
}

/// `nft monitor`, which prints all changes, whoever makes them.
struct Monitor {
    child: Child,
    log: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl Monitor {
    /// Starts the monitor, and waits until it receives events.
    fn start(namespace: &Namespace) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let child = namespace
            .command("stdbuf", ["-oL", "nft", "monitor"])
            .stdout(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let monitor = Self { child, log, _directory: directory };
        eventually("nft monitor sees a change", || {
            namespace.nft("add table inet marker\ndelete table inet marker");
            fs::read_to_string(&monitor.log).unwrap().contains("marker")
        });
        monitor
    }

    /// Returns the events, except those of the marker tables.
    fn end(mut self, namespace: &Namespace) -> Vec<String> {
        namespace.nft("add table inet last\ndelete table inet last");
        let mut seen = String::new();
        eventually("nft monitor sees the last change", || {
            seen = fs::read_to_string(&self.log).unwrap();
            seen.contains("delete table inet last")
        });
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let is_mark = |line: &&str| {
            line.contains("inet marker") || line.contains("inet last") || line.starts_with('#')
        };
        seen.lines().filter(|line| !is_mark(line)).map(str::to_owned).collect()
    }
}

fn restart_writes_nothing(args: &[&str], may_adopt: bool) {
    let namespace = Namespace::new("restart");
    let manifests = Manifests::new();
    let mut dice = Dice::new(5);
    for number in 0..60 {
        manifests.write(&format!("s{number}.yaml"), &random_service(&mut dice, number));
    }
    let path = manifests.path();
    let mut daemon = Daemon::start(&namespace, &path, args);
    // Random changes move slots and leave pick chains behind; the next daemon has to adopt them as
    // they are.
    for number in 0..20 {
        manifests.write(&format!("s{number}.yaml"), &random_service(&mut dice, number));
    }
    daemon.settle(&namespace, &path, &SETTINGS);
    daemon.stop();
    let before = meaning(&namespace);
    let elements = elements_only(&namespace);

    let monitor = Monitor::start(&namespace);
    for end in [true, false] {
        let daemon = Daemon::start(&namespace, &path, args);
        assert_eq!(daemon.committed(), 0, "{}", daemon.log());
        match end {
            true => drop(daemon.stop()),
            false => daemon.kill9(),
        }
    }
    let seen = monitor.end(&namespace);
    let others: Vec<&String> =
        seen.iter().filter(|line| !(may_adopt && line.starts_with("add table"))).collect();
    assert_eq!(others, Vec::<&String>::new(), "an unchanged restart wrote something");
    assert_eq!(meaning(&namespace), before);
    assert_eq!(elements_only(&namespace), elements);
}

/// Returns the listing without the lines about the owner of a table.
fn elements_only(namespace: &Namespace) -> Vec<String> {
    let is_about_owner = |line: &&str| line.contains("flags owner") || line.contains("progname");
    listing(namespace).lines().filter(|line| !is_about_owner(line)).map(str::to_owned).collect()
}

#[test]
fn an_unchanged_restart_writes_nothing_to_exclusive_tables() {
    if !require_root() {
        return;
    }
    // Taking ownership of a table is a separate message, and the only one.
    restart_writes_nothing(&SETTINGS, true);
}

#[test]
fn an_unchanged_restart_writes_nothing_to_shared_tables() {
    if !require_root() {
        return;
    }
    restart_writes_nothing(&SHARED, false);
}

/// A start does not depend on a moment in which other processes leave nf_tables alone.
fn starts_beside_a_neighbour(args: &[&str]) {
    let namespace = Namespace::new("neighbour");
    let manifests = Manifests::new();
    fill(&manifests, 300);
    let path = manifests.path();
    let neighbour = Neighbour::start(&namespace);
    let mut daemon = Daemon::start(&namespace, &path, args);
    daemon.settle(&namespace, &path, &SETTINGS);
    daemon.stop();
    neighbour.goes_on();
    let before = elements_only(&namespace);
    assert!(before.len() > 300, "there is something to read");
    for end in [true, false] {
        let daemon = Daemon::start(&namespace, &path, args);
        assert_eq!(daemon.committed(), 0, "{}", daemon.log());
        match end {
            true => drop(daemon.stop()),
            false => daemon.kill9(),
        }
    }
    neighbour.goes_on();
    assert_eq!(elements_only(&namespace), before);
    // Changes are committed, too.
    manifests.remove("s7.yaml");
    let mut daemon = Daemon::start(&namespace, &path, args);
    daemon.settle(&namespace, &path, &SETTINGS);
    daemon.stop();
    let ran = rulec(&namespace, &["cleanup"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    neighbour.goes_on();
    drop(neighbour);
    assert!(!namespace.nft_list().contains("rulec"));
}

#[test]
fn a_busy_neighbour_does_not_delay_a_start_on_exclusive_tables() {
    if !require_root() {
        return;
    }
    starts_beside_a_neighbour(&SETTINGS);
}

#[test]
fn a_busy_neighbour_does_not_delay_a_start_on_shared_tables() {
    if !require_root() {
        return;
    }
    starts_beside_a_neighbour(&SHARED);
}

fn one_service() -> Manifests {
    let text = [service("web", "10.96.0.10", ""), slice("web", &["10.50.1.5", "10.50.2.5"])];
    Manifests::of(&file(&text))
}

#[test]
fn rules_outlive_the_daemon_until_cleanup() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("cleanup");
    namespace.nft("add table inet theirs");
    let manifests = one_service();

    let ran = rulec(&namespace, &["cleanup"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("there was nothing to remove"), "{}", ran.stderr);

    for args in [&SETTINGS[..], &SHARED] {
        let daemon = Daemon::start(&namespace, &manifests.path(), args);
        assert!(daemon.stop().contains("stopping; the rules stay"));
        assert_eq!(diff(&namespace, "kernel", path(&manifests.path()), &[]).status, 0);
        let ran = rulec(&namespace, &["cleanup"]);
        assert_eq!(ran.status, 0, "{ran:?}");
        assert_eq!(ran.stderr.matches("deleted table rulec").count(), 2, "{}", ran.stderr);
        assert_eq!(ran.stdout, "", "progress is written to stderr only");
        assert_eq!(namespace.nft_list().trim(), "table inet theirs {\n}");
    }
}

#[test]
fn cleanup_refuses_while_a_daemon_owns_the_tables() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("cleanup-owned");
    let manifests = one_service();
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &SETTINGS);
    if daemon.has_to_share() {
        return;
    }
    let ran = rulec(&namespace, &["cleanup"]);
    assert_eq!(ran.status, 3, "{ran:?}");
    let owner = format!("owned by another process (rulec, process id {})", daemon.pid());
    assert!(ran.stderr.contains(&owner), "{}", ran.stderr);
    assert!(ran.stderr.contains("stop it first"), "{}", ran.stderr);
    assert_eq!(diff(&namespace, "kernel", path(&manifests.path()), &[]).status, 0);
    assert!(daemon.is_running());
}

#[test]
fn a_second_daemon_waits_until_the_first_has_ended() {
    if !require_root() {
        return;
    }
    for kill in [false, true] {
        let namespace = Namespace::new("second");
        let manifests = one_service();
        let first = Daemon::start(&namespace, &manifests.path(), &SETTINGS);
        if first.has_to_share() {
            return;
        }
        let other =
            Manifests::of(&file(&[service("api", "10.96.0.11", ""), slice("api", &["10.50.1.6"])]));
        let mut second = Daemon::spawn(&namespace, &other.path(), &SETTINGS);
        second.wait_for("is owned by another process");
        assert_eq!(second.committed(), 0);
        assert_eq!(diff(&namespace, "kernel", path(&manifests.path()), &[]).status, 0);
        match kill {
            false => drop(first.stop()),
            true => first.kill9(),
        }
        second.settle(&namespace, &other.path(), &SETTINGS);
        // The daemon owns the tables that it has taken over.
        let output = namespace.command("nft", ["delete", "table", "ip", "rulec"]).output();
        assert!(!output.unwrap().status.success(), "the table is protected");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
