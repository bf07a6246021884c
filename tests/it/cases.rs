//! The table of cases: tests/cases/*.yaml; each row is tested on the real kernel.
//!
//! A row consists of objects, packets and their outcomes. It is written for IPv4, and is also
//! tested for IPv6, with the addresses from [`mirror`]. The table is for readers who know Services
//! and not this program; tests/cases/README.md explains its vocabulary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod mirror;
mod objects;
mod oracle;
mod packets;
mod place;
mod row;
mod run;
mod trace;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

/// Declares a section of the table: its file, and a test for each of its cases and families.
macro_rules! section {
    ($name:ident, $file:literal, ipvs: $($case:ident)*) => {
        mod $name {
            use rulec_testkit::Family;

            use super::row::Mode;

            pub(super) const FILE: &str = $file;

            pub(super) const CASES: &[(&str, bool)] = &[$((stringify!($case), true),)*];

            fn run(case: &str, family: Family) {
                super::run::run(FILE, super::number(case), family, Mode::Ipvs);
            }

            $(mod $case {
                use super::{Family, run};

                #[test]
                #[ignore = "needs ip_vs: run tests/vm/run"]
                fn ipvs_ipv4() {
                    run(stringify!($case), Family::V4);
                }

                #[test]
                #[ignore = "needs ip_vs: run tests/vm/run"]
                fn ipvs_ipv6() {
                    run(stringify!($case), Family::V6);
                }
            })*
        }
    };
    ($name:ident, $file:literal, $($case:ident)* $(, ipv4: $($v4_only:ident)*)?) => {
        mod $name {
            use rulec_testkit::Family;

            use super::row::Mode;

            pub(super) const FILE: &str = $file;

            /// The cases, and whether each applies to both families.
            pub(super) const CASES: &[(&str, bool)] =
                &[$((stringify!($case), true),)* $($((stringify!($v4_only), false),)*)?];

            fn run(case: &str, family: Family, mode: Mode) {
                super::run::run(FILE, super::number(case), family, mode);
            }

            $(mod $case {
                use super::{Family, Mode, run};

                #[test]
                fn ipv4() {
                    run(stringify!($case), Family::V4, Mode::Nftables);
                }

                #[test]
                fn ipv6() {
                    run(stringify!($case), Family::V6, Mode::Nftables);
                }

                #[test]
                #[ignore = "needs ip_vs: run tests/vm/run"]
                fn ipvs_ipv4() {
                    run(stringify!($case), Family::V4, Mode::Ipvs);
                }

                #[test]
                #[ignore = "needs ip_vs: run tests/vm/run"]
                fn ipvs_ipv6() {
                    run(stringify!($case), Family::V6, Mode::Ipvs);
                }
            })*

            $($(mod $v4_only {
                use super::{Family, Mode, run};

                #[test]
                fn ipv4() {
                    run(stringify!($v4_only), Family::V4, Mode::Nftables);
                }

                #[test]
                #[ignore = "needs ip_vs: run tests/vm/run"]
                fn ipvs_ipv4() {
                    run(stringify!($v4_only), Family::V4, Mode::Ipvs);
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

section!(c, "c-endpoints.yaml",
    case_26 case_27 case_28 case_29 case_30 case_31 case_32 case_33 case_34 case_35
    case_116);

section!(d, "d-policies.yaml",
    case_36 case_37 case_38 case_39 case_40 case_41 case_42 case_43 case_44 case_45 case_46
    case_47 case_48 case_49 case_50 case_51 case_52);

section!(e, "e-topology.yaml",
    case_53 case_54 case_55 case_56 case_57 case_58 case_59 case_60 case_61 case_62);

section!(f, "f-external.yaml",
    case_63 case_64 case_65 case_66 case_67 case_68 case_69 case_70 case_71 case_72 case_73
    case_74 case_75 case_76 case_77);

section!(g, "g-affinity.yaml",
    case_78 case_79 case_80 case_81 case_82 case_83);

section!(h, "h-conntrack.yaml",
    case_84 case_85 case_86 case_87 case_88 case_89 case_90);

section!(i, "i-health.yaml",
    case_91 case_92 case_93 case_94);

section!(j, "j-machinery.yaml",
    case_95 case_96 case_97 case_98 case_99 case_100 case_101 case_102 case_103 case_104);

section!(k, "k-ipvs.yaml", ipvs: case_105 case_106 case_107 case_108 case_109 case_110);

section!(l, "l-files.yaml",
    case_111 case_112 case_113 case_114 case_115 case_117);

section!(m, "m-load-balancing.yaml",
    case_118 case_119 case_120 case_121 case_122 case_123 case_124);

/// All sections in order.
const SECTIONS: [(&str, &[(&str, bool)]); 13] = [
    (a::FILE, a::CASES),
    (b::FILE, b::CASES),
    (c::FILE, c::CASES),
    (d::FILE, d::CASES),
    (e::FILE, e::CASES),
    (f::FILE, f::CASES),
    (g::FILE, g::CASES),
    (h::FILE, h::CASES),
    (i::FILE, i::CASES),
    (j::FILE, j::CASES),
    (k::FILE, k::CASES),
    (l::FILE, l::CASES),
    (m::FILE, m::CASES),
];

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
        assert_eq!(of_rows, of_tests, "{file}: rows and tests in cases.rs differ");
    }
    assert_eq!(seen, (1..=124).collect());
}

/// docs/deviations.md has an entry `- Case 7:` for exactly those rows that have `deviates`, with
/// the same text.
#[test]
fn every_deviation_is_documented() {
    let in_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = include_str!("../../docs/deviations.md");
    let told = |of: &str| -> BTreeMap<u32, String> {
        let items = page.split("\n- ").filter_map(|item| item.split("\n\n").next());
        items
            .filter_map(|item| item.strip_prefix(of)?.split_once(": "))
            .map(|(case, words)| (case.parse().expect("a number"), in_one_line(words)))
            .collect()
    };
    let rows = || SECTIONS.iter().flat_map(|(file, _)| row::read(file));
    let deviating: BTreeMap<u32, String> =
        rows().filter_map(|row| Some((row.case, in_one_line(&row.deviates?)))).collect();
    assert_eq!(told("Case "), deviating);
    // A row that is not for mode ipvs has an entry, too.
    let in_ipvs: BTreeMap<u32, String> = rows()
        .filter_map(|row| {
            let ipvs = row.ipvs?;
            Some((row.case, in_one_line(&ipvs.deviates.or(ipvs.without)?)))
        })
        .collect();
    assert_eq!(told("In mode ipvs, case "), in_ipvs);
}
