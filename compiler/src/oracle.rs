//! The fate of a packet: follows the rules of the skeleton with the content of a state.
//!
//! It reads the same rules that the sink installs, statement by statement, so that both always
//! agree. Where the kernel would choose at random, it follows every choice. Of a packet it knows
//! what the first packet of a new flow shows: addresses, protocol, port and interface.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;

use ipnet::{IpNet, Ipv4Net};

use crate::frontend::Frontend;
use crate::ipvs::{self, VirtualServer};
use crate::net::{Backend, Family, Protocol};
use crate::nft::chain::ChainId;
use crate::nft::code::CLIENTS_MASK;
use crate::nft::element::{Key, Value};
use crate::nft::localhost;
use crate::nft::rule::{Rule, Scratch, Statement};
use crate::nft::ruleset;
use crate::nft::set::{Scope, SetId};
use crate::nft::text;
use crate::state::{ChainContent, State, Table};

mod lookup;

use lookup::{Found, number};

/// The first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source address.
    pub source: IpAddr,
    /// The interface it arrives on, if known; packets that this node sends have none.
    pub interface: Option<String>,
    /// The destination address.
    pub destination: IpAddr,
    /// Protocol and destination port; `None` for a protocol that Services cannot have, such as
    /// ICMP.
    pub transport: Option<(Protocol, NonZeroU16)>,
}

/// A possible outcome for a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// The final verdict.
    pub verdict: Verdict,
    /// The chain that decided; `None` if none did.
    #[serde(skip)]
    pub decided_in: Option<ChainId>,
    /// The frontend that the chain decided about, if the chain is for frontends.
    #[serde(skip)]
    pub frontend: Option<Frontend>,
    /// The reason why the packet is masqueraded, if it is.
    pub masquerade: Option<Masquerade>,
    /// The rules that took effect, in order.
    pub path: Vec<AppliedRule>,
}

/// The final verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It goes to its destination, as if there were no rules.
    Pass,
    /// It goes to a backend.
    Backend(Backend),
    /// It is refused with ICMP port unreachable.
    Reject,
    /// It is dropped silently.
    Drop,
}

/// The reason why a packet is masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Masquerade {
    /// A rule has requested it by the mark.
    Mark,
    /// Otherwise it would return to the endpoint that sent it.
    Hairpin,
}

/// A rule that took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppliedRule {
    /// The chain.
    pub chain: String,
    /// The rule, in the syntax of `nft`.
    pub rule: String,
}

/// Follows a packet through the tables of a state. `is_local` tells which addresses belong to this
/// node; `mark` is the one that requests masquerading. Returns distinct outcomes.
pub fn explain(
    state: &State,
    packet: &Packet,
    mark: u32,
    is_local: &dyn Fn(IpAddr) -> bool,
) -> Vec<Fate> {
    let family = Family::of(packet.destination);
    let Some(table) = state.tables.get(&family) else {
        let (verdict, path) = (Verdict::Pass, Vec::new());
        let (decided_in, frontend, masquerade) = (None, None, None);
        return vec![Fate { verdict, decided_in, frontend, masquerade, path }];
    };
    // Keys are ordered by set, and those of ranges are together.
    let first = Key::UnmasqueradedSource(IpNet::V4(Ipv4Net::default()));
    let keys = table.elements.range(first..).map(|(key, _)| *key);
    let ranges = keys.take_while(|key| key.set().has_ranges()).collect();
    // Addresses that are bound for IPVS also belong to this node.
    let is_local = &|address| is_local(address) || state.ipvs.bound.contains(&address);
    let oracle = Oracle { family, table, ipvs: &state.ipvs, ranges, mark, is_local };
    let mut packet = packet.clone();
    if is_local(packet.source) {
        packet.interface = None;
    }
    let traveller = Traveller::new(packet);
    let mut outcomes: Vec<Fate> = Vec::new();
    for (traveller, end) in oracle.travel(traveller) {
        let verdict = match (end, traveller.backend) {
            (End::Drop, _) => Verdict::Drop,
            (End::Reject, _) => Verdict::Reject,
            (End::Accept, Some(backend)) => Verdict::Backend(backend),
            (End::Accept, None) => Verdict::Pass,
        };
        let Traveller { decided_in, frontend, masquerade, path, .. } = traveller;
        // A packet that this node sends to itself may still be refused after postrouting.
        let masquerade = masquerade.filter(|_| end == End::Accept);
        let is_known = |known: &Fate| (known.verdict, known.masquerade) == (verdict, masquerade);
        if !outcomes.iter().any(is_known) {
            outcomes.push(Fate { verdict, decided_in, frontend, masquerade, path });
        }
    }
    outcomes.sort_by_key(|outcome| (outcome.verdict, outcome.masquerade));
    outcomes
}

struct Oracle<'a> {
    family: Family,
    table: &'a Table,
    ipvs: &'a ipvs::State,
    /// The elements that stand for a range of values; they are few and often looked up.
    ranges: Vec<Key>,
    mark: u32,
    is_local: &'a dyn Fn(IpAddr) -> bool,
}

/// A packet on its path.
#[derive(Clone)]
struct Traveller {
    packet: Packet,
    /// The original destination.
    original: IpAddr,
    backend: Option<Backend>,
    /// True if our rules have translated it; false if IPVS has.
    is_translated: bool,
    decided_in: Option<ChainId>,
    frontend: Option<Frontend>,
    is_marked: bool,
    masquerade: Option<Masquerade>,
    priority: u32,
    path: Vec<AppliedRule>,
}

/// The hooks after NAT for packets that this node sends to itself.
const SENT_TO_ITSELF: [ChainId; 3] =
    [ChainId::FilterOutput, ChainId::Postrouting, ChainId::FilterInput];

/// The result of a hook.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    Reject,
}

/// The way in which a chain or rule is left.
enum Left {
    /// Continue with the next rule.
    Next,
    /// Skip the rest of the chain.
    Return,
    End(End),
}

impl Oracle<'_> {
    /// Follows the hooks on a packet's path, in their order (Documentation/networking of the
    /// kernel; the priorities are those of the chains). A packet that this node sends to itself
    /// returns through the loopback interface.
    fn travel(&self, traveller: Traveller) -> Vec<(Traveller, End)> {
        let is_sent = (self.is_local)(traveller.packet.source);
        let first: &[ChainId] = if is_sent {
            &[ChainId::LocalhostNew, ChainId::Output]
        } else {
            &[ChainId::Prerouting]
        };
        let mut ended = Vec::new();
        for (traveller, end) in self.hooks(traveller, first) {
            if end != End::Accept {
                ended.push((traveller, end));
                continue;
            }
            // IPVS takes packets that this node sends before they are filtered, and packets to this
            // node after.
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

    /// Returns the backends that IPVS may send a packet to; `None` if it has no virtual server for
    /// it. A virtual server without active real servers refuses it with ICMP port unreachable.
    fn balance(&self, traveller: &Traveller) -> Option<Vec<(Traveller, End)>> {
        let (protocol, port) = traveller.packet.transport?;
        let address = traveller.packet.destination;
        let server = VirtualServer { address, protocol, port };
        let held = self.ipvs.servers.get(&server)?;
        let mut taken = traveller.clone();
        taken.frontend = Some(server.frontend());
        let note = |traveller: &mut Traveller, rule: String| {
            traveller.path.push(AppliedRule { chain: "ipvs".to_owned(), rule });
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

    /// Follows the rest of the path of packets that IPVS has translated. A packet that has arrived
    /// from elsewhere and is still for this node has passed all hooks.
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
                // The kernel asks no further chain of NAT.
                if *chain == ChainId::Output && traveller.is_translated {
                    next.push(traveller);
                    continue;
                }
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

    /// Returns all ways through a chain. A chain that is missing or not intact is skipped.
    fn chain(&self, chain: ChainId, traveller: Traveller) -> Vec<(Traveller, Left)> {
        if self.table.chains.get(&chain) != Some(&ChainContent::Complete) {
            return vec![(traveller, Left::Next)];
        }
        let mut under_way = vec![traveller];
        let mut done = Vec::new();
        for rule in ruleset::rules(chain) {
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

    /// Returns all ways through the rest of a rule.
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
            Statement::IsLoopback(field, is_loopback) => {
                let address = lookup::address(*field, &traveller);
                on_if(address.is_some_and(|it| it.is_loopback() == *is_loopback), traveller)
            }
            Statement::IsLocalhost(field) => {
                let localhost = Some(self.family.localhost());
                on_if(lookup::address(*field, &traveller) == localhost, traveller)
            }
            Statement::DaddrIsLocal => on_if((self.is_local)(packet.destination), traveller),
            Statement::SaddrIsLocal(is_local) => {
                on_if((self.is_local)(packet.source) == *is_local, traveller)
            }
            Statement::StateNew => on(traveller),
            // The packet is the first of a flow, which is never invalid.
            Statement::StateInvalid => vec![(traveller, Left::Next)],
            Statement::StatusDnat => on_if(traveller.is_translated, traveller),
            // The source of the first packet is translated after all that it meets.
            Statement::StatusSnat => vec![(traveller, Left::Next)],
            Statement::StandIn => {
                traveller.packet.source = localhost::stand_in(self.family);
                traveller.note(self, place);
                on(traveller)
            }
            Statement::SetDaddr(from) => match lookup::address(*from, &traveller) {
                Some(address) => {
                    traveller.packet.destination = address;
                    on(traveller)
                }
                None => vec![(traveller, Left::Next)],
            },
            Statement::MarkIsSet => on_if(traveller.is_marked, traveller),
            Statement::SetMark | Statement::ClearMark => {
                traveller.is_marked = *statement == Statement::SetMark;
                traveller.note(self, place);
                on(traveller)
            }
            Statement::SetPriority(Scratch::AllClients) => {
                traveller.priority &= !CLIENTS_MASK;
                on(traveller)
            }
            Statement::SetPriority(Scratch::Zero) => on(Traveller { priority: 0, ..traveller }),
            Statement::SetPriority(Scratch::Map { fields, map }) => {
                let Found { values, is_missed } = self.lookup(*map, fields, &traveller);
                let mut ways = Vec::new();
                for priority in values.into_iter().filter_map(number) {
                    let mut traveller = Traveller { priority, ..traveller.clone() };
                    if let SetId::Services(scope) = map {
                        traveller.frontend = self.frontend(*scope, &traveller.packet);
                    }
                    // From here on, it is another group's.
                    if *map == SetId::LocalGroups {
                        traveller.note(self, place);
                    }
                    ways.extend(on(traveller));
                }
                if is_missed {
                    ways.push((traveller, Left::Next));
                }
                ways
            }
            Statement::ClientsAre(clients) => {
                on_if(traveller.priority & CLIENTS_MASK == clients.bits(), traveller)
            }
            Statement::LengthIsUsed(length) => {
                on_if(traveller.priority & length.number() != 0, traveller)
            }
            Statement::GotoByClass(map) => match self.chain_of(*map, traveller.priority) {
                Some(chain) => self.go(place, chain, traveller),
                None => vec![(traveller, Left::Next)],
            },
            // Records are written by packets: no client is assumed to have one.
            Statement::Record(_) | Statement::Forget(_) => on(traveller),
            Statement::Dnat { fields, map } => {
                let Found { values, is_missed } = self.lookup(*map, fields, &traveller);
                let mut ways = Vec::new();
                for value in values {
                    let Value::Backend(backend) = value else { continue };
                    let mut traveller = traveller.clone();
                    self.decide(place, &mut traveller);
                    traveller.is_translated = true;
                    traveller.go_to(backend);
                    traveller.note(self, place);
                    ways.push((traveller, Left::End(End::Accept)));
                }
                if is_missed {
                    ways.push((traveller, Left::Next));
                }
                ways
            }
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
                let mut ways = Vec::new();
                for (traveller, left) in self.enter(place, *chain, traveller) {
                    match left {
                        Left::Next | Left::Return => ways.extend(on(traveller)),
                        Left::End(_) => ways.push((traveller, left)),
                    }
                }
                ways
            }
            Statement::Goto(chain) => self.go(place, *chain, traveller),
            Statement::Return => vec![(traveller, Left::Return)],
        }
    }

    /// Returns all ways through a chain that a rule leads to, and notes the rule unless the chain had
    /// no effect.
    fn enter(
        &self,
        place: &Place<'_>,
        chain: ChainId,
        mut traveller: Traveller,
    ) -> Vec<(Traveller, Left)> {
        let before = traveller.path.len();
        traveller.note(self, place);
        let after = traveller.path.len();
        let mut ways = self.chain(chain, traveller);
        for (traveller, left) in &mut ways {
            let is_left = matches!(left, Left::Next | Left::Return);
            if is_left && traveller.path.len() == after && after > before {
                traveller.path.pop();
            }
        }
        ways
    }

    /// Follows a `goto`. Returning from it resumes after the jump that entered the calling chain.
    fn go(
        &self,
        place: &Place<'_>,
        chain: ChainId,
        traveller: Traveller,
    ) -> Vec<(Traveller, Left)> {
        self.enter(place, chain, traveller)
            .into_iter()
            .map(|(traveller, left)| match left {
                Left::Next | Left::Return => (traveller, Left::Return),
                Left::End(_) => (traveller, left),
            })
            .collect()
    }

    /// Notes that a chain has decided, and about which frontend.
    fn decide(&self, place: &Place<'_>, traveller: &mut Traveller) {
        traveller.decided_in = Some(place.chain);
        if let Some(scope) = place.chain.scope() {
            traveller.frontend = self.frontend(scope, &traveller.packet);
        }
    }

    fn frontend(&self, scope: Scope, packet: &Packet) -> Option<Frontend> {
        let (protocol, port) = packet.transport?;
        Some(match scope {
            Scope::Address => Frontend::Address { address: packet.destination, protocol, port },
            Scope::NodePort => Frontend::NodePort { family: self.family, protocol, port },
        })
    }
}

/// A rule and its chain.
struct Place<'a> {
    chain: ChainId,
    rule: &'a Rule,
}

impl Traveller {
    fn new(packet: Packet) -> Self {
        Self {
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
        }
    }

    fn go_to(&mut self, backend: Backend) {
        self.backend = Some(backend);
        self.packet.destination = backend.address;
        if let Some((_, port)) = &mut self.packet.transport {
            *port = backend.port;
        }
    }

    /// Notes that a rule took effect.
    fn note(&mut self, oracle: &Oracle<'_>, place: &Place<'_>) {
        let rule = text::rule(oracle.family, oracle.mark, place.rule);
        let step = AppliedRule { chain: place.chain.to_string(), rule };
        if self.path.last() != Some(&step) {
            self.path.push(step);
        }
    }
}
