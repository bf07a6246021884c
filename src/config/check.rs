//! Derives the configuration from the given values, by kube-proxy's rules.

mod access;
mod ipvs;
mod kubelet;
mod manifests;
mod networks;
mod podman;
mod read;
mod recording;
mod relay;
mod servers;
mod static_pods;
mod unused;
mod urls;

use std::net::IpAddr;
use std::time::Duration;

use rulec_compiler::Settings;
use rulec_compiler::name::NodeName;
use rulec_compiler::nft::traffic::Traffic;
use rulec_compiler::settings::{MasqueradeBit, ProxyMode};
use rulec_sources::Ranges;

use access::api;
use kubelet::kubelet;
use networks::{detect_local, node_port_addresses};
use podman::podman;
use read::{address, duration, flag, text, text_if_given, within};
use recording::{recording, replay, state_file};
use relay::relay;
use servers::{HEALTHZ, METRICS, server};
use static_pods::StaticPods;

use crate::config::duration::GoDuration;
use crate::config::fields::{FIELDS, Field};
use crate::config::options::{LogArgs, LogFormat, RangeArgs, RunArgs, SettingsArgs};
use crate::config::value::Typed;
use crate::config::values::Values;
use crate::config::{
    Config, Conntrack, File, Invalid, KubeProxyFlags, Loaded, Log, Mode, Problem, Surroundings,
};

pub(super) fn load(
    run: &RunArgs,
    log: &LogArgs,
    file: Option<File<'_>>,
    surroundings: &Surroundings,
) -> Result<Loaded, Invalid> {
    let mut values = read(file)?;
    take_flags(&mut values, &run.settings, &run.kube_proxy, file);
    let relay = relay(&mut values, run);
    let replay = replay(&mut values, run, file);
    let state_file = state_file(&mut values, run, surroundings);
    let api = match (&replay, &state_file) {
        (Some(_), _) | (_, Some(_)) => None,
        (None, None) => api(&mut values, run, file, surroundings),
    };
    // A relay knows what the API server knows.
    let has_api = api.is_some() || relay.is_some();
    let kubelet = kubelet(&mut values, run, has_api, surroundings);
    let podman = podman(&mut values, run, has_api || kubelet.is_some(), surroundings);
    let compiled = compiled(&mut values, &run.settings, surroundings);
    let Compiled { settings, mode, section, bind_address } = compiled;
    let is_v6 = bind_address.is_some_and(|address| address.is_ipv6());
    let StaticPods { directory, cni_cache } =
        StaticPods::of(&mut values, run, has_api, &settings.node_name, surroundings);
    let metrics = server(&mut values, &METRICS, is_v6);
    let config = Config {
        manifests: manifests::paths(&mut values, run, directory),
        manifest_urls: urls::urls(&mut values, run),
        cni_cache,
        ranges: manifests::used_ranges(&mut values, run, has_api),
        service_route: service_route(&mut values, run, mode),
        hosts: manifests::hosts(&mut values, run),
        api,
        relay,
        kubelet,
        podman,
        state_file,
        recording: recording(&mut values, run),
        replay,
        settings,
        mode,
        ipvs: ipvs::node(&mut values, &run.settings.ipvs, mode),
        healthz: server(&mut values, &HEALTHZ, is_v6),
        metrics,
        page: page(&mut values, run, metrics.is_some()),
        bind_address_hard_fail: flag(&mut values, "bindAddressHardFail"),
        conntrack: conntrack(&mut values),
        sync_period: sync_period(&mut values, &section),
        oom_score_adj: within(&mut values, "oomScoreAdj", -1000, 1000),
        log: logging(&mut values, log),
    };
    unused::check(&mut values);
    unused::options(&mut values, run, has_api);
    ipvs::tell_of_unused(&mut values, &run.settings.ipvs, mode);
    values.warn_of_the_rest();
    for problems in [&mut values.errors, &mut values.warnings] {
        problems.sort_by_key(|problem| problem.line);
    }
    if !values.errors.is_empty() {
        return Err(Invalid(values.errors));
    }
    let warnings = std::mem::take(&mut values.warnings);
    Ok(Loaded { config, warnings, values })
}

/// Returns what Services of manifests are given.
///
/// # Errors
///
/// If the options are wrong.
pub(super) fn ranges(args: &RangeArgs) -> Result<Ranges, Invalid> {
    let mut values = Values::default();
    let ranges = manifests::ranges(&mut values, args);
    ranges.filter(|_| values.errors.is_empty()).ok_or(Invalid(values.errors))
}

pub(super) fn settings(
    own: &SettingsArgs,
    flags: &KubeProxyFlags,
    file: Option<File<'_>>,
    surroundings: &Surroundings,
) -> Result<(Settings, Vec<Problem>), Invalid> {
    let mut values = read(file)?;
    // The daemon reports the other problems of the file.
    values.warnings.clear();
    take_flags(&mut values, own, flags, file);
    let overridden = std::mem::take(&mut values.warnings);
    let Compiled { settings, mode, .. } = compiled(&mut values, own, surroundings);
    values.warnings = overridden;
    ipvs::tell_of_unused(&mut values, &own.ipvs, mode);
    if !values.errors.is_empty() {
        return Err(Invalid(values.errors));
    }
    Ok((settings, values.warnings))
}

/// Reads a file, if there is one. Wrong values are noted, but are not an error yet.
fn read(file: Option<File<'_>>) -> Result<Values, Invalid> {
    let mut values = Values::default();
    if let Some(file) = file {
        if !values.read(file.name, file.bytes) {
            return Err(Invalid(values.errors));
        }
        // To kube-proxy, a file without a mode means iptables.
        values.assume("mode", Typed::Text(String::new()));
    }
    Ok(values)
}

/// The compiler's settings, and the values that they depend on.
struct Compiled {
    settings: Settings,
    mode: Mode,
    section: Section,
    bind_address: Option<IpAddr>,
}

fn compiled(values: &mut Values, own: &SettingsArgs, surroundings: &Surroundings) -> Compiled {
    let mode_as_said = text(values, "mode");
    let (mode, section) = mode(values, &mode_as_said);
    let bind_address = address(values, "bindAddress");
    let primary = bind_address.filter(|address| !address.is_unspecified());
    // As kube-proxy does with iptables, but in no other mode.
    let drops_invalid = section.drop_invalid && !flag(values, "conntrack.tcpBeLiberal");
    let settings = Settings {
        node_name: node_name(values, surroundings),
        node_addresses: primary.into_iter().collect(),
        masquerade_all: flag(values, section.masquerade_all),
        masquerade_bit: masquerade_bit(values, section.masquerade_bit),
        drop_invalid: own.drop_invalid.unwrap_or(drops_invalid),
        load_balancing: own.load_balancing.unwrap_or_default(),
        maglev_table_size: own.maglev_table_size.unwrap_or_default(),
        traffic: match (own.traffic, mode) {
            (Some(_), Mode::Ipvs) => {
                // Rules look a frontend up twice there.
                values.option_unused("--traffic", "IPVS has counters of its own");
                Traffic::Off
            }
            (traffic, _) => traffic.unwrap_or_default(),
        },
        detect_local: detect_local(values),
        node_port_addresses: node_port_addresses(values, &mode_as_said),
        proxy_mode: match mode {
            Mode::Nftables => ProxyMode::Nftables,
            Mode::Ipvs => ProxyMode::Ipvs(ipvs::settings(values, &own.ipvs)),
        },
    };
    Compiled { settings, mode, section, bind_address }
}

/// The paths of the settings that each mode has for itself.
struct Section {
    masquerade_all: &'static str,
    masquerade_bit: &'static str,
    sync_period: &'static str,
    min_sync_period: &'static str,
    drop_invalid: bool,
}

const NFTABLES: Section = Section {
    masquerade_all: "nftables.masqueradeAll",
    masquerade_bit: "nftables.masqueradeBit",
    sync_period: "nftables.syncPeriod",
    min_sync_period: "nftables.minSyncPeriod",
    drop_invalid: false,
};

const IPTABLES: Section = Section {
    masquerade_all: "iptables.masqueradeAll",
    masquerade_bit: "iptables.masqueradeBit",
    sync_period: "iptables.syncPeriod",
    min_sync_period: "iptables.minSyncPeriod",
    drop_invalid: true,
};

const IPVS: Section = Section {
    sync_period: "ipvs.syncPeriod",
    min_sync_period: "ipvs.minSyncPeriod",
    drop_invalid: false,
    ..IPTABLES
};

/// Takes in the flags. With a file, only those have an effect that do in kube-proxy.
fn take_flags(
    values: &mut Values,
    settings: &SettingsArgs,
    kube_proxy: &KubeProxyFlags,
    file: Option<File<'_>>,
) {
    // Templates write `--cluster-cidr=` where there is no value.
    let is_said = |text: &&String| !text.is_empty();
    let cidrs: Vec<&str> =
        settings.cluster_cidr.iter().filter(is_said).map(String::as_str).collect();
    let own = [
        ("hostname-override", "node-name", settings.node_name.as_ref().filter(is_said).cloned()),
        ("cluster-cidr", "cluster-cidr", (!cidrs.is_empty()).then(|| cidrs.join(","))),
        ("masquerade-all", "masquerade-all", settings.masquerade_all.map(|all| all.to_string())),
        (
            "iptables-masquerade-bit",
            "masquerade-bit",
            settings.masquerade_bit.map(|bit| bit.to_string()),
        ),
    ];
    let own = own.into_iter().filter_map(|(flag, name, text)| Some((flag, name, text?)));
    let others = kube_proxy.given.iter().map(|(flag, text)| (*flag, *flag, text.clone()));
    let flags: Vec<(&str, &str, String)> = own.chain(others).collect();
    let mode =
        flags.iter().find(|(flag, ..)| *flag == "proxy-mode").map(|(_, _, text)| text.as_str());
    for (flag, name, text) in &flags {
        let Some(field) = field_of(flag, mode.unwrap_or("nftables")) else { continue };
        if let Some(file) = file.filter(|_| !field.strong) {
            values.overridden(name, file.name);
        } else {
            values.flag(field, name, text);
        }
    }
}

/// Returns the field that a flag sets in a mode: the one of the mode's section, if there are
/// several.
fn field_of(flag: &str, mode: &str) -> Option<&'static Field> {
    let mut fields = FIELDS.iter().filter(|field| field.flag == flag);
    let first = fields.next()?;
    let is_of_nftables = |field: &&Field| field.path.starts_with("nftables.");
    Some(fields.find(is_of_nftables).filter(|_| mode == "nftables").unwrap_or(first))
}

fn mode(values: &mut Values, said: &str) -> (Mode, Section) {
    let also = "with the settings of iptables; node ports answer on every address by default, \
                never on loopback";
    match said {
        "nftables" => (Mode::Nftables, NFTABLES),
        "" => {
            values.warn(
                "mode",
                format!("is empty, which means iptables; rulec programs nftables instead, {also}"),
            );
            (Mode::Nftables, IPTABLES)
        }
        "iptables" => {
            values.warn("mode", format!("is iptables; rulec programs nftables instead, {also}"));
            (Mode::Nftables, IPTABLES)
        }
        "ipvs" => (Mode::Ipvs, IPVS),
        other => {
            values.refuse(
                "mode",
                format!("must be nftables, iptables, ipvs or empty, not {other:?}"),
            );
            (Mode::Nftables, NFTABLES)
        }
    }
}

fn service_route(values: &mut Values, run: &RunArgs, mode: Mode) -> bool {
    let is_local = mode == Mode::Ipvs;
    if run.service_route && is_local {
        let reason = "in mode ipvs, the addresses of Services are the node's own";
        values.option_unused("--service-route", reason);
    }
    run.service_route && !is_local
}

fn page(values: &mut Values, run: &RunArgs, is_served: bool) -> bool {
    if run.page && !is_served {
        values.option_unused("--page", "the server of the metrics is turned off");
    }
    run.page && is_served
}

fn node_name(values: &mut Values, surroundings: &Surroundings) -> NodeName {
    let said = text_if_given(values, "hostnameOverride");
    // As kube-proxy does: the names of Nodes are lower case.
    let name = said.as_deref().unwrap_or(&surroundings.hostname).trim().to_lowercase();
    if name.is_empty() {
        values.refuse("hostnameOverride", "must not be empty");
    }
    NodeName::from(name.as_str())
}

fn masquerade_bit(values: &mut Values, path: &'static str) -> MasqueradeBit {
    let bit = within(values, path, 0, 31);
    u8::try_from(bit).ok().and_then(MasqueradeBit::new).unwrap_or_default()
}

fn conntrack(values: &mut Values) -> Conntrack {
    let count = |values: &mut Values, path| {
        u32::try_from(within(values, path, 0, i32::MAX)).unwrap_or_default()
    };
    Conntrack {
        max_per_core: count(values, "conntrack.maxPerCore"),
        min: count(values, "conntrack.min"),
        tcp_established_timeout: timeout(values, "conntrack.tcpEstablishedTimeout"),
        tcp_close_wait_timeout: timeout(values, "conntrack.tcpCloseWaitTimeout"),
        tcp_be_liberal: flag(values, "conntrack.tcpBeLiberal"),
        udp_timeout: timeout(values, "conntrack.udpTimeout"),
        udp_stream_timeout: timeout(values, "conntrack.udpStreamTimeout"),
    }
}

fn timeout(values: &mut Values, path: &'static str) -> Option<Duration> {
    values.take(path);
    let said = duration(values, path);
    if said < GoDuration::ZERO {
        values.refuse(path, format!("{said} must not be negative"));
    }
    said.positive().filter(|timeout| !timeout.is_zero())
}

fn sync_period(values: &mut Values, section: &Section) -> Duration {
    values.take(section.sync_period);
    let period = duration(values, section.sync_period);
    let least = duration(values, section.min_sync_period);
    if period <= GoDuration::ZERO {
        values.refuse(section.sync_period, format!("{period} must be more than 0"));
    }
    if least < GoDuration::ZERO {
        values.refuse(section.min_sync_period, format!("{least} must not be negative"));
    } else if period > GoDuration::ZERO && least > period {
        let message = format!("{period} must not be less than minSyncPeriod, {least}");
        values.refuse(section.sync_period, message);
    }
    period.positive().unwrap_or_default()
}

fn logging(values: &mut Values, log: &LogArgs) -> Log {
    let format = match text(values, "logging.format").as_str() {
        "text" | "" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            values.refuse("logging.format", format!("must be text or json, not {other:?}"));
            LogFormat::Text
        }
    };
    let level = match within(values, "logging.verbosity", 0, i32::MAX) {
        0..=3 => "info",
        4 | 5 => "debug",
        _ => "trace",
    };
    Log {
        format: log.log_format.unwrap_or(format),
        level: log.log_level.clone().unwrap_or_else(|| level.to_owned()),
    }
}
