//! Chains of others that drop forwarded packets.

use rulec_compiler::net::Family;
use rulec_sinks::nft::forward::DroppingChain;

use super::Finding;

/// Returns the chains that drop packets of these families, and those that may, since only iptables'
/// own interface could read them.
pub(super) fn find(
    families: &[Family],
    chains: Vec<DroppingChain>,
    has_legacy_filter: impl Fn(Family) -> bool,
) -> Vec<Finding> {
    let sees = |chain: &DroppingChain| chain.sees.iter().any(|it| families.contains(it));
    let dropping = chains.into_iter().filter(sees).map(Finding::Dropping);
    let unread = families.iter().copied().filter(|family| has_legacy_filter(*family));
    dropping.chain(unread.map(|family| Finding::Unread { family })).collect()
}
