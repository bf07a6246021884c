//! The settings of conntrack and IPVS: in directories that imitate the kernel's, and in a real
//! namespace.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use rulec::host::sysctl::{Adjustment, Arp, Setting, SysctlError, Sysctls, Wanted, conntrack_max};
use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

const NAMES: [(&str, &str); 6] = [
    ("max", "262144"),
    ("tcp_be_liberal", "0"),
    ("tcp_timeout_established", "432000"),
    ("tcp_timeout_close_wait", "60"),
    ("udp_timeout", "30"),
    ("udp_timeout_stream", "120"),
];

const HASHSIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";

/// Creates a kernel's settings as files, with the values after boot.
fn files() -> (TempDir, Sysctls) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("proc/net/netfilter")).unwrap();
    for (name, value) in NAMES {
        fs::write(file(root, name), format!("{value}\n")).unwrap();
    }
    fs::create_dir_all(root.join(HASHSIZE).parent().unwrap()).unwrap();
    fs::write(root.join(HASHSIZE), "65536\n").unwrap();
    let sysctls = Sysctls::at(root.join("proc"), root.join("sys"));
    (directory, sysctls)
}

fn file(root: &Path, name: &str) -> std::path::PathBuf {
    root.join(format!("proc/net/netfilter/nf_conntrack_{name}"))
}

fn held(directory: &TempDir) -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap().trim().to_owned();
    let mut all: Vec<String> =
        NAMES.iter().map(|(name, _)| read(file(directory.path(), name))).collect();
    all.push(read(directory.path().join(HASHSIZE)));
    all
}

fn number(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

/// Returns the outcome of each setting: file name and description.
fn outcomes(settings: &[Setting]) -> Vec<(String, String)> {
    let word = |outcome: &Adjustment| match outcome {
        Adjustment::Already { value } => format!("already {value}"),
        Adjustment::Set { from, to } => format!("{from} to {to}"),
        Adjustment::Refused(error) => error.to_string(),
    };
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    settings.iter().map(|it| (name(&it.path), word(&it.outcome))).collect()
}

fn same(found: &[(String, String)], expected: &[(&str, &str)]) {
    let found: Vec<(&str, &str)> =
        found.iter().map(|(name, word)| (name.as_str(), word.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn conntrack_max_scales_with_the_cpus() {
    assert_eq!(conntrack_max(32_768, 131_072, 2), number(131_072), "at least");
    assert_eq!(conntrack_max(32_768, 131_072, 8), number(262_144));
    assert_eq!(conntrack_max(32_768, 131_072, 64), number(1_048_576), "at most");
    assert_eq!(
        conntrack_max(32_768, 4_000_000, 1),
        number(1_048_576),
        "at most, whatever the least"
    );
    assert_eq!(conntrack_max(u32::MAX, 0, usize::MAX), number(1_048_576), "no overflow");
    assert_eq!(conntrack_max(0, 131_072, 8), None, "left alone");
}

#[test]
fn an_empty_request_changes_nothing() {
    let (directory, sysctls) = files();
    let before = held(&directory);
    assert!(sysctls.apply(&Wanted::default()).is_empty());
    assert_eq!(held(&directory), before);
}

#[test]
fn only_differing_values_are_written() {
    let (directory, sysctls) = files();
    let request = Wanted {
        max: number(1_000_000),
        tcp_timeout_established: number(86_400),
        tcp_timeout_close_wait: number(3_600),
        tcp_be_liberal: Some(true),
        udp_timeout: number(30),
        udp_timeout_stream: None,
    };
    let found = outcomes(&sysctls.apply(&request));
    same(
        &found,
        &[
            ("nf_conntrack_max", "262144 to 1000000"),
            ("hashsize", "65536 to 250000"),
            ("nf_conntrack_tcp_be_liberal", "0 to 1"),
            ("nf_conntrack_tcp_timeout_established", "432000 to 86400"),
            ("nf_conntrack_tcp_timeout_close_wait", "60 to 3600"),
            ("nf_conntrack_udp_timeout", "already 30"),
        ],
    );
    assert_eq!(held(&directory), ["1000000", "1", "86400", "3600", "30", "120", "250000"]);

    // A second time: all values are in place, and no file is written.
    let written = |name| fs::metadata(file(directory.path(), name)).unwrap().modified().unwrap();
    let before = NAMES.map(|(name, _)| written(name));
    let again = sysctls.apply(&request);
    assert_eq!(again.len(), 6);
    assert!(again.iter().all(|it| matches!(it.outcome, Adjustment::Already { .. })), "{again:?}");
    assert_eq!(NAMES.map(|(name, _)| written(name)), before);
}

#[test]
fn conntrack_max_and_the_hash_table_never_shrink() {
    let (directory, sysctls) = files();
    let before = held(&directory);
    let request = Wanted { max: number(131_072), ..Wanted::default() };
    let found = outcomes(&sysctls.apply(&request));
    same(&found, &[("nf_conntrack_max", "already 262144"), ("hashsize", "already 65536")]);
    assert_eq!(held(&directory), before);
    // A hash table that is too small for the requested number of flows grows nevertheless.
    fs::write(directory.path().join(HASHSIZE), "1024\n").unwrap();
    let found = outcomes(&sysctls.apply(&request));
    same(&found, &[("nf_conntrack_max", "already 262144"), ("hashsize", "1024 to 32768")]);
}

#[test]
fn timeouts_are_set_even_if_they_are_shorter() {
    let (directory, sysctls) = files();
    let request = Wanted { tcp_timeout_established: number(86_400), ..Wanted::default() };
    let found = outcomes(&sysctls.apply(&request));
    same(&found, &[("nf_conntrack_tcp_timeout_established", "432000 to 86400")]);
    assert_eq!(held(&directory)[2], "86400");
}

#[test]
fn missing_and_invalid_values_are_reported_and_others_set() {
    let (directory, sysctls) = files();
    fs::remove_file(file(directory.path(), "max")).unwrap();
    fs::write(file(directory.path(), "udp_timeout"), "soon\n").unwrap();
    let request = Wanted {
        max: number(1_000_000),
        udp_timeout: number(60),
        udp_timeout_stream: number(300),
        ..Wanted::default()
    };
    let settings = sysctls.apply(&request);
    same(
        &outcomes(&settings),
        &[
            // And the hash table is not changed.
            ("nf_conntrack_max", "cannot be read"),
            ("nf_conntrack_udp_timeout", "holds \"soon\", which is not a number"),
            ("nf_conntrack_udp_timeout_stream", "120 to 300"),
        ],
    );
    let Adjustment::Refused(SysctlError::Read(error)) = &settings[0].outcome else {
        panic!("{settings:?}");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(!file(directory.path(), "max").exists(), "no file is made");
}

#[test]
fn a_namespace_has_its_own_timeouts_but_not_conntrack_max() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("sysctl");
    let (held, settings, again) = namespace.run(|| {
        let held = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
        let held: u32 = held.trim().parse().unwrap();
        let request = Wanted {
            // A value that differs from the current one, in case it is written after all.
            max: number(held + 1),
            tcp_timeout_established: number(86_401),
            tcp_timeout_close_wait: number(3_601),
            tcp_be_liberal: Some(true),
            udp_timeout: number(31),
            udp_timeout_stream: number(121),
        };
        (held, Sysctls::default().apply(&request), Sysctls::default().apply(&request))
    });
    let Adjustment::Refused(SysctlError::Write { value, .. }) = &settings[0].outcome else {
        panic!("{settings:?}");
    };
    assert_eq!(*value, held);
    assert_eq!(settings.len(), 6, "and no hash table: {settings:?}");
    for setting in &settings[1..] {
        let Adjustment::Set { to, .. } = setting.outcome else { panic!("{setting:?}") };
        assert_eq!(to, setting.wanted);
    }
    assert!(
        again[1..].iter().all(|it| matches!(it.outcome, Adjustment::Already { .. })),
        "{again:?}"
    );
    // The initial namespace's settings are unchanged.
    let here = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").unwrap();
    assert_ne!(here.trim(), "31");
}

/// Creates the settings of IPVS as files, on a kernel of a release.
fn ipvs_files(release: &str) -> (TempDir, Sysctls) {
    let directory = tempfile::tempdir().unwrap();
    let ipv4 = directory.path().join("net/ipv4");
    fs::create_dir_all(ipv4.join("vs")).unwrap();
    fs::create_dir_all(ipv4.join("conf/all")).unwrap();
    fs::create_dir_all(directory.path().join("kernel")).unwrap();
    fs::write(directory.path().join("kernel/osrelease"), release).unwrap();
    for (name, value) in [
        ("vs/conntrack", 0),
        ("vs/expire_nodest_conn", 0),
        ("vs/expire_quiescent_template", 0),
        ("vs/conn_reuse_mode", 1),
        ("vs/run_estimation", 1),
        ("ip_forward", 1),
        ("conf/all/arp_ignore", 0),
        ("conf/all/arp_announce", 0),
    ] {
        fs::write(ipv4.join(name), format!("{value}\n")).unwrap();
    }
    let sysctls = Sysctls::at(directory.path(), "/nowhere");
    (directory, sysctls)
}

#[test]
fn the_settings_for_ipvs_depend_on_the_kernel_version() {
    let usual = [
        ("conntrack", "0 to 1"),
        ("expire_nodest_conn", "0 to 1"),
        ("expire_quiescent_template", "0 to 1"),
        ("ip_forward", "already 1"),
    ];
    let with_reuse = [&usual[..], &[("conn_reuse_mode", "1 to 0")]].concat();
    for (release, expected) in [
        ("4.0.9\n", &usual[..]),
        ("4.1.0-rc1\n", &with_reuse),
        ("5.4.0-212-generic\n", &with_reuse),
        ("5.8.18\n", &with_reuse),
        ("5.9.0\n", &usual),
        ("6.1.0-25-amd64\n", &usual),
        ("10.0\n", &usual),
        ("unknown\n", &usual),
    ] {
        let (directory, sysctls) = ipvs_files(release);
        same(&outcomes(&sysctls.apply_ipvs(Arp::Unchanged)), expected);
        let again = sysctls.apply_ipvs(Arp::Unchanged);
        assert!(
            again.iter().all(|it| matches!(it.outcome, Adjustment::Already { .. })),
            "{again:?}"
        );
        let estimation = directory.path().join("net/ipv4/vs/run_estimation");
        assert_eq!(fs::read_to_string(estimation).unwrap(), "1\n");
    }
}

#[test]
fn strict_arp_adds_two_settings() {
    let (directory, sysctls) = ipvs_files("6.1.0\n");
    fs::remove_dir_all(directory.path().join("net/ipv4/vs")).unwrap();
    same(
        &outcomes(&sysctls.apply_ipvs(Arp::Strict)),
        &[
            // Its module is not loaded.
            ("conntrack", "cannot be read"),
            ("expire_nodest_conn", "cannot be read"),
            ("expire_quiescent_template", "cannot be read"),
            ("ip_forward", "already 1"),
            ("arp_ignore", "0 to 1"),
            ("arp_announce", "0 to 2"),
        ],
    );
}
