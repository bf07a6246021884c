//! One target, and those that need more than one crate.

use std::sync::{Arc, OnceLock};

use clap::Parser;
use rulec::cli::name::Asked;
use rulec::cli::{Cli, Command};
use rulec::config::{Config, File, Surroundings};
use rulec::snapshot::Snapshot;
use rulec_compiler::name::NodeName;
use rulec_compiler::{Change, Delta, Model, Origin, Program, Settings, State};
use rulec_sources::recording::{Mask, MaskKey, Moment};
use rulec_sources::{fuzzing, read_text};

/// A reader of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of the directory of its corpus, too.
    pub name: &'static str,
    /// Reads bytes; a panic is a fault.
    pub run: fn(&[u8]),
    /// How many bytes it may allocate for the shortest input.
    pub least: usize,
    /// How many more for each byte of the input.
    pub factor: usize,
}

impl Target {
    /// Returns how many bytes it may allocate for an input.
    pub fn most(&self, input: &[u8]) -> usize {
        self.factor.saturating_mul(input.len()).saturating_add(self.least)
    }
}

pub(crate) fn yaml(bytes: &[u8]) {
    fuzzing::yaml(bytes);
    compile("fuzz.yaml", bytes);
}

pub(crate) fn json(bytes: &[u8]) {
    fuzzing::json(bytes);
    compile("fuzz.json", bytes);
}

fn compile(name: &str, bytes: &[u8]) {
    let reading = read_text(name, bytes);
    if !reading.objects.is_empty() {
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(reading.objects));
        program(&model, Settings::new(NodeName::from("na")));
    }
}

/// Compiles a model: what was read must be valid.
fn program(model: &Model, settings: Settings) {
    let program = Program::compile(model, Arc::new(settings), &State::default());
    let delta = Delta::reconcile(&State::default(), &program);
    assert!(State::default().apply(&delta).is_ok(), "the kernel would refuse it");
}

/// Reads a snapshot from its text.
pub(crate) fn snapshot(bytes: &[u8]) {
    let _ = Snapshot::begins(bytes);
    let Ok(snapshot) = serde_json::from_slice::<Snapshot>(bytes) else { return };
    let Ok(snapshot) = snapshot.checked() else { return };
    let _ = snapshot.state();
    if let Some(model) = snapshot.model() {
        program(&model, snapshot.settings().clone());
    }
}

/// Reads a recording; its last state is compiled, and so is that with pseudonyms.
pub(crate) fn recording(bytes: &[u8]) {
    let Some((settings, entries)) = fuzzing::recording(bytes) else { return };
    let mut mask = Mask::new(MaskKey::from([7; 32]));
    let (mut moment, mut masked) = (Moment::default(), Moment::default());
    for entry in &entries {
        moment.add(entry);
        masked.add(&mask.entry(entry));
    }
    program(masked.model(), mask.settings(&settings));
    program(moment.model(), settings);
}

/// Reads a name as typed: each line is one.
pub(crate) fn name(bytes: &[u8]) {
    for line in String::from_utf8_lossy(bytes).lines() {
        match line.parse::<Asked>() {
            Ok(asked) => assert_eq!(asked.to_string(), line),
            Err(error) => assert!(!error.is_empty(), "refused in silence"),
        }
    }
}

/// Reads a KubeProxyConfiguration; one that is accepted is written, and read again.
pub(crate) fn configuration(bytes: &[u8]) {
    let Ok(loaded) = load(bytes) else { return };
    let Ok(text) = loaded.yaml() else { panic!("it cannot be written") };
    if let Err(invalid) = load(text.as_bytes()) {
        panic!("what is written cannot be read: {invalid:?}\n{text}");
    }
}

fn load(bytes: &[u8]) -> Result<rulec::config::Loaded, rulec::config::Invalid> {
    static CLI: OnceLock<Cli> = OnceLock::new();
    let cli = CLI.get_or_init(|| Cli::parse_from(["rulec", "run"]));
    let Command::Run(run) = &cli.command else { unreachable!("it says run") };
    let surroundings = Surroundings {
        hostname: "na".to_owned(),
        in_cluster: true,
        has_pods_api: |_| Ok(false),
        has_podman: |_| Ok(false),
        has_directory: |_| Ok(false),
    };
    Config::load(run, &cli.log, Some(File { name: "proxy.conf", bytes }), &surroundings)
}
