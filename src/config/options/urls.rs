//! The options of manifests that are fetched.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use rulec_sources::{ManifestHeader, ManifestUrl};

use crate::config::options::heading;

/// A value, or what is wrong with it. It may be a secret, which clap would print if it refused it.
type Read<T> = Result<T, <T as FromStr>::Err>;

fn read<T: FromStr>(text: &str) -> Result<Read<T>, Infallible> {
    Ok(text.parse())
}

/// Manifests by URL
#[derive(Debug, Args)]
pub struct UrlArgs {
    /// A URL of Kubernetes manifests, http or https; may be given several times
    ///
    /// It is asked again and again, and what it answers is read like a file. Whatever else it does,
    /// its last good content stays. If several URLs define an object, the last of them takes
    /// precedence, and --manifests takes precedence over them all.
    #[arg(long, help_heading = heading::URLS, value_name = "URL", value_parser = read::<ManifestUrl>)]
    pub manifests_url: Vec<Read<ManifestUrl>>,
    /// A header to send to each --manifests-url; may be given several times
    ///
    /// Other users of the node can read options: use --manifests-url-header-file for a secret.
    #[arg(long, help_heading = heading::URLS, value_name = "NAME:VALUE", value_parser = read::<ManifestHeader>)]
    pub manifests_url_header: Vec<Read<ManifestHeader>>,
    /// A file with more headers, one NAME:VALUE a line, which is read for each request
    #[arg(long, help_heading = heading::URLS, value_name = "FILE")]
    pub manifests_url_header_file: Option<PathBuf>,
    /// The certificates that verify the server of --manifests-url [default: those of the system]
    #[arg(long, help_heading = heading::URLS, value_name = "FILE")]
    pub manifests_url_certificate_authority: Option<PathBuf>,
    /// How often to ask each --manifests-url
    #[arg(long, help_heading = heading::URLS, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub manifests_url_poll_seconds: u64,
}
