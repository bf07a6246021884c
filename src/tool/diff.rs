//! `rulec diff`: the difference between two states, and the reasons.
//!
//! ```text
//!  Side ─┐
//!        ├▶ Comparison ─▶ changes ─▶ Report ─▶ text | json
//!  Side ─┘       └ Delta ────────────────────▶ commands
//!                └ conntrack ▶ Flows ▶ text | json
//! ```
//!
//! - `comparison` compiles both sides and finds the operations between them.
//! - `seen` is what a state makes of one frontend. `changes` compares that on both sides, for each
//!   frontend that an operation concerns; `change` is one of them, `what` its kind.
//! - `unseen` adds what differs between the Services and no operation tells; `fields` are the fields
//!   in which two differ, `refused` the claims that lose. `unread` takes out what only seems to
//!   differ, because an object cannot be read.
//! - `reason` finds the object and the field, `endpoints` why an endpoint is used or not; `objects`
//!   names objects.
//! - `report` is what is told, in order; `text` and `json` write it, `text` in the `words` for each
//!   change, in `lines`. `commands` writes operations.
//! - `flows` is what the change means for the flows that exist.

mod causes;
mod change;
mod changes;
mod commands;
mod comparison;
mod endpoints;
mod fields;
mod flows;
mod json;
mod lines;
mod objects;
mod reason;
mod refused;
mod report;
mod seen;
mod text;
mod told;
mod unread;
mod unseen;
mod what;
mod words;

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use rulec_sources::{Problem, STACK_BYTES, Severity};

use crate::cli::{DiffArgs, Output};
use crate::observe::telemetry::complain;
use crate::snapshot::{SavedObject, Snapshot};
use crate::tool::compiling::{Compiling, remind};
use crate::tool::input::{INPUT, Named, NodeAddresses, Places, Side};
use crate::tool::pager::Pager;
use crate::tool::progress::Progress;
use comparison::Comparison;
pub(crate) use flows::BY_IPVS;
use flows::Flows;
pub(crate) use lines::wrapped;
use report::Report;
pub(crate) use told::tell as tell_change;

/// The status if there is a difference.
const DIFFERENT: u8 = 1;

/// The status if a part could not be compared.
const INCOMPLETE: u8 = 2;

/// Compares and prints. The exit status says whether there is a difference, or whether a part could
/// not be compared, so that there may be one.
///
/// # Errors
///
/// If a side cannot be read.
pub fn run(args: DiffArgs) -> anyhow::Result<ExitCode> {
    args.color.apply();
    let both = || args.from.iter().chain(&args.to);
    anyhow::ensure!(
        both().any(|state| state != "kernel"),
        "nothing to compare: name a state other than kernel with --from or --to"
    );
    anyhow::ensure!(
        both().filter(|state| *state == INPUT).count() <= 1,
        "standard input can be read only once: save it to a file, and name that"
    );
    let start = Instant::now();
    let (from, to, node) = read(&args, &Progress::of(start))?;
    tell(&from, &to);
    let progress = Progress::of(start);
    progress.step("comparing");
    let comparison = Comparison::new(from, to)?;
    if let Some(path) = &args.save {
        let to = &comparison.to;
        let objects = to.model.as_ref().map(SavedObject::all);
        let snapshot = Snapshot::new(&comparison.new, &to.settings, objects);
        snapshot.lacking(to.errors()).write(path)?;
    }
    let report = Report::of(&comparison, missing(&comparison));
    let flows = match args.flows {
        true => {
            progress.step("reading the flows of conntrack");
            Some(flows::read(&node, &comparison)?)
        }
        false => None,
    };
    drop(progress);
    match print(&args, &comparison, &report, flows.as_ref()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    Ok(if !report.incomplete.is_empty() {
        ExitCode::from(INCOMPLETE)
    } else if !report.is_equal() {
        ExitCode::from(DIFFERENT)
    } else {
        ExitCode::SUCCESS
    })
}

/// Reads both sides, and how the addresses of the node are known.
fn read(args: &DiffArgs, progress: &Progress) -> anyhow::Result<(Side, Side, NodeAddresses)> {
    let is_here = args.from.iter().chain(&args.to).any(|state| state == "kernel");
    let Compiling { settings, mut giving, node, runners } =
        Compiling::of(&args.compile, &args.socket, is_here)?;
    if args.flows {
        flows::check(args, &settings)?;
    }
    let places = Places::of(&args.api, &args.socket, &settings);
    let [from, to] = [(FROM, &args.from), (TO, &args.to)]
        .map(|(option, states)| format!("{option} {}", states.join(", ")));
    progress.step(format!("reading {from} and {to}"));
    // Most of the time goes into reading, and most files are the same on both sides.
    let (old, new) = thread::scope(|scope| {
        let reader = thread::Builder::new().stack_size(STACK_BYTES);
        let old = reader.spawn_scoped(scope, || Named::read(&args.from, &places));
        let new = Named::read(&args.to, &places);
        old.map(|old| (old.join(), new))
    })?;
    let old = old.map_err(|_| anyhow::anyhow!("the thread that reads {from} died"))?;
    let (old, new) = (old.with_context(|| from.clone())?, new.with_context(|| to.clone())?);
    for named in [&old, &new] {
        giving.note(named);
    }
    if is_here && ![&old, &new].into_iter().all(Named::is_of_kernel) {
        remind(&runners);
    }
    let mut side = |named, option: &String| {
        Side::of(named, &settings, &node, &mut giving).with_context(|| option.clone())
    };
    // What a kernel or a snapshot holds is known before anything is given out.
    if new.is_of_kernel() {
        let new = side(new, &to)?;
        return Ok((side(old, &from)?, new, node));
    }
    let (old, new) = (side(old, &from)?, side(new, &to)?);
    Ok((old, new, node))
}

const FROM: &str = "--from";
const TO: &str = "--to";

/// Reports what is wrong with the manifests of both sides. What is odd in the old ones and stays so
/// is reported once.
fn tell(from: &Side, to: &Side) {
    let key = |it: &Problem| (it.object.clone(), it.message.clone());
    let odd: BTreeSet<_> = to.problems.iter().map(key).collect();
    let is_news = |it: &&Problem| it.severity == Severity::Error || !odd.contains(&key(it));
    for problem in from.problems.iter().filter(is_news) {
        complain(format_args!("{FROM} {problem}"));
    }
    for problem in &to.problems {
        complain(format_args!("{TO} {problem}"));
    }
    let (old, new) = (from.remarks(), BTreeSet::from_iter(to.remarks()));
    for remark in old.iter().filter(|remark| !new.contains(remark)) {
        complain(format_args!("{FROM} {}: {remark}", from.name));
    }
    for remark in &new {
        complain(format_args!("{TO} {}: {remark}", to.name));
    }
    // Such sides are equal, and rarely what was meant.
    if from.has_no_service() && to.has_no_service() {
        let (from, to) = (&from.name, &to.name);
        complain(format_args!("{FROM} {from}, {TO} {to}: there is no Service on either side"));
    }
}

/// Returns what could not be compared.
fn missing(comparison: &Comparison) -> Vec<String> {
    let sides = [(FROM, &comparison.from), (TO, &comparison.to)];
    let errors = sides
        .into_iter()
        .flat_map(|(option, side)| side.errors().map(move |problem| format!("{option} {problem}")));
    errors.collect()
}

fn print(
    args: &DiffArgs,
    comparison: &Comparison,
    report: &Report<'_>,
    flows: Option<&Flows>,
) -> io::Result<()> {
    let (delta, mark) = (&comparison.delta, comparison.mark());
    // The other formats are for programs.
    let pager = if args.output == Output::Text { Pager::start() } else { Pager::none() };
    let mut out = io::BufWriter::new(pager);
    let written = match args.output {
        Output::Text => text::write(&mut out, report, flows, args.verbose.then_some(mark)),
        Output::Json => json::write(&mut out, comparison, report, flows),
        Output::Nft => commands::nft(&mut out, delta, mark),
        Output::Ipvsadm => commands::ipvsadm(&mut out, delta),
    };
    let rest = out.into_inner().map_err(io::IntoInnerError::into_error);
    written.and(rest.and_then(Pager::finish))
}
