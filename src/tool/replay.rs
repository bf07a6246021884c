//! `rulec replay`: what a recording has, or a part of it in another file.

mod json;
mod text;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use rulec_sources::recording::{
    Entry, Mask, MaskKey, Moment, Reader, RecordingError, What, write_whole,
};

use crate::cli::replay::ReplayArgs;
use crate::cli::watch::PastOutput;
use crate::observe::telemetry::complain;

/// Lists a recording, or writes it.
///
/// # Errors
///
/// If it cannot be read, or its copy cannot be written.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    if let (Some(from), Some(until)) = (args.from, args.until) {
        anyhow::ensure!(from <= until, "--from {from} is after --until {until}");
    }
    let mut part = Part { reader: Reader::open(&args.file)?, args, is_over: false };
    match &args.save {
        Some(out) => save(&mut part, out)?,
        None => match list(&mut part) {
            // The reader has closed the pipe.
            Err(error)
                if error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|it| it.kind() == io::ErrorKind::BrokenPipe) => {}
            other => other?,
        },
    }
    let left_out = part.reader.left_out();
    left_out.iter().for_each(complain_of);
    Ok(if left_out.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn complain_of(left_out: &impl std::fmt::Display) {
    complain(left_out);
}

/// The part of a recording that was asked for.
struct Part<'a> {
    reader: Reader,
    args: &'a ReplayArgs,
    is_over: bool,
}

impl Part<'_> {
    /// Returns the next entry that is not after the part.
    fn next(&mut self) -> Result<Option<Entry>, RecordingError> {
        if self.is_over {
            return Ok(None);
        }
        let entry = self.reader.read()?;
        let until = self.args.until;
        let entry = entry.filter(|entry| until.is_none_or(|until| entry.time <= until));
        self.is_over = entry.is_none();
        Ok(entry)
    }

    /// Returns the next entry of the part.
    fn listed(&mut self) -> Result<Option<Entry>, RecordingError> {
        loop {
            let entry = self.next()?;
            let is_before = |entry: &Entry| self.args.from.is_some_and(|from| entry.time < from);
            if !entry.as_ref().is_some_and(is_before) {
                return Ok(entry);
            }
        }
    }
}

fn list(part: &mut Part<'_>) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match part.args.output {
        PastOutput::Text => {
            text::head(&mut out, part.reader.header())?;
            while let Some(entry) = part.listed()? {
                text::entry(&mut out, &entry)?;
            }
        }
        PastOutput::Json => {
            let mut items = Vec::new();
            while let Some(entry) = part.listed()? {
                items.push(json::Item::of(&entry));
            }
            let document = json::Document::of(part.reader.header(), items, part.reader.left_out());
            serde_json::to_writer_pretty(&mut out, &document)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Writes the part to a file of its own.
fn save(part: &mut Part<'_>, out: &Path) -> anyhow::Result<()> {
    let is_same = |it: &Path| it.canonicalize().ok();
    anyhow::ensure!(
        is_same(out).is_none() || is_same(out) != is_same(&part.args.file),
        "--save {}: it is the recording itself: name another file",
        out.display()
    );
    let mut mask = mask(part.args)?;
    let mut header = part.reader.header().clone();
    let mut before = Moment::default();
    let mut first = None;
    while let Some(entry) = part.next()? {
        if part.args.from.is_none_or(|from| entry.time >= from) {
            first = Some(entry);
            break;
        }
        before.add(&entry);
    }
    let begin = before.time().map(|time| {
        let time = part.args.from.unwrap_or(time);
        Entry { time, what: What::Whole(before.whole()) }
    });
    anyhow::ensure!(begin.is_some() || first.is_some(), "there is nothing in that time");
    if let Some(mask) = &mut mask {
        header = mask.header(&header);
    }
    let rest = std::iter::from_fn(|| part.next().transpose());
    let entries = begin.into_iter().chain(first).map(Ok).chain(rest);
    let masked = entries.map(|entry| {
        let entry = entry?;
        Ok(match &mut mask {
            Some(mask) => mask.entry(&entry),
            None => entry,
        })
    });
    Ok(write_whole(out, &header, masked)?)
}

fn mask(args: &ReplayArgs) -> anyhow::Result<Option<Mask>> {
    if !args.mask {
        return Ok(None);
    }
    let key = match &args.mask_key {
        Some(path) => {
            MaskKey::of_file(path).with_context(|| format!("--mask-key {}", path.display()))?
        }
        None => MaskKey::random().context("making a key")?,
    };
    Ok(Some(Mask::new(key)))
}
