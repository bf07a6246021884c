//! `rulec diff`: what leads from one state to another, and why.

mod changes;
mod json;
mod reason;
mod text;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::change::{Change, Origin};
use rulec_compiler::nft::{Delta, Program, State, text as nft_text};
use rulec_compiler::{Model, Settings};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Sink};
use rulec_sources::Severity;

use crate::cli::{DiffArgs, Output};
use crate::snapshot::Snapshot;

/// One side of a comparison.
struct Side {
    /// What it is called in the output.
    name: String,
    /// The objects, if they are known.
    model: Option<Model>,
    /// What the kernel holds; of manifests, that is decided when the other side is known, since
    /// slots go on from there.
    state: Option<State>,
    settings: Arc<Settings>,
    /// Whether something of it could not be read, or not be used as it is.
    incomplete: bool,
}

/// A comparison.
struct Comparison {
    from: Side,
    to: Side,
    /// The states of both sides.
    old: State,
    new: State,
    delta: Delta,
}

/// Compares, prints, and says by the exit status whether there is a difference, or whether a manifest
/// is wrong: then the difference is not the whole one.
///
/// # Errors
///
/// If a side cannot be read.
pub fn run(args: DiffArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        (args.from.as_str(), args.to.as_str()) != ("kernel", "kernel"),
        "the kernel equals itself: name a state with --to, or with --from"
    );
    let mut settings = args.settings.settings()?;
    args.node.refine(&mut settings)?;
    let settings = Arc::new(settings);
    let from =
        Side::read(&args.from, &settings).with_context(|| format!("--from {}", args.from))?;
    let to = Side::read(&args.to, &settings).with_context(|| format!("--to {}", args.to))?;
    let comparison = Comparison::new(from, to);
    if let Some(path) = &args.save {
        let to = &comparison.to;
        let objects = to.model.as_ref().map(|model| model.objects().collect());
        Snapshot::new(&comparison.new, &to.settings, objects).write(path)?;
    }
    let printed = match args.output {
        Output::Text => text::print(&comparison),
        Output::Json => json::print(&comparison),
        Output::Nft => print_commands(&comparison),
    };
    match printed {
        // Whoever reads has had enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    Ok(if comparison.from.incomplete || comparison.to.incomplete {
        ExitCode::from(2)
    } else if comparison.delta.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

impl Side {
    fn read(state: &str, settings: &Arc<Settings>) -> anyhow::Result<Self> {
        let path = Path::new(state);
        if state == "kernel" {
            let mark = settings.masquerade_bit.mark();
            let mut sink = NftSink::open(Ownership::Shared, mark)
                .context("opening nf_tables (are you root?)")?;
            let (held, _) = sink.read().context("reading nf_tables")?;
            return Ok(Self {
                name: state.to_owned(),
                model: None,
                state: Some(held),
                settings: Arc::clone(settings),
                incomplete: false,
            });
        }
        if Snapshot::is_one(path) {
            let snapshot = Snapshot::read(path)?;
            return Ok(Self {
                name: state.to_owned(),
                model: snapshot.model(),
                state: Some(snapshot.state()),
                settings: Arc::new(snapshot.settings().clone()),
                incomplete: false,
            });
        }
        let reading = rulec_sources::read(path)?;
        for problem in &reading.problems {
            anstream::eprintln!("{problem}");
        }
        let incomplete = reading.problems.iter().any(|problem| problem.severity == Severity::Error);
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(reading.objects));
        if settings.node_port_addresses.needs_interfaces() {
            let addresses = rulec_sources::read_interfaces()?;
            model.apply(Origin::Kernel, Change::Apply(addresses));
        }
        Ok(Self {
            name: state.to_owned(),
            model: Some(model),
            state: None,
            settings: Arc::clone(settings),
            incomplete,
        })
    }

    /// Compiles the manifests, with slots that go on from a state.
    fn compile(&self, seed: &State) -> Program {
        let model = self.model.clone().unwrap_or_default();
        Program::compile(&model, Arc::clone(&self.settings), seed)
    }
}

impl Comparison {
    fn new(from: Side, to: Side) -> Self {
        let old = match &from.state {
            Some(state) => state.clone(),
            None => from.compile(&State::default()).state(),
        };
        let (new, delta) = match &to.state {
            Some(state) => (state.clone(), Delta::between_states(&old, state)),
            None => {
                let program = to.compile(&old);
                (program.state(), Delta::reconcile(&old, &program))
            }
        };
        Self { from, to, old, new, delta }
    }

    /// The mark that the rules of the new state use.
    fn mark(&self) -> u32 {
        self.to.settings.masquerade_bit.mark()
    }
}

fn print_commands(comparison: &Comparison) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let owner = |service: &rulec_compiler::name::NamespacedName| format!("# Service {service}\n");
    let mark = comparison.mark();
    let delta = &comparison.delta;
    for op in &delta.prelude {
        out.write_all(nft_text::commands(op, mark).as_bytes())?;
    }
    for group in &delta.groups {
        out.write_all(owner(&group.service).as_bytes())?;
        for op in &group.ops {
            out.write_all(nft_text::commands(op, mark).as_bytes())?;
        }
    }
    for op in &delta.epilogue {
        out.write_all(nft_text::commands(op, mark).as_bytes())?;
    }
    out.flush()
}
