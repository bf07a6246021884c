//! How long an operation occupies the kernel, by measurement: other users of nf_tables wait during
//! that time, and packets on this CPU.
//!
//! Measured on Linux 6.18 (2 virtual CPUs), and rounded up. A slow or busy machine may take twice
//! as long, so a transaction gets half the time that others may have to wait.

use std::time::Duration;

use rulec_compiler::Op;
use rulec_compiler::nft;
use rulec_compiler::nft::ruleset;

/// The estimated time that one transaction may take.
pub(super) const TRANSACTION: Duration = Duration::from_millis(5);

/// In a hash table. It takes half of that, or twice as much while the table grows or shrinks.
const ELEMENT: Duration = Duration::from_nanos(1_500);

/// With a counter, of which each CPU has one.
const COUNTED: Duration = Duration::from_nanos(3_000);

/// In a set of ranges (a tree).
const RANGE: Duration = Duration::from_micros(4);

const SET: Duration = Duration::from_micros(5);
const CHAIN: Duration = Duration::from_micros(2);
const RULE: Duration = Duration::from_micros(10);

/// Returns how long an operation takes the kernel; nothing if it is one on IPVS.
pub(super) fn of(op: &Op) -> Duration {
    let Some(op) = op.as_nft() else { return Duration::ZERO };
    match op {
        nft::Op::Add(element) | nft::Op::Delete(element) if element.key.set().has_ranges() => RANGE,
        nft::Op::Add(element) | nft::Op::Delete(element) if element.is_counted => COUNTED,
        nft::Op::Add(_) | nft::Op::Delete(_) => ELEMENT,
        nft::Op::AddTable(_) | nft::Op::AddSet(..) | nft::Op::DeleteSet(..) => SET,
        nft::Op::AddChain(..) | nft::Op::FlushChain(..) | nft::Op::DeleteChain(..) => CHAIN,
        nft::Op::FillChain(_, chain) => {
            let rules = u32::try_from(ruleset::rules(*chain).len()).unwrap_or(u32::MAX);
            RULE.saturating_mul(rules)
        }
        // It takes as long as its elements do, whose number is not known here.
        nft::Op::DeleteTable(_) => TRANSACTION,
    }
}
