//! The steps before the daemon starts: its configuration, and the settings of the kernel.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Context;
use rulec_compiler::Settings;
use rulec_compiler::net::Family;
use rulec_sources::recording::{Reader, overlap};
use rulec_sources::{KubeletAccess, PodmanSource, Ranges, UsedNetwork, used_networks};

use crate::cli::{CompileArgs, LogArgs, RangeArgs, RunArgs};
use crate::config::{self, Config, Conntrack, File, Loaded, Mode, Surroundings};
use crate::host::kube_proxy::{self, Finding};
use crate::host::sysctl::{self, Adjustment, Arp, Sysctls};
use crate::kernel::IpvsStart;
use crate::observe::telemetry::complain;

/// Reads the configuration from the options and the file that they name.
///
/// # Errors
///
/// If the file cannot be read, or anything in it or in the options is wrong.
pub fn load(run: &RunArgs, log: &LogArgs) -> anyhow::Result<Loaded> {
    let surroundings = surroundings()?;
    let load = |file: Option<File<'_>>| Ok(Config::load(run, log, file, &surroundings)?);
    let mut loaded = with_file(run.config.as_deref(), load)?;
    if let Some(replay) = &loaded.config.replay {
        let header = Reader::open(&replay.path).context("--replay")?.header().clone();
        let is_ipvs = header.settings.ipvs().is_some();
        anyhow::ensure!(
            is_ipvs == (loaded.config.mode == Mode::Ipvs),
            "--replay {}: it was recorded in mode {other}: add --proxy-mode {other}",
            replay.path.display(),
            other = if is_ipvs { Mode::Ipvs.name() } else { Mode::Nftables.name() },
        );
        if let Some(recording) = &loaded.config.recording {
            anyhow::ensure!(
                !overlap(&recording.path, &replay.path),
                "--to-file {}: is the recording that is replayed: name another file",
                recording.path.display(),
            );
        }
        loaded.config.settings = header.settings;
    }
    Ok(loaded)
}

/// Reads the settings for compiling manifests, and reports options that have no effect.
///
/// # Errors
///
/// As for `load`.
pub(crate) fn settings(args: &CompileArgs) -> anyhow::Result<Settings> {
    let surroundings = surroundings()?;
    let flags = args.flags();
    let (settings, overridden) = with_file(args.config.as_deref(), |file| {
        Ok(config::settings(&args.settings, &flags, file, &surroundings)?)
    })?;
    for problem in overridden {
        complain(&problem);
    }
    Ok(settings)
}

/// Returns what Services of manifests are given, and nothing of networks that this node uses: there,
/// an address of a Service would hide another host, or be hidden.
///
/// # Errors
///
/// If such a network was asked for.
pub(crate) fn free_ranges(config: &Config, args: &RangeArgs) -> anyhow::Result<Option<Ranges>> {
    let Some(mut ranges) = config.ranges.clone() else { return Ok(None) };
    let device = config.ipvs.as_ref().map(|ipvs| ipvs.device.as_str());
    let used = match used_networks(device, rulec_sinks::ROUTE_PROTOCOL) {
        Ok(used) => used,
        Err(error) => {
            tracing::warn!(%error, "cannot list routes: --service-cidr is not compared with them");
            return Ok(Some(ranges));
        }
    };
    for network in ranges.cluster_ips().to_vec() {
        let Some(conflict) = UsedNetwork::find(&used, &network) else { continue };
        let advice = "choose another network with --service-cidr";
        anyhow::ensure!(
            args.service_cidr.is_empty(),
            "--service-cidr: {network} is in use on this node: {conflict}; {advice}"
        );
        let reason = format!("{network} is in use on this node ({conflict}): {advice}");
        ranges.block(Family::of(network.addr()), reason);
    }
    Ok(Some(ranges))
}

fn surroundings() -> anyhow::Result<Surroundings> {
    let hostname = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let (has_pods_api, has_podman) = (KubeletAccess::is_below, PodmanSource::is_at);
    Ok(Surroundings { hostname, in_cluster, has_pods_api, has_podman, has_directory })
}

fn has_directory(path: &Path) -> io::Result<bool> {
    use io::ErrorKind::{NotADirectory, NotFound};
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

fn with_file<T>(
    path: Option<&Path>,
    load: impl FnOnce(Option<File<'_>>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let Some(path) = path else { return load(None) };
    let name = path.display().to_string();
    let bytes = read(path)?;
    load(Some(File { name: &name, bytes: &bytes }))
}

/// Checks that a daemon can run with a configuration.
///
/// # Errors
///
/// If the kernel lacks what it needs.
pub fn check(config: &Config) -> anyhow::Result<()> {
    if let Some(ipvs) = IpvsStart::of(config)? {
        ipvs.probe().context("mode ipvs")?;
    }
    Ok(())
}

/// Reads a configuration file.
///
/// # Errors
///
/// If it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Makes the settings of the kernel that are needed once. Serving does not depend on them, so a
/// refusal is only a warning.
pub fn ask_of_the_kernel(config: &Config) {
    let cpus = available_parallelism().map_or(1, usize::from);
    let mut settings = Sysctls::default().apply(&request(&config.conntrack, cpus));
    if let Some(ipvs) = &config.ipvs {
        let arp = if ipvs.strict_arp { Arp::Strict } else { Arp::Unchanged };
        settings.extend(Sysctls::default().apply_ipvs(arp));
    }
    for setting in settings {
        let path = setting.path.display();
        match &setting.outcome {
            Adjustment::Already { .. } => {}
            Adjustment::Set { from, to } => tracing::info!(%path, from, to, "set"),
            Adjustment::Refused(error) => {
                let source = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(%path, wanted = setting.wanted, source, "{error}");
            }
        }
    }
    let score = config.oom_score_adj;
    let path = "/proc/self/oom_score_adj";
    let held = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if held != Some(score)
        && let Err(error) = fs::write(path, score.to_string())
    {
        // A process that may not lower its score was given one by its parent, or runs without.
        tracing::debug!(wanted = score, held, %error, "cannot change {path}; continuing without");
    }
}

/// Reports what kube-proxy has left on this node. Both proxies can be there: the rules that were
/// installed last decide about a connection.
pub fn tell_of_kube_proxy(mode: Mode) {
    // In IPVS mode, these are rulec's own.
    let is_ours = |finding: &Finding| {
        mode == Mode::Ipvs && matches!(finding, Finding::IpvsDevice | Finding::IpvsServers { .. })
    };
    match kube_proxy::find() {
        Ok(found) => {
            for finding in found.into_iter().filter(|finding| !is_ours(finding)) {
                let remedy = finding.remedy();
                if finding.is_certain() {
                    tracing::warn!("this node has {finding}: {remedy}");
                } else {
                    tracing::info!("this node has {finding}: {remedy}");
                }
            }
        }
        // If nf_tables is unreachable, the next step fails with an error.
        Err(error) => tracing::debug!(%error, "cannot look for kube-proxy"),
    }
}

fn request(conntrack: &Conntrack, cpus: usize) -> sysctl::Wanted {
    let Conntrack {
        max_per_core,
        min,
        tcp_established_timeout,
        tcp_close_wait_timeout,
        tcp_be_liberal,
        udp_timeout,
        udp_stream_timeout,
    } = conntrack;
    // The kernel counts in seconds. Less than one second becomes one, and 0 keeps the kernel's
    // setting.
    let seconds = |time: &Option<Duration>| {
        let time = (*time)?;
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        if time.is_zero() { None } else { NonZeroU32::new(seconds.max(1)) }
    };
    sysctl::Wanted {
        max: sysctl::conntrack_max(*max_per_core, *min, cpus),
        tcp_timeout_established: seconds(tcp_established_timeout),
        tcp_timeout_close_wait: seconds(tcp_close_wait_timeout),
        // False is the kernel's default, and an administrator may have changed it.
        tcp_be_liberal: tcp_be_liberal.then_some(true),
        udp_timeout: seconds(udp_timeout),
        udp_timeout_stream: seconds(udp_stream_timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_become_seconds_and_zero_requests_nothing() {
        let conntrack = Conntrack {
            max_per_core: 0,
            min: 131_072,
            tcp_established_timeout: Some(Duration::from_secs(86_400)),
            tcp_close_wait_timeout: Some(Duration::from_millis(300)),
            tcp_be_liberal: false,
            udp_timeout: Some(Duration::ZERO),
            udp_stream_timeout: None,
        };
        let request = request(&conntrack, 4);
        assert_eq!(request.tcp_timeout_established, NonZeroU32::new(86_400));
        assert_eq!(request.tcp_timeout_close_wait, NonZeroU32::new(1));
        assert_eq!((request.udp_timeout, request.udp_timeout_stream), (None, None));
        assert_eq!((request.max, request.tcp_be_liberal), (None, None));
    }
}
