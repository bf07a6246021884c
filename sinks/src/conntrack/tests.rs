//! What no flow of a whole program shows: plans, answers of other kernels, hostile bytes, and a flow
//! that has taken another's place.

use std::net::{Ipv4Addr, Ipv6Addr};

use rulec_testkit::{Namespace, require_root};

use super::*;
use crate::netlink::HEADER_LEN;

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn backend(last: u8) -> Backend {
    Backend { address: Ipv4Addr::new(10, 50, 1, last).into(), port: port(5353) }
}

fn backend6(last: u16) -> Backend {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0x50, 1, 0, 0, 0, last);
    Backend { address: address.into(), port: port(5353) }
}

fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, last)
}

fn stale(address: impl Into<IpAddr>, gone: Gone) -> Stale {
    Stale { frontend: Frontend::Address { address: address.into(), port: port(53) }, gone }
}

fn node_port(addresses: impl IntoIterator<Item = IpAddr>, gone: Gone) -> Stale {
    let addresses = Arc::new(addresses.into_iter().collect());
    Stale { frontend: Frontend::NodePort { port: port(30053), addresses }, gone }
}

fn exact(last: u8, backend: u8) -> Filter {
    Filter {
        family: Family::Ipv4,
        port: port(53),
        destination: Some(vip(last)),
        reply_source: Some(Ipv4Addr::new(10, 50, 1, backend)),
        reply_port: Some(port(5353)),
    }
}

/// The filters by which the kernel deletes, and those by which it shows, with how many stale each.
fn plan(stale: &[Stale], can_delete: bool) -> (Vec<Filter>, Vec<(Filter, usize)>) {
    let (mut deletes, mut shows) = (Vec::new(), Vec::new());
    for walk in plan::walks(stale, can_delete) {
        match walk {
            Walk::Delete(filter) => {
                assert!(shows.is_empty(), "deletions come first");
                deletes.push(filter);
            }
            Walk::Choose(filter, stale) => shows.push((filter, stale.len())),
        }
    }
    (deletes, shows)
}

#[test]
fn the_kernel_deletes_what_a_filter_says_exactly() {
    let pairs = [
        stale(vip(1), Gone::Backend(backend(1))),
        stale(vip(1), Gone::Backend(backend(2))),
        // Twice the same is one walk.
        stale(vip(1), Gone::Backend(backend(1))),
        stale(vip(2), Gone::Backend(backend(1))),
        // Of the other family: no flow can have it.
        stale(vip(2), Gone::Backend(backend6(1))),
    ];
    let (deletes, shows) = plan(&pairs, true);
    assert_eq!(deletes, [exact(1, 1), exact(1, 2), exact(2, 1)]);
    assert_eq!(shows, []);

    let (deletes, shows) = plan(&[stale(vip(1), Gone::Untranslated)], true);
    let untranslated =
        Filter { reply_source: Some(vip(1)), reply_port: Some(port(53)), ..exact(1, 1) };
    assert_eq!((deletes, shows), (vec![untranslated], vec![]));
}

#[test]
fn a_port_is_shown_once_however_much_of_it_is_stale() {
    // More pairs than are worth a walk each.
    let pairs: Vec<Stale> =
        (1..=5).map(|last| stale(vip(1), Gone::Backend(backend(last)))).collect();
    let (deletes, shows) = plan(&pairs, true);
    assert_eq!(deletes, []);
    assert_eq!(shows, [(Filter { reply_source: None, ..exact(1, 1) }, 5)]);

    // On an older kernel, each is shown; the filter is as narrow as can be.
    let (deletes, shows) = plan(&pairs[..1], false);
    assert_eq!((deletes, shows), (vec![], vec![(exact(1, 1), 1)]));

    // What is exact goes with what has to be shown anyway.
    let now = Gone::AllBut(Arc::new(BTreeSet::from([backend(1)])));
    let mixed = [stale(vip(1), now), stale(vip(2), Gone::Backend(backend(1)))];
    let (deletes, shows) = plan(&mixed, true);
    let any = Filter { destination: None, reply_source: None, reply_port: None, ..exact(1, 1) };
    assert_eq!((deletes, shows), (vec![], vec![(any, 2)]));
}

#[test]
fn no_filter_has_an_ipv6_address_and_families_are_apart() {
    let addresses = [IpAddr::from(vip(1)), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let both = [
        node_port(addresses, Gone::Backend(backend6(1))),
        node_port(addresses, Gone::Backend(backend(1))),
    ];
    let (deletes, shows) = plan(&both, true);
    let v4 = Filter { port: port(30053), ..exact(1, 1) };
    let v6 = Filter { family: Family::Ipv6, destination: None, reply_source: None, ..v4 };
    assert_eq!((deletes, shows), (vec![v4], vec![(v6, 2)]));
    assert_eq!(plan(&[node_port([], Gone::Untranslated)], true), (vec![], vec![]));
}

#[test]
fn the_answer_to_the_probe_tells_kernels_apart() {
    assert_eq!(support(ERANGE).unwrap(), Support::Filtered);
    assert_eq!(support(ENOENT).unwrap(), Support::Unfiltered);
    assert_eq!(support(EINVAL).unwrap(), Support::Absent);
    assert!(matches!(support(EPERM), Err(ConntrackError::Forbidden)));
    assert!(matches!(support(12), Err(ConntrackError::Unavailable(_))));
}

/// A UDP flow as the kernel shows it, without what nobody asks for.
fn shown(more: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    let message = writer.message(1 << 8, 2, 7, 2, 0);
    for (kind, source, destination, ports) in [
        (1, [10, 50, 1, 200], [10, 96, 0, 1], (4001, 53)),
        (2, [10, 50, 1, 1], [10, 50, 1, 200], (5353, 4001)),
    ] {
        let tuple = writer.nest(kind);
        let addresses = writer.nest(1);
        writer.attribute(1, &source);
        writer.attribute(2, &destination);
        writer.close_nest(addresses);
        let protocol = writer.nest(2);
        writer.attribute(1, &[17]);
        writer.attribute(2, &u16::to_be_bytes(ports.0));
        writer.attribute(3, &u16::to_be_bytes(ports.1));
        writer.close_nest(protocol);
        writer.close_nest(tuple);
    }
    more(&mut writer);
    writer.close_message(message);
    writer.bytes().to_vec()
}

#[test]
fn a_flow_is_read_whole_or_not_at_all() {
    let bytes = shown(|writer| writer.attribute(12, &[1, 2, 3, 4]));
    let message = messages(&bytes).next().unwrap();
    let flow = Flow::read(&message).unwrap();
    assert_eq!(flow.destination, "10.96.0.1:53".parse().unwrap());
    assert_eq!(flow.reply_source, "10.50.1.1:5353".parse().unwrap());
    for len in 0..message.payload.len() {
        let cut = Message { payload: &message.payload[..len], ..message };
        assert!(Flow::read(&cut).is_none(), "{len} bytes");
    }
    // Any byte may be wrong, without a panic.
    for at in HEADER_LEN..bytes.len() {
        for value in [0, 1, 3, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            for message in messages(&bytes) {
                let _ = Flow::read(&message);
            }
        }
    }
    assert!(Flow::read(&messages(&shown(|_| ())).next().unwrap()).is_none(), "no id");
    let zoned = shown(|writer| {
        writer.attribute(12, &[1, 2, 3, 4]);
        writer.attribute(18, &[0, 5]);
    });
    assert!(Flow::read(&messages(&zoned).next().unwrap()).is_none(), "another zone");
}

#[test]
fn a_flow_that_took_the_place_of_another_is_spared() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("place");
    namespace
        .sh("conntrack -I -p udp -t 3600 -s 10.50.1.200 --sport 4001 -d 10.96.0.1 --dport 53 \
         -r 10.50.1.1 --reply-port-src 5353 -q 10.50.1.200 --reply-port-dst 4001 2>/dev/null");
    // The same tuple, and the id of one that was there before.
    let bytes = shown(|writer| writer.attribute(12, &[1, 2, 3, 4]));
    let message = messages(&bytes).next().unwrap();
    let flow = Flow::read(&message).unwrap();
    let deleted = namespace.run(|| {
        let mut conntrack = Conntrack::open().unwrap();
        let mut deletions = Deletions::new(conntrack.seq, 2);
        deletions.push(&flow);
        deletions.push(&flow);
        deletions.send(&mut conntrack.requests).unwrap()
    });
    assert_eq!(deleted, 0, "gone already, which is no error");
    assert_eq!(namespace.sh("conntrack -C").trim(), "1", "and the other is there");
}

#[test]
fn this_kernel_filters_and_refuses_half_a_tuple() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("half");
    namespace.run(|| {
        let mut conntrack = Conntrack::open().unwrap();
        // How a kernel before 6.12 takes a deletion by filter: it is refused, never a deletion of all.
        let errno = conntrack
            .request(wire::CT_DELETE, 2, |writer| {
                let tuple = writer.nest(1);
                let addresses = writer.nest(1);
                writer.attribute(2, &[10, 96, 0, 1]);
                writer.close_nest(addresses);
                writer.close_nest(tuple);
            })
            .unwrap();
        assert_eq!(errno, EINVAL);
        assert_eq!(conntrack.support().unwrap(), Support::Filtered);
        assert_eq!(conntrack.support, Some(Support::Filtered));
    });
}
