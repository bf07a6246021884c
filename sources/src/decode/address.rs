//! Addresses and ranges as Kubernetes reads them.
//!
//! The parsers of Kubernetes accept leading zeros in IPv4 addresses and in prefix lengths, and read
//! the digits as decimal. Other parsers reject such addresses or read them as octal, so the
//! standard library cannot be used here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Parses an address. An IPv4-mapped IPv6 address is an IPv4 address, as in Go.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return parse_v4(text).map(IpAddr::V4);
    }
    let address: Ipv6Addr = text.parse().ok()?;
    Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
}

/// Parses a range and masks its address. White space around it is ignored. A range of IPv4-mapped
/// IPv6 addresses is a range of IPv4 addresses, as in Go.
pub fn parse_range(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    let length = u8::try_from(decimal(length, 128)?).ok()?;
    let range = if address.contains(':') {
        let address: Ipv6Addr = address.parse().ok()?;
        match (address.to_ipv4_mapped(), length.checked_sub(96)) {
            (Some(address), Some(length)) => IpNet::V4(Ipv4Net::new(address, length).ok()?),
            (_, _) => IpNet::V6(Ipv6Net::new(address, length).ok()?),
        }
    } else {
        IpNet::V4(Ipv4Net::new(parse_v4(address)?, length).ok()?)
    };
    Some(range.trunc())
}

/// Suggests what to write instead of a text that is not a range, if that can be guessed.
pub(crate) fn range_hint(text: &str) -> Option<String> {
    let is_part = |part: &str| parse_range(part).is_some() || parse_ip(part).is_some();
    let several = |c: char| c == ',' || c == ';' || c.is_whitespace();
    let mut parts = text.split(several).filter(|part| !part.is_empty());
    if text.contains(several) {
        return parts.all(is_part).then(|| "write each range as an entry of its own".to_owned());
    }
    if let Some(address) = parse_ip(text) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        return Some(format!("write {address}/{length} for one address"));
    }
    let (address, mask) = text.split_once('/')?;
    let mask = u32::from(parse_v4(mask)?);
    let length = mask.leading_ones();
    let is_mask = mask.trailing_zeros() == 32 - length;
    (is_mask && parse_v4(address).is_some()).then(|| format!("write {address}/{length}"))
}

/// Returns why an address cannot be one of a Service or an endpoint, if so. The API refuses the
/// same addresses for endpoints and external IPs: no manifest may take over a node's own loopback
/// or link-local addresses, nor send connections to them.
pub(crate) fn unfit(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("unspecified")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if link_local {
        Some("a link-local address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address == Ipv4Addr::BROADCAST {
        Some("the broadcast address")
    } else {
        None
    }
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = u8::try_from(decimal(parts.next()?, 255)?).ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// Parses digits with any number of leading zeros, up to the value `most`.
fn decimal(text: &str, most: u32) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let mut value = 0;
    for byte in text.bytes() {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        value = value * 10 + digit;
        if value > most {
            return None;
        }
    }
    Some(value)
}
