//! Says what is wrong with the node itself, once: when the first rules are in the kernel, or as soon
//! as there are Services and endpoints for which it matters. And when it is mended: at a boot, a
//! route or a bridge may come a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rulec_compiler::object::Kind;
use rulec_compiler::{Model, Program};

use crate::host::node::{self, Finding, Look, Needs};

/// Up to so many objects, all are looked through after each commit, as long as there are none for
/// which the node matters. Beyond it, only when they have doubled.
const FEW: usize = 1000;

/// The pauses between looks as long as something is wrong. They double.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// What was looked at.
#[derive(Debug, Default)]
pub(crate) struct NodeLook {
    /// Whether the kernel may have more than at the last look.
    has_changed: bool,
    has_networks: bool,
    has_endpoints: bool,
    /// How many objects there were at the last look.
    objects: usize,
}

impl NodeLook {
    /// Says that the kernel may have more.
    pub(crate) fn changed(&mut self) {
        self.has_changed = true;
    }

    /// Returns whether there may be something to look at.
    pub(crate) fn is_due(&self) -> bool {
        self.has_changed && !(self.has_networks && self.has_endpoints)
    }

    /// Looks at the node, if the program that the kernel holds has Services or endpoints for the
    /// first time. Reading the kernel takes a moment, so that it is done beside the loop.
    pub(crate) fn follow(&mut self, program: &Program, model: &Model, networks: &BTreeSet<IpNet>) {
        self.has_changed = false;
        let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Pod];
        let objects = kinds.iter().map(|kind| model.count(*kind)).sum();
        if objects > FEW && objects < 2 * self.objects {
            return;
        }
        self.objects = objects;
        let held = model.interface_addresses();
        let own: &[IpAddr] = held.map_or(&[], |held| &held.object.addresses);
        let mut needs = Needs::of(program, networks, own);
        if self.has_networks {
            needs.forget_networks();
        }
        if self.has_endpoints {
            needs.forget_endpoints();
        }
        self.has_networks |= needs.has_networks();
        self.has_endpoints |= needs.has_endpoints();
        if needs.has_networks() || needs.has_endpoints() {
            tokio::spawn(watch(needs));
        }
    }
}

/// Looks at the node until nothing is wrong with it.
async fn watch(needs: Needs) {
    let mut known = Known::new();
    let mut pause = FIRST_PAUSE;
    let mut is_first = true;
    loop {
        let needs = needs.clone();
        let look = tokio::task::spawn_blocking(move || node::look(&needs));
        let Ok(Look { findings, errors }) = look.await else { return };
        for error in errors.iter().filter(|_| is_first) {
            tracing::warn!("cannot look at this node: {error:#}");
        }
        // What cannot be looked at may be as it was.
        if is_first || errors.is_empty() {
            let found: Known = findings.into_iter().map(|it| (it.fault(), it)).collect();
            tell(&known, &found);
            known = found;
        }
        tracing::debug!("looked at this node");
        is_first = false;
        if known.values().all(Finding::is_hint) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = LAST_PAUSE.min(pause * 2);
    }
}

/// What is wrong, by what is said of it: one more port of the same bridge is no other fault.
type Known = BTreeMap<String, Finding>;

/// Logs what is wrong now and was not before, and the other way round.
fn tell(known: &Known, found: &Known) {
    for (_, finding) in found.iter().filter(|(fault, _)| !known.contains_key(*fault)) {
        if finding.is_hint() {
            tracing::info!("{finding}");
        } else {
            tracing::warn!("{finding}");
        }
    }
    let gone = known.iter().filter(|(fault, _)| !found.contains_key(*fault));
    for (fault, _) in gone.filter(|(_, finding)| !finding.is_hint()) {
        tracing::info!("resolved: {fault}");
    }
}
