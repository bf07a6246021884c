//! What changed since the last look.
//!
//! ```text
//!  rescan(now) ──────▶ read and hash all ──┐
//!  refresh(names) ───▶ read those, or all  ├─▶ entries ─▶ definitions ─▶ current ─▶ changes
//!                      with a new stamp  ──┘  (per file)   (who wins)    (as told)
//! ```
//!
//! No threads, no events and no clock in here: the caller says when to look, what may have changed,
//! who is writing, and what time it is. Invariant: between calls, `current` is what the receiver of
//! all changes has.

mod entry;
mod listing;
mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use im::OrdSet;
use rulec_compiler::object::{Kind, ObjectKey};
use rulec_compiler::{Change, Provenance, Sourced};
use tracing::debug;

use crate::file::{self, Stamp};
use crate::intern::Interner;
use crate::problem::{Problem, Problems, Severity};
use crate::writers::Writers;
use entry::{Context, Entry};
use listing::Listing;
pub(crate) use listing::is_manifest;
pub(crate) use saved::{Left, Memory};

/// How old the last write to a file must be before the file is believed, if it had objects and has
/// none now: a writer of whom nobody told may have truncated it first, to write it later.
pub(crate) const BLANK: Duration = Duration::from_millis(100);

/// How old the last write to any file must be. Word of its writer may still be under way.
const FRESH: Duration = Duration::from_millis(10);

/// How old a new file without a byte must be before that is said to be wrong.
const EMPTY: Duration = Duration::from_secs(5);

/// How long a file that is written to again and again is waited for. Then it is believed as it is, unless its
/// writer is known: who replaces it every few milliseconds leaves no other moment.
const RESTLESS: Duration = Duration::from_millis(200);

/// What a path holds, as of the last look: a directory of manifests, or a single one.
#[derive(Debug)]
pub struct Manifests {
    root: PathBuf,
    entries: BTreeMap<OsString, Entry>,
    /// The files that define an object. Invariant: sorted, no duplicates, never empty.
    definitions: BTreeMap<ObjectKey, Vec<OsString>>,
    current: BTreeMap<ObjectKey, Sourced>,
    /// Objects that several files define.
    contested: BTreeMap<ObjectKey, Problem>,
    /// Why the path itself cannot be looked at.
    obstacle: Option<Problem>,
    /// Files beside the manifests that are not read.
    left_out: Option<Problem>,
    /// Why nobody tells of changes.
    unwatched: Option<Problem>,
    /// The directory that was listed last.
    listed: Option<Place>,
    /// Files that may just be written to, and are to be read again soon.
    unsettled: BTreeSet<OsString>,
    problems: Problems,
    /// What `problems` has of the path itself.
    told: Vec<Problem>,
    /// Who is known to be writing. Their files are not believed before they have closed them.
    writers: Arc<Writers>,
    /// Whether a complete list was told.
    delivered: bool,
    /// What each file gave when it was last good.
    saved: Left,
    saved_changed: bool,
    /// What an earlier run has left, until the first look.
    left: BTreeSet<ObjectKey>,
    /// Whether that stands in for a path that cannot be looked at.
    stands_in: bool,
    interner: Interner,
}

/// What a look brought.
#[derive(Debug, Default)]
pub struct Scan {
    /// What is to be told: at first a `Replace`, then removals before the rest, by key.
    pub changes: Vec<Change>,
    /// The number of objects whose file has other bytes now and which mean the same as before.
    pub suppressed: u64,
    /// Whether [`Manifests::problems`] differs from before.
    pub problems_changed: bool,
    /// Whether to look again soon: some file may just be written to.
    pub unsettled: bool,
    /// How many files could not be read and have never been: objects may be missing.
    pub unread: usize,
    /// Whether the path could not be looked at, so that all that was read of it stays.
    pub held: bool,
}

/// What a path is.
enum Root {
    Directory,
    File,
    /// Nobody knows what it holds, and why.
    Unknown(String),
}

/// A path that leads nowhere is a mistake, or a directory that is away for a moment. Who wants nothing to be
/// served leaves it empty.
const MISSING: &str = "there is no such file or directory";

/// Which directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    device: u64,
}

impl Place {
    fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self { device: metadata.dev() })
    }
}

/// How closely to look at files that nobody pointed at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Read each.
    Read,
    /// Read those whose stamp is another one.
    Stamp,
}

impl Manifests {
    /// Looks at nothing yet. The path is a directory or a file and need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self::beside(path, Arc::default())
    }

    /// Likewise, where writers are told of.
    pub(crate) fn beside(path: PathBuf, writers: Arc<Writers>) -> Self {
        Self {
            root: path,
            entries: BTreeMap::new(),
            definitions: BTreeMap::new(),
            current: BTreeMap::new(),
            contested: BTreeMap::new(),
            obstacle: None,
            left_out: None,
            unwatched: None,
            listed: None,
            unsettled: BTreeSet::new(),
            problems: Problems::default(),
            told: Vec::new(),
            writers,
            delivered: false,
            saved: Left::default(),
            saved_changed: false,
            left: BTreeSet::new(),
            stands_in: false,
            interner: Interner::default(),
        }
    }

    /// Reads every file. This alone is the truth: whatever events got lost, it finds out.
    pub fn rescan(&mut self, now: SystemTime) -> Scan {
        self.scan(&BTreeSet::new(), Some(Look::Read), now)
    }

    /// Reads the files of these names, and with `listing` also any other that seems to have changed.
    ///
    /// A hint that names too little costs promptness only; the next [`rescan`](Self::rescan) makes
    /// up for it.
    pub fn refresh(&mut self, names: &BTreeSet<OsString>, listing: bool, now: SystemTime) -> Scan {
        self.scan(names, listing.then_some(Look::Stamp), now)
    }

    /// All that is wrong at the moment, in order of place.
    pub fn problems(&self) -> &OrdSet<Problem> {
        self.problems.all()
    }

    /// All objects at the moment, in order of kind and name.
    pub fn objects(&self) -> impl Iterator<Item = &Sourced> {
        self.current.values()
    }

    /// Takes over what an earlier run has read. It is what was last good of files that cannot be read at the
    /// first look, and stands in for the path if that cannot be looked at; what is gone by then is gone.
    pub(crate) fn take_over(&mut self, left: Left) {
        for file in left.0.values() {
            let name = OsString::from(&file.name);
            let entry = Entry::left(file);
            for key in entry.keys() {
                self.left.insert(key.clone());
                define(&mut self.definitions, key, &name);
            }
            self.entries.insert(name, entry);
        }
        self.stands_in = !self.left.is_empty();
        self.saved = left;
    }

    /// What each file gave when it was last good, and whether that is news since this was last asked.
    pub(crate) fn saved(&mut self) -> (&Left, bool) {
        let is_news = std::mem::take(&mut self.saved_changed);
        (&self.saved, is_news)
    }

    /// Notes why nobody tells of changes, if so.
    pub(crate) fn set_unwatched(&mut self, reason: Option<String>) {
        let problem = |message| Problem::of_file(&self.place(), Severity::Warning, message);
        self.unwatched = reason.map(problem);
    }

    fn scan(&mut self, names: &BTreeSet<OsString>, look: Option<Look>, now: SystemTime) -> Scan {
        let mut round = Round { now, suppressed: 0, affected: BTreeSet::new(), complete: true };
        self.obstacle = None;
        round.affected.append(&mut self.left);
        let unsettled = std::mem::take(&mut self.unsettled);
        match self.root_is() {
            Root::Directory => self.scan_directory(names, unsettled, look, &mut round),
            Root::File => self.scan_file(&mut round),
            Root::Unknown(message) => {
                self.unsettled = unsettled;
                self.hold(&message, &mut round);
            }
        }
        self.finish(round)
    }

    fn root_is(&self) -> Root {
        match std::fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => Root::Directory,
            Ok(metadata) if metadata.is_file() => Root::File,
            Ok(_) => Root::Unknown("neither a directory nor a regular file".to_owned()),
            Err(error) if file::is_missing(&error) => Root::Unknown(MISSING.to_owned()),
            Err(error) => Root::Unknown(format!("cannot be looked at: {error}")),
        }
    }

    /// Keeps everything as it is: not being able to look is no reason to take Services away.
    fn hold(&mut self, message: &str, round: &mut Round) {
        round.complete = false;
        let services = self.definitions.keys().filter(|key| key.kind() == Kind::Service).count();
        let stays = if self.delivered || self.stands_in {
            let objects = self.definitions.len();
            format!(
                "what was last read from it stays: {services} Services, {objects} objects in all"
            )
        } else {
            "nothing is taken over from it or removed before it can be read".to_owned()
        };
        let message = format!("{message}; {stays}");
        self.obstacle = Some(Problem::of_file(&self.place(), Severity::Error, message));
    }

    /// The path itself, for problems.
    fn place(&self) -> Arc<str> {
        self.root.display().to_string().into()
    }

    fn scan_file(&mut self, round: &mut Round) {
        let name = self.root.file_name().unwrap_or(OsStr::new("manifest")).to_owned();
        self.keep_only(&BTreeSet::from([name.clone()]), round);
        let path = self.root.clone();
        if self.load(&name, &path, round) {
            self.hold(MISSING, round);
        }
    }

    fn scan_directory(
        &mut self,
        names: &BTreeSet<OsString>,
        unsettled: BTreeSet<OsString>,
        look: Option<Look>,
        round: &mut Round,
    ) {
        let mut wanted = unsettled;
        wanted.extend(names.iter().filter(|name| is_manifest(name)).cloned());
        let look = self.look_closer(names, look);
        if look.is_none() {
            let mut absent = false;
            for name in &wanted {
                let path = self.root.join(name);
                absent |= self.load(name, &path, round);
            }
            if !absent {
                return;
            }
            // One is gone. It may have been renamed, and the word of its new name be still under
            // way: looking for it now makes one change of what would be a removal and an addition.
        }
        let listing = match Listing::of(&self.root) {
            Ok(listing) => listing,
            Err(error) => {
                self.unsettled.extend(wanted);
                let message = match file::is_missing(&error) {
                    true => MISSING.to_owned(),
                    false => format!("cannot be listed: {error}"),
                };
                return self.hold(&message, round);
            }
        };
        // Under a file system that was mounted there is an empty directory.
        let here = Place::of(&self.root);
        let is_other = self.listed.is_some() && here != self.listed;
        if listing.names.is_empty() && !self.entries.is_empty() && is_other {
            self.unsettled.extend(wanted);
            return self.hold("is empty, and on another file system than before", round);
        }
        self.listed = here;
        self.note_left_out(&listing);
        self.keep_only(&listing.names, round);
        for name in &listing.names {
            let path = self.root.join(name);
            let skip = match look {
                None => self.entries.contains_key(name),
                Some(Look::Stamp) => !wanted.contains(name) && self.seems_unchanged(name, &path),
                Some(Look::Read) => false,
            };
            // Listed, and gone by now: so may be the whole directory.
            if !skip && self.load(name, &path, round) {
                round.complete = false;
                self.unsettled.insert(name.clone());
            }
        }
    }

    fn note_left_out(&mut self, listing: &Listing) {
        let problem = |message: String| Problem::of_file(&self.place(), Severity::Warning, message);
        self.left_out = listing.what_is_left_out().map(problem);
    }

    fn look_closer(&self, names: &BTreeSet<OsString>, look: Option<Look>) -> Option<Look> {
        if !self.delivered {
            return Some(Look::Read);
        }
        // What changes beside the manifests may be what some of them are links to, as in a mounted
        // ConfigMap, where only `..data` is replaced.
        let beside = || names.iter().any(|name| !is_manifest(name));
        let links = || self.entries.values().any(Entry::is_link);
        look.or_else(|| (beside() && links()).then_some(Look::Stamp))
    }

    fn seems_unchanged(&self, name: &OsStr, path: &Path) -> bool {
        let known = self.entries.get(name).and_then(Entry::stamp);
        known.is_some_and(|known| {
            std::fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == known)
        })
    }

    /// Drops the files that are not named.
    fn keep_only(&mut self, names: &BTreeSet<OsString>, round: &mut Round) {
        let gone: Vec<OsString> =
            self.entries.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            self.drop_entry(&name, round);
        }
    }

    fn drop_entry(&mut self, name: &OsStr, round: &mut Round) {
        let Some(entry) = self.entries.remove(name) else { return };
        self.problems.replace(&entry.problems().cloned().collect::<Vec<_>>(), [].iter());
        if let Some(name) = name.to_str() {
            self.saved_changed |= self.saved.0.remove(name).is_some();
        }
        for key in entry.keys() {
            undefine(&mut self.definitions, key, name);
            round.affected.insert(key.clone());
        }
    }

    /// Reads a file, and notes what that may change. Says whether it is not there: then nothing changes, and
    /// it is for a listing to say whether it is gone.
    fn load(&mut self, name: &OsStr, path: &Path, round: &mut Round) -> bool {
        let known = self.entries.remove(name);
        let is_known = known.is_some();
        let mut entry = known.unwrap_or_else(|| Entry::new(name));
        let mut context = Context {
            interner: &mut self.interner,
            now: round.now,
            // What is not known yet can lose nothing; and whoever reads once cannot come again.
            fresh: self.delivered.then_some(FRESH),
            is_first: !self.delivered,
            writers: &self.writers,
        };
        let before: Vec<Problem> = entry.problems().cloned().collect();
        let news = entry.load(path, &mut context);
        if news.absent {
            if is_known {
                self.problems.replace(&before, entry.problems());
                self.entries.insert(name.to_owned(), entry);
            }
            return true;
        }
        round.suppressed += news.suppressed;
        if news.unsettled {
            self.unsettled.insert(name.to_owned());
        }
        // A first list without it would take away what it is going to hold.
        round.complete &= !news.written;
        for key in &news.gone {
            undefine(&mut self.definitions, key, name);
        }
        for key in &news.new {
            define(&mut self.definitions, key, name);
        }
        round.affected.extend(news.gone);
        round.affected.extend(news.new);
        round.affected.extend(news.changed);
        if news.exists {
            self.problems.replace(&before, entry.problems());
            self.save(&entry);
            self.entries.insert(name.to_owned(), entry);
        } else {
            self.problems.replace(&before, [].iter());
        }
        false
    }

    /// Notes what a file gave, if it is something else than before.
    fn save(&mut self, entry: &Entry) {
        let Some(name) = entry.path_text() else { return };
        // What lacks an object is none that a later run should take for whole.
        if entry.is_unread() {
            return;
        }
        let known = self.saved.0.get(name);
        if entry.is_saved_as(known.map(|known| &**known)) {
            return;
        }
        self.saved_changed = true;
        match entry.saved() {
            Some(saved) => {
                self.saved.0.insert(name.to_owned(), Arc::new(saved));
            }
            None => {
                self.saved.0.remove(name);
            }
        }
    }

    /// Decides who wins, and tells what is new.
    fn finish(&mut self, round: Round) -> Scan {
        let mut removed = Vec::new();
        let mut applied = Vec::new();
        for key in round.affected {
            let files = self.definitions.get(&key).map_or(&[][..], Vec::as_slice);
            let new = contest(&key, files, &self.entries);
            let old = match new.clone() {
                Some(problem) => self.contested.insert(key.clone(), problem),
                None => self.contested.remove(&key),
            };
            self.problems.replace(old.as_slice(), new.iter());
            let winner = files.last().and_then(|name| self.entries.get(name));
            let sourced = winner.and_then(|entry| {
                let provenance = Provenance(entry.path().clone());
                Some(Sourced { object: entry.object(&key)?.clone(), provenance })
            });
            match sourced {
                Some(sourced) if self.current.get(&key) != Some(&sourced) => {
                    debug!(object = %key, file = %sourced.provenance, "read");
                    self.current.insert(key, sourced.clone());
                    applied.push(Change::Apply(sourced));
                }
                Some(_) => {}
                None => {
                    if self.current.remove(&key).is_some() {
                        debug!(object = %key, "gone");
                        removed.push(Change::Remove(key));
                    }
                }
            }
        }
        let changes = if self.delivered {
            removed.into_iter().chain(applied).collect()
        } else if round.complete || (self.stands_in && self.obstacle.is_some()) {
            self.delivered = true;
            vec![Change::everything(self.current.values().cloned().collect())]
        } else {
            Vec::new()
        };
        self.interner.tidy();
        let of_path = self.obstacle.iter().chain(&self.left_out).chain(&self.unwatched);
        let of_path: Vec<Problem> = of_path.cloned().collect();
        self.problems.replace(&self.told, of_path.iter());
        self.told = of_path;
        Scan {
            changes,
            suppressed: round.suppressed,
            problems_changed: self.problems.changed(),
            unsettled: !self.unsettled.is_empty(),
            unread: self.entries.values().filter(|entry| entry.is_unread()).count(),
            held: self.obstacle.is_some(),
        }
    }
}

/// What one look gathers.
struct Round {
    now: SystemTime,
    suppressed: u64,
    /// The objects whose winner may be another one now.
    affected: BTreeSet<ObjectKey>,
    /// Whether the path could be looked at, and nothing in it is being written to.
    complete: bool,
}

fn define(definitions: &mut BTreeMap<ObjectKey, Vec<OsString>>, key: &ObjectKey, name: &OsStr) {
    let files = definitions.entry(key.clone()).or_default();
    if let Err(place) = files.binary_search_by(|file| file.as_os_str().cmp(name)) {
        // Nearly always the only one.
        files.reserve_exact(1);
        files.insert(place, name.to_owned());
    }
}

fn undefine(definitions: &mut BTreeMap<ObjectKey, Vec<OsString>>, key: &ObjectKey, name: &OsStr) {
    if let Some(files) = definitions.get_mut(key) {
        files.retain(|file| file != name);
        if files.is_empty() {
            definitions.remove(key);
        }
    }
}

/// What to say if several files define an object.
fn contest(
    key: &ObjectKey,
    files: &[OsString],
    entries: &BTreeMap<OsString, Entry>,
) -> Option<Problem> {
    let (winner, others) = files.split_last()?;
    if others.is_empty() {
        return None;
    }
    let path: &Arc<str> = entries.get(winner)?.path();
    let others: Vec<_> = others.iter().map(|name| name.to_string_lossy()).collect();
    let message = format!("also defined in {}; the one in {path} counts", others.join(", "));
    let problem = Problem::of_file(path, Severity::Error, message);
    Some(Problem { object: Some(key.to_string()), ..problem })
}
