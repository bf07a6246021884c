//! Cases that the tests of the whole program cannot produce: answers of other kernels, hostile
//! bytes, and a flow that has taken the place of another.

use rulec_testkit::{Namespace, require_root};

use super::*;
use crate::netlink::HEADER_LEN;

#[test]
fn the_probe_error_determines_kernel_support() {
    assert_eq!(support(ERANGE).unwrap(), Support::Filtered);
    assert_eq!(support(ENOENT).unwrap(), Support::Unfiltered);
    assert_eq!(support(EINVAL).unwrap(), Support::Absent);
    assert!(matches!(support(EPERM), Err(ConntrackError::Forbidden)));
    assert!(matches!(support(12), Err(ConntrackError::Unavailable(_))));
}

/// Returns a UDP flow as the kernel returns it, without unneeded attributes.
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
fn a_truncated_flow_is_not_read() {
    let bytes = shown(|writer| writer.attribute(12, &[1, 2, 3, 4]));
    let message = messages(&bytes).next().unwrap();
    let found = Shown::read(&message).unwrap();
    assert_eq!(found.kind, FlowKind::Udp);
    assert_eq!(found.flow.destination, "10.96.0.1:53".parse().unwrap());
    assert_eq!(found.flow.answers, "10.50.1.1:5353".parse().unwrap());
    for len in 0..message.payload.len() {
        let cut = Message { payload: &message.payload[..len], ..message };
        assert!(Shown::read(&cut).is_none(), "{len} bytes");
    }
    // Any byte may be wrong, without a panic.
    for at in HEADER_LEN..bytes.len() {
        for value in [0, 1, 3, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            for message in messages(&bytes) {
                let _ = Shown::read(&message);
            }
        }
    }
    assert!(Shown::read(&messages(&shown(|_| ())).next().unwrap()).is_none(), "no id");
    let zoned = shown(|writer| {
        writer.attribute(12, &[1, 2, 3, 4]);
        writer.attribute(18, &[0, 5]);
    });
    assert!(Shown::read(&messages(&zoned).next().unwrap()).is_none(), "another zone");
}

#[test]
fn a_flow_that_replaced_another_is_not_deleted() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("place");
    namespace
        .sh("conntrack -I -p udp -t 3600 -s 10.50.1.200 --sport 4001 -d 10.96.0.1 --dport 53 \
         -r 10.50.1.1 --reply-port-src 5353 -q 10.50.1.200 --reply-port-dst 4001 2>/dev/null");
    // The same tuple with the id of an earlier flow.
    let bytes = shown(|writer| writer.attribute(12, &[1, 2, 3, 4]));
    let message = messages(&bytes).next().unwrap();
    let flow = Shown::read(&message).unwrap();
    let deleted = namespace.run(|| {
        let mut conntrack = Conntrack::open().unwrap();
        let mut deletions = Deletions::new(conntrack.seq, 2);
        deletions.push(&flow);
        deletions.push(&flow);
        deletions.send(&mut conntrack.requests).unwrap()
    });
    assert_eq!(deleted, 0, "already gone, which is not an error");
    assert_eq!(namespace.sh("conntrack -C").trim(), "1", "and the other one still exists");
}

#[test]
fn a_survey_lists_live_flows_of_both_families_and_no_others() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("survey");
    let insert = |protocol: &str, from: u16, is_v6: bool, more: &str| {
        let [client, frontend, backend] = match is_v6 {
            false => ["10.50.1.200", "10.96.0.1", "10.50.1.1"],
            true => ["2001:db8::200", "fd00:96::1", "2001:db8::1"],
        };
        namespace.sh(&format!(
            "conntrack -I -p {protocol} -t 3600 -s {client} --sport {from} -d {frontend} \
             --dport 53 -r {backend} --reply-port-src 5353 -q {client} --reply-port-dst {from} \
             {more} 2>/dev/null"
        ));
    };
    insert("udp", 1, false, "");
    insert("udp", 2, true, "");
    insert("udp", 3, false, "-w 5");
    for (from, state) in (11..).zip([
        "SYN_SENT",
        "SYN_SENT -u SEEN_REPLY",
        "SYN_RECV -u SEEN_REPLY",
        "ESTABLISHED -u SEEN_REPLY",
        "ESTABLISHED",
        "FIN_WAIT -u SEEN_REPLY",
        "CLOSE_WAIT -u SEEN_REPLY",
        "LAST_ACK -u SEEN_REPLY",
        "TIME_WAIT -u SEEN_REPLY",
        "CLOSE -u SEEN_REPLY",
    ]) {
        insert("tcp", from, from % 2 == 0, &format!("--state {state}"));
    }
    let sctp = "--orig-vtag 1 --reply-vtag 2 -u SEEN_REPLY --state";
    insert("sctp", 31, false, "--orig-vtag 1 --reply-vtag 2 --state COOKIE_WAIT");
    insert("sctp", 32, true, &format!("{sctp} ESTABLISHED"));
    insert("sctp", 33, true, &format!("{sctp} CLOSED"));
    let mut found = namespace.run(|| {
        let each = |all: &mut Vec<_>, live: &Live| all.push((live.client.port(), live.kind));
        survey(each).unwrap()
    });
    found.sort_unstable_by_key(|(port, _)| *port);
    let (udp, unanswered) = (Some(FlowKind::Udp), Some(FlowKind::Unanswered));
    let answered = (12..=17).map(|port| (port, None));
    let expected = [(1, udp), (2, udp), (11, unanswered)].into_iter().chain(answered);
    let expected = expected.chain([(31, unanswered), (32, None)]);
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn this_kernel_supports_filtered_dumps() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("filters");
    namespace.run(|| {
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(conntrack.support().unwrap(), Support::Filtered);
        assert_eq!(conntrack.support, Some(Support::Filtered));
    });
}
