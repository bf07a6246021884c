//! The table of what Services mean: tests/cases/*.yaml, each row on the real kernel.
//!
//! A row says what there is (objects), who sends what (packets), and what comes of it. It says so
//! for IPv4; the same is tested for IPv6, with the addresses of [`mirror`]. The table is for people
//! who know Services and not this program: tests/cases/README.md explains its words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod mirror;
mod objects;
mod packets;
mod place;
mod row;
mod run;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

/// A section of the table: its file, and a test for each of its cases and families.
macro_rules! section {
    ($name:ident, $file:literal, $($case:ident)* $(, ipv4: $($v4_only:ident)*)?) => {
        mod $name {
            use rulec_testkit::Family;

            pub(super) const FILE: &str = $file;

            /// The cases, and whether they are for both families.
            pub(super) const CASES: &[(&str, bool)] =
                &[$((stringify!($case), true),)* $($((stringify!($v4_only), false),)*)?];

            fn run(case: &str, family: Family) {
                super::run::run(FILE, super::number(case), family);
            }

            $(mod $case {
                #[test]
                fn ipv4() {
                    super::run(stringify!($case), super::Family::V4);
                }

                #[test]
                fn ipv6() {
                    super::run(stringify!($case), super::Family::V6);
                }
            })*

            $($(mod $v4_only {
                #[test]
                fn ipv4() {
                    super::run(stringify!($v4_only), super::Family::V4);
                }
            })*)?
        }
    };
}

section!(a, "a-cluster-ip.yaml",
    case_1 case_2 case_3 case_4 case_5 case_6 case_7 case_8 case_9 case_10 case_11 case_12 case_13
    case_14);

section!(b, "b-objects.yaml",
    case_15 case_16 case_17 case_19 case_20 case_21 case_22 case_23 case_24 case_25,
    ipv4: case_18);

/// The sections, in their order.
const SECTIONS: [(&str, &[(&str, bool)]); 2] = [(a::FILE, a::CASES), (b::FILE, b::CASES)];

fn number(case: &str) -> u32 {
    case.strip_prefix("case_").and_then(|number| number.parse().ok()).expect("`case_` and a number")
}

#[test]
fn every_case_has_one_row_and_its_tests() {
    let mut seen = BTreeSet::new();
    for (file, tests) in SECTIONS {
        let of_tests: BTreeMap<u32, bool> =
            tests.iter().map(|(case, is_both)| (number(case), *is_both)).collect();
        let mut of_rows = BTreeMap::new();
        for row in row::read(file) {
            assert!(seen.insert(row.case), "case {} has two rows", row.case);
            assert!(!row.title.is_empty() && !row.steps.is_empty(), "case {}", row.case);
            let is_both = match row.families.as_deref() {
                None => true,
                Some([family]) if family == "IPv4" => false,
                Some(other) => panic!("case {}: {other:?} is not [IPv4]", row.case),
            };
            of_rows.insert(row.case, is_both);
        }
        assert_eq!(of_rows, of_tests, "{file}: the rows, and the tests that cases.rs has for them");
    }
}
