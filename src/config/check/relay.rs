//! How a relay is reached.

use hyper::Uri;
use rulec_sources::RelayAccess;

use crate::config::options::RunArgs;
use crate::config::values::Values;

const OPTION: &str = "--relay";

/// Returns how the relay is reached, if it is a source. It takes the place of an API server.
pub(super) fn relay(values: &mut Values, run: &RunArgs) -> Option<RelayAccess> {
    let args = &run.relay;
    let text = args.relay.as_ref().filter(|text| !text.is_empty())?;
    let url = if text.contains("://") { text.clone() } else { format!("https://{text}") };
    let parsed = url.parse::<Uri>().ok().filter(|url| url.host().is_some());
    let Some(url) = parsed else {
        values.refuse_option(OPTION, format!("{text:?} is not an address"));
        return None;
    };
    let is_https = match url.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        Some(_) | None => {
            values.refuse_option(OPTION, format!("{text:?} must begin with https:// or http://"));
            return None;
        }
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        values.refuse_option(OPTION, format!("{text:?} must have no path"));
        return None;
    }
    if is_https && args.relay_certificate_authority.is_none() {
        let message = "is missing: nothing else says that the server is the relay";
        values.refuse_option("--relay-certificate-authority", message);
    }
    if is_https && args.relay_client_certificate.is_none() && args.relay_token.is_none() {
        let message = "is missing, and so is --relay-token: a relay serves only nodes that show \
                       who they are";
        values.refuse_option("--relay-client-certificate", message);
    }
    for (option, file) in [
        ("--relay-certificate-authority", &args.relay_certificate_authority),
        ("--relay-client-certificate", &args.relay_client_certificate),
        // Whoever is on the path could take it.
        ("--relay-token", &args.relay_token),
    ] {
        if !is_https && file.is_some() {
            values.refuse_option(option, "needs a relay with https://");
        }
    }
    Some(RelayAccess {
        url,
        certificate_authority: args.relay_certificate_authority.clone(),
        client_certificate: args.relay_client_certificate.clone(),
        client_key: args.relay_client_key.clone(),
        token: args.relay_token.clone(),
    })
}
