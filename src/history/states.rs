//! The states after changes, in files of the state directory, so that `rulec diff` can go back behind
//! a start.
//!
//! A file (`segment`) begins with a whole state, to which steps are appended. When these have become
//! as large as that, the next file begins, so that the cost of a change stays in proportion to it, and
//! no more than a few times the size of a state is read for one. So does each start, and each failure:
//! what a crash has cut is never appended to. The oldest files go when all of them are too large, and
//! when no change is kept any more whose state they have.

mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rulec_compiler::Model;
use rulec_compiler::object::Kind;
use rulec_sources::{is_replaceable, replace_file};

use super::entry::{Entry, Point};
use crate::snapshot::{Snapshot, Step};
pub(super) use segment::After;
use segment::{Content, Record, STEPS, Segment, WHOLE, line};

/// How many bytes all files have.
const TOTAL: u64 = 64 << 20;

const MODE: u32 = 0o600;

/// How much is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// All files.
    pub(super) total: u64,
    /// A whole state.
    pub(super) whole: usize,
    /// The steps that follow one in any case.
    pub(super) steps: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { total: TOTAL, whole: WHOLE, steps: STEPS }
    }
}

/// The files.
#[derive(Debug)]
pub(super) struct States {
    directory: PathBuf,
    bounds: Bounds,
    /// The oldest first.
    segments: VecDeque<Segment>,
    /// The number of the next file.
    next: u64,
    /// Where steps are appended.
    open: Option<Open>,
    /// How many objects there were when their state was too large.
    too_large: Option<usize>,
}

/// The newest file.
#[derive(Debug)]
struct Open {
    file: File,
    /// The state that the next step leads from.
    last: Arc<Point>,
    /// The bytes of its whole state, and of the steps.
    whole: u64,
    steps: u64,
}

/// What a write has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// The bytes of steps.
    pub(super) steps: u64,
    /// The bytes of whole states.
    pub(super) wholes: u64,
    /// The bytes that a state may have, if one has just become larger.
    pub(super) too_large: Option<usize>,
}

impl States {
    /// Looks at what is there. Files that cannot be used are removed; returns why they could not.
    pub(super) fn find(directory: &Path, bounds: Bounds) -> (Self, Vec<String>) {
        let mut complaints = Vec::new();
        let mut segments: Vec<Segment> = Vec::new();
        let mut next = 1;
        let names = match fs::read_dir(directory) {
            Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()),
            // It is made when there is something to write.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return (Self::new(directory, bounds, Vec::new(), next), complaints);
            }
            Err(error) => {
                complaints.push(error.to_string());
                return (Self::new(directory, bounds, Vec::new(), next), complaints);
            }
        };
        for name in names {
            if Segment::is_half(&name) {
                remove(&directory.join(&name), &mut complaints);
            }
            let Some(number) = Segment::number_of(&name) else { continue };
            next = next.max(number.saturating_add(1));
            let path = directory.join(&name);
            match Segment::open(path.clone(), number) {
                Ok(segment) => segments.push(segment),
                Err(error) => {
                    complaints.push(format!("{name}: {error:#}"));
                    // What is no file is somebody else's.
                    if is_replaceable(&path).is_ok() {
                        remove(&path, &mut complaints);
                    }
                }
            }
        }
        segments.sort_unstable_by_key(|segment| segment.number);
        (Self::new(directory, bounds, segments, next), complaints)
    }

    fn new(directory: &Path, bounds: Bounds, segments: Vec<Segment>, next: u64) -> Self {
        let directory = directory.to_owned();
        Self { directory, bounds, segments: segments.into(), next, open: None, too_large: None }
    }

    /// Adds the states after changes of this process. `oldest` is when the oldest change was that is
    /// kept.
    ///
    /// # Errors
    ///
    /// If they cannot be written. The next write begins a new file.
    pub(super) fn write(
        &mut self,
        entries: &[Arc<Entry>],
        oldest: Option<Timestamp>,
    ) -> io::Result<Written> {
        let mut written = Written::default();
        let done = entries.iter().try_for_each(|entry| self.add(entry, &mut written));
        let done = done.and_then(|()| match &self.open {
            Some(open) if written.steps > 0 => open.file.sync_data(),
            Some(_) | None => Ok(()),
        });
        if done.is_err() {
            self.open = None;
        }
        self.forget(oldest, 0)?;
        done.map(|()| written)
    }

    fn add(&mut self, entry: &Entry, written: &mut Written) -> io::Result<()> {
        let Some(around) = &entry.around else { return Ok(()) };
        let after = After { id: entry.id, time: entry.time };
        if let Some(open) = &mut self.open
            && open.last.program.settings() == around.after.program.settings()
        {
            let [before, now] =
                [&*open.last, &*around.after].map(|point| (&point.program, &point.model));
            let content = Content::Step(Step::between(before, now));
            let text = line(&Record::new(after, content))?;
            if open.steps + text.len() as u64 <= open.whole.max(self.bounds.steps) {
                open.file.write_all(&text)?;
                open.steps += text.len() as u64;
                open.last = Arc::clone(&around.after);
                written.steps += text.len() as u64;
                if let Some(segment) = self.segments.back_mut() {
                    segment.bytes += text.len() as u64;
                }
                return Ok(());
            }
        }
        self.open = None;
        match self.begin(after, &around.after)? {
            Some(whole) => written.wholes += whole,
            None => written.too_large = Some(self.bounds.whole),
        }
        Ok(())
    }

    /// Begins a file with a whole state. Returns its bytes; nothing if it is too large, the first
    /// time.
    fn begin(&mut self, after: After, point: &Arc<Point>) -> io::Result<Option<u64>> {
        let objects = count(&point.model);
        // Finding out takes as long as writing it.
        if self.too_large.is_some_and(|before| objects > before / 4 * 3) {
            return Ok(Some(0));
        }
        let text = if !has_room(&point.model, self.bounds.whole) {
            None
        } else {
            let snapshot = Box::new(Snapshot::of(&point.program, &point.model));
            let text = line(&Record::new(after, Content::Whole(snapshot)))?;
            (text.len() <= self.bounds.whole).then_some(text)
        };
        let Some(text) = text else {
            self.too_large = Some(objects);
            return Ok(None);
        };
        self.too_large = None;
        let header = Segment::header(after)?;
        let bytes = (header.len() + text.len()) as u64;
        self.forget(None, bytes)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = Segment::path_of(&self.directory, self.next);
        replace_file(&path, MODE, |file| {
            file.write_all(&header)?;
            file.write_all(&text)
        })?;
        let file = OpenOptions::new().append(true).open(&path)?;
        self.segments.push_back(Segment { number: self.next, path, first: after, bytes });
        self.next += 1;
        self.open = Some(Open { file, last: Arc::clone(point), whole: bytes, steps: 0 });
        Ok(Some(bytes))
    }

    /// Removes the oldest files: as long as all of them are too large together with so many bytes
    /// more, and if all of their states are older than the oldest change that is kept.
    fn forget(&mut self, oldest: Option<Timestamp>, more: u64) -> io::Result<()> {
        loop {
            let total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
            let is_old = match (self.segments.get(1), oldest) {
                (Some(second), Some(oldest)) => second.first.time <= oldest,
                _ => false,
            };
            // What is appended to stays, however large it is.
            let is_alone = self.segments.len() < 2 && more == 0;
            if !is_old && (is_alone || total + more <= self.bounds.total) {
                return Ok(());
            }
            let Some(segment) = self.segments.pop_front() else { return Ok(()) };
            match fs::remove_file(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.segments.push_front(segment);
                    return Err(error);
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}

fn remove(path: &Path, complaints: &mut Vec<String>) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            complaints.push(format!("{}: cannot be removed: {error}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
}

fn count(model: &Model) -> usize {
    Kind::ALL.into_iter().map(|kind| model.count(kind)).sum()
}

/// Returns whether the objects alone have this many bytes at the most. Of a state that is too large,
/// no copy is made.
fn has_room(model: &Model, bytes: usize) -> bool {
    let mut room = Room(bytes);
    model.objects().all(|sourced| serde_json::to_writer(&mut room, &sourced).is_ok())
}

/// Takes no more bytes than this.
struct Room(usize);

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.0 = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the state after a change from the files of a directory.
///
/// # Errors
///
/// If it is not there, or cannot be read; the error is the rest of a sentence about it.
pub(super) fn read(directory: &Path, after: After) -> Result<Snapshot, String> {
    let path = directory.display();
    let entries =
        fs::read_dir(directory).map_err(|error| format!("cannot read {path}: {error}"))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut numbers: Vec<u64> = names.filter_map(|name| Segment::number_of(&name)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let mut failure = None;
    for number in numbers {
        let file = Segment::path_of(directory, number);
        let found = Segment::open(file.clone(), number).and_then(|segment| {
            if segment.first.time > after.time { Ok(None) } else { segment.read(after) }
        });
        match found {
            Ok(Some(snapshot)) => return Ok(snapshot),
            Ok(None) => {}
            // It may have been removed meanwhile, since it is too old.
            Err(error) => failure = Some(format!("{}: {error:#}", file.display())),
        }
    }
    Err(match failure {
        Some(failure) => format!("its state cannot be read: {failure}"),
        None => format!("its state is not in {path}"),
    })
}
