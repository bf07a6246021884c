//! The annotations for IPVS.

use std::num::NonZeroU32;

use rulec_compiler::ipvs::{Scheduler, SchedulerFlags};
use rulec_compiler::object::{IpvsOptions, Object};

use super::{json, problems, yaml};
use crate::decode::Decoded;

/// Decodes a Service with these annotations.
fn annotated(annotations: &str) -> Decoded {
    yaml(&format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  annotations: {annotations}\n\
         spec: {{clusterIP: 10.90.0.10, ports: [{{port: 80}}]}}\n"
    ))
}

/// Returns the options they set. The Service is served in any case.
fn options(decoded: &Decoded) -> IpvsOptions {
    let [Object::Service(web)] = &decoded.objects[..] else { panic!("{decoded:?}") };
    assert_eq!(web.ports.len(), 1);
    web.ipvs
}

#[track_caller]
fn asked(annotations: &str) -> IpvsOptions {
    let decoded = annotated(annotations);
    assert_eq!(problems(&decoded), [""; 0], "of {annotations}");
    options(&decoded)
}

/// Returns the options they set, and the one warning about them.
#[track_caller]
fn warned(annotations: &str) -> (IpvsOptions, String) {
    let decoded = annotated(annotations);
    let [warning] = problems(&decoded).try_into().unwrap();
    (options(&decoded), warning)
}

fn flags(text: &str) -> SchedulerFlags {
    text.parse().unwrap()
}

#[test]
fn each_annotation_is_an_option() {
    let none = IpvsOptions::default();
    assert_eq!(asked("{other: x}"), none);
    assert_eq!(asked("~"), none);
    let lc = IpvsOptions { scheduler: Some(Scheduler::Lc), ..none };
    assert_eq!(asked("{rulec.io/ipvs-scheduler: lc}"), lc);
    let ports = IpvsOptions { flags: Some(flags("sh-port")), ..none };
    assert_eq!(asked("{rulec.io/ipvs-scheduler-flags: sh-port}"), ports);
    for (text, seconds) in [("0", 0), ("45", 45), ("31536000", 31_536_000)] {
        let drain = IpvsOptions { drain: Some(seconds), ..none };
        assert_eq!(asked(&format!("{{rulec.io/ipvs-drain-seconds: '{text}'}}")), drain);
    }
    for (text, limit) in [("1", 1), ("2147483647", i32::MAX.unsigned_abs())] {
        let limited = IpvsOptions { max_connections: NonZeroU32::new(limit), ..none };
        assert_eq!(asked(&format!("{{rulec.io/max-connections: '{text}'}}")), limited);
    }
    let all = IpvsOptions {
        scheduler: Some(Scheduler::Mh),
        flags: Some(flags("flag-1,flag-2")),
        drain: Some(7),
        max_connections: NonZeroU32::new(3),
    };
    let json = json(
        r#"{"apiVersion":"v1","kind":"Service","spec":{"clusterIP":"1.2.3.4","ports":[{"port":80}]},
            "metadata":{"name":"web","annotations":{"rulec.io/ipvs-drain-seconds":"7",
            "rulec.io/max-connections":"3",
            "rulec.io/ipvs-scheduler":"mh","rulec.io/ipvs-scheduler-flags":"mh-fallback, mh-port"}}}"#,
    );
    assert_eq!((problems(&json), options(&json)), (vec![], all));
}

#[test]
fn an_empty_annotation_is_ignored_except_for_flags() {
    let empty = "{rulec.io/ipvs-scheduler: '', rulec.io/ipvs-drain-seconds: '', \
                  kube-router.io/service.scheduler: '', kube-router.io/service.schedflags: ''}";
    assert_eq!(asked(empty), IpvsOptions::default());
    let bare = IpvsOptions { flags: Some(SchedulerFlags::default()), ..IpvsOptions::default() };
    assert_eq!(asked("{rulec.io/ipvs-scheduler-flags: ''}"), bare);
}

#[test]
fn an_invalid_annotation_is_ignored_with_a_warning() {
    let cases = [
        (
            "rulec.io/ipvs-scheduler: fastest",
            "rulec.io/ipvs-scheduler: \"fastest\" is not an IPVS scheduler, use one of rr, wrr",
        ),
        (
            "rulec.io/ipvs-scheduler-flags: 'flag-1,flag-9'",
            "rulec.io/ipvs-scheduler-flags: \"flag-9\" is not a scheduler flag",
        ),
        (
            "rulec.io/ipvs-drain-seconds: '-1'",
            "rulec.io/ipvs-drain-seconds: \"-1\" is not a number of seconds in 0..31536000",
        ),
        (
            "rulec.io/ipvs-drain-seconds: 10m",
            "rulec.io/ipvs-drain-seconds: \"10m\" is not a number of seconds",
        ),
        (
            "rulec.io/ipvs-drain-seconds: '31536001'",
            "rulec.io/ipvs-drain-seconds: \"31536001\" is not a number of seconds",
        ),
        (
            "rulec.io/ipvs-drain-seconds: 30",
            "rulec.io/ipvs-drain-seconds: expected a string, found a number",
        ),
        (
            "rulec.io/max-connections: '0'",
            "rulec.io/max-connections: \"0\" is not a number of connections in 1..2147483647",
        ),
        (
            "rulec.io/max-connections: '2147483648'",
            "rulec.io/max-connections: \"2147483648\" is not a number of connections",
        ),
        (
            "rulec.io/max-connections: 3",
            "rulec.io/max-connections: expected a string, found a number",
        ),
        (
            "kube-router.io/service.scheduler: wlc",
            "kube-router.io/service.scheduler: \"wlc\" is no scheduler of kube-router: use one of \
             rr, lc, dh, sh, mh, or rulec.io/ipvs-scheduler",
        ),
        (
            "kube-router.io/service.schedflags: flag-1",
            "kube-router.io/service.schedflags: \"flag-1\" is used only with \
             kube-router.io/service.scheduler: mh",
        ),
    ];
    for (annotation, expected) in cases {
        let (options, warning) = warned(&format!("{{{annotation}}}"));
        assert_eq!(options, IpvsOptions::default(), "{annotation}");
        let (before, after) = warning.split_once("metadata.annotations.").unwrap();
        assert!(before.starts_with("web.yaml:5:"), "{warning}");
        assert!(before.ends_with(" Service default/web: "), "{warning}");
        assert!(after.starts_with(expected) && after.ends_with("; ignored"), "{warning}");
    }
    let (options, warning) = warned("[rulec.io/ipvs-scheduler]");
    assert_eq!(options, IpvsOptions::default());
    assert!(warning.ends_with("metadata.annotations: expected an object, found a list; ignored"));
    // An invalid annotation does not affect the others.
    let (options, _) = warned("{rulec.io/ipvs-scheduler: x, rulec.io/ipvs-drain-seconds: '9'}");
    assert_eq!((options.scheduler, options.drain), (None, Some(9)));
}

#[test]
fn kube_router_annotations_keep_their_meaning() {
    let none = IpvsOptions::default();
    for scheduler in [Scheduler::Rr, Scheduler::Lc, Scheduler::Dh, Scheduler::Sh] {
        let expected = IpvsOptions { scheduler: Some(scheduler), ..none };
        assert_eq!(asked(&format!("{{kube-router.io/service.scheduler: {scheduler}}}")), expected);
    }
    let mh = |text| IpvsOptions {
        scheduler: Some(Scheduler::Mh),
        flags: Some(flags(text)),
        ..IpvsOptions::default()
    };
    // Without the annotation for flags, it has none.
    assert_eq!(asked("{kube-router.io/service.scheduler: mh}"), mh(""));
    let both = "{kube-router.io/service.scheduler: mh, kube-router.io/service.schedflags: 'flag-1,flag-2'}";
    assert_eq!(asked(both), mh("flag-1,flag-2"));
}

#[test]
fn our_annotations_take_precedence_over_kube_routers() {
    let theirs = "kube-router.io/service.scheduler: mh, kube-router.io/service.schedflags: flag-1";
    // Flags of kube-router are only for the scheduler of kube-router.
    let ours = asked(&format!("{{rulec.io/ipvs-scheduler: sh, {theirs}}}"));
    assert_eq!((ours.scheduler, ours.flags), (Some(Scheduler::Sh), None));
    let ours = asked(&format!("{{rulec.io/ipvs-scheduler-flags: mh-port, {theirs}}}"));
    assert_eq!((ours.scheduler, ours.flags), (Some(Scheduler::Mh), Some(flags("flag-2"))));
    // An invalid annotation of ours does not hide one of kube-router.
    let (ours, _) = warned(&format!("{{rulec.io/ipvs-scheduler: best, {theirs}}}"));
    assert_eq!((ours.scheduler, ours.flags), (Some(Scheduler::Mh), Some(flags("flag-1"))));
    // There is no warning about an annotation that would not be used anyway.
    assert_eq!(
        asked("{rulec.io/ipvs-scheduler: rr, kube-router.io/service.scheduler: odd}").scheduler,
        Some(Scheduler::Rr)
    );
}
