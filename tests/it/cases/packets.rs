//! The notation of packets: the clients, the destination address, and the outcome.
//!
//! ```text
//! P, H -> 10.90.0.10:80          e1, e2, e3 kept
//! e1   -> 10.90.0.10:80          e1 masqueraded; e2, e3 kept
//! X@203.0.113.78 -> 198.51.100.20:53/UDP   refused
//! ```
//!
//! tests/cases/README.md explains it for readers of the table.

use std::net::{IpAddr, SocketAddr};

use rulec_testkit::{Family, Protocol};

/// A line: some clients, one address, one outcome.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The line as written, for messages.
    pub(super) text: String,
    /// The name of the flow to which the packets belong.
    pub(super) flow: Option<String>,
    pub(super) clients: Vec<Client>,
    pub(super) to: To,
    pub(super) outcome: Expected,
}

/// The sender of packets.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// `P`, `e1` and so on.
    pub(super) name: String,
    /// The source address, if not the client's usual one.
    pub(super) ip: Option<IpAddr>,
}

/// The destination of packets.
#[derive(Clone, Copy, Debug)]
pub(super) enum To {
    /// A port.
    Port(Protocol, SocketAddr),
    /// An address that is pinged (ICMP echo).
    Ping(IpAddr),
}

impl To {
    pub(super) fn family(self) -> Family {
        let (Self::Port(_, SocketAddr::V4(_)) | Self::Ping(IpAddr::V4(_))) = self else {
            return Family::V6;
        };
        Family::V4
    }
}

/// The outcome of packets.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// Each of these endpoints answers some flow, and no other endpoint answers any.
    Reach(Vec<Backend>),
    /// Each client reaches the same one of these with all its flows.
    Stick { among: Vec<Backend>, whom: Whom },
    /// During a change: one of these answers, or "port unreachable" is returned.
    ReachOrRefused(Vec<Backend>),
    /// "Port unreachable" is returned.
    Refused,
    /// No packet is returned, and no packet leaves the node.
    Dropped,
    /// The packet is not translated: it reaches a process of the node at that address, or leaves
    /// the node.
    Untouched,
}

/// The endpoint to which a client sticks.
#[derive(Clone, Debug)]
pub(super) enum Whom {
    /// The endpoint to which the row gives this letter; the same one wherever the letter is used.
    Named(String),
    /// Each client has its own endpoint, and all clients together reach all of them.
    Each,
}

/// An endpoint, and the source address that it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) source: SeenSource,
}

/// The source address that an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SeenSource {
    /// The client's own address.
    Kept,
    /// The node's address.
    Masqueraded,
}

/// The port of endpoints for which the line gives none.
const TARGET: u16 = 8080;

/// Parses the lines of a text; comments begin with `#`.
pub(super) fn parse(text: &str) -> Vec<Line> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| parse_line(line).unwrap_or_else(|what| panic!("{line:?}: {what}")))
        .collect()
}

fn parse_line(line: &str) -> Result<Line, String> {
    let (clients, rest) = line.split_once("->").ok_or("there is no `->`")?;
    let (flow, clients) = match clients.split_once(": ") {
        Some((flow, clients)) => (Some(flow.trim().to_owned()), clients),
        None => (None, clients),
    };
    let clients =
        clients.split(',').map(str::trim).map(clients_of).collect::<Result<Vec<_>, _>>()?;
    let (to, outcome) = rest.trim().split_once(' ').ok_or("there is no outcome")?;
    Ok(Line {
        text: line.to_owned(),
        flow,
        clients: clients.into_iter().flatten().collect(),
        to: to_of(to)?,
        outcome: outcome_of(outcome.trim())?,
    })
}

/// Parses `X`, `X@203.0.113.78`, or `X@203.0.113.101-140`, which stands for forty clients.
fn clients_of(text: &str) -> Result<Vec<Client>, String> {
    let Some((name, from)) = text.split_once('@') else {
        return Ok(vec![Client { name: text.to_owned(), ip: None }]);
    };
    let parse = |ip: &str| ip.parse::<IpAddr>().map_err(|error| format!("{ip}: {error}"));
    let of = |ip: IpAddr| Client { name: name.to_owned(), ip: Some(ip) };
    let Some((first, last)) = from.split_once('-') else { return Ok(vec![of(parse(from)?)]) };
    // For IPv6, the decimal digits of the last number are read as hexadecimal ones.
    let end = first.rfind(['.', ':']).ok_or("not an address")? + 1;
    let number = |text: &str| text.parse::<u8>().map_err(|error| format!("{text}: {error}"));
    (number(&first[end..])?..=number(last)?)
        .map(|host| parse(&format!("{}{host}", &first[..end])).map(of))
        .collect()
}

fn to_of(text: &str) -> Result<To, String> {
    let (at, protocol) = text.rsplit_once('/').unwrap_or((text, "TCP"));
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "ICMP" => return at.parse().map(To::Ping).map_err(|error| format!("{at}: {error}")),
        other => return Err(format!("{other} is no protocol")),
    };
    let at = at.parse().map_err(|error| format!("{at}: {error}"))?;
    Ok(To::Port(protocol, at))
}

fn outcome_of(text: &str) -> Result<Expected, String> {
    match text {
        "refused" => return Ok(Expected::Refused),
        "dropped" => return Ok(Expected::Dropped),
        "untouched" => return Ok(Expected::Untouched),
        _ => {}
    }
    if let Some(backends) = text.strip_suffix(" or refused") {
        return Ok(Expected::ReachOrRefused(backends_of(backends)?));
    }
    if let Some(among) = text.strip_prefix("each sticks to one of ") {
        return Ok(Expected::Stick { among: backends_of(among)?, whom: Whom::Each });
    }
    if let Some((name, among)) = text.split_once(" of ")
        && let Some(name) = name.strip_prefix("sticks to ")
    {
        let whom = Whom::Named(name.to_owned());
        return Ok(Expected::Stick { among: backends_of(among)?, whom });
    }
    Ok(Expected::Reach(backends_of(text)?))
}

/// Parses `e1, e2:9090 kept; e3 masqueraded`.
fn backends_of(text: &str) -> Result<Vec<Backend>, String> {
    let mut backends = Vec::new();
    for group in text.split(';') {
        let (names, source) = group.trim().rsplit_once(' ').ok_or("`kept` or `masqueraded`?")?;
        let source = match source {
            "kept" => SeenSource::Kept,
            "masqueraded" => SeenSource::Masqueraded,
            other => return Err(format!("{other:?} is neither `kept` nor `masqueraded`")),
        };
        for name in names.split(',').map(str::trim) {
            let (name, port) = match name.split_once(':') {
                Some((name, port)) => (name, port.parse().map_err(|_| format!("port {port}"))?),
                None => (name, TARGET),
            };
            backends.push(Backend { name: name.to_owned(), port, source });
        }
    }
    Ok(backends)
}
