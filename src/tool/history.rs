//! `rulec history`: the changes that the daemon keeps, or one of them.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;

use rulec_compiler::plural::counted;

use crate::cli::watch::{HistoryArgs, PastOutput};
use crate::history::change::{Change, ChangeList};
use crate::observe::changes::CHANGES;
use crate::tool::daemon::ask;
use crate::tool::pager::Pager;
use crate::tool::past;
use crate::tool::show::table::Table;

/// Prints them.
///
/// # Errors
///
/// If the daemon cannot be asked, or does not keep the change.
pub fn run(args: &HistoryArgs) -> anyhow::Result<ExitCode> {
    args.how.color.apply();
    let socket = args.how.socket.path().context("--socket is empty: name the daemon's socket")?;
    let mut text = Vec::new();
    match args.change {
        Some(id) => {
            let change: Change = ask(socket, &format!("{CHANGES}/{id}"))?;
            match args.how.output {
                PastOutput::Text => past::describe(&mut text, &change)?,
                PastOutput::Json => json(&mut text, &change)?,
            }
        }
        None => {
            let mut all: ChangeList = ask(socket, CHANGES)?;
            let is_empty = all.items.is_empty();
            all.items.retain_mut(|change| past::narrow(change, &args.service));
            match args.how.output {
                PastOutput::Text => table(&mut text, &all, is_empty)?,
                PastOutput::Json => json(&mut text, &all)?,
            }
        }
    }
    let is_long = args.how.output == PastOutput::Text;
    let mut out = if is_long { Pager::start() } else { Pager::none() };
    match out.write_all(&text).and_then(|()| out.finish()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn json(out: &mut Vec<u8>, document: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    out.push(b'\n');
    Ok(())
}

/// The newest comes first.
fn table(out: &mut Vec<u8>, all: &ChangeList, is_nothing_kept: bool) -> io::Result<()> {
    if all.items.is_empty() {
        let what = if is_nothing_kept { "No change" } else { "No change of such a Service" };
        return writeln!(out, "{what} is kept.");
    }
    let mut table = Table::new(&["CHANGE", "TIME", "TOOK", "OPERATIONS", "WHAT"]);
    all.items.iter().rev().for_each(|change| table.push(past::row(change)));
    table.write(out, "")?;
    match all.more_items {
        0 => Ok(()),
        more => writeln!(
            out,
            "{} left out: there is too much to tell",
            counted(more as u64, "older change")
        ),
    }
}
