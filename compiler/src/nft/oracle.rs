//! What becomes of a packet: the rules of the skeleton, followed over what a state holds.
//!
//! This reads the same rules that the sink installs, statement by statement, so that it cannot have an
//! opinion of its own. Where the kernel would choose at random, every choice is followed. It knows of a
//! packet what a new flow's first packet shows: addresses, protocol, port and interface.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;

use super::element::{Key, Value};
use super::pick::Pick;
use super::skeleton::{self, ChainId, Field, Rule, Scope, SetId, Source, Statement};
use super::state::{State, Table};
use super::text;
use crate::interface::InterfacePattern;
use crate::ipvs::{self, VirtualServer};
use crate::net::{Backend, Family, Protocol};
use crate::resolve::Frontend;

/// The first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// The interface it arrives by, if that is known. What this node sends arrives by none.
    pub interface: Option<String>,
    /// Where it goes.
    pub destination: IpAddr,
    /// Protocol and destination port; `None` for a protocol that Services cannot have, as ICMP.
    pub transport: Option<(Protocol, NonZeroU16)>,
}

/// What may become of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Where it ends.
    pub verdict: Verdict,
    /// The chain that decided so; `None` if none did.
    #[serde(skip)]
    pub decided_in: Option<ChainId>,
    /// The frontend that it decided about, if it is for frontends.
    #[serde(skip)]
    pub frontend: Option<Frontend>,
    /// Whether the node's address takes the place of the client's, and why.
    pub masquerade: Option<Masquerade>,
    /// The rules that had a say, in order.
    pub path: Vec<Step>,
}

/// Where a packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It goes where it was sent to, as if there were no rules.
    Pass,
    /// It goes to a backend.
    Backend(Backend),
    /// It is refused with ICMP port unreachable.
    Reject,
    /// It is dropped in silence.
    Drop,
}

/// Why a packet is masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Masquerade {
    /// A rule has asked for it by the mark.
    Mark,
    /// It would go back to the endpoint it comes from.
    Hairpin,
}

/// A rule that had a say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The chain.
    pub chain: String,
    /// The rule, in the language of `nft`.
    pub rule: String,
}

/// Follows a packet through the tables of a state. `is_local` says which addresses are this node's;
/// `mark` is the one that asks for masquerading. The outcomes differ from each other.
pub fn explain(
    state: &State,
    packet: &Packet,
    mark: u32,
    is_local: &dyn Fn(IpAddr) -> bool,
) -> Vec<Outcome> {
    let family = Family::of(packet.destination);
    let Some(table) = state.tables.get(&family) else {
        let (verdict, path) = (Verdict::Pass, Vec::new());
        let (decided_in, frontend, masquerade) = (None, None, None);
        return vec![Outcome { verdict, decided_in, frontend, masquerade, path }];
    };
    let ranges = table.elements.keys().filter(|key| is_range(**key)).copied().collect();
    // What IPVS answers for is this node's, too.
    let is_local = &|address| is_local(address) || state.ipvs.bound.contains(&address);
    let oracle = Oracle { family, table, ipvs: &state.ipvs, ranges, mark, is_local };
    let mut packet = packet.clone();
    if is_local(packet.source) {
        packet.interface = None;
    }
    let traveller = Traveller {
        original: packet.destination,
        packet,
        backend: None,
        is_translated: false,
        decided_in: None,
        frontend: None,
        is_marked: false,
        masquerade: None,
        priority: 0,
        path: Vec::new(),
    };
    let mut outcomes: Vec<Outcome> = Vec::new();
    for (traveller, end) in oracle.travel(traveller) {
        let verdict = match (end, traveller.backend) {
            (End::Drop, _) => Verdict::Drop,
            (End::Reject, _) => Verdict::Reject,
            (End::Accept, Some(backend)) => Verdict::Backend(backend),
            (End::Accept, None) => Verdict::Pass,
        };
        let Traveller { decided_in, frontend, masquerade, path, .. } = traveller;
        // What this node sends to itself may come to nothing behind postrouting.
        let masquerade = masquerade.filter(|_| end == End::Accept);
        let is_known = |known: &Outcome| (known.verdict, known.masquerade) == (verdict, masquerade);
        if !outcomes.iter().any(is_known) {
            outcomes.push(Outcome { verdict, decided_in, frontend, masquerade, path });
        }
    }
    outcomes.sort_by_key(|outcome| (outcome.verdict, outcome.masquerade));
    outcomes
}

struct Oracle<'a> {
    family: Family,
    table: &'a Table,
    ipvs: &'a ipvs::State,
    /// The elements that stand for more than one value: few among many, and asked for often.
    ranges: Vec<Key>,
    mark: u32,
    is_local: &'a dyn Fn(IpAddr) -> bool,
}

/// A packet on its way.
#[derive(Clone)]
struct Traveller {
    packet: Packet,
    /// Where it was sent to.
    original: IpAddr,
    backend: Option<Backend>,
    /// Whether our rules have translated it, and not IPVS.
    is_translated: bool,
    decided_in: Option<ChainId>,
    frontend: Option<Frontend>,
    is_marked: bool,
    masquerade: Option<Masquerade>,
    priority: u32,
    path: Vec<Step>,
}

/// The hooks behind NAT of what this node sends to itself.
const SENT_TO_ITSELF: [ChainId; 4] = [
    ChainId::FilterOutput,
    ChainId::Postrouting,
    ChainId::FirewallPrerouting,
    ChainId::FilterInput,
];

/// What became of a packet in a hook.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    Reject,
}

/// How a chain, or a rule, is left.
enum Left {
    /// The next rule has its turn.
    Next,
    /// The rest of the chain has not.
    Return,
    End(End),
}

impl Oracle<'_> {
    /// The hooks of a packet's way, in their order (Documentation/networking of the kernel; priorities
    /// are those of the chains). What this node sends to itself comes back by the loopback interface.
    fn travel(&self, traveller: Traveller) -> Vec<(Traveller, End)> {
        let is_sent = (self.is_local)(traveller.packet.source);
        let first: &[ChainId] = if is_sent {
            &[ChainId::FirewallOutput, ChainId::Output]
        } else {
            &[ChainId::FirewallPrerouting, ChainId::Prerouting]
        };
        let mut ended = Vec::new();
        for (traveller, end) in self.hooks(traveller, first) {
            if end != End::Accept {
                ended.push((traveller, end));
                continue;
            }
            // IPVS takes what this node sends before it is filtered, and what is for this node after.
            let is_for_us = (self.is_local)(traveller.packet.destination);
            if is_sent
                && is_for_us
                && let Some(ways) = self.balance(&traveller)
            {
                ended.extend(self.translated(ways, is_sent));
                continue;
            }
            let rest: &[ChainId] = match (is_sent, is_for_us) {
                (true, true) => &SENT_TO_ITSELF,
                (true, false) => &[ChainId::FilterOutput, ChainId::Postrouting],
                (false, true) => &[ChainId::FilterInput],
                (false, false) => &[ChainId::FilterForward, ChainId::Postrouting],
            };
            for (traveller, end) in self.hooks(traveller, rest) {
                let is_taken = end == End::Accept && !is_sent && is_for_us;
                match self.balance(&traveller).filter(|_| is_taken) {
                    Some(ways) => ended.extend(self.translated(ways, is_sent)),
                    None => ended.push((traveller, end)),
                }
            }
        }
        ended
    }

    /// Where IPVS may send a packet; `None` if it has no virtual server for it. One without real
    /// servers that take connections refuses it with ICMP port unreachable.
    fn balance(&self, traveller: &Traveller) -> Option<Vec<(Traveller, End)>> {
        let (protocol, port) = traveller.packet.transport?;
        let address = traveller.packet.destination;
        let server = VirtualServer { address, protocol, port };
        let held = self.ipvs.servers.get(&server)?;
        let mut taken = traveller.clone();
        taken.frontend = Some(server.frontend());
        let note = |traveller: &mut Traveller, rule: String| {
            traveller.path.push(Step { chain: "ipvs".to_owned(), rule });
        };
        let ways = held.active().map(|backend| {
            let mut traveller = taken.clone();
            note(&mut traveller, format!("{server} to {backend}"));
            traveller.go_to(backend);
            (traveller, End::Accept)
        });
        let ways: Vec<(Traveller, End)> = ways.collect();
        if ways.is_empty() {
            note(&mut taken, format!("{server} has no real server"));
            return Some(vec![(taken, End::Reject)]);
        }
        Some(ways)
    }

    /// The rest of the way of packets that IPVS has translated. What has arrived and is for this node
    /// still does not leave it.
    fn translated(&self, ways: Vec<(Traveller, End)>, is_sent: bool) -> Vec<(Traveller, End)> {
        let go_on = |(traveller, end): (Traveller, End)| {
            let is_for_us = (self.is_local)(traveller.packet.destination);
            let rest: &[ChainId] = match (is_sent, is_for_us) {
                (true, true) => &SENT_TO_ITSELF,
                (true | false, false) => &[ChainId::FilterOutput, ChainId::Postrouting],
                (false, true) => &[],
            };
            match end {
                End::Accept => self.hooks(traveller, rest),
                End::Drop | End::Reject => vec![(traveller, end)],
            }
        };
        ways.into_iter().flat_map(go_on).collect()
    }

    fn hooks(&self, traveller: Traveller, chains: &[ChainId]) -> Vec<(Traveller, End)> {
        let mut under_way = vec![traveller];
        let mut ended = Vec::new();
        for chain in chains {
            let mut next = Vec::new();
            for traveller in under_way {
                for (traveller, left) in self.chain(*chain, traveller) {
                    match left {
                        Left::Next | Left::Return | Left::End(End::Accept) => next.push(traveller),
                        Left::End(end) => ended.push((traveller, end)),
                    }
                }
            }
            under_way = next;
        }
        ended.extend(under_way.into_iter().map(|traveller| (traveller, End::Accept)));
        ended
    }

    /// All the ways through a chain. A chain that is not there, or not as it should be, is passed by.
    fn chain(&self, chain: ChainId, traveller: Traveller) -> Vec<(Traveller, Left)> {
        if self.table.chains.get(&chain) != Some(&true) {
            return vec![(traveller, Left::Next)];
        }
        let mut under_way = vec![traveller];
        let mut done = Vec::new();
        for rule in skeleton::rules(chain) {
            let place = Place { chain, rule: &rule };
            let mut next = Vec::new();
            for traveller in under_way {
                for (traveller, left) in self.follow(&place, &rule.0, traveller) {
                    match left {
                        Left::Next => next.push(traveller),
                        Left::Return | Left::End(_) => done.push((traveller, left)),
                    }
                }
            }
            under_way = next;
        }
        done.extend(under_way.into_iter().map(|traveller| (traveller, Left::Next)));
        done
    }

    /// All the ways through the rest of a rule.
    fn follow(
        &self,
        place: &Place<'_>,
        statements: &[Statement],
        mut traveller: Traveller,
    ) -> Vec<(Traveller, Left)> {
        let Some((statement, rest)) = statements.split_first() else {
            return vec![(traveller, Left::Next)];
        };
        let on = |traveller| self.follow(place, rest, traveller);
        let on_if = |matches, traveller| {
            if matches { on(traveller) } else { vec![(traveller, Left::Next)] }
        };
        let packet = &traveller.packet;
        match statement {
            Statement::Member { fields, set, is_member } => {
                let found = self.is_member(*set, fields, &traveller);
                on_if(found == *is_member, traveller)
            }
            Statement::NotLoopback => on_if(!packet.destination.is_loopback(), traveller),
            Statement::DaddrType(set) => {
                let key = Key::NodeAddressType(self.family);
                let counts = *set == SetId::NodeAddressTypes && self.holds(key);
                on_if(counts && (self.is_local)(packet.destination), traveller)
            }
            Statement::SaddrIsLocal(is_local) => {
                on_if((self.is_local)(packet.source) == *is_local, traveller)
            }
            Statement::StateNew => on(traveller),
            // The first packet of a flow is asked for, which is never one.
            Statement::StateInvalid => vec![(traveller, Left::Next)],
            Statement::StatusDnat => on_if(traveller.is_translated, traveller),
            Statement::MarkIsSet => on_if(traveller.is_marked, traveller),
            Statement::SetMark | Statement::ClearMark => {
                traveller.is_marked = *statement == Statement::SetMark;
                traveller.note(self, place);
                on(traveller)
            }
            Statement::SetPriority(source) => match source {
                Source::Zero => on(Traveller { priority: 0, ..traveller }),
                Source::Map { map, .. } => match self.number(*map, &traveller) {
                    Some(priority) => on(Traveller { priority, ..traveller }),
                    None => vec![(traveller, Left::Next)],
                },
                Source::Random(n) | Source::ClientHash(n) => (0..*n)
                    .flat_map(|priority| on(Traveller { priority, ..traveller.clone() }))
                    .collect(),
            },
            Statement::GotoPick(scope, view) => {
                let pick = Pick::from_code(traveller.priority);
                let is_known =
                    |pick: &Pick| self.holds(Key::Pick(self.family, *scope, *view, *pick));
                match pick.filter(is_known) {
                    Some(pick) => self.go(place, ChainId::Pick(*scope, *view, pick), traveller),
                    None => vec![(traveller, Left::Next)],
                }
            }
            // Records are the packets' own: nobody is known to have one.
            Statement::RecordAffinity { .. } | Statement::ForgetAffinity(..) => on(traveller),
            Statement::Dnat { map, .. } => match self.backend(*map, &traveller) {
                Some(backend) => {
                    self.decide(place, &mut traveller);
                    traveller.is_translated = true;
                    traveller.go_to(backend);
                    traveller.note(self, place);
                    vec![(traveller, Left::End(End::Accept))]
                }
                None => vec![(traveller, Left::Next)],
            },
            Statement::Masquerade => {
                let is_asked = place.rule.0.contains(&Statement::MarkIsSet);
                let why = if is_asked { Masquerade::Mark } else { Masquerade::Hairpin };
                traveller.masquerade = Some(why);
                traveller.note(self, place);
                vec![(traveller, Left::End(End::Accept))]
            }
            Statement::Reject | Statement::Drop => {
                let is_reject = *statement == Statement::Reject;
                self.decide(place, &mut traveller);
                traveller.note(self, place);
                let end = if is_reject { End::Reject } else { End::Drop };
                vec![(traveller, Left::End(end))]
            }
            Statement::Jump(chain) => {
                let before = traveller.path.len();
                traveller.note(self, place);
                let after = traveller.path.len();
                let mut ways = Vec::new();
                for (mut traveller, left) in self.chain(*chain, traveller) {
                    match left {
                        Left::Next | Left::Return => {
                            // Nothing happened there.
                            if traveller.path.len() == after && after > before {
                                traveller.path.pop();
                            }
                            ways.extend(on(traveller));
                        }
                        Left::End(_) => ways.push((traveller, left)),
                    }
                }
                ways
            }
            Statement::Goto(chain) => self.go(place, *chain, traveller),
            Statement::Return => vec![(traveller, Left::Return)],
        }
    }

    /// Who leaves a chain that he was sent to for good is back where the sending chain was entered.
    fn go(
        &self,
        place: &Place<'_>,
        chain: ChainId,
        mut traveller: Traveller,
    ) -> Vec<(Traveller, Left)> {
        traveller.note(self, place);
        let ways = self.chain(chain, traveller).into_iter();
        ways.map(|(traveller, left)| match left {
            Left::Next | Left::Return => (traveller, Left::Return),
            Left::End(_) => (traveller, left),
        })
        .collect()
    }

    /// Writes down that a chain has decided, and about which frontend.
    fn decide(&self, place: &Place<'_>, traveller: &mut Traveller) {
        let scope = place.chain.scope();
        traveller.decided_in = Some(place.chain);
        traveller.frontend = scope.and_then(|scope| self.frontend(scope, &traveller.packet));
    }

    fn holds(&self, key: Key) -> bool {
        self.table.elements.contains_key(&key)
    }

    fn value(&self, key: Key) -> Option<Value> {
        self.table.elements.get(&key).map(|(value, _)| *value)
    }

    fn frontend(&self, scope: Scope, packet: &Packet) -> Option<Frontend> {
        let (protocol, port) = packet.transport?;
        Some(match scope {
            Scope::Address => Frontend::Address { address: packet.destination, protocol, port },
            Scope::NodePort => Frontend::NodePort { family: self.family, protocol, port },
        })
    }

    /// Whether the packet's fields are a member of a set. The fields are those the set is made for.
    fn is_member(&self, set: SetId, fields: &[Field], traveller: &Traveller) -> bool {
        let packet = &traveller.packet;
        debug_assert_eq!(fields.len(), set.spec().key.len());
        match set {
            SetId::Protocols => packet
                .transport
                .is_some_and(|(protocol, _)| self.holds(Key::Protocol(self.family, protocol))),
            SetId::InvalidProtocols => packet.transport.is_some_and(|(protocol, _)| {
                self.holds(Key::InvalidProtocol(self.family, protocol))
            }),
            SetId::UnmasqueradedSources | SetId::PodSources => self.is_in_range(set, packet.source),
            SetId::ServiceCidrs => self.is_in_range(set, packet.destination),
            SetId::UnmasqueradedInterfaces | SetId::PodInterfaces => {
                self.is_by_interface(set, packet)
            }
            SetId::NodeIps => self.holds(Key::NodeIp(packet.destination)),
            SetId::ClusterIps => self.holds(Key::ClusterIp(packet.destination)),
            SetId::Vips => {
                let daddr = fields.contains(&Field::Daddr);
                self.holds(Key::Vip(if daddr { packet.destination } else { packet.source }))
            }
            SetId::Hairpin if fields.contains(&Field::OriginalDaddr) => {
                self.holds(Key::Hairpin(traveller.original))
            }
            SetId::Hairpin => {
                packet.source == packet.destination && self.holds(Key::Hairpin(packet.source))
            }
            SetId::Rejects(scope) => {
                self.frontend(scope, packet).is_some_and(|it| self.holds(Key::Reject(it)))
            }
            SetId::Firewalled => self
                .frontend(Scope::Address, packet)
                .is_some_and(|it| self.holds(Key::Firewalled(it))),
            SetId::SourceRanges => self.frontend(Scope::Address, packet).is_some_and(|frontend| {
                let allows = |key: &Key| {
                    matches!(key, Key::SourceRange(of, net)
                        if *of == frontend && net.contains(&packet.source))
                };
                self.ranges.iter().any(allows)
            }),
            // Not asked whether something is a member.
            SetId::Picks(..)
            | SetId::NodeAddressTypes
            | SetId::Services(..)
            | SetId::AffinitySlots(..)
            | SetId::Endpoints(..)
            | SetId::Affinity(..) => false,
        }
    }

    fn is_in_range(&self, set: SetId, address: IpAddr) -> bool {
        self.ranges.iter().filter(|key| key.set() == set).any(|key| {
            if let Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net) = key
            {
                net.contains(&address)
            } else {
                false
            }
        })
    }

    fn is_by_interface(&self, set: SetId, packet: &Packet) -> bool {
        let Some(name) = packet.interface.as_deref() else { return false };
        let Ok(name) = InterfacePattern::named(name) else { return false };
        let name = name.range().0;
        self.ranges.iter().filter(|key| key.set() == set).any(|key| {
            if let Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern) = key {
                let (first, end) = pattern.range();
                first <= name && name < end
            } else {
                false
            }
        })
    }

    /// What a map of numbers gives.
    fn number(&self, map: SetId, traveller: &Traveller) -> Option<u32> {
        let frontend = |scope| self.frontend(scope, &traveller.packet);
        let value = match map {
            SetId::Services(scope, view) => self.value(Key::Service(view, frontend(scope)?)),
            SetId::AffinitySlots(scope, view) => {
                self.value(Key::AffinitySlot(view, frontend(scope)?, traveller.priority))
            }
            // Nobody is known to have a record; and others are no maps, or not of numbers.
            SetId::Affinity(..)
            | SetId::Endpoints(..)
            | SetId::Protocols
            | SetId::Picks(..)
            | SetId::UnmasqueradedSources
            | SetId::UnmasqueradedInterfaces
            | SetId::PodSources
            | SetId::PodInterfaces
            | SetId::ServiceCidrs
            | SetId::NodeIps
            | SetId::NodeAddressTypes
            | SetId::ClusterIps
            | SetId::Hairpin
            | SetId::Vips
            | SetId::Rejects(_)
            | SetId::Firewalled
            | SetId::SourceRanges
            | SetId::InvalidProtocols => None,
        };
        match value? {
            Value::Pick(pick) => Some(pick.code()),
            Value::Id(id) => Some(id),
            Value::Present | Value::Backend(_) | Value::Goto => None,
        }
    }

    fn backend(&self, map: SetId, traveller: &Traveller) -> Option<Backend> {
        let SetId::Endpoints(scope, view) = map else { return None };
        let frontend = self.frontend(scope, &traveller.packet)?;
        match self.value(Key::Endpoint(view, frontend, traveller.priority))? {
            Value::Backend(backend) => Some(backend),
            Value::Present | Value::Pick(_) | Value::Id(_) | Value::Goto => None,
        }
    }
}

/// Whether the element is of a set that is asked for what is between, and not for what is there.
fn is_range(key: Key) -> bool {
    matches!(
        key,
        Key::UnmasqueradedSource(_)
            | Key::UnmasqueradedInterface(..)
            | Key::PodSource(_)
            | Key::PodInterface(..)
            | Key::ServiceCidr(_)
            | Key::SourceRange(..)
    )
}

/// A rule in its chain.
struct Place<'a> {
    chain: ChainId,
    rule: &'a Rule,
}

impl Traveller {
    fn go_to(&mut self, backend: Backend) {
        self.backend = Some(backend);
        self.packet.destination = backend.address;
        if let Some((_, port)) = &mut self.packet.transport {
            *port = backend.port;
        }
    }

    /// Writes down that a rule had a say.
    fn note(&mut self, oracle: &Oracle<'_>, place: &Place<'_>) {
        let rule = text::rule(oracle.family, oracle.mark, place.rule);
        let step = Step { chain: place.chain.to_string(), rule };
        if self.path.last() != Some(&step) {
            self.path.push(step);
        }
    }
}
