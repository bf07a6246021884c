//! Tests of IPVS mode: its settings from the file, from kube-proxy's flags and from rulec's
//! options.

use std::time::Duration;

use clap::Parser;
use rulec_compiler::Settings;
use rulec_compiler::ipvs::{Scheduler, Scheduling};
use rulec_compiler::settings::{IpvsSettings, NodePortAddresses};

use super::{FILE, HEAD, errors, load, load_file, printed};
use crate::cli::{Cli, Command, IpvsAddresses};
use crate::config::{Config, File, Invalid, Ipvs, Mode, Problem, Surroundings};

fn config(options: &[&str]) -> Config {
    let loaded = load(&[&["--proxy-mode=ipvs"], options].concat(), None).unwrap();
    assert_eq!(printed(&loaded.warnings), [""; 0]);
    loaded.config
}

fn made(options: &[&str]) -> IpvsSettings {
    config(options).settings.ipvs().unwrap().clone()
}

/// Returns the settings that `rulec diff` compiles with.
fn compiled_with(
    options: &[&str],
    file: Option<&str>,
) -> Result<(Settings, Vec<Problem>), Invalid> {
    let words = ["rulec", "diff", "--to=x"].iter().chain(options);
    let Command::Diff(diff) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
    let file = file.map(|text| File { name: FILE, bytes: text.as_bytes() });
    let surroundings = Surroundings {
        hostname: "Node-A".to_owned(),
        in_cluster: false,
        has_pods_api: |_| Ok(false),
        has_podman: |_| Ok(false),
        has_directory: |_| Ok(false),
    };
    let flags = diff.compile.flags();
    super::super::settings(&diff.compile.settings, &flags, file, &surroundings)
}

#[test]
fn the_defaults_are_round_robin_and_ten_minutes_of_draining() {
    let config = config(&[]);
    assert_eq!(config.mode, Mode::Ipvs);
    let settings = config.settings.ipvs().unwrap();
    assert_eq!(*settings, IpvsSettings::default());
    assert_eq!(settings.scheduling, Scheduling::new(Scheduler::Rr));
    assert_eq!((settings.exclude.len(), settings.drain), (0, 600));
    let node = Ipvs {
        strict_arp: false,
        tcp_timeout: None,
        tcp_fin_timeout: None,
        udp_timeout: None,
        addresses: IpvsAddresses::Dummy,
        device: "kube-ipvs0".to_owned(),
    };
    assert_eq!(config.ipvs, Some(node));
    assert_eq!(config.settings.node_port_addresses, NodePortAddresses::Cidrs(Vec::new()));
}

#[test]
fn a_file_and_flags_are_equivalent() {
    let file = load_file(
        "mode: ipvs\niptables: {masqueradeBit: 9, masqueradeAll: true}\nipvs:\n  scheduler: mh\n  \
         excludeCIDRs: [10.0.0.0/8, 'fd00::/8']\n  strictARP: true\n  tcpTimeout: 15m\n  \
         tcpFinTimeout: 2m\n  udpTimeout: 300ms\n",
    );
    let file = file.unwrap();
    assert_eq!(printed(&file.warnings), [""; 0]);
    let flags = config(&[
        "--masquerade-all",
        "--iptables-masquerade-bit=9",
        "--ipvs-scheduler=mh",
        "--ipvs-exclude-cidrs=10.0.0.0/8",
        "--ipvs-exclude-cidrs=fd00::/8",
        "--ipvs-strict-arp",
        "--ipvs-tcp-timeout=15m",
        "--ipvs-tcpfin-timeout=2m",
        "--ipvs-udp-timeout=300ms",
    ]);
    assert_eq!(file.config, flags);
    let settings = flags.settings.ipvs().unwrap();
    assert_eq!(settings.scheduling.to_owned(), Scheduling::new(Scheduler::Mh));
    assert_eq!(format!("{:?}", settings.exclude), "[10.0.0.0/8, fd00::/8]");
    assert_eq!((flags.settings.masquerade_all, flags.settings.masquerade_bit.mark()), (true, 512));
    let node = flags.ipvs.unwrap();
    assert!(node.strict_arp);
    let times = [node.tcp_timeout, node.tcp_fin_timeout, node.udp_timeout];
    let expected = [900_000, 120_000, 300].map(|millis| Some(Duration::from_millis(millis)));
    assert_eq!(times, expected);
}

#[test]
fn rulecs_own_options_apply_together_with_a_file() {
    let options = [
        "--ipvs-drain-seconds=0",
        "--ipvs-scheduler-flags=sh-port",
        "--ipvs-addresses=local-routes",
        "--ipvs-device=services0",
    ];
    let file = format!("{HEAD}mode: ipvs\nipvs: {{scheduler: sh}}\n");
    let loaded = load(&options, Some(&file)).unwrap();
    assert_eq!(printed(&loaded.warnings), [""; 0]);
    let settings = loaded.config.settings.ipvs().unwrap();
    assert_eq!(settings.drain, 0);
    assert_eq!(settings.scheduling.scheduler, Scheduler::Sh);
    assert_eq!(settings.scheduling.flags.to_string(), "flag-1,flag-2", "sh falls back");
    let node = loaded.config.ipvs.unwrap();
    assert_eq!((node.addresses, node.device.as_str()), (IpvsAddresses::LocalRoutes, "services0"));
}

#[test]
fn a_scheduler_has_default_flags_unless_others_are_given() {
    let flags = |options: &[&str]| made(options).scheduling.flags.to_string();
    assert_eq!(flags(&["--ipvs-scheduler=mh"]), "flag-1,flag-2");
    assert_eq!(flags(&["--ipvs-scheduler=mh", "--ipvs-scheduler-flags=mh-fallback"]), "flag-1");
    assert_eq!(flags(&["--ipvs-scheduler=mh", "--ipvs-scheduler-flags="]), "flag-1");
    assert_eq!(flags(&["--ipvs-scheduler="]), "");
}

#[test]
fn invalid_options_are_refused() {
    let ipvs = |option| errors(load(&["--proxy-mode=ipvs", option], None));
    let unknown = ipvs("--ipvs-scheduler=RR");
    assert_eq!(unknown.len(), 1);
    let expected = "--ipvs-scheduler: \"RR\" is not an IPVS scheduler, use one of rr, wrr, ";
    assert!(unknown[0].starts_with(expected), "{unknown:?}");
    let wrong = ipvs("--ipvs-exclude-cidrs=10.0.0.0/8,ten");
    assert_eq!(wrong, ["--ipvs-exclude-cidrs: \"ten\" is not a network such as 10.0.0.0/8"]);
    assert_eq!(ipvs("--ipvs-udp-timeout=-1s"), ["--ipvs-udp-timeout: -1s must not be negative"]);
    for option in [
        "--ipvs-drain-seconds=-1",
        "--ipvs-drain-seconds=31536001",
        "--ipvs-scheduler-flags=flag-4",
        "--ipvs-addresses=routes",
        "--ipvs-device=",
        "--ipvs-device=sixteen-letters-",
        "--ipvs-device=a/b",
        "--ipvs-device=..",
        "--ipvs-device=ipvs%d",
    ] {
        let parsed = Cli::try_parse_from(["rulec", "run", "--proxy-mode=ipvs", option]);
        let message = parsed.expect_err(option).to_string();
        let name = option.split('=').next().unwrap();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn ipvs_options_in_another_mode_are_ignored_and_reported() {
    let options = [
        "--ipvs-drain-seconds=1",
        "--ipvs-scheduler-flags=flag-1",
        "--ipvs-addresses=dummy",
        "--ipvs-device=x",
    ];
    let loaded = load(&options, None).unwrap();
    assert_eq!(loaded.config, load(&[], None).unwrap().config);
    assert_eq!((loaded.config.settings.ipvs(), &loaded.config.ipvs), (None, &None));
    let told = options.map(|option| {
        let name = option.split('=').next().unwrap();
        format!("{name}: has no effect: used only in IPVS mode")
    });
    assert_eq!(printed(&loaded.warnings), told);
    let (_, warnings) = compiled_with(&options, None).unwrap();
    assert_eq!(printed(&warnings), told);
}

#[test]
fn diff_and_explain_compile_with_the_same_settings() {
    let options = [
        "--proxy-mode=ipvs",
        "--ipvs-scheduler=lc",
        "--ipvs-scheduler-flags=flag-3",
        "--ipvs-exclude-cidrs=10.0.0.0/8,fd00::/8",
        "--ipvs-drain-seconds=5",
        "--masquerade-bit=7",
    ];
    let (settings, warnings) = compiled_with(&options, None).unwrap();
    assert_eq!(printed(&warnings), [""; 0]);
    assert_eq!(settings, load(&options, None).unwrap().config.settings);
    let file = format!("{HEAD}mode: ipvs\nipvs: {{scheduler: sed, excludeCIDRs: [10.0.0.0/8]}}\n");
    let (settings, warnings) = compiled_with(&["--ipvs-scheduler=rr"], Some(&file)).unwrap();
    assert_eq!(printed(&warnings), ["--ipvs-scheduler: has no effect: proxy.conf is used instead"]);
    assert_eq!(settings, load(&[], Some(&file)).unwrap().config.settings);
    assert_eq!(settings.ipvs().unwrap().scheduling.scheduler, Scheduler::Sed);
    let (iptables, _) = compiled_with(&["--proxy-mode=iptables"], None).unwrap();
    assert_eq!(iptables.ipvs(), None);
    assert_eq!(iptables.node_port_addresses, NodePortAddresses::Cidrs(Vec::new()));
}
