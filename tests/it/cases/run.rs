//! Runs a row from beginning to end.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rulec_apiserver::{Fault, Scope};
use rulec_testkit::{Family, patience, require_root};
use serde_json::{Value, json};

use super::place::{A_MOMENT, Place, address_and_path, resource};
use super::row::{self, Growth, Health, Mode, Row, Step};
use super::traffic::{self, Memory};
use crate::support::{eventually, request};

/// Runs a case of a file for a family in a mode.
pub(super) fn run(file: &str, case: u32, family: Family, mode: Mode) {
    if !require_root() {
        return;
    }
    let Some(row) = row::find(file, case, family, mode) else { return };
    let mut run = Run {
        place: Place::new(&row, family, mode),
        memory: Memory::default(),
        occupied: BTreeMap::new(),
    };
    for (number, step) in (1..).zip(&row.steps) {
        run.step(number, &row, step);
    }
    // IPVS chooses where no rule is. On an emulated machine, a trace takes as long as a case; there,
    // the tests of the command itself are enough.
    let is_emulated = patience(A_MOMENT) > A_MOMENT;
    let last = row.steps.iter().rev().find_map(|step| step.packets.as_ref());
    if let (Some(text), Mode::Nftables, false) = (last, mode, is_emulated) {
        traffic::trace(&run.place, text);
    }
}

struct Run {
    memory: Memory,
    occupied: BTreeMap<String, TcpListener>,
    place: Place,
}

/// Prints the case and step when the test panics.
struct At<'a>(u32, &'a Row);

impl Drop for At<'_> {
    #[expect(clippy::print_stderr, reason = "it explains why a test failed")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("case {}, step {}: {}", self.1.case, self.0, self.1.title);
        }
    }
}

impl Run {
    fn step(&mut self, number: u32, row: &Row, step: &Step) {
        let _at = At(number, row);
        if let Some(command) = &step.run {
            let printed = self.place.run(command);
            if let Some(text) = &step.prints {
                assert!(printed.contains(text), "{command} does not print {text:?}:\n{printed}");
            }
            if let Some(text) = &step.lacks {
                assert!(!printed.contains(text), "{command} prints {text:?}:\n{printed}");
            }
        }
        if let Some(seconds) = step.seize {
            self.place.seize(Duration::from_secs_f64(seconds));
        }
        if let Some(at) = &step.occupy {
            let listen = || TcpListener::bind(at).expect("the port is free");
            self.occupied.insert(at.clone(), self.place.world.node.run(listen));
        }
        if let Some(at) = &step.vacate {
            assert!(self.occupied.remove(at).is_some(), "{at} is not occupied");
        }
        if number > 1 {
            self.silence(step);
        }
        if let Some(args) = &step.args {
            self.place.restart_with(args);
            self.place.settle();
        }
        self.change(step);
        if let Some(seconds) = step.wait {
            thread::sleep(Duration::from_secs_f64(seconds));
        }
        if let Some(text) = &step.packets {
            traffic::check(&self.place, &mut self.memory, text);
        }
        for health in &step.health {
            self.health(health);
        }
        if let Some(text) = &step.log {
            self.place.daemon.wait_for(text);
        }
        if let Some(text) = &step.event {
            self.event(text);
        }
    }

    fn silence(&self, step: &Step) {
        let (Some(api), Some(silent)) = (&self.place.api, &step.silence) else { return };
        api.lift_all();
        for kind in silent {
            api.fault(Scope::resource(resource(kind)), Fault::Stall);
        }
    }

    /// Applies the changes of a step, with the metrics and packets that belong to them.
    fn change(&mut self, step: &Step) {
        let is_change = !step.apply.is_empty()
            || !step.files.is_empty()
            || !step.fleeting.is_empty()
            || step.rename.is_some()
            || step.remove_directory
            || step.burst.is_some()
            || step.daemon.is_some()
            || step.silence.as_ref().is_some_and(Vec::is_empty);
        if !is_change {
            assert!(step.metrics.is_empty() && step.throughout.is_none(), "nothing happens");
            return;
        }
        let before = if step.metrics.is_empty() { BTreeMap::new() } else { self.place.metrics() };
        let happen = |place: &mut Place| {
            match step.daemon {
                Some(life) => place.restart(life, |place| write(place, step)),
                None => write(place, step),
            }
            // While something is silent, the daemon must not apply the objects yet.
            if step.silence.as_ref().is_none_or(Vec::is_empty) {
                place.settle();
            }
        };
        match &step.throughout {
            Some(text) => traffic::throughout(&mut self.place, text, happen),
            None => happen(&mut self.place),
        }
        if !step.metrics.is_empty() {
            // Unexpected changes would have happened by then.
            thread::sleep(A_MOMENT);
            // The counters of a new process start from zero.
            let before = if step.daemon.is_some() { BTreeMap::new() } else { before };
            grown(&before, &self.place.metrics(), &step.metrics);
        }
    }

    /// Waits until a health server gives the expected answer.
    fn health(&self, health: &Health) {
        let (at, path) = address_and_path(&health.get);
        let mut said = String::new();
        let at = at.to_string();
        let is_so = || -> bool {
            let Ok(answer) = request(&self.place.world.node, "GET", &at, path) else {
                "nobody listens".clone_into(&mut said);
                return health.status == 0;
            };
            said = format!("{} {}", answer.code, answer.body);
            let weight = answer.headers.get("x-load-balancing-endpoint-weight");
            let expected = health.weight.map(|weight| weight.to_string());
            answer.code == health.status
                && (expected.is_none() || weight == expected.as_ref())
                && health.body.iter().all(|(field, value)| answer.json()[field] == *value)
        };
        let is_so = std::cell::RefCell::new(is_so);
        eventually(&format!("{health:?}"), || (is_so.borrow_mut())());
    }

    fn event(&self, text: &str) {
        let api = self.place.api.as_ref().expect("events go to an API server");
        let came = api.wait_until(patience(Duration::from_secs(30)), |api| {
            api.events().iter().any(|event| event.object.to_string().contains(text))
        });
        assert!(came, "no event says {text:?}: {:?}", api.events());
    }
}

fn write(place: &mut Place, step: &Step) {
    if !step.apply.is_empty() {
        place.change(|objects| objects.apply(&step.apply));
    }
    if !step.fleeting.is_empty() {
        let before = place.objects.clone();
        place.change(|objects| objects.apply(&step.fleeting));
        place.change(|objects| *objects = before);
    }
    for (file, text) in &step.files {
        match text {
            Some(text) => place.manifests().write(file, text),
            None => place.manifests().remove(file),
        }
    }
    let directory = place.manifests().path();
    if let Some([from, to]) = &step.rename {
        fs::rename(directory.join(from), directory.join(to)).expect("a file is renamed");
    }
    if step.remove_directory {
        // Renamed as a whole: removing file after file would leave an empty directory for a moment.
        let away = directory.with_extension("away");
        fs::rename(&directory, away).expect("the directory is removed");
    }
    if let Some(slices) = step.burst {
        burst(place, slices);
    }
    if let (Some(api), Some([])) = (&place.api, step.silence.as_deref()) {
        api.lift_all();
    }
}

/// Creates many slices of the Service `web`, one after the other.
fn burst(place: &mut Place, slices: usize) {
    let (kind, ip): (_, fn(usize) -> String) = match place.family {
        Family::V4 => ("IPv4", |number| format!("10.60.{}.{}", number / 250, number % 250 + 1)),
        Family::V6 => ("IPv6", |number| format!("2001:db8:60::{:x}", number + 1)),
    };
    let patch = |number: usize| -> (String, Value) {
        let slice = json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "addressType": kind,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip(number)]}],
        });
        (format!("EndpointSlice burst-{number}"), slice)
    };
    let slices = (0..slices).map(patch).collect();
    // `change` publishes them one by one.
    place.change(|objects| objects.apply(&slices));
}

/// Asserts the growth of metrics.
fn grown(
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
    expected: &BTreeMap<String, Growth>,
) {
    for (name, growth) in expected {
        let of = |all: &BTreeMap<String, f64>| all.get(name).copied().unwrap_or_default();
        let by = of(after) - of(before);
        let is_so = match growth {
            Growth::By(expected) => (by - expected).abs() < f64::EPSILON,
            Growth::AtLeast { at_least } => by >= *at_least,
            Growth::AtMost { at_most } if name.ends_with("_seconds_sum") => {
                by <= patience(Duration::from_secs_f64(*at_most)).as_secs_f64()
            }
            Growth::AtMost { at_most } => by <= *at_most,
        };
        assert!(is_so, "{name} has grown by {by}, not {growth:?}");
    }
}
