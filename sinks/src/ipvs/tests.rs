//! Cases that no kernel produces: exact bytes, and malformed bytes.

use std::net::IpAddr;

use rulec_compiler::ipvs::{Attributes, RealServer};

use super::*;
use crate::netlink::{Message, messages};

const FAMILY: u16 = 33;

fn server(address: &str, protocol: Protocol, port: u16) -> VirtualServer {
    VirtualServer { address: address.parse().unwrap(), protocol, port: port.try_into().unwrap() }
}

fn backend(address: &str, port: u16) -> Backend {
    Backend { address: address.parse().unwrap(), port: port.try_into().unwrap() }
}

fn attributes(scheduler: Scheduler, persistence: Option<u32>) -> Attributes {
    Attributes { scheduling: Scheduling::new(scheduler), persistence }
}

/// Returns the message for an operation.
fn message(op: &Op) -> Vec<u8> {
    let mut writer = Writer::default();
    let message = generic(&mut writer, FAMILY, 1, 7, wire::command(op).unwrap());
    wire::write_operands(&mut writer, op);
    writer.close_message(message);
    writer.bytes().to_vec()
}

/// Returns the written bytes in the form of a dump: the same attributes and commands.
fn shown(op: &Op, more: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut bytes = message(op);
    let mut writer = Writer::default();
    more(&mut writer);
    // In the last nest, which ends with the message.
    let at = last_nest(&bytes);
    bytes.extend_from_slice(writer.bytes());
    let nest = u16::try_from(bytes.len() - at).unwrap();
    bytes[at..at + 2].copy_from_slice(&nest.to_ne_bytes());
    let len = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes
}

fn last_nest(bytes: &[u8]) -> usize {
    let mut at = 20;
    loop {
        let len = usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]])).next_multiple_of(4);
        if at + len == bytes.len() {
            return at;
        }
        at += len;
    }
}

fn read_server(bytes: &[u8]) -> Option<(Option<VirtualServer>, String, Option<Attributes>)> {
    let shown = ShownServer::read(&messages(bytes).next()?)?;
    Some((shown.server, shown.scheduler.to_owned(), shown.attributes))
}

fn read_real(bytes: &[u8], server: VirtualServer) -> Option<ShownReal> {
    ShownReal::read(&messages(bytes).next()?, server)
}

#[test]
#[cfg(target_endian = "little")]
fn operations_match_the_kernel_header_byte_for_byte() {
    let web = server("10.96.0.10", Protocol::Tcp, 80);
    let sticky = attributes(Scheduler::Mh, Some(10_800));
    #[rustfmt::skip]
    let expected = [
        // The length, the family, NLM_F_REQUEST, the sequence number, no port id; NEW_SERVICE,
        // version 1.
        104, 0, 0, 0,  33, 0,  1, 0,  7, 0, 0, 0,  0, 0, 0, 0,  1, 1, 0, 0,
        // IPVS_CMD_ATTR_SERVICE
        84, 0,  1, 0x80,
        // AF, PROTOCOL, ADDR, PORT
        6, 0,  1, 0,  2, 0,  0, 0,
        6, 0,  2, 0,  6, 0,  0, 0,
        20, 0,  3, 0,  10, 96, 0, 10,  0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,
        6, 0,  4, 0,  0, 80,  0, 0,
        // SCHED_NAME, FLAGS with their mask, TIMEOUT, NETMASK
        7, 0,  6, 0,  b'm', b'h', 0,  0,
        12, 0,  7, 0,  0x19, 0, 0, 0,  0x3d, 0, 0, 0,
        8, 0,  8, 0,  0x30, 0x2a, 0, 0,
        8, 0,  9, 0,  0xff, 0xff, 0xff, 0xff,
    ];
    assert_eq!(message(&Op::AddServer(web, sticky)), expected);

    let dns = server("fd00:96::a", Protocol::Udp, 53);
    #[rustfmt::skip]
    let expected = [
        140, 0, 0, 0,  33, 0,  1, 0,  7, 0, 0, 0,  0, 0, 0, 0,  6, 1, 0, 0,
        48, 0,  1, 0x80,
        6, 0,  1, 0,  10, 0,  0, 0,
        6, 0,  2, 0,  17, 0,  0, 0,
        20, 0,  3, 0,  0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a,
        6, 0,  4, 0,  0, 53,  0, 0,
        // IPVS_CMD_ATTR_DEST
        72, 0,  2, 0x80,
        // ADDR_FAMILY, ADDR, PORT
        6, 0,  11, 0,  10, 0,  0, 0,
        20, 0,  1, 0,  0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        6, 0,  2, 0,  0x14, 0xe9,  0, 0,
        // FWD_METHOD, WEIGHT, U_THRESH, L_THRESH
        8, 0,  3, 0,  0, 0, 0, 0,
        8, 0,  4, 0,  0, 0, 0, 0,
        8, 0,  5, 0,  99, 0, 0, 0,
        8, 0,  6, 0,  0, 0, 0, 0,
    ];
    let op = Op::SetReal(dns, backend("2001:db8::1", 5353), RealServer::draining(99));
    assert_eq!(message(&op), expected);

    // A deletion only needs the identity; the rest is as above.
    let deleted = message(&Op::DeleteReal(dns, backend("2001:db8::1", 5353)));
    assert_eq!(deleted[16], 7);
    assert_eq!(deleted[20..68], expected[20..68]);
    assert_eq!(deleted[72..], expected[72..108]);
    assert_eq!(message(&Op::DeleteServer(dns))[20..], expected[20..68]);
}

#[test]
fn servers_and_real_servers_round_trip() {
    for address in ["10.96.0.10", "fd00:96::a"] {
        for protocol in Protocol::ALL {
            for scheduler in Scheduler::ALL {
                for persistence in [None, Some(60)] {
                    let server = server(address, protocol, 443);
                    let attributes = attributes(scheduler, persistence);
                    let read = read_server(&message(&Op::AddServer(server, attributes)));
                    let expected = (Some(server), scheduler.name().to_owned(), Some(attributes));
                    assert_eq!(read, Some(expected));
                }
            }
            let server = server(address, protocol, 443);
            for real in [RealServer::ACTIVE, RealServer::draining(5)] {
                let backend = Backend { address: server.address, port: server.port };
                let read = read_real(&message(&Op::AddReal(server, backend, real)), server);
                let expected = ShownReal { backend, real: Some(real), connections: 0 };
                assert_eq!(read, Some(expected));
            }
        }
    }
}

/// Returns a message with a virtual server that is described by these attributes.
fn described(describe: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    let message = generic(&mut writer, FAMILY, 2, 7, wire::NEW_SERVICE);
    let nest = writer.nest(1);
    describe(&mut writer);
    writer.close_nest(nest);
    writer.close_message(message);
    writer.bytes().to_vec()
}

#[test]
fn foreign_virtual_servers_are_read_as_unsupported() {
    let web = server("10.96.0.10", Protocol::Tcp, 80);
    let with = |scheduler: &str, flags: u32, netmask: u32, engine: Option<&str>| {
        described(|writer| {
            writer.ne16(1, 2);
            writer.ne16(2, 6);
            writer.attribute(3, &[10, 96, 0, 10]);
            writer.attribute(4, &[0, 80]);
            writer.text(6, scheduler);
            let flags = [flags.to_ne_bytes(), u32::MAX.to_ne_bytes()];
            writer.attribute(7, flags.as_flattened());
            writer.ne32(8, 300);
            writer.ne32(9, netmask);
            engine.into_iter().for_each(|engine| writer.text(11, engine));
        })
    };
    let read = |bytes: &[u8]| {
        let (server, _, attributes) = read_server(bytes).unwrap();
        assert_eq!(server, Some(web));
        attributes
    };
    let all = u32::MAX;
    // HASHED is the kernel's own flag; timeout and mask have no meaning without PERSISTENT.
    assert_eq!(read(&with("rr", 2, 0, None)), Some(attributes(Scheduler::Rr, None)));
    assert_eq!(read(&with("rr", 3, all, None)), Some(attributes(Scheduler::Rr, Some(300))));
    for unusual in [
        with("fo", 2, all, None),
        with("rr", 6, all, None),
        with("rr", 3, 0x00ff_ffff, None),
        with("rr", 3, all, Some("sip")),
    ] {
        assert_eq!(read(&unusual), None);
    }

    // Virtual servers that have no name here: of a firewall mark, of all ports, of another
    // protocol.
    let nameless = |protocol: u16, port: u8, mark: bool| {
        let bytes = described(|writer| {
            writer.ne16(1, 2);
            if mark {
                writer.ne32(5, 17);
            }
            writer.ne16(2, protocol);
            writer.attribute(3, &[10, 96, 0, 10]);
            writer.attribute(4, &[0, port]);
            writer.text(6, "wrr");
            writer.attribute(7, &[0; 8]);
        });
        let (server, scheduler, _) = read_server(&bytes).unwrap();
        assert_eq!(scheduler, "wrr", "which is known anyway");
        server
    };
    assert_eq!(nameless(6, 80, false), Some(web));
    assert_eq!(nameless(6, 80, true), None);
    assert_eq!(nameless(6, 0, false), None);
    assert_eq!(nameless(51, 80, false), None);
    assert_eq!(nameless(6 + 256, 80, false), None);
}

#[test]
fn all_connections_count_and_other_methods_are_recognised() {
    let web = server("10.96.0.10", Protocol::Tcp, 80);
    let pod = backend("10.244.1.5", 8080);
    let op = Op::AddReal(web, pod, RealServer::ACTIVE);
    let bytes = shown(&op, |writer| {
        writer.ne32(7, 3);
        writer.ne32(8, 20);
        writer.ne32(9, 100);
        // Statistics, which are not used.
        let nest = writer.nest(10);
        writer.ne32(1, 7);
        writer.close_nest(nest);
    });
    let expected = ShownReal { backend: pod, real: Some(RealServer::ACTIVE), connections: 123 };
    assert_eq!(read_real(&bytes, web), Some(expected));
    let bytes = shown(&op, |writer| {
        writer.ne32(7, u32::MAX);
        writer.ne32(8, 1);
    });
    assert_eq!(read_real(&bytes, web).unwrap().connections, u32::MAX);

    let real = |method: u32, lower: u32, family: Option<u16>| {
        let mut writer = Writer::default();
        let message = generic(&mut writer, FAMILY, 2, 7, wire::NEW_DEST);
        let nest = writer.nest(2);
        family.into_iter().for_each(|family| writer.ne16(11, family));
        writer.attribute(1, &[10, 244, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        writer.attribute(2, &8080_u16.to_be_bytes());
        writer.ne32(3, method);
        writer.ne32(4, 1);
        writer.ne32(5, 0);
        writer.ne32(6, lower);
        writer.close_nest(nest);
        writer.close_message(message);
        let shown = read_real(writer.bytes(), web)?;
        Some((shown.backend, shown.real))
    };
    // An old kernel reports no family.
    assert_eq!(real(0, 0, None), Some((pod, Some(RealServer::ACTIVE))));
    assert_eq!(real(0x100, 0, Some(2)), Some((pod, Some(RealServer::ACTIVE))));
    assert_eq!(real(3, 0, Some(2)), Some((pod, None)), "direct routing");
    assert_eq!(real(0, 5, Some(2)), Some((pod, None)), "a lower threshold");
    assert_eq!(real(0, 0, Some(7)), None, "an unknown family");
}

#[test]
fn truncated_messages_are_refused_and_corrupt_ones_do_not_panic() {
    let web = server("fd00:96::a", Protocol::Tcp, 80);
    let pod = backend("2001:db8::1", 8080);
    let whole = [
        message(&Op::AddServer(web, attributes(Scheduler::Wlc, Some(60)))),
        message(&Op::AddReal(web, pod, RealServer::ACTIVE)),
    ];
    let read_all = |message: &Message<'_>| {
        let found = ShownServer::read(message).is_some();
        let _ = wire::read_family_id(message);
        found || ShownReal::read(message, web).is_some()
    };
    for bytes in &whole {
        let message = messages(bytes).next().unwrap();
        assert!(read_all(&message));
        for len in 0..message.payload.len() {
            let cut = Message { payload: &message.payload[..len], ..message };
            assert!(!read_all(&cut), "{len} bytes");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                for message in messages(&bytes) {
                    read_all(&message);
                }
            }
        }
    }
    // Noise from a small generator whose seed is its state.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_ne_bytes()
    };
    for _ in 0..20_000 {
        let mut payload: Vec<u8> = (0..12).flat_map(|_| noise()).collect();
        // Half of it has the form of an answer.
        let [which, at, value, len, ..] = noise();
        if which % 2 == 0 {
            let bytes = &whole[usize::from(which / 2 % 2)];
            payload = bytes[16..].to_vec();
            let at = usize::from(at) % payload.len();
            payload[at] = value;
            payload.truncate(usize::from(len));
        }
        let message = Message { kind: u16::from(which), flags: 2, seq: 7, payload: &payload };
        read_all(&message);
        crate::rtnetlink::tests::read_all(&message);
    }
}

#[test]
fn binding_operations_are_not_ipvs_commands() {
    let web = server("10.96.0.10", Protocol::Tcp, 80);
    let address: IpAddr = web.address;
    for op in [Op::Bind(address), Op::Unbind(address)] {
        assert_eq!(wire::command(&op), None);
        assert!(change_of(&op).is_some());
    }
    for op in [Op::DeleteServer(web), Op::AddServer(web, attributes(Scheduler::Rr, None))] {
        assert!(wire::command(&op).is_some());
        assert_eq!(change_of(&op), None);
    }
}

#[test]
fn errors_suggest_a_remedy() {
    let absent = OpenError::from(io::Error::from_raw_os_error(ENOENT));
    assert!(absent.to_string().contains("modprobe ip_vs`"), "{absent}");
    let forbidden = OpenError::from(io::Error::from_raw_os_error(EPERM));
    assert!(forbidden.to_string().contains("CAP_NET_ADMIN"), "{forbidden}");
    let absent = SchedulerError::Absent(Scheduler::Lblcr);
    assert!(absent.to_string().contains("modprobe ip_vs_lblcr`"), "{absent}");
}
