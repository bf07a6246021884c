//! Replaces addresses so that networks stay networks.
//!
//! Each bit of an address is kept or inverted, depending on the key and on the bits before it alone.
//! So two addresses share as many bits after it as before, and each network is mapped to one of the
//! same length. On the way to a network whose addresses have a meaning of their own, nothing is
//! inverted: it stays where it is, and nothing else gets in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A network of IPv4 or IPv6 whose bits are kept, and whether those of its addresses are, too.
struct Kept {
    bits: u128,
    length: u32,
    is_whole: bool,
}

const fn v4(a: u8, b: u8, length: u32, is_whole: bool) -> Kept {
    Kept { bits: (Ipv4Addr::new(a, b, 0, 0).to_bits() as u128) << 96, length, is_whole }
}

const fn v6(first: u16, length: u32, is_whole: bool) -> Kept {
    Kept { bits: (first as u128) << 112, length, is_whole }
}

const BROADCAST: Kept = Kept { bits: (u32::MAX as u128) << 96, length: 32, is_whole: true };

/// Private addresses stay private, but are replaced.
const KEPT_V4: [Kept; 10] = [
    v4(0, 0, 8, true),
    v4(127, 0, 8, true),
    v4(169, 254, 16, true),
    v4(224, 0, 4, true),
    // Some clouds give these to Pods.
    v4(240, 0, 4, false),
    BROADCAST,
    v4(10, 0, 8, false),
    v4(100, 64, 10, false),
    v4(172, 16, 12, false),
    v4(192, 168, 16, false),
];

/// `::` and `::1` are in a network of one bit less.
const KEPT_V6: [Kept; 6] = [
    v6(0, 127, true),
    // The rest of such an address often has that of the network card.
    v6(0xfe80, 10, false),
    v6(0xfe80, 64, false),
    v6(0xff00, 8, true),
    v6(0xfc00, 7, false),
    v6(0x2000, 3, false),
];

/// How many pseudonyms are remembered.
const REMEMBERED: usize = 1 << 18;

/// Replaces addresses.
pub(super) struct Addresses {
    key: [u8; 32],
    known: HashMap<IpAddr, IpAddr>,
}

impl Addresses {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key, known: HashMap::new() }
    }

    pub(super) fn address(&mut self, address: IpAddr) -> IpAddr {
        if let Some(known) = self.known.get(&address) {
            return *known;
        }
        let masked = match address {
            IpAddr::V4(address) => {
                let bits = self.bits(u128::from(address.to_bits()) << 96, 32, &KEPT_V4);
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap_or_default()))
            }
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(mapped) => IpAddr::V6(self.v4(mapped).to_ipv6_mapped()),
                None => {
                    IpAddr::V6(Ipv6Addr::from_bits(self.bits(address.to_bits(), 128, &KEPT_V6)))
                }
            },
        };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(address, masked);
        masked
    }

    pub(super) fn v4(&mut self, address: Ipv4Addr) -> Ipv4Addr {
        match self.address(IpAddr::V4(address)) {
            IpAddr::V4(masked) => masked,
            IpAddr::V6(_) => address,
        }
    }

    pub(super) fn v6(&mut self, address: Ipv6Addr) -> Ipv6Addr {
        match self.address(IpAddr::V6(address)) {
            IpAddr::V6(masked) => masked,
            IpAddr::V4(_) => address,
        }
    }

    /// A network with an address inside of it keeps one, which is replaced.
    pub(super) fn network(&mut self, network: &IpNet) -> IpNet {
        let masked = IpNet::new(self.address(network.addr()), network.prefix_len());
        let masked = masked.unwrap_or(*network);
        if network.trunc() == *network { masked.trunc() } else { masked }
    }

    fn bits(&self, bits: u128, length: u32, kept: &[Kept]) -> u128 {
        let mut masked = bits;
        for position in 0..length {
            let before = prefix(bits, position);
            if kept.iter().any(|kept| kept.keeps(before, position)) {
                continue;
            }
            let mut question = [0; 18];
            question[..16].copy_from_slice(&before.to_be_bytes());
            question[16..].copy_from_slice(&[byte(position), byte(length)]);
            let answer = blake3::keyed_hash(&self.key, &question);
            if answer.as_bytes()[0] & 1 == 1 {
                masked ^= 1 << (127 - position);
            }
        }
        masked
    }
}

impl Kept {
    /// Returns whether the bit after these stays.
    fn keeps(&self, before: u128, position: u32) -> bool {
        match position < self.length {
            true => prefix(self.bits, position) == before,
            false => self.is_whole && prefix(before, self.length) == self.bits,
        }
    }
}

/// Returns the first bits, followed by zeros.
fn prefix(bits: u128, length: u32) -> u128 {
    bits & !u128::MAX.checked_shr(length).unwrap_or(0)
}

/// Positions are far below the largest byte.
fn byte(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        for number in 0_u32..2_000 {
            let v4 = number.wrapping_mul(2_654_435_761);
            all.push(Ipv4Addr::from_bits(v4).into());
            all.push(Ipv4Addr::from_bits(0x0a32_0000 | number).into());
            let v6 = u128::from(v4) << 96 | u128::from(number);
            all.push(Ipv6Addr::from_bits(v6).into());
            all.push(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number)).into());
        }
        all
    }

    fn wide(address: IpAddr) -> (u128, u32) {
        match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        }
    }

    #[test]
    fn addresses_share_as_many_bits_as_before() {
        let mut addresses = Addresses::new([7; 32]);
        let all = all();
        for pair in all.windows(3).flat_map(|it| [[it[0], it[1]], [it[0], it[2]]]) {
            let [one, two] = pair.map(wide);
            let [masked_one, masked_two] = pair.map(|it| wide(addresses.address(it)));
            if one.1 == two.1 {
                let (before, after) = (one.0 ^ two.0, masked_one.0 ^ masked_two.0);
                assert_eq!(before.leading_zeros(), after.leading_zeros(), "{pair:?}");
            }
        }
        let changed = all.iter().filter(|it| addresses.address(**it) != **it).count();
        assert!(changed > all.len() / 2, "{changed} of {}", all.len());
    }

    #[test]
    fn what_has_a_meaning_of_its_own_stays_and_nothing_becomes_it() {
        let special = |address: &IpAddr| match address {
            IpAddr::V4(it) => {
                it.is_loopback()
                    || it.is_link_local()
                    || it.octets()[0] == 0
                    || it.octets()[0] >= 224
            }
            IpAddr::V6(it) => {
                it.is_loopback()
                    || it.is_unspecified()
                    || it.is_multicast()
                    || it.is_unicast_link_local()
            }
        };
        let private = |address: &IpAddr| match address {
            IpAddr::V4(it) => it.is_private(),
            IpAddr::V6(it) => it.is_unique_local(),
        };
        let named = ["0.0.0.0", "127.0.0.1", "169.254.20.10", "224.0.0.1", "255.255.255.255"];
        let named = named.into_iter().chain(["::", "::1", "ff02::1"]);
        let named: Vec<IpAddr> = named.map(|it| it.parse().unwrap()).collect();
        for key in 0..4 {
            let mut addresses = Addresses::new([key; 32]);
            for address in &named {
                assert_eq!(addresses.address(*address), *address);
            }
            for address in all() {
                let masked = addresses.address(address);
                assert_eq!(special(&address), special(&masked), "{address} {masked}");
                assert_eq!(private(&address), private(&masked), "{address} {masked}");
            }
        }
    }

    #[test]
    fn link_local_addresses_and_class_e_stay_in_their_networks_alone() {
        let mut addresses = Addresses::new([7; 32]);
        for (text, network) in [
            ("fe80::211:22ff:fe33:4455", "fe80::/64"),
            ("fe80:0:0:7::1", "fe80::/10"),
            ("240.10.1.2", "240.0.0.0/4"),
        ] {
            let (address, network): (IpAddr, IpNet) =
                (text.parse().unwrap(), network.parse().unwrap());
            let masked = addresses.address(address);
            assert_ne!(masked, address);
            assert!(network.contains(&masked), "{masked}");
        }
        let network: IpNet = "fe80::/64".parse().unwrap();
        assert_eq!(addresses.network(&network), network);
    }

    #[test]
    fn networks_contain_what_they_contained() {
        let mut addresses = Addresses::new([3; 32]);
        for text in ["10.96.0.0/16", "0.0.0.0/0", "2001:db8:50::/48", "::/0", "10.50.0.0/25"] {
            let network: IpNet = text.parse().unwrap();
            let masked = addresses.network(&network);
            assert_eq!(masked, masked.trunc(), "{text}");
            assert_eq!(masked.prefix_len(), network.prefix_len());
            for address in all() {
                let is_in = masked.contains(&addresses.address(address));
                assert_eq!(is_in, network.contains(&address), "{address} in {text}");
            }
        }
        let with_address: IpNet = "10.50.1.7/24".parse().unwrap();
        let masked = addresses.network(&with_address);
        assert_eq!(masked.addr(), addresses.address(with_address.addr()));
    }
}
