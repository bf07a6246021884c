//! Manifests by URL.

use std::fmt::Display;
use std::time::Duration;

use rulec_sources::ManifestUrls;

use crate::config::options::{RunArgs, UrlArgs};
use crate::config::values::Values;

const URL: &str = "--manifests-url";
const HEADER: &str = "--manifests-url-header";

/// Returns the URLs of manifests, if there are any.
pub(super) fn urls(values: &mut Values, run: &RunArgs) -> Option<ManifestUrls> {
    let UrlArgs {
        manifests_url,
        manifests_url_header,
        manifests_url_header_file,
        manifests_url_certificate_authority,
        manifests_url_poll_seconds,
    } = &run.urls;
    let options = ManifestUrls {
        urls: valid(values, URL, manifests_url),
        headers: valid(values, HEADER, manifests_url_header),
        header_file: manifests_url_header_file.clone(),
        certificate_authority: manifests_url_certificate_authority.clone(),
        period: Duration::from_secs(*manifests_url_poll_seconds),
        ..ManifestUrls::default()
    };
    for (index, url) in options.urls.iter().enumerate() {
        if options.urls[..index].contains(url) {
            values.refuse_option(URL, format!("{url} is given twice"));
        }
    }
    let has_authority = options.certificate_authority.is_some();
    let of_url = [
        (HEADER, !manifests_url_header.is_empty()),
        ("--manifests-url-header-file", options.header_file.is_some()),
        ("--manifests-url-certificate-authority", has_authority),
    ];
    if manifests_url.is_empty() {
        for (option, _) in of_url.into_iter().filter(|(_, is_given)| *is_given) {
            values.option_unused(option, "there is no --manifests-url");
        }
        return None;
    }
    if has_authority && !options.urls.iter().any(rulec_sources::ManifestUrl::is_https) {
        let option = "--manifests-url-certificate-authority";
        values.option_unused(option, "no --manifests-url begins with https://");
    }
    Some(options)
}

/// Returns the valid values of an option. Others are noted, by their numbers: they may be secrets.
fn valid<T: Clone>(values: &mut Values, option: &str, given: &[Result<T, impl Display>]) -> Vec<T> {
    let mut valid = Vec::new();
    for (number, value) in (1..).zip(given) {
        match value {
            Ok(value) => valid.push(value.clone()),
            Err(reason) if given.len() == 1 => values.refuse_option(option, reason.to_string()),
            Err(reason) => values.refuse_option(option, format!("number {number}: {reason}")),
        }
    }
    valid
}
