//! What is asked for, and how. Nothing of it prints a secret.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Uri};

/// The headers by which the client and the server agree on how an answer is sent.
const OWN: [HeaderName; 13] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// URLs of manifests, and how they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestUrls {
    /// The URLs. If several define an object, the last of them takes precedence.
    pub urls: Vec<ManifestUrl>,
    /// The headers that are sent to each.
    pub headers: Vec<ManifestHeader>,
    /// A file with more headers, one a line, which is read for each request.
    pub header_file: Option<PathBuf>,
    /// The file with the certificates that servers' are verified by, instead of the system's.
    pub certificate_authority: Option<PathBuf>,
    /// How often each is asked.
    pub period: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long the first one may take: other manifests wait for it at a start.
    pub first_answer: Duration,
    /// The shortest wait after a failure; the longest is the period.
    pub first_retry: Duration,
}

impl Default for ManifestUrls {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            headers: Vec::new(),
            header_file: None,
            certificate_authority: None,
            // The kubelet's times.
            period: Duration::from_secs(20),
            answer: Duration::from_secs(10),
            first_answer: Duration::from_secs(2),
            first_retry: Duration::from_secs(1),
        }
    }
}

/// A URL of http or https. It prints without its query, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ManifestUrl(Uri);

impl ManifestUrl {
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns whether the connection is encrypted, and the server proves who it is.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// Returns the hash of all of it.
    pub(super) fn fingerprint(&self) -> blake3::Hash {
        blake3::hash(self.0.to_string().as_bytes())
    }
}

impl FromStr for ManifestUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| "not a URL")?;
        if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
            return Err("not a URL that begins with http:// or https://");
        }
        let authority = uri.authority().map_or("", Authority::as_str);
        if authority.contains('@') {
            return Err("a URL with user and password; use a header Authorization instead");
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("not a URL with a host")?;
        // The client would take the usual port instead.
        if authority.len() > host.len() && uri.port_u16().is_none() {
            return Err("not a URL with a valid port");
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for ManifestUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", Authority::as_str);
        write!(f, "{scheme}://{authority}{}", self.0.path())?;
        if self.0.query().is_some() { f.write_str("?…") } else { Ok(()) }
    }
}

impl fmt::Debug for ManifestUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A header, `NAME:VALUE`. Its value is never printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHeader {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
}

impl FromStr for ManifestHeader {
    type Err = String;

    /// Parses a header. Errors do not quote the text.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or("not of the form NAME:VALUE")?;
        let name: HeaderName = name.trim().parse().map_err(|_| "not a name of a header")?;
        if OWN.contains(&name) {
            return Err(format!("{name} cannot be set"));
        }
        let value = HeaderValue::from_str(value.trim());
        let mut value = value.map_err(|_| format!("the value of {name} is not valid"))?;
        value.set_sensitive(true);
        Ok(Self { name, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_prints_without_its_query() {
        for (text, printed) in [
            ("http://a/b.yaml", "http://a/b.yaml"),
            ("https://[fd00::1]:8443", "https://[fd00::1]:8443/"),
            ("https://a/b?token=secret", "https://a/b?…"),
        ] {
            let url: ManifestUrl = text.parse().unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (printed.into(), printed.into()));
        }
        for (text, words) in [
            ("", "not a URL"),
            ("web.yaml", "not a URL that begins with http:// or https://"),
            ("ftp://a/b", "not a URL that begins with http:// or https://"),
            (
                "http://u:secret@a/",
                "a URL with user and password; use a header Authorization instead",
            ),
            ("http:///b", "not a URL"),
            ("http://a:99999/b", "not a URL with a valid port"),
            ("https://a:8o80/b", "not a URL with a valid port"),
            ("https://a:/b", "not a URL with a valid port"),
        ] {
            assert_eq!(text.parse::<ManifestUrl>(), Err(words), "{text}");
        }
    }

    #[test]
    fn a_header_never_prints_its_value() {
        let header: ManifestHeader = "Authorization: Bearer a:secret ".parse().unwrap();
        assert_eq!(header.name, "authorization");
        assert_eq!(header.value, "Bearer a:secret");
        assert!(!format!("{header:?}").contains("secret"));
        for (text, words) in [
            ("secret", "not of the form NAME:VALUE"),
            ("se cret:a", "not a name of a header"),
            ("x-a:sec\nret", "the value of x-a is not valid"),
            ("If-None-Match:\"a\"", "if-none-match cannot be set"),
        ] {
            assert_eq!(text.parse::<ManifestHeader>().unwrap_err(), words);
        }
    }
}
