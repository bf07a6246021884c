//! The static Pods of the kubelet as files, and the addresses that CNI plugins have given them: what
//! is left where the kubelet has no API.

use std::io;
use std::path::{Path, PathBuf};

use rulec_compiler::name::NodeName;
use rulec_sources::{CniCache, Overlap};

use crate::config::Surroundings;
use crate::config::options::RunArgs;
use crate::config::values::Values;

/// The kubelet's `staticPodPath`, as kubeadm and most others set it.
const DIRECTORY: &str = "/etc/kubernetes/manifests";

/// Where libcni keeps the results of plugins.
const CNI_CACHE: &str = "/var/lib/cni/results";

/// Files that say something of the kubelet's Pods.
#[derive(Debug, Default)]
pub(super) struct StaticPods {
    /// The directory of their manifests, if it is read.
    pub(super) directory: Option<PathBuf>,
    /// Where the addresses of Pods are found if nothing else has them.
    pub(super) cni_cache: Option<CniCache>,
}

impl StaticPods {
    /// Returns what is read. By itself, each is read if it exists beside manifests, and if no API
    /// server knows the Pods.
    pub(super) fn of(
        values: &mut Values,
        run: &RunArgs,
        has_api: bool,
        node_name: &NodeName,
        surroundings: &Surroundings,
    ) -> Self {
        let given = [
            ("--pod-manifest-path", &run.kubelet.pod_manifest_path),
            ("--cni-cache", &run.cni_cache),
        ];
        if !run.has_manifests() {
            for (option, _) in given.into_iter().filter(|(_, path)| is_named(path.as_deref())) {
                values.option_unused(option, "there are no manifests");
            }
            return Self::default();
        }
        let is_found = !has_api && run.kubelet.kubelet != Some(false);
        let mut choose = |(option, path): (&str, &Option<PathBuf>), usual| match path {
            Some(path) => is_named(Some(path)).then(|| path.clone()),
            None if is_found => found(values, option, usual, surroundings.has_directory),
            None => None,
        };
        let [path, cache] = given;
        let is_implied = run.kubelet.pod_manifest_path.is_none();
        let directory = choose(path, DIRECTORY).filter(|path| {
            // A directory that is read anyway is not read twice.
            let all: Vec<PathBuf> = run.manifests.iter().chain([path]).cloned().collect();
            !is_implied || Overlap::find(&all).is_none()
        });
        let cni_cache = choose(cache, CNI_CACHE);
        let node_name = node_name.clone();
        Self { directory, cni_cache: cni_cache.map(|directory| CniCache { directory, node_name }) }
    }
}

/// Returns whether an option names a path: an empty one means none.
fn is_named(path: Option<&Path>) -> bool {
    path.is_some_and(|path| !path.as_os_str().is_empty())
}

/// Returns a directory that no option names, if it exists.
fn found(
    values: &mut Values,
    option: &str,
    path: &str,
    has_directory: fn(&Path) -> io::Result<bool>,
) -> Option<PathBuf> {
    match has_directory(Path::new(path)) {
        Ok(true) => Some(path.into()),
        Ok(false) => None,
        Err(error) => {
            let message = format!(
                "is not given, and whether {path} exists cannot be seen: {error}; it is not read"
            );
            values.warn_of_option(option, message);
            None
        }
    }
}
