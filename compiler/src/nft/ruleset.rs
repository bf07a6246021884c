//! The constant ruleset: the rules of each chain, as data.
//!
//! There is one table per family. Only the `Pick` chains depend on the served Services, which all
//! share them.
//!
//! `skb->priority` is the scratch register between two lookups: it is the only field that can be
//! set from a map, can be read as part of a key, is printed and parsed again by the `nft` tool, and
//! is not used by others in these hooks. Postrouting resets it for packets to Services; the
//! priority of all other packets is never written.

use super::chain::ChainId;
use super::pick::{Clients, Pick};
use super::rule::{Field, Rule, Scratch, Statement};
use super::set::{Scope, SetId, View};

/// The name of the table, in both families.
pub const TABLE: &str = "rulec";

/// Returns the rules of a chain.
pub fn rules(chain: ChainId) -> Vec<Rule> {
    use Statement::{
        ClearMark, DaddrType, Drop, GotoPick, Jump, MarkIsSet, Masquerade, NotLoopback, Reject,
        Return, SetMark, SetPriority, StateInvalid, StateNew, StatusDnat,
    };
    let member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: true };
    let not_member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: false };
    let to_this_node = |chain: ChainId, first: Option<Statement>| {
        // An address may match both sets. The second pass through the chain then has no effect: a
        // packet that the first one has not ended is not ended by the second either.
        let by_address = vec![member(vec![Field::Daddr], SetId::NodeIps), Jump(chain)];
        let by_type = vec![NotLoopback, DaddrType(SetId::NodeAddressTypes), Jump(chain)];
        [by_address, by_type].map(|rest| Rule(first.iter().cloned().chain(rest).collect()))
    };
    let [nodeports_by_address, nodeports_by_type] = to_this_node(ChainId::NodePorts, None);
    let choose = |scope: Scope, view: View| {
        let map = SetId::Services(scope, view);
        let fields = Field::frontend(scope);
        Rule(vec![SetPriority(Scratch::Map { fields, map }), GotoPick(scope, view)])
    };
    let reject =
        |scope: Scope| Rule(vec![member(Field::frontend(scope), SetId::Rejects(scope)), Reject]);
    match chain {
        ChainId::Dispatch => vec![
            Rule(vec![not_member(vec![Field::Protocol], SetId::Protocols), Return]),
            Rule(vec![
                member(vec![Field::Daddr], SetId::ClusterIps),
                not_member(vec![Field::Saddr], SetId::UnmasqueradedSources),
                not_member(vec![Field::Iifname], SetId::UnmasqueradedInterfaces),
                SetMark,
            ]),
            // If this node connects to one of its own addresses, that address is also the source.
            // Other nodes could not answer to a VIP.
            Rule(vec![member(vec![Field::Saddr], SetId::Vips), SetMark]),
            choose(Scope::Address, View::Cluster),
            nodeports_by_address,
            nodeports_by_type,
        ],
        ChainId::NodePorts => vec![choose(Scope::NodePort, View::Cluster)],
        // Without a local backend, drop silently: a load balancer that has not noticed yet, or a
        // client that asked the wrong node, shall retry rather than give up.
        ChainId::Outside(scope) => vec![choose(scope, View::Local), Rule(vec![Drop])],
        ChainId::Translate(scope, view) => {
            let fields = Field::frontend_and(scope, Field::Priority);
            vec![Rule(vec![Statement::Dnat { fields, map: SetId::Endpoints(scope, view) }])]
        }
        ChainId::BackendId(scope, view) => {
            let fields = Field::frontend_and(scope, Field::Priority);
            let map = SetId::AffinitySlots(scope, view);
            vec![Rule(vec![SetPriority(Scratch::Map { fields, map })])]
        }
        ChainId::Firewall => {
            let source = [Field::Daddr, Field::HeaderProtocol, Field::Dport, Field::Saddr];
            vec![Rule(vec![
                member(Field::frontend(Scope::Address), SetId::Firewalled),
                not_member(source.to_vec(), SetId::SourceRanges),
                Drop,
            ])]
        }
        ChainId::FirewallPrerouting | ChainId::FirewallOutput => {
            vec![Rule(vec![StateNew, Jump(ChainId::Firewall)])]
        }
        ChainId::Unserved => vec![reject(Scope::Address)],
        ChainId::UnservedNodePorts => vec![reject(Scope::NodePort)],
        ChainId::Unknown => {
            let fields = Field::frontend(Scope::Address);
            let map = SetId::Services(Scope::Address, View::Cluster);
            let is_known = SetPriority(Scratch::Map { fields, map });
            vec![Rule(vec![is_known, SetPriority(Scratch::Zero), Return]), Rule(vec![Reject])]
        }
        ChainId::Prerouting | ChainId::Output => vec![Rule(vec![Jump(ChainId::Dispatch)])],
        ChainId::Postrouting => vec![
            // Only packets to Services have a number left in the scratch register. The priority of
            // all others is that of their sender.
            Rule(vec![StatusDnat, SetPriority(Scratch::Zero)]),
            Rule(vec![MarkIsSet, ClearMark, Masquerade]),
            Rule(vec![
                StatusDnat,
                member(vec![Field::Saddr, Field::Daddr], SetId::Hairpin),
                Masquerade,
            ]),
            // Conntrack does not know that IPVS has translated a flow. If the flow was started to
            // the address of an endpoint itself, no Service was involved.
            Rule(vec![
                member(vec![Field::Saddr, Field::Daddr], SetId::Hairpin),
                not_member(vec![Field::OriginalDaddr; 2], SetId::Hairpin),
                Masquerade,
            ]),
        ],
        ChainId::FilterInput => {
            let mut rules = vec![Rule(vec![StateNew, Jump(ChainId::Unserved)])];
            rules.extend(to_this_node(ChainId::UnservedNodePorts, Some(StateNew)));
            // A process that listens on all addresses of this node must not be reachable at a VIP.
            let unknown = member(vec![Field::Daddr], SetId::Vips);
            rules.push(Rule(vec![StateNew, unknown, Jump(ChainId::Unknown)]));
            rules
        }
        ChainId::FilterForward => {
            // Conntrack translates only packets that belong to a flow: a backend's segment from
            // outside the window would reach the client from an address that it never spoke to, and
            // the client would answer with a reset.
            let protocols = member(vec![Field::Protocol], SetId::InvalidProtocols);
            let mut rules = vec![Rule(vec![StateInvalid, protocols, Drop])];
            rules.extend(self::rules(ChainId::FilterOutput));
            rules
        }
        ChainId::FilterOutput => vec![
            Rule(vec![StateNew, Jump(ChainId::Unserved)]),
            Rule(vec![StateNew, member(vec![Field::Daddr], SetId::ClusterIps), Reject]),
            // A Service may soon get an address that no Service has now: drop silently instead of
            // rejecting, and do not let the packet be routed.
            Rule(vec![StateNew, member(vec![Field::Daddr], SetId::ServiceCidrs), Drop]),
        ],
        ChainId::Pick(scope, view, pick) => pick_rules(scope, view, pick),
    }
}

fn pick_rules(scope: Scope, view: View, pick: Pick) -> Vec<Rule> {
    let mut rules = clients_rules(scope, pick.clients);
    if pick.is_by_ipvs() {
        // IPVS translates without conntrack's knowledge, so postrouting would not reset it.
        rules.push(Rule(vec![Statement::SetPriority(Scratch::Zero)]));
    }
    if pick.backends == 0 {
        return rules;
    }
    // A rule that looks into a map makes the kernel visit every element of it when the rule is
    // added. So the rules of these chains, which come and go, leave the large maps to constant
    // chains.
    let translate = ChainId::Translate(scope, view);
    let Some(timeout) = pick.affinity else {
        rules.push(Rule(vec![Statement::SetPriority(Scratch::Random(pick.backends))]));
        rules.push(Rule(vec![Statement::Goto(translate)]));
        return rules;
    };
    let record = Statement::RecordAffinity { scope, view, timeout };
    rules.extend([
        // A record of a backend that exists: renew it and translate. If the backend is gone, the
        // chain finds no value and returns.
        Rule(vec![
            Statement::SetPriority(Scratch::Map {
                fields: Field::frontend_and(scope, Field::Saddr),
                map: SetId::Affinity(scope, view),
            }),
            record.clone(),
            Statement::Jump(translate),
        ]),
        // No record, or one of a removed backend: choose a slot, look up its id, record that,
        // translate.
        Rule(vec![Statement::ForgetAffinity(scope, view)]),
        Rule(vec![Statement::SetPriority(Scratch::ClientHash(pick.backends))]),
        Rule(vec![Statement::Jump(ChainId::BackendId(scope, view))]),
        Rule(vec![record]),
        Rule(vec![Statement::Goto(translate)]),
    ]);
    rules
}

fn clients_rules(scope: Scope, clients: Clients) -> Vec<Rule> {
    let not_in = |field, set| Statement::Member { fields: vec![field], set, is_member: false };
    // A source that is a Pod is treated as a Pod, even if its address is also the node's, as for a
    // bridge.
    let unless_pod = |is_local, then| {
        Rule(vec![
            not_in(Field::Saddr, SetId::PodSources),
            not_in(Field::Iifname, SetId::PodInterfaces),
            Statement::SaddrIsLocal(is_local),
            then,
        ])
    };
    match clients {
        Clients::Kept => Vec::new(),
        Clients::Masqueraded => vec![Rule(vec![Statement::SetMark])],
        Clients::Split => vec![
            unless_pod(false, Statement::Goto(ChainId::Outside(scope))),
            unless_pod(true, Statement::SetMark),
        ],
        Clients::Dropped => vec![Rule(vec![Statement::Drop])],
    }
}

/// Returns the key of an affinity record: the frontend and the client.
pub fn affinity_key(scope: Scope) -> Vec<Field> {
    Field::frontend_and(scope, Field::Saddr)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel visits every element of a map when a rule that looks into it is added.
    #[test]
    fn chains_that_come_and_go_look_into_no_map_of_services_or_endpoints() {
        for clients in [Clients::Kept, Clients::Masqueraded, Clients::Split, Clients::Dropped] {
            for affinity in [None, Some(10_800)] {
                for (scope, view) in [
                    (Scope::Address, View::Cluster),
                    (Scope::NodePort, View::Cluster),
                    (Scope::Address, View::Local),
                ] {
                    let chain = ChainId::Pick(scope, view, Pick { clients, affinity, backends: 3 });
                    let sets: Vec<SetId> = rules(chain).iter().flat_map(Rule::sets).collect();
                    let is_small = |set: &SetId| {
                        matches!(
                            set,
                            SetId::PodSources | SetId::PodInterfaces | SetId::Affinity(..)
                        )
                    };
                    assert!(sets.iter().all(is_small), "{chain}: {sets:?}");
                }
            }
        }
    }
}
