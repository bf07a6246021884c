//! Converts rows to IPv6: a row is written for IPv4 once, and this returns its counterpart.
//!
//! Every address of the world has a counterpart with the same digits in the other family. The
//! conversion works in both directions: IPv6 in a row becomes IPv4, so that rows with both families
//! stay valid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

/// Networks of the world and their IPv6 counterparts, in which the last number of an address is
/// written with the same digits.
const NETWORKS: [([u8; 3], &str); 12] = [
    ([10, 90, 0], "fd90::"),
    ([10, 91, 0], "fd91::"),
    ([10, 50, 0], "2001:db8:50:0::"),
    ([10, 50, 1], "2001:db8:50:1::"),
    ([10, 50, 2], "2001:db8:50:2::"),
    ([10, 50, 3], "2001:db8:50:3::"),
    ([192, 0, 2], "2001:db8::"),
    ([203, 0, 113], "2001:db8:113::"),
    ([198, 51, 100], "2001:db8:51::"),
    ([127, 0, 0], "::"),
    ([8, 8, 4], "2001:db8:8::"),
    ([0, 0, 0], "::"),
];

/// Ranges whose counterparts do not have the same digits.
const RANGES: [(&str, &str); 9] = [
    ("0.0.0.0/0", "::/0"),
    ("127.0.0.0/8", "::1/128"),
    ("10.50.0.0/16", "2001:db8:50::/48"),
    ("10.50.1.0/24", "2001:db8:50:1::/64"),
    ("10.90.0.0/16", "fd90::/112"),
    ("10.91.0.0/16", "fd91::/112"),
    ("192.0.2.0/24", "2001:db8::/64"),
    ("198.51.100.0/24", "2001:db8:51::/64"),
    ("203.0.113.0/25", "2001:db8:113::/120"),
];

/// Words that name a family.
const WORDS: [(&str, &str); 2] = [("IPv4", "IPv6"), ("ipv4", "ipv6")];

/// Mirrors every string in a value, including the names of fields.
pub(super) fn mirror(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        Value::String(text) => Value::String(mirror_text(text)),
        Value::Array(items) => Value::Array(items.iter().map(mirror).collect()),
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, value)| (mirror_text(name), mirror(value))).collect(),
        ),
    }
}

/// Mirrors all addresses in a text, and keeps the rest.
pub(super) fn mirror_text(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || ".:/[]".contains(c);
    let mut mirrored = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        mirrored += &mirror_word(word);
        let next = after.find(is_word).unwrap_or(after.len());
        mirrored += &after[..next];
        rest = &after[next..];
    }
    mirrored
}

fn mirror_word(word: &str) -> String {
    let pairs = RANGES.into_iter().chain(WORDS);
    for (one, other) in pairs {
        if word == one {
            return other.to_owned();
        }
        if word == other {
            return one.to_owned();
        }
    }
    if let Ok(ip) = word.parse::<IpAddr>() {
        return address(ip).to_string();
    }
    if let Ok(at) = word.parse::<SocketAddr>() {
        return SocketAddr::new(address(at.ip()), at.port()).to_string();
    }
    if let Some((ip, length)) = word.split_once('/')
        && let Ok(ip) = ip.parse::<IpAddr>()
    {
        return match length {
            "32" => format!("{}/128", address(ip)),
            "128" => format!("{}/32", address(ip)),
            _ if length.parse::<u8>().is_ok() => panic!("{word} has no counterpart in the table"),
            // A protocol, as in `10.90.0.10/ICMP`.
            protocol => format!("{}/{protocol}", address(ip)),
        };
    }
    if let Some((at, rest)) = word.split_once('/')
        && let Ok(at) = at.parse::<SocketAddr>()
    {
        return format!("{}/{rest}", SocketAddr::new(address(at.ip()), at.port()));
    }
    // `IPv6:`, the name of a field in a text.
    if let Some(word) = word.strip_suffix(':') {
        return mirror_word(word) + ":";
    }
    word.to_owned()
}

fn address(ip: IpAddr) -> IpAddr {
    let counterpart = NETWORKS.iter().find_map(|(network, prefix)| match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, host] = ip.octets();
            ([a, b, c] == *network).then(|| {
                let ip: Ipv6Addr = format!("{prefix}{host}").parse().expect("it is an address");
                IpAddr::V6(ip)
            })
        }
        IpAddr::V6(ip) => {
            let (upper, host) = (&ip.segments()[..7], ip.segments()[7]);
            let prefix: Ipv6Addr = format!("{prefix}0").parse().expect("it is an address");
            if prefix.segments()[..7] != *upper {
                return None;
            }
            let host: u8 = format!("{host:x}").parse().ok()?;
            let [a, b, c] = *network;
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, host)))
        }
    });
    counterpart.unwrap_or_else(|| panic!("{ip} has no counterpart in the table"))
}

#[test]
fn mirroring_twice_restores_the_text() {
    for text in [
        "X@203.0.113.101-140 -> 198.51.100.20:80/UDP  e1, e2 kept # 10.50.0.0/16",
        "clusterIP: fd90::10",
        "P -> [fd90::10]:80  refused",
        "--cluster-cidr 10.50.0.0/16,2001:db8:50::/48",
        "H -> 127.0.0.1:30080, 10.90.0.10/ICMP; 198.51.100.20/32 and 2001:db8::/64",
        "addressType: IPv4",
    ] {
        let mirrored = mirror_text(text);
        assert_ne!(mirrored, text);
        assert_eq!(mirror_text(&mirrored), text);
    }
    assert_eq!(mirror_text("P -> 10.90.0.10:80/UDP"), "P -> [fd90::10]:80/UDP");
    assert_eq!(mirror_text("10.50.1.200"), "2001:db8:50:1::200");
}
