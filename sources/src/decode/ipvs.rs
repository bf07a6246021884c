//! The annotations of a Service for IPVS.
//!
//! The annotations of kube-router are used if ours for the same purpose are absent, with the meaning
//! that they have in kube-router.

use std::num::NonZeroU32;

use rulec_compiler::ipvs::{Scheduler, SchedulerFlags};
use rulec_compiler::object::IpvsOptions;
use rulec_compiler::settings::IpvsSettings;

use super::annotations::{value, word};
use super::at::At;
use super::check::Check;
use super::document::Annotations;

const SCHEDULER: &str = "rulec.io/ipvs-scheduler";
const FLAGS: &str = "rulec.io/ipvs-scheduler-flags";
const DRAIN: &str = "rulec.io/ipvs-drain-seconds";
const MAX_CONNECTIONS: &str = "rulec.io/max-connections";
const KUBE_ROUTER_SCHEDULER: &str = "kube-router.io/service.scheduler";
const KUBE_ROUTER_FLAGS: &str = "kube-router.io/service.schedflags";

/// The schedulers that kube-router supports.
const KUBE_ROUTERS: [Scheduler; 5] =
    [Scheduler::Rr, Scheduler::Lc, Scheduler::Dh, Scheduler::Sh, Scheduler::Mh];

pub(super) fn options(
    check: &mut Check<'_, '_>,
    annotations: &Annotations,
    at: &At<'_>,
) -> IpvsOptions {
    let at_scheduler = at.key(SCHEDULER);
    let scheduler = word(check, &annotations.ipvs_scheduler, &at_scheduler, str::parse);
    // An empty list of flags is a value: it means `mh` without its default flag.
    let flags = value(check, &annotations.ipvs_scheduler_flags, &at.key(FLAGS), str::parse);
    let drain = word(check, &annotations.ipvs_drain_seconds, &at.key(DRAIN), seconds);
    let at_most = at.key(MAX_CONNECTIONS);
    let max_connections = word(check, &annotations.max_connections, &at_most, connections);
    match scheduler {
        Some(_) => IpvsOptions { scheduler, flags, drain, max_connections },
        None => {
            let (scheduler, their_flags) = kube_routers(check, annotations, at);
            IpvsOptions { scheduler, flags: flags.or(their_flags), drain, max_connections }
        }
    }
}

/// Reads the annotations of kube-router. As there, flags are only for `mh`, which has none by
/// default.
fn kube_routers(
    check: &mut Check<'_, '_>,
    annotations: &Annotations,
    at: &At<'_>,
) -> (Option<Scheduler>, Option<SchedulerFlags>) {
    let at_scheduler = at.key(KUBE_ROUTER_SCHEDULER);
    let scheduler = word(check, &annotations.kube_router_scheduler, &at_scheduler, of_kube_router);
    let at_flags = at.key(KUBE_ROUTER_FLAGS);
    let flags = word(check, &annotations.kube_router_flags, &at_flags, |text| match scheduler {
        Some(Scheduler::Mh) => text.parse(),
        _ => Err(format!("{text:?} is used only with {KUBE_ROUTER_SCHEDULER}: mh")),
    });
    let is_mh = scheduler == Some(Scheduler::Mh);
    (scheduler, is_mh.then(|| flags.unwrap_or_default()))
}

fn of_kube_router(name: &str) -> Result<Scheduler, String> {
    let mut all = KUBE_ROUTERS.into_iter();
    all.find(|scheduler| scheduler.name() == name).ok_or_else(|| {
        let names = KUBE_ROUTERS.map(Scheduler::name).join(", ");
        format!("{name:?} is no scheduler of kube-router: use one of {names}, or {SCHEDULER}")
    })
}

fn seconds(text: &str) -> Result<u32, String> {
    let most = IpvsSettings::LONGEST_DRAIN;
    let seconds = text.parse().ok().filter(|seconds| *seconds <= most);
    seconds.ok_or_else(|| format!("{text:?} is not a number of seconds in 0..{most}"))
}

/// The kernel refuses a threshold of connections of 2³¹ or more.
fn connections(text: &str) -> Result<NonZeroU32, String> {
    let most = i32::MAX.unsigned_abs();
    let number = text.parse::<NonZeroU32>().ok().filter(|number| number.get() <= most);
    number.ok_or_else(|| format!("{text:?} is not a number of connections in 1..{most}"))
}
