//! `rulec diff`: the delta from one state to another, and the reasons.

mod changes;
mod json;
mod reason;
mod text;
mod what;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::ipvs::text as ipvs_text;
use rulec_compiler::{Delta, State};

use crate::cli::{DiffArgs, Output};
use crate::setup;
use crate::snapshot::Snapshot;
use crate::tool::input::{NodeAddresses, Side};

/// A comparison.
struct Comparison {
    from: Side,
    to: Side,
    /// The states of both sides.
    old: State,
    new: State,
    delta: Delta,
}

/// Compares and prints. The exit status says whether there is a difference, or whether a manifest
/// has an error, so that the difference is incomplete.
///
/// # Errors
///
/// If a side cannot be read.
pub fn run(args: DiffArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        (args.from.as_str(), args.to.as_str()) != ("kernel", "kernel"),
        "nothing to compare: name a state other than kernel with --from or --to"
    );
    let settings = Arc::new(setup::settings(&args.compile)?);
    let is_here = [&args.from, &args.to].into_iter().any(|state| state == "kernel");
    let node = NodeAddresses::of(&args.compile, is_here)?;
    let read = |state: &str, option| {
        Side::read(state, &settings, &node).with_context(|| format!("{option} {state}"))
    };
    let (from, to) = (read(&args.from, "--from")?, read(&args.to, "--to")?);
    for remark in to.remarks() {
        anstream::eprintln!("{}: {remark}", to.name);
    }
    let comparison = Comparison::new(from, to)?;
    if let Some(path) = &args.save {
        let to = &comparison.to;
        let objects = to.model.as_ref().map(|model| model.objects().collect());
        Snapshot::new(&comparison.new, &to.settings, objects).write(path)?;
    }
    let printed = match args.output {
        Output::Text => text::print(&comparison),
        Output::Json => json::print(&comparison),
        Output::Nft => print_commands(&comparison),
        Output::Ipvsadm => print_ipvsadm(&comparison),
    };
    match printed {
        // The reader has closed the pipe.
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

impl Comparison {
    fn new(from: Side, to: Side) -> anyhow::Result<Self> {
        let old = match &from.state {
            Some(state) => state.clone(),
            None => from.compile(&State::default())?.state(),
        };
        let (new, delta) = match &to.state {
            Some(state) => (state.clone(), Delta::between_states(&old, state)),
            None => {
                let program = to.compile(&old)?;
                (program.state(), Delta::reconcile(&old, &program))
            }
        };
        Ok(Self { from, to, old, new, delta })
    }

    /// Returns the mark that the rules of the new state use.
    fn mark(&self) -> u32 {
        self.to.settings.masquerade_bit.mark()
    }
}

fn print_commands(comparison: &Comparison) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let owner = |service: &rulec_compiler::name::NamespacedName| format!("# Service {service}\n");
    let mark = comparison.mark();
    let delta = &comparison.delta;
    let [prepare, switch, retire] = delta.shared.stages();
    for op in prepare.iter().chain(switch) {
        out.write_all(op.commands(mark).as_bytes())?;
    }
    for group in &delta.groups {
        out.write_all(owner(&group.service).as_bytes())?;
        for op in group.ops.iter() {
            out.write_all(op.commands(mark).as_bytes())?;
        }
    }
    for op in retire {
        out.write_all(op.commands(mark).as_bytes())?;
    }
    out.flush()
}

/// Prints lines for `ipvsadm --restore`, in the order in which the daemon carries them out.
/// Operations that do not concern IPVS are left out.
fn print_ipvsadm(comparison: &Comparison) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for step in comparison.delta.steps() {
        for it in step.on_ipvs() {
            if let Some(command) = ipvs_text::command(it.op) {
                writeln!(out, "{command}")?;
            }
        }
    }
    out.flush()
}
