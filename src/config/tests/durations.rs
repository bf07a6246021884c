use std::time::Duration;

use crate::config::duration::GoDuration;

#[test]
fn durations_are_read_and_written_as_in_go() {
    let table: [(&str, u64, &str); 16] = [
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("-0s", 0, "0s"),
        ("+5s", 5_000_000_000, "5s"),
        ("24h0m0s", 86_400_000_000_000, "24h0m0s"),
        ("24h", 86_400_000_000_000, "24h0m0s"),
        ("90s", 90_000_000_000, "1m30s"),
        ("1h0m1.5s", 3_601_500_000_000, "1h0m1.5s"),
        (".5m", 30_000_000_000, "30s"),
        ("1.m", 60_000_000_000, "1m0s"),
        ("250ms", 250_000_000, "250ms"),
        ("1.000001s", 1_000_001_000, "1.000001s"),
        ("1500us", 1_500_000, "1.5ms"),
        ("3\u{b5}s4\u{3bc}s", 7_000, "7\u{b5}s"),
        ("7ns", 7, "7ns"),
        ("0.3333333333333333333h", 1_200_000_000_000 - 1, "19m59.999999999s"),
    ];
    for (text, nanoseconds, written) in table {
        let duration: GoDuration = text.parse().unwrap();
        assert_eq!(duration.positive(), Some(Duration::from_nanos(nanoseconds)), "{text}");
        assert_eq!(duration.to_string(), written);
        assert_eq!(written.parse(), Ok(duration));
    }
}

#[test]
fn a_negative_duration_is_below_zero() {
    let duration: GoDuration = "-1m30s".parse().unwrap();
    assert!(duration < GoDuration::ZERO);
    assert_eq!(duration.positive(), None);
    assert_eq!(duration.to_string(), "-1m30s");
}

#[test]
fn durations_that_go_refuses_are_refused() {
    let long = format!("{}s", "9".repeat(400));
    let wrong = [
        "",
        "-",
        "5",
        "s",
        "1 s",
        "1s ",
        "1d",
        "1.2.3s",
        ".s",
        "1e3s",
        "--1s",
        "1s-1s",
        "3S",
        "1\u{663}s",
        "300000h100000000000h",
        &long,
    ];
    for text in wrong {
        assert!(text.parse::<GoDuration>().is_err(), "{text}");
    }
    assert_eq!(
        "2562048h".parse::<GoDuration>(),
        Err("\"2562048h\" is longer than 292 years".to_owned())
    );
    assert!("2562047h47m16.854775807s".parse::<GoDuration>().is_ok());
}
