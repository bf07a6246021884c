//! Answers of nf_tables as bytes.

use std::collections::BTreeSet;

use rulec_compiler::net::Family;
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::set::{SetId, SetKind};

use super::dump::{element, hook_matches, ranges};
use super::foreign::read_jumps;
use super::forward::read_chain;
use super::identity::Identity;
use super::trace::event::Event;
use super::watch::culprit;
use super::wire;
use crate::netlink::{Attributes, Message, attributes, messages};

/// Reads each message as every kind of object, and its elements as those of every set.
pub fn nftables(bytes: &[u8]) {
    for message in messages(bytes) {
        let _ = (message.errno(), message.end_errno(), culprit(message));
        let kind = wire::NFNL_SUBSYS_NFTABLES << 8 | 17;
        let _ = Event::of(&Message { kind, ..message });
        object(message.family(), &message.attributes());
        elements(&message.attributes());
    }
}

fn object(family: u8, of: &Attributes<'_>) {
    let _ = (Identity::listed(of), read_jumps(of), read_chain(family, of));
    for kind in [wire::NFTA_CHAIN_NAME, wire::NFTA_SET_NAME] {
        let name = of.clone().text(kind).unwrap_or_default();
        let chain = ChainId::from_name(name);
        let _ = SetId::from_name(name).map(|set| set.spec());
        let _ = chain.map(|chain| hook_matches(chain, of.clone()));
    }
}

fn elements(of: &Attributes<'_>) {
    let all = || of.clone().nested(wire::NFTA_SET_ELEM_LIST_ELEMENTS).into_iter().flatten();
    for (set, family) in SetId::CONSTANT.into_iter().flat_map(|set| Family::ALL.map(|of| (set, of)))
    {
        let (mut bounds, mut found) = (BTreeSet::new(), Vec::new());
        let is_ranges = set.spec().kind == SetKind::Interval;
        for (_, bytes) in all() {
            let one = attributes(bytes);
            found.extend(element(family, set, &one));
            if is_ranges {
                let key = one.clone().nested(wire::NFTA_SET_ELEM_KEY);
                let key = key.and_then(|key| key.find(wire::NFTA_DATA_VALUE)).unwrap_or_default();
                let flags = one.be32(wire::NFTA_SET_ELEM_FLAGS).unwrap_or(0);
                bounds.insert((key.to_vec(), flags & wire::NFT_SET_ELEM_INTERVAL_END == 0));
            }
        }
        ranges(family, set, &bounds, &mut found);
        for (key, held) in &found {
            assert_eq!((key.set(), key.family()), (set, family), "an element of another set");
            // What was read can be written: it is an operand when it is not wanted.
            let _ = (wire::key(*key), wire::range_end(*key), wire::value(held.value));
        }
    }
}
