//! The states after changes, in files of the state directory, so that `rulec diff` can go back behind
//! a start.
//!
//! A file (`segment`) begins with a whole state, to which steps are appended. When these have become
//! as large as that, the next file begins, so that the cost of a change stays in proportion to it, and
//! no more than a few times the size of a state is read for one. So does each start, and each failure:
//! what a crash has cut is never appended to. The oldest files go when all of them are too large, and
//! when so many changes came later that no history has their own any more. What the daemon keeps in
//! memory does not matter: it is bounded otherwise.
//!
//! The order is that of the files and of the numbers in them, never that of the times: clocks are set
//! back. A file that cannot be read is not removed for that, but counts as one that is there.

mod room;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rulec_sources::replace_file;

use super::entry::{Entry, Point};
use crate::snapshot::{Snapshot, Step};
use room::{count, has_room};
pub(super) use segment::After;
use segment::{Content, Known, Record, STEPS, Segment, WHOLE, line};

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
    /// What writes have left that were not completed.
    halves: Vec<PathBuf>,
    /// What could not be removed, which is said once.
    stuck: BTreeSet<PathBuf>,
    /// The number of the next file.
    next: u64,
    /// Where steps are appended: the last file.
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
    /// The changes whose states are there now.
    pub(super) stored: Vec<u64>,
    /// The bytes of steps.
    pub(super) steps: u64,
    /// The bytes of whole states.
    pub(super) wholes: u64,
    /// The bytes that a state may have, if one has just become larger.
    pub(super) too_large: Option<usize>,
}

impl States {
    /// Looks at what is there, and changes nothing: another thread may be writing. Returns also what
    /// cannot be used.
    ///
    /// # Errors
    ///
    /// If it cannot be found out what is there: nothing may be written then, because it could take the
    /// place of something.
    pub(super) fn find(directory: &Path, bounds: Bounds) -> io::Result<(Self, Vec<String>)> {
        let mut states = Self {
            directory: directory.to_owned(),
            bounds,
            segments: VecDeque::new(),
            halves: Vec::new(),
            stuck: BTreeSet::new(),
            next: 1,
            open: None,
            too_large: None,
        };
        let mut complaints = Vec::new();
        for name in names(directory)? {
            let path = directory.join(&name);
            if Segment::is_half(&name) {
                states.halves.push(path);
                continue;
            }
            let Some(number) = Segment::number_of(&name) else { continue };
            states.next = states.next.max(number.saturating_add(1));
            let (segment, complaint) = Segment::look(path, number);
            states.segments.extend(segment);
            complaints.extend(complaint.map(|complaint| format!("{name}: {complaint}")));
        }
        states.segments.make_contiguous().sort_unstable_by_key(|segment| segment.number);
        Ok((states, complaints))
    }

    /// Adds the states after changes of this process, of which a history has so many. Returns also why
    /// a file could not be removed, once for each.
    ///
    /// # Errors
    ///
    /// If they cannot be written. The next write begins a new file.
    pub(super) fn write(
        &mut self,
        entries: &[Arc<Entry>],
        changes: usize,
    ) -> (io::Result<Written>, Vec<String>) {
        let newest = entries.last().map_or(0, |entry| entry.id);
        let oldest = newest.saturating_sub((changes as u64).saturating_sub(1));
        let mut complaints = Vec::new();
        let mut written = Written::default();
        let done =
            entries.iter().try_for_each(|entry| self.add(entry, &mut written, &mut complaints));
        let done = done.and_then(|()| match &self.open {
            Some(open) if written.steps > 0 => open.file.sync_data(),
            Some(_) | None => Ok(()),
        });
        if done.is_err() {
            self.open = None;
        }
        self.forget(oldest, 0, &mut complaints);
        (done.map(|()| written), complaints)
    }

    fn add(
        &mut self,
        entry: &Entry,
        written: &mut Written,
        complaints: &mut Vec<String>,
    ) -> io::Result<()> {
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
                written.stored.push(entry.id);
                if let Some(segment) = self.segments.back_mut() {
                    segment.bytes += text.len() as u64;
                }
                return Ok(());
            }
        }
        self.open = None;
        match self.begin(after, &around.after, complaints)? {
            Some(0) => {}
            Some(whole) => {
                written.wholes += whole;
                written.stored.push(entry.id);
            }
            None => written.too_large = Some(self.bounds.whole),
        }
        Ok(())
    }

    /// Begins a file with a whole state. Returns its bytes; nothing if it is too large, the first
    /// time.
    fn begin(
        &mut self,
        after: After,
        point: &Arc<Point>,
        complaints: &mut Vec<String>,
    ) -> io::Result<Option<u64>> {
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
        if self.forget(0, bytes, complaints) + bytes > self.bounds.total {
            let why = "the files of states that cannot be removed leave no room";
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.unused()?;
        replace_file(&path, MODE, |file| {
            file.write_all(&header)?;
            file.write_all(&text)
        })?;
        let file = OpenOptions::new().append(true).open(&path)?;
        let known = Known::First(after);
        self.segments.push_back(Segment { number: self.next, path, bytes, known });
        self.next += 1;
        self.open = Some(Open { file, last: Arc::clone(point), whole: bytes, steps: 0 });
        Ok(Some(bytes))
    }

    /// Returns the path of the next file. Somebody may have put one there meanwhile.
    fn unused(&mut self) -> io::Result<PathBuf> {
        loop {
            let path = Segment::path_of(&self.directory, self.next);
            match fs::symlink_metadata(&path) {
                Ok(_) => self.next += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes files: those that are damaged, those whose states are all older than that after a
    /// change, and the oldest, as long as all are too large together with so many bytes more. One that
    /// cannot be removed is tried again the next time; others go in its place. Returns the bytes of
    /// those that are left.
    fn forget(&mut self, oldest: u64, more: u64, complaints: &mut Vec<String>) -> u64 {
        for half in std::mem::take(&mut self.halves) {
            if !self.remove(&half, complaints) {
                self.halves.push(half);
            }
        }
        let segments = std::mem::take(&mut self.segments);
        let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let is_first_kept =
            |segment: &Segment| segment.first().is_some_and(|first| first.id <= oldest);
        let first_kept = segments.iter().rposition(is_first_kept).unwrap_or(0);
        // What is appended to stays, however large it is.
        let last = segments.len().checked_sub(1).filter(|_| more == 0);
        for (index, segment) in segments.into_iter().enumerate() {
            let is_due = index < first_kept
                || segment.known == Known::Damage
                || total.saturating_add(more) > self.bounds.total;
            if Some(index) == last || !is_due || !self.remove(&segment.path, complaints) {
                self.segments.push_back(segment);
            } else {
                total -= segment.bytes;
            }
        }
        total
    }

    /// Removes a file; returns whether it is gone.
    fn remove(&mut self, path: &Path, complaints: &mut Vec<String>) -> bool {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                if self.stuck.insert(path.to_owned()) {
                    complaints.push(format!("{}: {error}", path.display()));
                }
                false
            }
            Ok(()) | Err(_) => {
                self.stuck.remove(path);
                true
            }
        }
    }
}

/// Returns the names in a directory; none if it does not exist, because it is made when there is
/// something to write.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // Ours are text.
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Reads the state after a change from the files of a directory.
///
/// # Errors
///
/// If it is not there, or cannot be read; the error is the rest of a sentence about it.
pub(super) fn read(directory: &Path, after: After) -> Result<Snapshot, String> {
    let path = directory.display();
    let names = names(directory).map_err(|error| format!("cannot read {path}: {error}"))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| Segment::number_of(name)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let mut failure = None;
    for number in numbers {
        let file = Segment::path_of(directory, number);
        match segment::read(&file, after) {
            Ok(Some(snapshot)) => return Ok(snapshot),
            Ok(None) => {}
            Err(error) => failure = Some(format!("{}: {error:#}", file.display())),
        }
    }
    Err(match failure {
        Some(failure) => format!("its state cannot be read: {failure}"),
        None => format!("its state is not in {path}"),
    })
}
