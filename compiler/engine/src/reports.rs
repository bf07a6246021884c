//! Log lines about the compilation, for operators.

use rulec_compiler::Program;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::nft::code::MAX_MEMBERS;
use rulec_compiler::nft::size::Size;
use rulec_compiler::{Dirty, Model, Origin};

/// How many Services a log line names.
const MAX_NAMES: usize = 10;

/// Logs the objects that exist in two sources. A Pod that runs and its manifest are meant to.
pub(crate) fn overridden(dirty: &Dirty) {
    for (key, winner, loser) in &dirty.overridden {
        if matches!(winner, Origin::Kubelet | Origin::Podman) {
            tracing::debug!(object = %key, %winner, %loser, "this Pod runs");
            continue;
        }
        tracing::warn!(
            object = %key,
            %winner,
            %loser,
            "two sources have this object; one takes precedence"
        );
    }
}

/// Logs the ports of these Services that have more endpoints than they can use.
pub(crate) fn left_out<'a>(
    program: &Program,
    model: &Model,
    services: impl Iterator<Item = &'a NamespacedName>,
) {
    for entry in services.filter_map(|service| model.service(service)) {
        for (port, endpoints) in program.left_out(&entry.object.key) {
            let (most, affinity) = (Size::MAX_SLOTS, MAX_MEMBERS);
            let what = "more endpoints than there is room for";
            tracing::warn!(%port, left_out = endpoints, most, with_affinity = affinity, "{what}");
        }
        for port in program.without_affinity(&entry.object.key) {
            let what = "served without session affinity: too many timeouts are in use";
            tracing::warn!(%port, "{what}");
        }
    }
}

/// Logs the frontends that these Services have lost to others.
pub(crate) fn lost_frontends<'a>(
    program: &Program,
    services: impl Iterator<Item = &'a NamespacedName>,
) {
    for service in services {
        for (frontend, winner) in program.lost_frontends(service) {
            tracing::warn!(%service, %frontend, %winner, "another Service takes precedence");
        }
    }
}

/// Logs all frontends that several Services claim.
pub(crate) fn conflicts(program: &Program) {
    for conflict in program.conflicts() {
        tracing::warn!(
            frontend = %conflict.frontend,
            winner = %conflict.winner,
            losers = ?conflict.losers,
            "conflicting claims on a frontend"
        );
    }
}

/// Logs the Services that stay although no source names them, because files could not be read.
pub(crate) fn kept(program: &Program, unread: usize) {
    let names: Vec<String> = program.kept().take(MAX_NAMES).map(ToString::to_string).collect();
    if !names.is_empty() {
        tracing::warn!(
            files = unread,
            services = program.kept().count(),
            first = %names.join(", "),
            "some files could not be read; keeping Services in the kernel that no source names"
        );
    }
}
