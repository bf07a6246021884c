//! Tests of flags together with a file.

use super::{HEAD, load, printed};
use crate::cli::LogFormat;
use crate::config::Loaded;

#[test]
fn a_file_replaces_equivalent_flags_and_they_are_reported() {
    let body = "mode: nftables\noomScoreAdj: 5\nclusterCIDR: 10.0.0.0/8\n";
    let options = [
        "--oom-score-adj=7",
        "--cluster-cidr=11.0.0.0/8",
        "--masquerade-all",
        "--masquerade-bit=3",
        "--kubeconfig=/k",
        "--healthz-port=0",
        "--proxy-mode=wrong",
        "--config-sync-period=wrong",
    ];
    let file = format!("{HEAD}{body}");
    let Loaded { config, mut warnings, .. } = load(&options, Some(&file)).unwrap();
    assert_eq!(config, load(&[], Some(&file)).unwrap().config);
    warnings.sort_by_key(ToString::to_string);
    let mut expected: Vec<String> = options
        .iter()
        .map(|option| option.split('=').next().unwrap_or_default())
        .map(|name| format!("{name}: has no effect: proxy.conf is used instead"))
        .collect();
    expected.sort();
    assert_eq!(printed(&warnings), expected);
}

/// Templates write options without a value.
#[test]
fn empty_options_are_ignored() {
    let options = ["--cluster-cidr=", "--hostname-override=", "--nodeport-addresses="];
    let Loaded { config, warnings, .. } = load(&options, None).unwrap();
    assert_eq!(printed(&warnings), [""; 0]);
    assert_eq!(config, load(&[], None).unwrap().config);
}

#[test]
fn options_for_node_name_and_logging_override_a_file() {
    let file = format!(
        "{HEAD}mode: nftables\nhostnameOverride: b\nlogging: {{format: text, verbosity: 0}}\n"
    );
    let options = ["--hostname-override= C ", "-v", "5", "--logging-format=json"];
    let Loaded { config, warnings, .. } = load(&options, Some(&file)).unwrap();
    assert_eq!(printed(&warnings), [""; 0]);
    assert_eq!(config.settings.node_name.as_str(), "c");
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Json, "debug"));
}

#[test]
fn rulecs_own_logging_options_precede_kube_proxys() {
    let options = [
        "--log-level=warn,rulec_sources=debug",
        "--log-format=text",
        "--v=9",
        "--logging-format=json",
    ];
    let Loaded { config, warnings, .. } = load(&options, None).unwrap();
    assert_eq!(printed(&warnings), [""; 0]);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.level, "warn,rulec_sources=debug");
}

#[test]
fn verbosity_maps_to_a_log_level() {
    for (verbosity, level) in [
        (0, "info"),
        (2, "info"),
        (3, "info"),
        (4, "debug"),
        (5, "debug"),
        (6, "trace"),
        (10, "trace"),
    ] {
        let config = load(&[&format!("-v={verbosity}")], None).unwrap().config;
        assert_eq!(config.log.level, level, "{verbosity}");
    }
}

#[test]
fn boolean_flags_are_parsed_as_in_go() {
    let table = [
        (&["--masquerade-all"][..], true),
        (&["--masquerade-all=true"], true),
        (&["--masquerade-all=0"], false),
        (&["--masquerade-all=F"], false),
        (&[], false),
    ];
    for (options, expected) in table {
        assert_eq!(
            load(options, None).unwrap().config.settings.masquerade_all,
            expected,
            "{options:?}"
        );
    }
    let table = [
        (&["--conntrack-tcp-be-liberal"][..], true),
        (&["--conntrack-tcp-be-liberal=t"], true),
        (&["--conntrack-tcp-be-liberal", "--conntrack-tcp-be-liberal=false"], false),
    ];
    for (options, expected) in table {
        let config = load(options, None).unwrap().config;
        assert_eq!(config.conntrack.tcp_be_liberal, expected, "{options:?}");
    }
    // As kube-proxy does with iptables, unless conntrack treats all packets as valid.
    let table = [
        (&[][..], false),
        (&["--proxy-mode=ipvs"], false),
        (&["--proxy-mode=iptables"], true),
        (&["--proxy-mode=iptables", "--conntrack-tcp-be-liberal"], false),
        (&["--proxy-mode=iptables", "--conntrack-tcp-be-liberal", "--drop-invalid"], true),
        (&["--proxy-mode=iptables", "--drop-invalid=false"], false),
        (&["--drop-invalid"], true),
    ];
    for (options, expected) in table {
        let config = load(options, None).unwrap().config;
        assert_eq!(config.settings.drop_invalid, expected, "{options:?}");
    }
    let options = ["--oom-score-adj", "-5", "--oom-score-adj", "-6"];
    assert_eq!(load(&options, None).unwrap().config.oom_score_adj, -6);
}
