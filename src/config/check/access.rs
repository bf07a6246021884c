//! The sources of Services.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::check::read::text_if_given;
use crate::config::options::RunArgs;
use crate::config::values::Values;
use crate::config::{ApiAccess, File, Surroundings};

pub(super) fn api(
    values: &mut Values,
    run: &RunArgs,
    file: Option<File<'_>>,
    surroundings: &Surroundings,
) -> Option<ApiAccess> {
    let kubeconfig = text_if_given(values, "clientConnection.kubeconfig")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let master = run.master.clone().filter(|url| !url.is_empty());
    let in_cluster = surroundings.in_cluster;
    let has_relay = run.relay.relay.as_ref().is_some_and(|relay| !relay.is_empty());
    if has_relay && run.relay.fallback() == Duration::ZERO {
        let named = [
            ("--kubeconfig", kubeconfig.is_some() && file.is_none()),
            ("--master", master.is_some()),
            ("--in-cluster", run.in_cluster),
        ];
        for (option, _) in named.iter().filter(|(_, is_given)| *is_given) {
            let message = "has no effect: --relay-fallback-seconds is 0";
            values.refuse_option(option, message);
        }
        if kubeconfig.is_some() && file.is_some() {
            let message =
                "takes the place of the API server that clientConnection.kubeconfig names";
            values.warn_of_option("--relay", message);
        }
        return None;
    }
    let is_named = kubeconfig.is_some() || master.is_some() || run.in_cluster;
    let has_manifests = run.has_manifests();
    let is_implied = match (file, has_manifests) {
        // In the place of the relay, where that is possible.
        _ if has_relay => in_cluster,
        // A file that was written only for its settings does not imply a server that is
        // unreachable.
        (Some(_), true) => in_cluster,
        (Some(_), false) => true,
        (None, true) => false,
        (None, false) => in_cluster,
    };
    let starts_nothing = run.write_config_to.is_some() || run.init_only || run.cleanup;
    if !is_named && !is_implied {
        if !has_manifests && !has_relay && !starts_nothing {
            values.refuse_option(
                "--manifests",
                "is missing, and so are --manifests-url, --relay, --kubeconfig, --master, --config, \
                 --state-file and --replay: \
                 there is no source of Services",
            );
        }
        return None;
    }
    if kubeconfig.is_none() && master.is_none() && !in_cluster && !starts_nothing {
        values.refuse(
            "clientConnection.kubeconfig",
            "is missing, and this is not a Pod (KUBERNETES_SERVICE_HOST is not set): \
             the address of the API server is not known",
        );
    }
    Some(ApiAccess { kubeconfig, master })
}
