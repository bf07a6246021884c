use crate::decode::address::{parse_ip, parse_range};

#[test]
fn addresses_are_parsed_as_in_kubernetes() {
    let good = [
        ("10.0.0.1", "10.0.0.1"),
        ("010.000.00.08", "10.0.0.8"),
        ("0000000000001.2.3.4", "1.2.3.4"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
    ];
    for (text, want) in good {
        assert_eq!(parse_ip(text), Some(want.parse().unwrap()), "of {text}");
    }
    let bad = [
        "",
        ".",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.-4",
        "1.2.3.+4",
        "1..2.3",
        "a",
        "1.2.3.4 ",
        "fe80::1%eth0",
        ":",
        "0x1.2.3.4",
        "99999999999.1.1.1",
    ];
    for text in bad {
        assert_eq!(parse_ip(text), None, "of {text:?}");
    }
    let good = [
        ("203.0.113.000/025", "203.0.113.0/25"),
        (" 10.1.2.3/8\n", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00::1/64", "fd00::/64"),
        ("::/0", "::/0"),
    ];
    for (text, want) in good {
        assert_eq!(parse_range(text), Some(want.parse().unwrap()), "of {text}");
    }
    for text in [
        "",
        "/",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/",
        "fd00::/129",
        "x/8",
        "10.0.0.0/8/8",
    ] {
        assert_eq!(parse_range(text), None, "of {text:?}");
    }
}
