//! The annotations of a Service for IPVS.
//!
//! An invalid annotation never invalidates its Service: it is ignored with a warning. The
//! annotations of kube-router are used if ours for the same purpose are absent, with the meaning
//! that they have in kube-router.

use rulec_compiler::ipvs::{Scheduler, SchedulerFlags};
use rulec_compiler::object::IpvsOptions;
use rulec_compiler::settings::IpvsSettings;

use super::at::At;
use super::check::Check;
use super::document::Annotations;
use super::field::{Field, Shape, Text};

const SCHEDULER: &str = "rulec.io/ipvs-scheduler";
const FLAGS: &str = "rulec.io/ipvs-scheduler-flags";
const DRAIN: &str = "rulec.io/ipvs-drain-seconds";
const KUBE_ROUTER_SCHEDULER: &str = "kube-router.io/service.scheduler";
const KUBE_ROUTER_FLAGS: &str = "kube-router.io/service.schedflags";

/// The schedulers that kube-router supports.
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
            check.warn(at, format_args!("expected {expected}, found {found}; ignored"));
            return IpvsOptions::default();
        }
    };
    let at_scheduler = at.key(SCHEDULER);
    let scheduler = word(check, &annotations.ipvs_scheduler, &at_scheduler, str::parse);
    // An empty list of flags is a value: it means `mh` without its default flag.
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

/// Parses an annotation. An empty one is ignored.
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
    value.map_err(|reason| check.warn(at, format_args!("{reason}; ignored"))).ok()
}
