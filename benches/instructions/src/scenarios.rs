//! The hot paths.
//!
//! A path that is measured has been taken before, at another Service: what is done once, when a map
//! is made or a symbol is found, is no part of it.

use std::sync::Arc;

use rulec_compiler::change::{Change, Origin};
use rulec_compiler::object::ObjectKey;
use rulec_compiler::{Delta, Dirty, Model, Program, State};
use rulec_sinks::measuring::Encoder;
use rulec_sources::measuring::Slices;
use rulec_sources::read_text;

use crate::cluster::{Cluster, SERVICES, committed, settings};
use crate::kinds::{
    ENDPOINTS, UNREADY, by_table, endpoints, exposed, hinted, internal, local, on_this_node, plain,
    put, restricted, slices, sticky, weights,
};
use crate::meter::Meter;
use crate::texts;
use crate::world::{name, objects, port};

/// A path with its name.
type Scenario = (&'static str, fn(&mut Meter));

/// All paths.
pub(crate) const SCENARIOS: [Scenario; 24] = [
    ("change-endpoint", |meter| {
        change(meter, |n| [endpoints(n, ENDPOINTS), endpoints(n, ENDPOINTS + 1)]);
    }),
    ("change-readiness", |meter| {
        change(meter, |n| {
            [endpoints(n, ENDPOINTS), slices(n, |it| it.endpoints[0].conditions = UNREADY)]
        });
    }),
    ("change-service", |meter| {
        change(meter, |n| [put(n, plain), vec![Change::Remove(ObjectKey::Service(name(n)))]]);
    }),
    ("change-target-port", |meter| {
        change(meter, |n| [slices(n, |_| ()), slices(n, |it| it.ports[0].port = port(9090))]);
    }),
    ("change-hints", |meter| change(meter, |n| [slices(n, |_| ()), slices(n, hinted)])),
    ("change-internal-policy", |meter| {
        change(meter, |n| {
            [
                [slices(n, on_this_node), put(n, plain)].concat(),
                [slices(n, on_this_node), put(n, internal)].concat(),
            ]
        });
    }),
    ("change-external-policy", |meter| {
        change(meter, |n| [put(n, |it| exposed(it, n)), put(n, |it| local(exposed(it, n)))]);
    }),
    ("change-affinity", |meter| {
        change(meter, |n| [put(n, plain), put(n, |it| sticky(it, 10_800))]);
    }),
    ("change-affinity-timeout", |meter| {
        // Each timeout is a new one: its map and its chain are made.
        change(meter, |n| {
            let timeout = 11_000 + u32::try_from(n).unwrap();
            [put(n, |it| sticky(it, 10_800)), put(n, |it| sticky(it, timeout))]
        });
    }),
    ("change-node-port", |meter| {
        change(meter, |n| [put(n, plain), put(n, |it| exposed(it, n))]);
    }),
    ("change-source-range", |meter| {
        change(meter, |n| [put(n, |it| restricted(it, n, 1)), put(n, |it| restricted(it, n, 2))]);
    }),
    ("change-weight", |meter| change(meter, |n| [weights(n, 1), weights(n, 3)])),
    ("change-weight-maglev", |meter| {
        change(meter, |n| {
            [[put(n, by_table), weights(n, 1)].concat(), [put(n, by_table), weights(n, 3)].concat()]
        });
    }),
    ("change-nothing", nothing),
    ("compile-all", compile_all),
    ("adopt", adopt),
    ("compare-programs", compare_programs),
    ("encode-endpoint", encode_endpoint),
    ("encode-all", encode_all),
    ("decode-list", decode_list),
    ("decode-list-again", decode_list_again),
    ("decode-event", decode_event),
    ("read-manifest", |meter| read_manifest(meter, false)),
    ("read-manifest-anchors", |meter| read_manifest(meter, true)),
];

/// The Services at which changes are made: the last one is measured.
const AT: [usize; 2] = [3, 500];

/// A Service before and after a change.
type Pair = fn(usize) -> [Vec<Change>; 2];

/// From a change of a source to the delta, there and back: the model, the compiler, and what the
/// engine decides.
fn change(meter: &mut Meter, pair: Pair) {
    let mut cluster = Cluster::in_sync();
    for service in AT {
        let [before, after] = pair(service);
        cluster.make(before.clone());
        for changes in [after, before] {
            let request = if service == AT[1] {
                meter.measure(|| cluster.plan(changes))
            } else {
                cluster.plan(changes)
            };
            committed(request.as_ref());
            cluster.carry_out(request);
        }
    }
}

/// An object that comes again and means the same.
fn nothing(meter: &mut Meter) {
    let mut cluster = Cluster::in_sync();
    let same = || endpoints(AT[1], ENDPOINTS);
    cluster.make(same());
    let changes = same();
    let request = meter.measure(|| cluster.plan(changes));
    assert!(request.is_none(), "{request:?}");
}

/// A start with an empty kernel: everything is compiled, and is a delta.
fn compile_all(meter: &mut Meter) {
    let mut cluster = Cluster::reading();
    let request = meter.measure(|| cluster.adopt(State::default()));
    assert!(committed(request.as_ref()).len() > SERVICES * ENDPOINTS);
}

/// A start with a kernel that holds everything: it is compiled, compared, and nothing is to do.
fn adopt(meter: &mut Meter) {
    let held = Cluster::in_sync().held();
    let mut cluster = Cluster::reading();
    let request = meter.measure(|| cluster.adopt(held));
    assert!(request.is_none(), "{request:?}");
}

/// The delta between two programs that differ in a twentieth of their Services.
fn compare_programs(meter: &mut Meter) {
    let mut model = Model::default();
    model.apply(Origin::Manifests, Change::everything(objects(SERVICES, ENDPOINTS)));
    let program = Program::compile(&model, Arc::new(settings()), &State::default());
    let mut dirty = Dirty::default();
    for service in (0..SERVICES).step_by(20) {
        for change in endpoints(service, ENDPOINTS + 1) {
            dirty.merge(model.apply(Origin::Manifests, change));
        }
    }
    let mut other = program.clone();
    other.update(&model, &dirty);
    let delta = meter.measure(|| Delta::between(&program, &other));
    assert_eq!(delta.groups.len(), SERVICES / 20);
}

/// The messages to the kernel for one endpoint more.
fn encode_endpoint(meter: &mut Meter) {
    let mut cluster = Cluster::in_sync();
    let mut encoder = encoder();
    for service in AT {
        let request = cluster.plan(endpoints(service, ENDPOINTS + 1));
        let delta = committed(request.as_ref());
        let (transactions, _) = if service == AT[1] {
            meter.measure(|| encoder.encode(delta))
        } else {
            encoder.encode(delta)
        };
        assert_eq!(transactions, 1);
        cluster.carry_out(request);
    }
}

/// The messages to the kernel for everything.
fn encode_all(meter: &mut Meter) {
    let mut cluster = Cluster::reading();
    let request = cluster.adopt(State::default());
    let delta = committed(request.as_ref());
    let mut encoder = encoder();
    let (_, bytes) = meter.measure(|| encoder.encode(delta));
    assert!(bytes > 32 * SERVICES * ENDPOINTS, "{bytes}");
}

fn encoder() -> Encoder {
    Encoder::new(settings().masquerade_bit.mark())
}

/// A list of 500 EndpointSlices, as long as a page, that are all new.
fn decode_list(meter: &mut Meter) {
    let text = texts::list(500, ENDPOINTS);
    let mut slices = Slices::default();
    let news = meter.measure(|| slices.list(text.as_bytes())).unwrap();
    assert!(matches!(&news[..], [Change::Replace { objects, .. }] if objects.len() == 500));
}

/// The same list again: nothing has changed.
fn decode_list_again(meter: &mut Meter) {
    let text = texts::list(500, ENDPOINTS);
    let mut slices = Slices::default();
    slices.list(text.as_bytes()).unwrap();
    let news = meter.measure(|| slices.list(text.as_bytes())).unwrap();
    assert!(news.is_empty(), "{} changes", news.len());
}

/// An event of a watch with one endpoint more.
fn decode_event(meter: &mut Meter) {
    let mut slices = Slices::default();
    slices.list(texts::list(500, ENDPOINTS).as_bytes()).unwrap();
    slices.event(texts::event(1, ENDPOINTS + 1).as_bytes()).unwrap();
    let text = texts::event(250, ENDPOINTS + 1);
    let news = meter.measure(|| slices.event(text.as_bytes())).unwrap();
    assert!(matches!(&news[..], [Change::Apply(_)]));
}

/// A manifest of 100 Services and their slices.
fn read_manifest(meter: &mut Meter, is_anchored: bool) {
    let text = texts::manifest(100, ENDPOINTS, is_anchored);
    let reading = meter.measure(|| read_text("bench.yaml", text.as_bytes()));
    assert_eq!((reading.objects.len(), reading.problems.len()), (200, 0));
}
