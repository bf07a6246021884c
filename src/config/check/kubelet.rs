//! How the kubelet is reached.

use std::io;
use std::path::Path;
use std::time::Duration;

use hyper::Uri;
use rulec_sources::{KubeletAccess, KubeletUrl};

use crate::config::Surroundings;
use crate::config::options::{KubeletArgs, RunArgs};
use crate::config::values::Values;

/// Where the kubelet keeps its files, unless it is told otherwise.
const ROOT: &str = "/var/lib/kubelet";

/// How often the kubelet is asked, by default.
const POLL: Duration = Duration::from_secs(2);

/// Returns how the kubelet is reached, if it is a source. It is one by itself only beside manifests:
/// an API server knows the Pods of the kubelet.
pub(super) fn kubelet(
    values: &mut Values,
    run: &RunArgs,
    has_api: bool,
    surroundings: &Surroundings,
) -> Option<KubeletAccess> {
    let args = &run.kubelet;
    let of_root = [("--kubelet-root-dir", args.kubelet_root_dir.is_some())];
    let of_url = [
        ("--kubelet-poll-seconds", args.kubelet_poll_seconds.is_some()),
        ("--kubelet-certificate-authority", args.kubelet_certificate_authority.is_some()),
        ("--kubelet-client-certificate", args.kubelet_client_certificate.is_some()),
        ("--kubelet-token-file", args.kubelet_token_file.is_some()),
    ];
    let url = args.kubelet_url.as_ref().map(|text| url(values, args, text));
    if args.kubelet == Some(false) {
        let of_both = [("--kubelet-url", url.is_some())];
        for options in [&of_both[..], &of_root, &of_url] {
            tell_of_unused(values, options, "--kubelet is false");
        }
        return None;
    }
    if let Some(url) = url {
        tell_of_unused(values, &of_root, "--kubelet-url is asked instead");
        return url.map(KubeletAccess::Url);
    }
    tell_of_unused(values, &of_url, "only --kubelet-url needs it");
    let root = args.kubelet_root_dir.clone().unwrap_or_else(|| ROOT.into());
    let absence = match args.kubelet {
        Some(_) => None,
        None => absence(run, has_api, &root, surroundings),
    };
    match absence {
        None => return Some(KubeletAccess::Root(root)),
        Some(Absence::Is(reason)) => tell_of_unused(values, &of_root, reason),
        Some(Absence::MayBe(error)) => {
            let message = format!(
                "is not given, and whether the kubelet in {} has its pods API cannot be seen: \
                 {error}; it is not followed",
                root.display()
            );
            values.warn_of_option("--kubelet", message);
        }
    }
    None
}

/// Why the kubelet is not a source by itself.
enum Absence {
    Is(&'static str),
    MayBe(io::Error),
}

/// Returns why the kubelet is not a source by itself, if it is none.
fn absence(
    run: &RunArgs,
    has_api: bool,
    root: &Path,
    surroundings: &Surroundings,
) -> Option<Absence> {
    if has_api {
        return Some(Absence::Is("the API server knows the kubelet's Pods; set --kubelet as well"));
    }
    if !run.has_manifests() {
        return Some(Absence::Is("there are no manifests"));
    }
    match (surroundings.has_pods_api)(root) {
        Ok(true) => None,
        Ok(false) => Some(Absence::Is("it has no directory pods-api; --kubelet waits for it")),
        Err(error) => Some(Absence::MayBe(error)),
    }
}

/// Warns of options that are given and have no effect, for a reason.
fn tell_of_unused(values: &mut Values, options: &[(&str, bool)], reason: &str) {
    for (option, _) in options.iter().filter(|(_, is_given)| *is_given) {
        values.option_unused(option, reason);
    }
}

fn url(values: &mut Values, args: &KubeletArgs, text: &str) -> Option<KubeletUrl> {
    const OPTION: &str = "--kubelet-url";
    let Ok(url) = text.parse::<Uri>() else {
        values.refuse_option(OPTION, format!("{text:?} is not a URL"));
        return None;
    };
    let is_https = url.scheme_str() == Some("https");
    if !is_https && url.scheme_str() != Some("http") {
        values.refuse_option(OPTION, format!("{text:?} must begin with http:// or https://"));
        return None;
    }
    if !matches!(url.path(), "/" | "/pods" | "/pods/") || url.query().is_some() {
        values.refuse_option(OPTION, format!("{text:?} must have no path other than /pods"));
        return None;
    }
    if is_https && args.kubelet_certificate_authority.is_none() {
        let message = "is missing: nothing else says that the server is the kubelet";
        values.refuse_option("--kubelet-certificate-authority", message);
    }
    if !is_https && args.kubelet_certificate_authority.is_some() {
        values.option_unused("--kubelet-certificate-authority", "--kubelet-url is not https");
    }
    let has_secret = args.kubelet_token_file.is_some() || args.kubelet_client_key.is_some();
    if !is_https && has_secret {
        values.refuse_option(OPTION, format!("{text:?} must be https for credentials"));
    }
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    let scheme = if is_https { "https" } else { "http" };
    Some(KubeletUrl {
        url: format!("{scheme}://{authority}").parse().ok()?,
        certificate_authority: args.kubelet_certificate_authority.clone(),
        client_certificate: args.kubelet_client_certificate.clone(),
        client_key: args.kubelet_client_key.clone(),
        token_file: args.kubelet_token_file.clone(),
        period: args.kubelet_poll_seconds.map_or(POLL, Duration::from_secs),
    })
}
