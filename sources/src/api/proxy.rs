//! Proxies on the way to the server, chosen as in client-go: a kubeconfig's `proxy-url`, or else
//! the environment (`golang.org/x/net/http/httpproxy`). `ALL_PROXY` is ignored by both.

use std::fmt;
use std::net::IpAddr;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use super::fault::Fault;

/// The variables of the environment that name proxies, as found.
#[derive(Clone, Default)]
pub struct ProxyVariables {
    /// `HTTP_PROXY` or `http_proxy`: for a server with an `http` URL.
    pub http: Option<Variable>,
    /// `HTTPS_PROXY` or `https_proxy`: for a server with an `https` URL.
    pub https: Option<Variable>,
    /// `NO_PROXY` or `no_proxy`: the hosts that are reached without a proxy.
    pub except: Option<Variable>,
}

/// A variable of the environment. Its value may contain a password.
#[derive(Clone)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

impl fmt::Debug for ProxyVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [&self.http, &self.https, &self.except];
        f.debug_list().entries(names.into_iter().flatten().map(|variable| variable.name)).finish()
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl ProxyVariables {
    /// Reads the environment of this process.
    pub fn from_environment() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads the first variable of each pair that is not empty.
    pub fn read(environment: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| {
                let value = environment(name).filter(|value| !value.is_empty())?;
                Some(Variable { name, value })
            })
        };
        Self {
            http: first(["HTTP_PROXY", "http_proxy"]),
            https: first(["HTTPS_PROXY", "https_proxy"]),
            except: first(["NO_PROXY", "no_proxy"]),
        }
    }
}

/// A proxy, and the setting that names it.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) scheme: Scheme,
    /// Without user and password.
    pub(super) url: Uri,
    pub(super) user: Option<(String, String)>,
    source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    /// The proxy resolves names.
    Socks5,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.url.authority().map_or("", Authority::as_str);
        write!(f, "the proxy {authority} of {}", self.source)
    }
}

impl Proxy {
    /// Returns the value of `Proxy-Authorization`.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        use base64::Engine;
        let (user, password) = self.user.as_ref()?;
        let pair = format!("{user}:{password}");
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        HeaderValue::try_from(format!("Basic {pair}")).ok()
    }
}

/// Chooses the proxy for a server; `None` if the server is reached directly.
pub(super) fn choose(
    server: &Uri,
    proxy_url: Option<&str>,
    variables: &ProxyVariables,
) -> Result<Option<Proxy>, Fault> {
    if let Some(url) = proxy_url.filter(|url| !url.is_empty()) {
        return parse(url, "clusters[].cluster.proxy-url").map(Some);
    }
    let is_tls = server.scheme_str() == Some("https");
    let variable = if is_tls { &variables.https } else { &variables.http };
    let Some(variable) = variable else { return Ok(None) };
    let host = server.host().unwrap_or_default();
    let port = server.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let except = variables.except.as_ref().map_or("", |variable| &variable.value);
    if is_direct(host, port, except) {
        return Ok(None);
    }
    let Variable { name, value } = variable;
    // "proxy:3128" means "http://proxy:3128".
    let url = if value.contains("://") { value.clone() } else { format!("http://{value}") };
    parse(&url, name).map(Some)
}

/// Parses the URL of a proxy. It may contain a password, so errors do not quote it.
fn parse(url: &str, source: &str) -> Result<Proxy, Fault> {
    let wrong = |what: &str| Fault::Config(format!("{source}: {what}"));
    let uri: Uri = url.trim().parse().map_err(|_| wrong("not a URL"))?;
    let (scheme, port) = match uri.scheme_str() {
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
        Some("socks5" | "socks5h") => (Scheme::Socks5, 1080),
        Some(_) | None => return Err(wrong("not a URL of http, https or socks5")),
    };
    let authority = uri.authority().map_or("", Authority::as_str);
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    let address: Authority = address.parse().map_err(|_| wrong("not a URL with a host"))?;
    if address.host().is_empty() {
        return Err(wrong("not a URL with a host"));
    }
    let port = address.port_u16().unwrap_or(port);
    let transport = if scheme == Scheme::Https { "https" } else { "http" };
    let url = Uri::builder()
        .scheme(transport)
        .authority(format!("{}:{port}", address.host()))
        .path_and_query(PathAndQuery::from_static("/"))
        .build()
        .map_err(|_| wrong("not a URL with a host"))?;
    let user = user.map(|user| {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        (plain(user), plain(password))
    });
    Ok(Proxy { scheme, url, user, source: source.to_owned() })
}

/// Returns whether a host is reached without a proxy, according to `NO_PROXY`. The local host
/// always is.
fn is_direct(host: &str, port: u16, except: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.to_canonical().is_loopback()) {
        return true;
    }
    let entries = except.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(str::to_lowercase).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Ok(net) = entry.parse::<IpNet>() {
            return address.is_some_and(|address| net.contains(&address.to_canonical()));
        }
        let (name, wanted) = split_port(&entry);
        if name.is_empty() || wanted.is_some_and(|wanted| wanted != port.to_string()) {
            return false;
        }
        if let Ok(excepted) = name.parse::<IpAddr>() {
            return address.is_some_and(|it| it.to_canonical() == excepted.to_canonical());
        }
        // "example.com" also matches its subdomains; ".example.com" and "*.example.com" match only
        // these.
        let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
        match name.strip_prefix('.') {
            Some(_) => host.ends_with(name),
            None => host == name || host.strip_suffix(name).is_some_and(|it| it.ends_with('.')),
        }
    })
}

/// Splits an entry into its host and its port, if it has one. A bare IPv6 address has none.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some(rest) = entry.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => (rest, None),
        };
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        Some(_) | None => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(of: &[(&str, &str)]) -> ProxyVariables {
        ProxyVariables::read(|name| {
            let found = of.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    fn chosen(server: &str, proxy_url: Option<&str>, of: &[(&str, &str)]) -> String {
        match choose(&server.parse().unwrap(), proxy_url, &variables(of)) {
            Ok(Some(proxy)) => format!("{:?} {} by {}", proxy.scheme, proxy.url, proxy.source),
            Ok(None) => "direct".to_owned(),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn proxies_are_chosen_as_in_client_go() {
        let all = [
            ("HTTPS_PROXY", "http://upper:1"),
            ("https_proxy", "http://lower:2"),
            ("http_proxy", "plain:3"),
            ("ALL_PROXY", "http://all:4"),
        ];
        for (server, proxy_url, of, expected) in [
            ("https://10.0.0.1", None, &all[..], "Http http://upper:1/ by HTTPS_PROXY"),
            ("https://10.0.0.1", None, &all[1..], "Http http://lower:2/ by https_proxy"),
            ("http://10.0.0.1", None, &all, "Http http://plain:3/ by http_proxy"),
            // Each variable is only for its own scheme, and ALL_PROXY for none.
            ("https://10.0.0.1", None, &all[2..], "direct"),
            ("https://10.0.0.1", None, &[("HTTPS_PROXY", "")], "direct"),
            (
                "https://127.0.0.1:6443",
                Some("socks5://u:p@proxy"),
                &all,
                "Socks5 http://proxy:1080/ by clusters[].cluster.proxy-url",
            ),
            ("https://a", Some(""), &all, "Http http://upper:1/ by HTTPS_PROXY"),
            (
                "https://a",
                Some("https://proxy"),
                &[],
                "Https https://proxy:443/ by clusters[].cluster.proxy-url",
            ),
            (
                "https://a",
                Some("ftp://u:secret@proxy"),
                &[],
                "clusters[].cluster.proxy-url: not a URL of http, https or socks5",
            ),
            ("https://a", None, &[("https_proxy", "http://u:secret@[")], "https_proxy: not a URL"),
        ] {
            assert_eq!(chosen(server, proxy_url, of), expected, "{server} {proxy_url:?}");
        }
    }

    #[test]
    fn no_proxy_is_interpreted_as_in_client_go() {
        for (except, host, port, direct) in [
            ("", "10.0.0.1", 443, false),
            ("", "localhost", 443, true),
            ("", "127.0.0.9", 443, true),
            ("", "[::1]", 443, true),
            ("*", "anything", 443, true),
            ("10.0.0.1", "10.0.0.1", 6443, true),
            ("10.0.0.1", "10.0.0.11", 6443, false),
            ("10.0.0.1:6443", "10.0.0.1", 6443, true),
            ("10.0.0.1:6443", "10.0.0.1", 443, false),
            ("a, 10.0.0.0/8 ,b", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.0.0.0/8", "10.example", 443, false),
            ("fd00::/8", "[fd00::1]", 443, true),
            ("fd00::1", "[fd00::1]", 443, true),
            ("[fd00::1]:6443", "[fd00::1]", 6443, true),
            ("[fd00::1]:6443", "[fd00::1]", 443, false),
            ("example.com", "example.com", 443, true),
            ("example.com", "api.Example.com", 443, true),
            ("example.com", "notexample.com", 443, false),
            (".example.com", "api.example.com", 443, true),
            (".example.com", "example.com", 443, false),
            ("*.example.com", "api.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("EXAMPLE.com:6443", "api.example.com", 6443, true),
            ("example.com:6443", "api.example.com", 443, false),
            (".svc,.cluster.local", "kubernetes.default.svc", 443, true),
            (",,", "10.0.0.1", 443, false),
            (":6443", "10.0.0.1", 6443, false),
        ] {
            assert_eq!(is_direct(host, port, except), direct, "{except:?} {host} {port}");
        }
    }

    #[test]
    fn a_proxys_password_is_decoded_and_never_printed() {
        let url = "http://us%40er:se%3Acret@proxy:3128";
        let proxy = parse(url, "HTTPS_PROXY").ok().unwrap();
        assert_eq!(proxy.user, Some(("us@er".to_owned(), "se:cret".to_owned())));
        assert_eq!(proxy.to_string(), "the proxy proxy:3128 of HTTPS_PROXY");
        let header = proxy.authorization().unwrap();
        assert_eq!(header, "Basic dXNAZXI6c2U6Y3JldA==");
        assert_eq!(format!("{:?}", variables(&[("HTTPS_PROXY", url)])), "[\"HTTPS_PROXY\"]");
    }
}
