//! What the annotations of a Service ask of IPVS.
//!
//! No annotation takes a Service away: one that cannot be meant is a warning, and counts as not there.
//! Those of kube-router count where there is none of ours for the same, and mean what they mean there.

use rulec_compiler::ipvs::{Scheduler, SchedulerFlags};
use rulec_compiler::object::IpvsOptions;
use rulec_compiler::settings::IpvsSettings;

use super::At;
use super::check::Check;
use crate::field::{Field, Shape, Text};
use crate::manifest::Annotations;

const SCHEDULER: &str = "rulec.io/ipvs-scheduler";
const FLAGS: &str = "rulec.io/ipvs-scheduler-flags";
const DRAIN: &str = "rulec.io/ipvs-drain-seconds";
const KUBE_ROUTER_SCHEDULER: &str = "kube-router.io/service.scheduler";
const KUBE_ROUTER_FLAGS: &str = "kube-router.io/service.schedflags";

/// The schedulers that kube-router has.
const KUBE_ROUTERS: [Scheduler; 5] =
    [Scheduler::Rr, Scheduler::Lc, Scheduler::Dh, Scheduler::Sh, Scheduler::Mh];

pub(super) fn options(
    check: &mut Check<'_, '_>,
    field: &Field<Box<Annotations>>,
    at: &At<'_>,
) -> IpvsOptions {
    let annotations = match field {
        Field::Is(annotations) => annotations,
        Field::Absent => return IpvsOptions::default(),
        Field::Wrong(found) => {
            let expected = Box::<Annotations>::NAME;
            check.warn(at, format_args!("expected {expected}, found {found}; it is not used"));
            return IpvsOptions::default();
        }
    };
    let at_scheduler = at.key(SCHEDULER);
    let scheduler = word(check, &annotations.ipvs_scheduler, &at_scheduler, str::parse);
    // An empty list is a list: `mh` without its usual flag is nothing else.
    let flags = value(check, &annotations.ipvs_scheduler_flags, &at.key(FLAGS), str::parse);
    let drain = word(check, &annotations.ipvs_drain_seconds, &at.key(DRAIN), seconds);
    match scheduler {
        Some(_) => IpvsOptions { scheduler, flags, drain },
        None => {
            let (scheduler, their_flags) = kube_routers(check, annotations, at);
            IpvsOptions { scheduler, flags: flags.or(their_flags), drain }
        }
    }
}

/// What kube-router would do: flags are for `mh`, which has none without them.
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
        _ => Err(format!("{text:?} counts only beside {KUBE_ROUTER_SCHEDULER}: mh")),
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

/// The value of an annotation; an empty one says nothing.
fn word<T>(
    check: &mut Check<'_, '_>,
    field: &Field<Text>,
    at: &At<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let is_empty = matches!(field, Field::Is(text) if text.is_empty());
    if is_empty { None } else { value(check, field, at, parse) }
}

fn value<T>(
    check: &mut Check<'_, '_>,
    field: &Field<Text>,
    at: &At<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let value = match field {
        Field::Absent => return None,
        Field::Is(text) => parse(text),
        Field::Wrong(found) => Err(format!("expected {}, found {found}", Text::NAME)),
    };
    value.map_err(|reason| check.warn(at, format_args!("{reason}; it is not used"))).ok()
}
