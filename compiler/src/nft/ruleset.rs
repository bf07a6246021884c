//! The constant ruleset: the rules of each chain, as data.
//!
//! There is one table per family. Only the chains of session affinity depend on the served
//! Services: one for each timeout in use, with a map of its own. Those of `localhost` depend on the
//! settings.
//!
//! `skb->priority` is the scratch register between two lookups: it is the only field that can be
//! set from a map, can be read as part of a key, is printed and parsed again by the `nft` tool, and
//! is not used by others in these hooks. Postrouting resets it for packets to Services; the
//! priority of all other packets is never written.

use super::chain::ChainId;
use super::code::{Affinity, Clients, Draw};
use super::length::Length;
use super::localhost;
use super::maglev::Maglev;
use super::rule::{Field, Record, Rule, Scratch, Statement};
use super::set::{Scope, SetId};
use super::size::DRAWS;

/// The name of the table, in both families.
pub const TABLE: &str = "rulec";

/// Returns the rules of a chain.
pub fn rules(chain: ChainId) -> Vec<Rule> {
    use Statement::{
        ClearMark, DaddrIsLocal, Drop, Goto, GotoByClass, IsLoopback, Jump, MarkIsSet, Masquerade,
        Reject, Return, SetMark, SetPriority, StateInvalid, StateNew, StatusDnat,
    };
    let member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: true };
    let not_member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: false };
    let lookup = |fields: Vec<Field>, map| SetPriority(Scratch::Map { fields, map });
    let find = |scope| lookup(Field::frontend(scope), SetId::Services(scope));
    // A lookup of a route costs more than all others together, so it comes last.
    let to_any_address = || {
        let protocols = member(vec![Field::Protocol], SetId::NodePortProtocols);
        vec![protocols, IsLoopback(Field::Daddr, false), DaddrIsLocal]
    };
    let masquerade_marked = || Rule(vec![MarkIsSet, ClearMark, Masquerade]);
    let is_unserved = |scope| member(Field::frontend(scope), SetId::Rejects(scope));
    match chain {
        ChainId::Dispatch => {
            let lengths = lookup(Field::frontend(Scope::Address), SetId::Firewalled);
            let by_route = to_any_address().into_iter().chain([Goto(ChainId::NodePorts)]);
            vec![
                Rule(vec![lengths, Jump(ChainId::Firewall)]),
                Rule(vec![find(Scope::Address), Goto(ChainId::Serve)]),
                Rule(vec![member(vec![Field::Daddr], SetId::NodeIps), Goto(ChainId::NodePorts)]),
                Rule(by_route.collect()),
            ]
        }
        ChainId::NodePorts => vec![Rule(vec![find(Scope::NodePort), Goto(ChainId::Serve)])],
        ChainId::Serve => vec![
            // The address decides, not the frontend: another Service may have it as an external IP.
            Rule(vec![
                not_member(vec![Field::Saddr], SetId::UnmasqueradedSources),
                not_member(vec![Field::Iifname], SetId::UnmasqueradedInterfaces),
                member(vec![Field::Daddr], SetId::ClusterIps),
                SetMark,
            ]),
            Rule(vec![Statement::ClientsAre(Clients::Masqueraded), SetMark]),
            Rule(vec![Statement::ClientsAre(Clients::Split), Jump(ChainId::Split)]),
            Rule(vec![GotoByClass(SetId::Classes)]),
        ],
        ChainId::Split => {
            // A source that is a Pod is treated as a Pod, even if its address is also the node's,
            // as for a bridge.
            let unless_pod = |is_local, then| {
                Rule(vec![
                    not_member(vec![Field::Saddr], SetId::PodSources),
                    not_member(vec![Field::Iifname], SetId::PodInterfaces),
                    Statement::SaddrIsLocal(is_local),
                    then,
                ])
            };
            vec![unless_pod(false, Goto(ChainId::Outside)), unless_pod(true, SetMark)]
        }
        // `serve` goes on with the class of the local group. (A map of chains costs the kernel time
        // for each rule that looks into it, whenever one of the chains changes.)
        //
        // Without a local backend, drop silently: a load balancer that has not noticed yet, or a
        // client that asked the wrong node, shall retry rather than give up.
        ChainId::Outside => vec![
            Rule(vec![lookup(vec![Field::Group], SetId::LocalGroups), Return]),
            Rule(vec![Drop]),
        ],
        ChainId::Dropped => vec![Rule(vec![Drop])],
        ChainId::Ipvs => vec![
            // If this node connects to one of its own addresses, that address is also the source.
            // Other nodes could not answer to a VIP.
            Rule(vec![member(vec![Field::Saddr], SetId::Vips), SetMark]),
            // IPVS translates without conntrack's knowledge, so postrouting would not reset it.
            Rule(vec![SetPriority(Scratch::Zero)]),
        ],
        ChainId::Pick(Draw::Random(size)) => match size.smaller() {
            None => vec![translate(Field::Random(size.slots()))],
            Some(smaller) => {
                let one_more = Rule(vec![Jump(ChainId::Try(size))]);
                // Not to `pick` in any case: the kernel allows a depth of 16 chains.
                let last = match smaller.filled() {
                    Some(_) => ChainId::Try(smaller),
                    None => ChainId::Pick(Draw::Random(smaller)),
                };
                std::iter::repeat_n(one_more, DRAWS).chain([Rule(vec![Goto(last)])]).collect()
            }
        },
        ChainId::Try(size) => vec![translate(Field::Random(size.slots()))],
        ChainId::Pick(Draw::Maglev(table)) => vec![translate(hashed(table))],
        ChainId::Slot(Draw::Random(size)) => {
            let first = size.filled().map_or(1, |_| DRAWS);
            let draws = std::iter::repeat_n(size.slots(), first).chain(size.filled());
            draws.map(|slots| choose(Field::Random(slots))).collect()
        }
        ChainId::Slot(Draw::Maglev(table)) => vec![choose(hashed(table))],
        ChainId::RoundRobin => {
            let last = lookup(Record::Turn.key(), Record::Turn.set());
            let next = lookup(vec![Field::Priority], SetId::NextMembers);
            vec![
                Rule(vec![last, next, Goto(ChainId::Turn)]),
                // Nobody had a turn for long, or the last one is gone.
                Rule(vec![Jump(ChainId::Choose)]),
                Rule(vec![Goto(ChainId::Turn)]),
            ]
        }
        // Two packets at once may have the same turn. If there is no room for a record, the next
        // packet has a random one: the kernel only marks what a packet deletes, frees it once a
        // second, and takes at most 16 elements with one key until then.
        ChainId::Turn => vec![
            Rule(vec![Statement::Forget(Record::Turn)]),
            Rule(vec![Statement::Record(Record::Turn)]),
            Rule(vec![Goto(ChainId::Members)]),
        ],
        ChainId::Choose => vec![
            Rule(vec![lookup(vec![Field::Group], SetId::MemberGroups)]),
            Rule(vec![GotoByClass(SetId::Draws)]),
        ],
        ChainId::Members => {
            let fields = vec![Field::Priority, Field::Protocol];
            vec![Rule(vec![Statement::Dnat { fields, map: SetId::Members }])]
        }
        ChainId::Affinity(affinity) => affinity_rules(affinity),
        ChainId::Firewall => {
            // A frontend without endpoints is not translated, and nothing would reset the register.
            let allow = |length| {
                let mut fields = vec![Field::Length(length)];
                fields.extend(Field::frontend(Scope::Address));
                fields.push(Field::Network(length));
                Rule(vec![
                    Statement::LengthIsUsed(length),
                    member(fields, SetId::SourceRanges),
                    SetPriority(Scratch::Zero),
                    Return,
                ])
            };
            Length::all().map(allow).chain([Rule(vec![Drop])]).collect()
        }
        ChainId::Unserved => vec![Rule(vec![is_unserved(Scope::Address), Reject])],
        ChainId::UnservedNodePorts => {
            let by_route = to_any_address().into_iter().chain([Reject]);
            vec![
                Rule(vec![member(vec![Field::Daddr], SetId::NodeIps), Reject]),
                Rule(by_route.collect()),
            ]
        }
        ChainId::Unknown => vec![
            Rule(vec![find(Scope::Address), SetPriority(Scratch::Zero), Return]),
            Rule(vec![Reject]),
        ],
        ChainId::Prerouting | ChainId::Output => vec![Rule(vec![Jump(ChainId::Dispatch)])],
        ChainId::Postrouting => vec![
            Rule(vec![StatusDnat, Goto(ChainId::Translated)]),
            masquerade_marked(),
            // Conntrack does not know that IPVS has translated a flow. If the flow was started to
            // the address of an endpoint itself, no Service was involved.
            Rule(vec![
                member(vec![Field::Saddr, Field::Daddr], SetId::Hairpin),
                not_member(vec![Field::OriginalDaddr; 2], SetId::Hairpin),
                Masquerade,
            ]),
        ],
        ChainId::Translated => vec![
            // Only packets to Services have a number left in the scratch register. The priority of
            // all others is that of their sender.
            Rule(vec![SetPriority(Scratch::Zero)]),
            masquerade_marked(),
            Rule(vec![member(vec![Field::Saddr, Field::Daddr], SetId::Hairpin), Masquerade]),
        ],
        ChainId::FilterInput => vec![Rule(vec![StateNew, Goto(ChainId::NewInput)])],
        ChainId::NewInput => vec![
            Rule(vec![Jump(ChainId::Unserved)]),
            // Hardly ever does a node port lack endpoints, so its address is looked at last.
            Rule(vec![is_unserved(Scope::NodePort), Jump(ChainId::UnservedNodePorts)]),
            // A process that listens on all addresses of this node must not be reachable at a VIP.
            Rule(vec![member(vec![Field::Daddr], SetId::Vips), Jump(ChainId::Unknown)]),
        ],
        ChainId::FilterForward => {
            // Conntrack translates only packets that belong to a flow: a backend's segment from
            // outside the window would reach the client from an address that it never spoke to, and
            // the client would answer with a reset.
            let protocols = member(vec![Field::Protocol], SetId::InvalidProtocols);
            let mut rules = self::rules(ChainId::FilterOutput);
            rules.push(Rule(vec![StateInvalid, protocols, Drop]));
            rules
        }
        ChainId::LocalhostNew => vec![localhost::new()],
        ChainId::LocalhostOutput => vec![localhost::output()],
        ChainId::LocalhostReply => vec![localhost::reply()],
        ChainId::LocalhostInput => vec![localhost::input()],
        ChainId::FilterOutput => vec![Rule(vec![StateNew, Goto(ChainId::NewOutput)])],
        ChainId::NewOutput => vec![
            Rule(vec![Jump(ChainId::Unserved)]),
            Rule(vec![member(vec![Field::Daddr], SetId::ClusterIps), Reject]),
            // A Service may soon get an address that no Service has now: drop silently instead of
            // rejecting, and do not let the packet be routed.
            Rule(vec![member(vec![Field::Daddr], SetId::ServiceCidrs), Drop]),
        ],
    }
}

/// Translates to the backend in a slot, if there is one.
///
/// Whenever an element is added to a map, the kernel looks at every rule that looks into the map
/// (`nft_add_set_elem`). So there is one such rule for each size, and not one for each draw.
fn translate(slot: Field) -> Rule {
    let fields = vec![Field::Group, Field::Protocol, slot];
    Rule(vec![Statement::Dnat { fields, map: SetId::Endpoints }])
}

/// Chooses the member in a slot, if there is one. The chain that it returns to cannot tell whether
/// there was: so unlike `translate`, this is in a rule for each draw.
fn choose(slot: Field) -> Rule {
    let fields = vec![Field::Group, slot];
    let member = Statement::SetPriority(Scratch::Map { fields, map: SetId::MemberSlots });
    Rule(vec![member, Statement::Return])
}

/// Returns the slot of a client in a table, of which all are filled.
fn hashed(table: Maglev) -> Field {
    Field::Hash(table.hash, table.size.slots())
}

fn affinity_rules(affinity: Affinity) -> Vec<Rule> {
    let client = Record::Affinity(affinity);
    let record = Statement::Record(client);
    vec![
        // A record of a member that exists: renew it and translate. If the member is gone, the
        // chain finds no value and returns.
        Rule(vec![
            Statement::SetPriority(Scratch::Map { fields: client.key(), map: client.set() }),
            record.clone(),
            Statement::Jump(ChainId::Members),
        ]),
        // No record, or one of a removed member: choose one, record that, translate. A record that
        // exists keeps its member when it is written again, so it must go first.
        Rule(vec![Statement::Forget(client)]),
        Rule(vec![Statement::Jump(ChainId::Choose)]),
        Rule(vec![record]),
        Rule(vec![Statement::Goto(ChainId::Members)]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::size::Size;

    /// The kernel visits every element of a map when a rule that looks into it is added.
    #[test]
    fn chains_that_come_and_go_look_into_no_map_but_their_own() {
        let affinity = Affinity { timeout: 10_800, map: 1 };
        let sets: Vec<SetId> =
            rules(ChainId::Affinity(affinity)).iter().flat_map(Rule::sets).collect();
        assert!(!sets.is_empty());
        assert!(sets.iter().all(|set| *set == SetId::Affinity(affinity)), "{sets:?}");
    }

    #[test]
    fn a_slot_is_drawn_until_one_is_filled() {
        let size = |backends| Size::of(backends).unwrap();
        let pick = |backends| ChainId::Pick(Draw::Random(size(backends)));
        let slot = |backends| rules(ChainId::Slot(Draw::Random(size(backends))));
        assert_eq!(rules(pick(3)), [translate(Field::Random(3))]);
        assert_eq!(slot(3), [choose(Field::Random(3))]);
        for (backends, last) in [(10, pick(8)), (13, ChainId::Try(size(12)))] {
            let jump = Rule(vec![Statement::Jump(ChainId::Try(size(backends)))]);
            let mut expected = vec![jump; 6];
            expected.push(Rule(vec![Statement::Goto(last)]));
            assert_eq!(rules(pick(backends)), expected);
        }
        assert_eq!(rules(ChainId::Try(size(10))), [translate(Field::Random(12))]);
        let drawn = [12, 12, 12, 12, 12, 12, 8];
        assert_eq!(slot(10), drawn.map(|slots| choose(Field::Random(slots))));
    }

    /// The kernel looks at each of them whenever an endpoint is added.
    #[test]
    fn few_rules_look_into_the_map_of_endpoints() {
        let sets = ChainId::constant().flat_map(rules).flat_map(|rule| rule.sets());
        let sets = sets.filter(|set| *set == SetId::Endpoints);
        assert_eq!(sets.count(), 34 + 10, "one for each size, and each kind of table");
    }
}
