//! What people call a Service or a place where it is reached: `default/web`, `:30080`, an address, or
//! a URL.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Protocol;

/// A name as typed, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    text: String,
    pub(crate) place: Place,
    /// The port, if it is named.
    pub(crate) port: Option<Port>,
    /// The protocol, if it is named.
    pub(crate) protocol: Option<Protocol>,
}

/// What a name is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A Service, in any namespace if there is none.
    Service { namespace: Option<String>, name: String },
    /// An address.
    Address(IpAddr),
    /// A port of the node.
    Node,
}

/// A port: its number, or its name in the Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Number(NonZeroU16),
    Name(String),
}

impl Asked {
    /// Returns true if a frontend of a Service port is among what is asked for. In IPVS mode, node
    /// ports are addresses.
    pub(crate) fn has(&self, owner: &PortKey, frontend: Frontend, is_node_port: bool) -> bool {
        let (Frontend::Address { port: number, .. } | Frontend::NodePort { port: number, .. }) =
            frontend;
        let is_place = match (&self.place, frontend) {
            (Place::Service { .. }, _) => self.names(&owner.service),
            (Place::Address(asked), Frontend::Address { address, .. }) => *asked == address,
            (Place::Node, _) => is_node_port,
            (Place::Address(_), Frontend::NodePort { .. }) => false,
        };
        let is_port = match &self.port {
            None => true,
            Some(Port::Number(asked)) => *asked == number,
            Some(Port::Name(asked)) => owner.port.as_str() == asked,
        };
        is_place && is_port && self.protocol.is_none_or(|asked| asked == frontend.protocol())
    }

    /// Returns true if a Service has this name.
    pub(crate) fn names(&self, key: &NamespacedName) -> bool {
        let Place::Service { namespace, name } = &self.place else { return false };
        let is_in = |asked: &String| *asked == *key.namespace.as_str();
        *name == *key.name.as_str() && namespace.as_ref().is_none_or(is_in)
    }

    /// Returns the same port of the node, for one of its addresses.
    pub(crate) fn of_node(&self) -> Self {
        Self { place: Place::Node, ..self.clone() }
    }

    /// Returns the address, if it is about one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        if let Place::Address(address) = self.place { Some(address) } else { None }
    }

    /// Returns the port, if it is a number.
    pub(crate) fn number(&self) -> Option<NonZeroU16> {
        if let Some(Port::Number(number)) = self.port { Some(number) } else { None }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, port, protocol) = match text.split_once("://") {
            Some((scheme, rest)) => of_url(scheme, rest)?,
            None => of_words(text)?,
        };
        Ok(Self { text: text.to_owned(), place, port, protocol })
    }
}

type Parts = (Place, Option<Port>, Option<Protocol>);

/// Takes a URL apart. Its path means nothing to us.
fn of_url(scheme: &str, rest: &str) -> Result<Parts, String> {
    let scheme = scheme.to_ascii_lowercase();
    let (protocol, default) = match scheme.as_str() {
        "http" | "ws" => (Protocol::Tcp, NonZeroU16::new(80)),
        "https" | "wss" => (Protocol::Tcp, NonZeroU16::new(443)),
        "tcp" => (Protocol::Tcp, None),
        "udp" => (Protocol::Udp, None),
        "sctp" => (Protocol::Sctp, None),
        _ => return Err(format!("{scheme:?} is not http, https, ws, wss, tcp, udp or sctp")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = split_port(host)?;
    let port = port.or(default.map(Port::Number));
    let place = match address(host) {
        Some(address) => Place::Address(address),
        None => service_of_dns(host)?,
    };
    Ok((place, port, Some(protocol)))
}

/// Takes anything else apart: `NAMESPACE/NAME:PORT`, `:PORT`, `ADDRESS:PORT`, each with `/PROTOCOL` at
/// its end if it has a port.
fn of_words(text: &str) -> Result<Parts, String> {
    if let Some(address) = address(text) {
        return Ok((Place::Address(address), None, None));
    }
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, word)) if rest.contains(':') || address(rest).is_some() => {
            (rest, Some(protocol(word)?))
        }
        Some(_) | None => (text, None),
    };
    if address(rest).is_some() {
        return Err(format!("{rest:?} has a protocol but no port: use ADDRESS:PORT/PROTOCOL"));
    }
    let (host, port) = split_port(rest)?;
    let place = match (host, address(host)) {
        ("", _) if port.is_some() => Place::Node,
        (_, Some(address)) => Place::Address(address),
        (_, None) => service(host)?,
    };
    if let (Place::Address(_) | Place::Node, Some(Port::Name(name))) = (&place, &port) {
        return Err(format!("{name:?} is not a port number"));
    }
    Ok((place, port, protocol))
}

fn protocol(word: &str) -> Result<Protocol, String> {
    let is_it = |it: &Protocol| it.to_string().eq_ignore_ascii_case(word);
    let found = Protocol::ALL.into_iter().find(is_it);
    found.ok_or_else(|| format!("{word:?} is not tcp, udp or sctp"))
}

/// Reads an address, which may be in brackets if it is one of IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let in_brackets = || {
        let inside = text.strip_prefix('[')?.strip_suffix(']')?;
        inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    };
    text.parse().ok().or_else(in_brackets)
}

/// Takes the port from the end, if there is one.
fn split_port(text: &str) -> Result<(&str, Option<Port>), String> {
    if text.is_empty() || address(text).is_some() {
        return Ok((text, None));
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Ok((text, None)) };
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = if is_number {
        let number = port.parse().map_err(|_| format!("{text}: port {port} is not in 1..65535"))?;
        Port::Number(number)
    } else if is_label(port) {
        Port::Name(port.to_owned())
    } else {
        return Err(format!("{text:?} is not ADDRESS:PORT (an IPv6 address needs brackets)"));
    };
    Ok((host, Some(port)))
}

fn service(text: &str) -> Result<Place, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let is_plain = is_label(name) && namespace.is_none_or(is_label);
    if is_plain {
        return Ok(Place::Service {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        });
    }
    service_of_dns(text).map_err(|_| {
        format!(
            "{text:?} is not ADDRESS:PORT, NAMESPACE/NAME, :NODEPORT or a URL (an IPv6 address needs \
             brackets)"
        )
    })
}

/// Reads the name that the cluster's DNS gives to a Service: `NAME.NAMESPACE`, maybe with more.
fn service_of_dns(host: &str) -> Result<Place, String> {
    let mut labels = host.trim_end_matches('.').split('.');
    let (name, namespace) = (labels.next().unwrap_or_default(), labels.next());
    let is_of_cluster = labels.next().is_none_or(|label| label == "svc");
    if !is_label(name) || !namespace.is_none_or(is_label) || !is_of_cluster {
        return Err(format!(
            "{host:?} is neither an address nor NAME.NAMESPACE.svc, the name of a Service"
        ));
    }
    Ok(Place::Service { namespace: namespace.map(str::to_owned), name: name.to_owned() })
}

/// Returns whether something can be the name of an object of the kinds that matter here.
fn is_label(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> String {
        match text.parse::<Asked>() {
            Ok(Asked { place, port, protocol, .. }) => {
                let place = match place {
                    Place::Service { namespace: None, name } => format!("Service */{name}"),
                    Place::Service { namespace: Some(namespace), name } => {
                        format!("Service {namespace}/{name}")
                    }
                    Place::Address(address) => format!("address {address}"),
                    Place::Node => "node".to_owned(),
                };
                let port = match port {
                    None => String::new(),
                    Some(Port::Number(port)) => format!(" port {port}"),
                    Some(Port::Name(port)) => format!(" port named {port}"),
                };
                let protocol = protocol.map(|it| format!(" {it}")).unwrap_or_default();
                place + &port + &protocol
            }
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn names_are_taken_apart() {
        for (text, expected) in [
            ("web", "Service */web"),
            ("default/web", "Service default/web"),
            ("default/web:80", "Service default/web port 80"),
            ("default/web:http/udp", "Service default/web port named http UDP"),
            ("web.default.svc.cluster.local", "Service default/web"),
            ("web.default", "Service default/web"),
            (":30080", "node port 30080"),
            (":30080/udp", "node port 30080 UDP"),
            ("10.0.0.1", "address 10.0.0.1"),
            ("10.0.0.1:80", "address 10.0.0.1 port 80"),
            ("10.0.0.1:80/SCTP", "address 10.0.0.1 port 80 SCTP"),
            ("fd00::1", "address fd00::1"),
            ("[fd00::1]", "address fd00::1"),
            ("[fd00::1]:80", "address fd00::1 port 80"),
            ("http://10.0.0.1/path?x=y:1", "address 10.0.0.1 port 80 TCP"),
            ("https://[fd00::1]:8443/", "address fd00::1 port 8443 TCP"),
            ("https://user@web.default.svc/", "Service default/web port 443 TCP"),
            ("udp://10.0.0.10:53", "address 10.0.0.10 port 53 UDP"),
            ("tcp://10.0.0.10", "address 10.0.0.10 TCP"),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_gets_a_reason() {
        for (text, reason) in [
            ("", "is not ADDRESS:PORT"),
            ("[fd00::1", "is not ADDRESS:PORT"),
            ("[10.0.0.1]", "is not ADDRESS:PORT"),
            ("Web", "is not ADDRESS:PORT"),
            ("a/b/c", "is not ADDRESS:PORT"),
            ("10.0.0.1:0", "port 0 is not in 1..65535"),
            ("10.0.0.1:65536", "port 65536 is not in 1..65535"),
            ("10.0.0.1:http", "\"http\" is not a port number"),
            ("10.0.0.1:80/icmp", "\"icmp\" is not tcp, udp or sctp"),
            ("10.0.0.1/tcp", "has a protocol but no port"),
            ("ftp://10.0.0.1", "\"ftp\" is not http"),
            ("http://www.example.com/", "is neither an address nor NAME.NAMESPACE.svc"),
        ] {
            let said = parts(text);
            assert!(said.starts_with("error: ") && said.contains(reason), "{text}: {said}");
        }
    }
}
