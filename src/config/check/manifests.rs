//! Manifests, what their Services are given, and the file of names.

use std::path::PathBuf;

use rulec_sources::{Overlap, PortRange, Ranges, parse_range};

use crate::config::HostsFile;
use crate::config::options::{RangeArgs, RunArgs};
use crate::config::values::Values;

const CIDR: &str = "--service-cidr";
const PORTS: &str = "--service-node-port-range";
const DOMAIN: &str = "--cluster-domain";

/// Returns the paths of manifests. That of the kubelet's static Pods comes last, and so takes
/// precedence: those are the Pods that run.
pub(super) fn paths(
    values: &mut Values,
    run: &RunArgs,
    static_pods: Option<PathBuf>,
) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = run.manifests.iter().cloned().chain(static_pods).collect();
    if let Some(overlap) = Overlap::find(&paths) {
        values.refuse_option("--manifests", overlap.to_string());
    }
    paths
}

/// Returns what Services of manifests are given, unless an API server gives it.
pub(super) fn used_ranges(values: &mut Values, run: &RunArgs, has_api: bool) -> Option<Ranges> {
    let RangeArgs { service_cidr, service_node_port_range } = &run.ranges;
    let ranges = ranges(values, &run.ranges);
    let reason = match (has_api, run.has_manifests()) {
        (true, _) => "the API server gives out addresses and node ports",
        (false, false) => "there are no manifests",
        (false, true) => return ranges,
    };
    let given = [(CIDR, !service_cidr.is_empty()), (PORTS, service_node_port_range.is_some())];
    for (option, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        values.option_unused(option, reason);
    }
    None
}

/// Returns what the options say, or the defaults.
pub(super) fn ranges(values: &mut Values, args: &RangeArgs) -> Option<Ranges> {
    let said = match args.service_cidr.as_slice() {
        [] => vec![Ranges::DEFAULT.to_owned()],
        [empty] if empty.is_empty() => Vec::new(),
        all => all.to_vec(),
    };
    let mut networks = Vec::new();
    for text in said {
        match parse_range(&text) {
            Some(network) => networks.push(network),
            None => {
                let message = format!("{text:?} is not a network such as {}", Ranges::DEFAULT);
                values.refuse_option(CIDR, message);
            }
        }
    }
    let ports = match args.service_node_port_range.as_deref() {
        None => Some(PortRange::default()),
        Some("") => None,
        Some(text) => match text.parse() {
            Ok(ports) => Some(ports),
            Err(message) => {
                values.refuse_option(PORTS, message);
                None
            }
        },
    };
    match Ranges::new(networks, ports) {
        Ok(ranges) => Some(ranges),
        Err(error) => {
            values.refuse_option(CIDR, error.to_string());
            None
        }
    }
}

/// Returns where names are written, if anywhere.
pub(super) fn hosts(values: &mut Values, run: &RunArgs) -> Option<HostsFile> {
    let domain = run.cluster_domain.as_deref().unwrap_or(HostsFile::DOMAIN);
    // Written with a final dot, a name is the same.
    let domain = domain.strip_suffix('.').unwrap_or(domain).to_lowercase();
    let is_label = |label: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(is_plain)
    };
    if domain.len() > 200 || !domain.split('.').all(is_label) {
        values.refuse_option(DOMAIN, format!("{domain:?} is not a domain such as cluster.local"));
    }
    let Some(path) = run.hosts_file.clone() else {
        if run.cluster_domain.is_some() {
            values.option_unused(DOMAIN, "there is no --hosts-file");
        }
        return None;
    };
    if path.file_name().is_none() {
        values.refuse_option("--hosts-file", format!("{} is not a file", path.display()));
    }
    Some(HostsFile { path, domain })
}
