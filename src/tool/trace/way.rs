//! The way of a packet: the steps that the kernel tells, and where it went.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use rulec_compiler::net::{Backend, Family};
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::rule::{Rule, Statement};
use rulec_compiler::nft::ruleset::{self, TABLE};
use rulec_compiler::nft::text;
use rulec_compiler::oracle::{AppliedRule, Fate, Verdict};
use rulec_sinks::nft::trace::{self, Event, Flow};

/// One step.
pub(super) struct Step {
    /// The family and the name of the table.
    pub(super) table: String,
    pub(super) chain: String,
    /// The rule of ours, with its text.
    pub(super) rule: Option<(Rule, String)>,
    /// Another program's rule.
    pub(super) handle: Option<u64>,
    pub(super) verdict: trace::Verdict,
}

/// A way.
pub(super) struct Way {
    pub(super) steps: Vec<Step>,
    pub(super) verdict: Verdict,
    pub(super) is_masqueraded: bool,
    /// The step of another program that dropped the packet, if one did.
    pub(super) stopped: Option<usize>,
    /// Whether the packet was translated, and no hook has seen it after that.
    pub(super) is_lost: bool,
}

impl Way {
    /// Makes a way of all events of a packet. `places` are the rules of our table in its family.
    pub(super) fn of(
        events: Vec<Event>,
        places: &BTreeMap<u64, (ChainId, usize)>,
        family: Family,
        mark: u32,
    ) -> Self {
        let flows: Vec<Flow> = events.iter().filter_map(|event| event.flow).collect();
        let ours = match family {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ip6",
        };
        let is_ours = |event: &Event| event.table == TABLE && event.family == ours;
        let is_told = |event: &Event| match event.step {
            trace::Step::Rule(_) => true,
            // Almost every chain accepts at its end.
            trace::Step::Policy => event.verdict == trace::Verdict::Drop,
            trace::Step::Return => false,
        };
        let events = events.into_iter().filter(|event| !trace::is_of_trace(&event.table));
        let steps: Vec<Step> = events
            .filter(is_told)
            .map(|event| {
                let handle =
                    if let trace::Step::Rule(handle) = event.step { Some(handle) } else { None };
                let place = handle.filter(|_| is_ours(&event)).and_then(|it| places.get(&it));
                let rule = place.and_then(|(chain, place)| {
                    let rule = ruleset::rules(*chain).into_iter().nth(*place)?;
                    let text = text::rule(family, mark, &rule);
                    Some((rule, text))
                });
                let Event { family, table, chain, verdict, .. } = event;
                Step { table: format!("{family} {table}"), chain, rule, handle, verdict }
            })
            .collect();
        let has = |step: &Step, wanted: fn(&Statement) -> bool| {
            step.rule.as_ref().is_some_and(|(rule, _)| rule.0.iter().any(wanted))
        };
        let dropped = steps.iter().position(|step| step.verdict == trace::Verdict::Drop);
        let verdict = match dropped.and_then(|at| steps.get(at)) {
            Some(step) if has(step, |it| *it == Statement::Reject) => Verdict::Reject,
            Some(_) => Verdict::Drop,
            None => backend(&flows).map_or(Verdict::Pass, Verdict::Backend),
        };
        // The kernel tells a new destination in the next hook only. Between two, routing decides.
        let translates = |it: &Statement| matches!(it, Statement::Dnat { .. });
        let is_lost = verdict == Verdict::Pass && steps.iter().any(|step| has(step, translates));
        let verdict = if is_lost { Verdict::Drop } else { verdict };
        let masquerades = |step: &Step| has(step, |it| *it == Statement::Masquerade);
        Self {
            verdict,
            is_masqueraded: steps.iter().any(masquerades),
            stopped: dropped.filter(|at| steps.get(*at).is_some_and(|step| step.rule.is_none())),
            is_lost,
            steps,
        }
    }

    /// Returns whether this is an outcome that was expected: the same end, by the same rules.
    pub(super) fn is(&self, fate: &Fate) -> bool {
        let mut steps = self.steps.iter();
        let is_there = |wanted: &AppliedRule| {
            let has = |(_, text): &(Rule, String)| *text == wanted.rule;
            steps.any(|step| step.chain == wanted.chain && step.rule.as_ref().is_some_and(has))
        };
        self.stopped.is_none()
            && self.verdict == fate.verdict
            && self.is_masqueraded == fate.masquerade.is_some()
            && fate.path.iter().filter(|it| !chooses(&it.chain)).all(is_there)
    }
}

/// Returns whether a chain chooses a member. What is expected is the choice of a client without a
/// record; one with a record takes a shorter way to the same place.
fn chooses(chain: &str) -> bool {
    matches!(
        ChainId::from_name(chain),
        Some(
            ChainId::Affinity(_)
                | ChainId::RoundRobin
                | ChainId::Turn
                | ChainId::Choose
                | ChainId::Slot(_)
        )
    )
}

/// Returns where the packet goes, if that is not where it was sent.
fn backend(flows: &[Flow]) -> Option<Backend> {
    let place = |flow: &Flow| -> (IpAddr, Option<u16>) {
        (flow.destination, flow.transport.map(|(_, _, port)| port))
    };
    let (first, last) = (flows.first()?, flows.last()?);
    let (address, port) = place(last);
    let is_other = place(first) != (address, port);
    let port = port.and_then(NonZeroU16::new)?;
    is_other.then_some(Backend { address, port })
}
