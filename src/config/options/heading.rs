//! The headings of options in the help, in the order in which `rulec run --help` has them.
//!
//! An option names its heading itself: clap's `next_help_heading` also reaches the options that
//! follow a flattened group.

/// Where objects come from.
pub(crate) const SOURCES: &str = "Sources";
/// A relay as the source.
pub(crate) const RELAY: &str = "A relay as a source";
/// Manifests that are fetched.
pub(crate) const URLS: &str = "Manifests by URL";
/// The kubelet as a source of Pods.
pub(crate) const KUBELET: &str = "The kubelet as a source";
/// podman as a source of Pods.
pub(crate) const PODMAN: &str = "podman as a source";
/// What the sources send, in a file.
pub(crate) const RECORDING: &str = "Recording and replaying";
/// What Services of manifests are given, and where Services answer.
pub(crate) const SERVICES: &str = "Addresses and names of Services";
/// What is compiled for: the node, and how its Pods are recognised.
pub(crate) const NODE: &str = "The node and its Pods";
/// The mode, and what all rules have in common.
pub(crate) const RULES: &str = "Rules";
/// How an endpoint is chosen.
pub(crate) const BALANCING: &str = "Load balancing";
/// What has an effect only in mode ipvs.
pub(crate) const IPVS: &str = "IPVS mode";
/// How the daemon is watched.
pub(crate) const OBSERVABILITY: &str = "Observability";
/// How it logs.
pub(crate) const LOGGING: &str = "Logging";
/// What the daemon sets beside the rules: connection tracking, and its own standing.
pub(crate) const KERNEL: &str = "Settings of the kernel";
/// What is accepted so that a command line of kube-proxy is one of rulec.
pub(crate) const WITHOUT_EFFECT: &str =
    "Options of kube-proxy that are accepted and have no effect";
