//! Chains of others that drop forwarded packets.
//!
//! A chain is named if it drops whatever none of its rules accepts, and has no rule that accepts
//! all translated flows. Whether its other rules let in flows to Services, only their packets tell.

use std::io;

use rulec_compiler::net::Family;

use super::foreign::Foreign;
use super::wire;
use crate::netlink::{Attributes, attributes, be32};

/// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`, with their names in nft and what they see.
const FAMILIES: [(u8, &str, &[Family]); 3] =
    [(1, "inet", &Family::ALL), (2, "ip", &[Family::Ipv4]), (10, "ip6", &[Family::Ipv6])];

/// `NF_INET_FORWARD`, `NF_DROP` and `NF_ACCEPT`.
const HOOK_FORWARD: u32 = 2;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// From <linux/netfilter/nf_tables.h>.
const NFTA_CT_KEY: u16 = 2;
const NFT_CT_STATUS: u32 = 2;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_CMP_OP: u16 = 2;
const NFT_CMP_NEQ: u32 = 1;
/// The name of an extension of iptables, and what is set for it.
const NFTA_XT_NAME: u16 = 1;
const NFTA_MATCH_INFO: u16 = 3;

/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 1 << 5;

/// `struct xt_conntrack_mtinfo3`: the fields `match_flags`, `invert_flags` and `state_mask`, where
/// the first says only that the state counts, and the last is of translated flows.
const MTINFO_FLAGS: usize = 146;
const XT_CONNTRACK_STATE: u16 = 1 << 0;
const XT_CONNTRACK_STATE_ALIAS: u16 = 1 << 13;
const XT_CONNTRACK_STATE_DNAT: u16 = 1 << 7;

/// kube-proxy's chain that accepts the traffic of Services.
const KUBE_FORWARD: &str = "KUBE-FORWARD";

/// A chain that drops forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DroppingChain {
    /// The family of its table, as nft names it.
    pub family: &'static str,
    /// The families of the packets that it sees.
    pub sees: &'static [Family],
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether it is its policy that drops, and not its last rule.
    pub by_policy: bool,
}

impl Foreign {
    /// Returns the base chains of the hook forward that drop what none of their rules accepts.
    ///
    /// # Errors
    ///
    /// If nf_tables cannot be read.
    pub fn dropping_forwards(&mut self) -> io::Result<Vec<DroppingChain>> {
        self.undisturbed(|this| {
            let mut chains = Vec::new();
            let mut of_kube_proxy = Vec::new();
            this.dump(
                wire::GETCHAIN,
                0,
                |_| {},
                |message| {
                    let Some(chain) = read_chain(message.family(), &message.attributes()) else {
                        return;
                    };
                    if chain.chain.name == KUBE_FORWARD {
                        of_kube_proxy.push((chain.chain.family, chain.chain.table));
                    } else if chain.is_forward {
                        chains.push(chain.chain);
                    }
                },
            )?;
            let mut dropping = Vec::new();
            for chain in chains {
                let is_served = of_kube_proxy.contains(&(chain.family, chain.table.clone()));
                if !is_served {
                    dropping.extend(this.if_dropping(chain)?);
                }
            }
            Ok(dropping)
        })
    }

    /// Returns a chain if it drops, by its policy or by its last rule.
    fn if_dropping(&mut self, chain: DroppingChain) -> io::Result<Option<DroppingChain>> {
        let number = FAMILIES.into_iter().find(|(_, name, _)| *name == chain.family);
        let number = number.map_or(0, |(number, ..)| number);
        let (mut accepts, mut ends) = (false, false);
        let ask = |writer: &mut crate::netlink::Writer| {
            writer.text(wire::NFTA_RULE_TABLE, &chain.table);
        };
        self.dump(wire::GETRULE, number, ask, |message| {
            let rule = message.attributes();
            if rule.clone().text(wire::NFTA_RULE_TABLE) != Some(&chain.table) {
                return;
            }
            let expressions = expressions(&rule);
            // In any chain of the table: chains for such rules are reached by a jump.
            accepts |= accepts_translated(&expressions);
            if rule.text(wire::NFTA_RULE_CHAIN) == Some(&chain.name) {
                ends = drops_all(&expressions);
            }
        })?;
        Ok(((chain.by_policy || ends) && !accepts).then_some(chain))
    }
}

/// A chain of any table; `by_policy` says whether its policy drops.
pub(super) struct Found {
    chain: DroppingChain,
    is_forward: bool,
}

pub(super) fn read_chain(family: u8, chain: &Attributes<'_>) -> Option<Found> {
    let (_, family, sees) = FAMILIES.into_iter().find(|(number, ..)| *number == family)?;
    let hook = chain.clone().nested(wire::NFTA_CHAIN_HOOK);
    let number = hook.and_then(|hook| hook.be32(wire::NFTA_HOOK_HOOKNUM));
    let is_filter = chain.clone().text(wire::NFTA_CHAIN_TYPE) == Some("filter");
    let chain = DroppingChain {
        family,
        sees,
        table: chain.clone().text(wire::NFTA_CHAIN_TABLE)?.to_owned(),
        name: chain.clone().text(wire::NFTA_CHAIN_NAME)?.to_owned(),
        by_policy: chain.clone().be32(wire::NFTA_CHAIN_POLICY) == Some(DROP),
    };
    Some(Found { chain, is_forward: is_filter && number == Some(HOOK_FORWARD) })
}

/// An expression: its name, and what is set for it.
type Expression<'a> = (&'a str, Attributes<'a>);

/// Returns the expressions of a rule that decide something.
fn expressions<'a>(rule: &Attributes<'a>) -> Vec<Expression<'a>> {
    let all = rule.clone().nested(wire::NFTA_RULE_EXPRESSIONS).into_iter().flatten();
    let read = |(_, bytes): (u16, &'a [u8])| {
        let expression = attributes(bytes);
        let name = expression.clone().text(wire::NFTA_EXPR_NAME)?;
        Some((name, expression.nested(wire::NFTA_EXPR_DATA).unwrap_or(attributes(&[]))))
    };
    all.filter_map(read).filter(|(name, _)| !matches!(*name, "counter" | "log")).collect()
}

/// Returns whether a rule drops or refuses every packet.
fn drops_all(expressions: &[Expression<'_>]) -> bool {
    match expressions {
        [("reject", _)] => true,
        [("target", data)] => data.clone().text(NFTA_XT_NAME) == Some("REJECT"),
        [immediate] => verdict(immediate) == Some(DROP),
        _ => false,
    }
}

/// Returns whether a rule accepts all packets of flows whose destination is translated.
fn accepts_translated(expressions: &[Expression<'_>]) -> bool {
    match expressions {
        [("ct", ct), ("bitwise", mask), ("cmp", cmp), last] => {
            let value = |data: Attributes<'_>| {
                Some(u32::from_ne_bytes(data.find(wire::NFTA_DATA_VALUE)?.try_into().ok()?))
            };
            ct.clone().be32(NFTA_CT_KEY) == Some(NFT_CT_STATUS)
                && mask.clone().nested(NFTA_BITWISE_MASK).and_then(value) == Some(STATUS_DNAT)
                && cmp.clone().be32(NFTA_CMP_OP) == Some(NFT_CMP_NEQ)
                && verdict(last) == Some(ACCEPT)
        }
        [("match", extension), last] => {
            let info = extension.clone().find(NFTA_MATCH_INFO).unwrap_or_default();
            let field = |index: usize| {
                let at = MTINFO_FLAGS + 2 * index;
                Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?))
            };
            let by = field(0).map(|by| by & !XT_CONNTRACK_STATE_ALIAS);
            extension.clone().text(NFTA_XT_NAME) == Some("conntrack")
                && by == Some(XT_CONNTRACK_STATE)
                && field(1) == Some(0)
                && field(2).is_some_and(|mask| mask & XT_CONNTRACK_STATE_DNAT != 0)
                && verdict(last) == Some(ACCEPT)
        }
        _ => false,
    }
}

/// Returns the verdict of an expression, if it gives one without looking at the packet.
fn verdict((name, data): &Expression<'_>) -> Option<u32> {
    let data = data.clone().nested(wire::NFTA_IMMEDIATE_DATA).filter(|_| *name == "immediate")?;
    be32(data.nested(wire::NFTA_DATA_VERDICT)?.find(wire::NFTA_VERDICT_CODE)?)
}

#[cfg(test)]
mod tests {
    use rulec_testkit::{Namespace, require_root};

    use super::*;

    /// Returns the chains that drop: family, table and name, and a sign for those by a rule.
    fn dropping(namespace: &Namespace) -> Vec<String> {
        let found = namespace.run(|| Foreign::open().unwrap().dropping_forwards().unwrap());
        let name = |it: &DroppingChain| {
            let by = if it.by_policy { "" } else { " by rule" };
            format!("{} {} {}{by}", it.family, it.table, it.name)
        };
        found.iter().map(name).collect()
    }

    #[test]
    fn chains_that_drop_are_found_unless_they_accept_translated_flows() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("forward");
        let chain = |family: &str, policy: &str, rules: &str| {
            namespace.nft(&format!(
                "table {family} t\ndelete table {family} t\ntable {family} t {{
                   chain other {{ tcp dport 1 drop; }}
                   chain f {{ type filter hook forward priority 0; policy {policy}; {rules}; }}
                   chain i {{ type filter hook input priority 0; policy drop; }}
                 }}"
            ));
            dropping(&namespace)
        };
        for family in ["ip", "ip6", "inet"] {
            let by_policy = [format!("{family} t f")];
            let by_rule = [format!("{family} t f by rule")];
            assert_eq!(chain(family, "accept", "tcp dport 80 drop"), [""; 0]);
            assert_eq!(chain(family, "drop", ""), by_policy);
            // These accept only a part.
            let parts = [
                "ct state established accept",
                "ct status snat accept",
                "ct status dnat tcp dport 1 accept",
            ];
            for rule in parts {
                assert_eq!(chain(family, "drop", rule), by_policy, "{rule}");
            }
            for rule in ["drop", "counter drop", "reject", "log counter reject with tcp reset"] {
                let expected = if rule.contains("tcp") { &[][..] } else { &by_rule };
                assert_eq!(chain(family, "accept", rule), expected, "{rule}");
            }
            assert_eq!(chain(family, "accept", "drop; accept"), [""; 0], "it is not the last");
            for policy in ["drop", "accept"] {
                let rules = "ct status dnat counter accept; drop";
                assert_eq!(chain(family, policy, rules), [""; 0], "{policy}");
            }
            namespace.nft(&format!("delete table {family} t"));
        }
    }

    #[test]
    fn chains_of_iptables_are_read_and_so_is_kube_proxys() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("iptables-forward");
        for (tool, family) in [("iptables-nft", "ip"), ("ip6tables-nft", "ip6")] {
            let sh = |script: &str| {
                namespace.sh(&script.replace("iptables", tool));
                dropping(&namespace)
            };
            let by_policy = [format!("{family} filter FORWARD")];
            let by_rule = [format!("{family} filter FORWARD by rule")];
            assert_eq!(sh("iptables -A FORWARD -p tcp --dport 1 -j DROP"), [""; 0]);
            assert_eq!(sh("iptables -A FORWARD -j REJECT"), by_rule);
            assert_eq!(sh("iptables -D FORWARD -j REJECT; iptables -P FORWARD DROP"), by_policy);
            for partial in ["ESTABLISHED", "SNAT"] {
                let rule = format!("FORWARD -m conntrack --ctstate {partial} -j ACCEPT");
                assert_eq!(sh(&format!("iptables -A {rule}")), by_policy);
            }
            let negated = "iptables -A FORWARD -m conntrack ! --ctstate DNAT -j ACCEPT";
            assert_eq!(sh(negated), by_policy);
            let rule = "FORWARD -m conntrack --ctstate DNAT -j ACCEPT";
            assert_eq!(sh(&format!("iptables -I {rule}")), [""; 0]);
            assert_eq!(sh(&format!("iptables -D {rule}")), by_policy);
            assert_eq!(
                sh("iptables -N KUBE-FORWARD; iptables -I FORWARD -j KUBE-FORWARD"),
                [""; 0]
            );
            namespace.nft(&format!("delete table {family} filter"));
        }
    }
}
