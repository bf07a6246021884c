//! Checks that `rulec explain` predicts the outcome of the packets that were sent.
//!
//! It is asked twice: about the state of the kernel, and about the program compiled from the
//! objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::packets::{Backend, Expected, SeenSource, To};
use super::place::{Place, pod};
use super::row::Mode;
use crate::daemon::rulec;

/// A possible outcome of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Answered(SocketAddr, SeenSource),
    Refused,
    Dropped,
    Untouched,
}

/// A packet of the row, and its possible outcomes.
#[derive(Debug)]
pub(super) struct Question {
    from: IpAddr,
    to: To,
    fates: BTreeSet<Fate>,
    /// Whether the row lists outcomes that need not be possible now: during a change, it also lists
    /// those from before the change.
    is_at_most: bool,
}

impl Question {
    pub(super) fn new(from: IpAddr, to: To, outcome: &Expected) -> Self {
        let answered = |backend: &Backend| {
            let ip = to.family().of(pod(&backend.name).ips());
            Fate::Answered(SocketAddr::new(ip, backend.port), backend.source)
        };
        let fates = match outcome {
            Expected::Reach(backends) | Expected::Stick { among: backends, .. } => {
                backends.iter().map(answered).collect()
            }
            Expected::ReachOrRefused(backends) => {
                backends.iter().map(answered).chain([Fate::Refused]).collect()
            }
            Expected::Refused => BTreeSet::from([Fate::Refused]),
            Expected::Dropped => BTreeSet::from([Fate::Dropped]),
            Expected::Untouched => BTreeSet::from([Fate::Untouched]),
        };
        Self { from, to, fates, is_at_most: false }
    }

    /// Returns the question for a packet that was sent during a change.
    pub(super) fn throughout(from: IpAddr, to: To, outcome: &Expected) -> Self {
        Self { is_at_most: true, ..Self::new(from, to, outcome) }
    }

    pub(super) fn from(&self) -> IpAddr {
        self.from
    }

    pub(super) fn to(&self) -> To {
        self.to
    }

    /// Returns whether a trace ends as one of the outcomes.
    pub(super) fn allows(&self, trace: &Value) -> Result<bool, String> {
        let is_masqueraded = trace["masqueraded"] == Value::Bool(true);
        let mut outcome = trace.clone();
        if is_masqueraded {
            outcome["masquerade"] = Value::Bool(true);
        }
        Ok(self.fates.contains(&fate(&outcome)?))
    }

    pub(super) fn frontend(&self) -> String {
        match self.to {
            To::Port(protocol, at) => format!("{at}/{}", protocol.to_string().to_uppercase()),
            To::Ping(ip) => ip.to_string(),
        }
    }

    /// Returns the name of the frontend if a Service port is there: at an address of the node, it
    /// is a node port, unless the address is an external address of a Service.
    fn name(&self, place: &Place) -> Option<String> {
        let To::Port(protocol, at) = self.to else { return None };
        if !place.is_of_node(at.ip()) {
            return Some(self.frontend());
        }
        if place.mode == Mode::Ipvs {
            return Some(self.frontend());
        }
        let protocol = protocol.to_string().to_uppercase();
        let family = if at.is_ipv4() { "IPv4" } else { "IPv6" };
        let name = || format!("nodePort {}/{protocol} ({family})", at.port());
        (!place.objects.has_external(at.ip())).then(name)
    }
}

/// Asks once for each client and frontend.
///
/// # Panics
///
/// When an answer differs from the row; the message contains all of them.
pub(super) fn check(place: &Place, questions: Vec<Question>) {
    let distinct: BTreeMap<(IpAddr, String), Question> =
        questions.into_iter().map(|it| ((it.from, it.frontend()), it)).collect();
    let own: Vec<String> = place.own_addresses().iter().map(ToString::to_string).collect();
    let own = own.join(",");
    let mut states = vec![vec!["--state".to_owned(), "kernel".to_owned()]];
    states.extend(
        place
            .objects_for_reading()
            .map(|path| ["--state", &path, "--own-addresses", &own].map(str::to_owned).to_vec()),
    );
    let settings = place.settings();
    let mut wrong = Vec::new();
    for ((from, frontend), question) in &distinct {
        for state in &states {
            let from = from.to_string();
            let mut args = vec!["explain", frontend.as_str(), "--from", &from, "-o", "json"];
            args.extend(state.iter().map(String::as_str));
            args.extend(settings.iter().map(String::as_str));
            if let Err(what) = ask(place, &args, question) {
                wrong.push(format!("rulec {}\n    {what}", args.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "explanations:\n  {}", wrong.join("\n  "));
}

fn ask(place: &Place, args: &[&str], question: &Question) -> Result<(), String> {
    let output = rulec(&place.world.node, args);
    // Some rows contain invalid objects, which `explain` reports while it explains the others.
    let said: Value = serde_json::from_slice(&output.stdout).map_err(|_| format!("{output:?}"))?;
    let outcomes = said["outcomes"].as_array().ok_or("no outcomes")?;
    let fates = outcomes.iter().map(fate).collect::<Result<BTreeSet<Fate>, String>>()?;
    if outcomes.iter().any(|outcome| outcome["reasons"].as_array().is_none_or(Vec::is_empty)) {
        return Err(format!("it gives no reason: {said}"));
    }
    let answers = fates.iter().any(|fate| matches!(fate, Fate::Answered(..)));
    let is_untouched = fates.contains(&Fate::Untouched);
    if said.get("frontend").map_or(answers, |_| is_untouched) {
        return Err(format!("a frontend has a Service, and another has not: {said}"));
    }
    if let (Some(frontend), Some(name)) = (said.get("frontend"), question.name(place))
        && frontend["name"] != name
    {
        return Err(format!("the frontend is {name}: {said}"));
    }
    if said["warnings"] != Value::Array(Vec::new()) {
        return Err(format!("it warns: {}", said["warnings"]));
    }
    let is_so = if question.is_at_most {
        !fates.is_empty() && fates.is_subset(&question.fates)
    } else {
        fates == question.fates
    };
    if is_so { Ok(()) } else { Err(format!("says {fates:?}, not {:?}", question.fates)) }
}

fn fate(outcome: &Value) -> Result<Fate, String> {
    let is_kept = outcome.get("masquerade").is_none();
    let source = if is_kept { SeenSource::Kept } else { SeenSource::Masqueraded };
    match (outcome["verdict"].as_str(), outcome["backend"].as_str()) {
        (Some("backend"), Some(backend)) => {
            let backend = backend.parse().map_err(|error| format!("{backend}: {error}"))?;
            Ok(Fate::Answered(backend, source))
        }
        (Some("reject"), None) => Ok(Fate::Refused),
        (Some("drop"), None) => Ok(Fate::Dropped),
        (Some("pass"), None) if is_kept => Ok(Fate::Untouched),
        _ => Err(format!("{outcome} is no outcome")),
    }
}
