//! Finds what changed since the last look.
//!
//! ```text
//!  rescan(now) ──────▶ read and hash all ──┐
//!  refresh(names) ───▶ read those, or all  ├─▶ entries ─▶ definitions ─▶ current ─▶ changes
//!                      with a new stamp  ──┘  (per file)   (the last)    (as sent)
//! ```
//!
//! There are no threads, events or clock in here: the caller says when to look, what may have
//! changed, which files are being written to, and what time it is. Invariant: between calls,
//! `current` is what the receiver of all changes has.

mod ahead;
mod entry;
pub(super) mod listing;
mod page;
pub(super) mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use im::OrdSet;
use rulec_compiler::object::{Kind, ObjectKey};
use rulec_compiler::plural::counted;
use rulec_compiler::{Change, Provenance, Sourced};
use tracing::debug;

use super::file::{self, Stamp, is_manifest};
use super::writers::Writers;
use crate::decode::intern::Interner;
use crate::problem::{Problem, Problems, Severity};
pub use ahead::Shared;
use ahead::{Ahead, Wanted};
use entry::{Context, FileEntry, format_of};
use listing::{Listing, is_kustomization};
pub(crate) use page::Page;
pub(crate) use saved::{Left, Memory};

/// How old the last write to a file must be before the file is read as it is, if it had objects and
/// has none now, or breaks off: a writer that is not known may have truncated it first, to write it
/// later.
pub(crate) const BLANK: Duration = Duration::from_millis(100);

/// How old the last write to any file must be. The event about its writer may still be under way.
const FRESH: Duration = Duration::from_millis(10);

/// How old a new file of 0 bytes must be before it is reported.
const EMPTY: Duration = Duration::from_secs(5);

/// How long a file that is written to again and again is waited for. Then it is read as it is,
/// unless its writer is known: a writer that replaces it every few milliseconds leaves no other
/// moment.
const MAX_UNREST: Duration = Duration::from_millis(200);

/// The content of a path at the last look: a directory of manifests, or a single one.
#[derive(Debug)]
pub struct Manifests {
    root: PathBuf,
    /// Whether files are named with the path of the root, since there are other roots.
    in_full: bool,
    /// Whether an error anywhere in a file refuses all of it.
    is_whole: bool,
    entries: BTreeMap<OsString, FileEntry>,
    /// The files that define an object. Invariant: sorted, no duplicates, never empty.
    definitions: BTreeMap<ObjectKey, Vec<OsString>>,
    current: BTreeMap<ObjectKey, Sourced>,
    /// Objects that several files define.
    contested: BTreeMap<ObjectKey, Problem>,
    /// Why the path itself cannot be accessed.
    obstacle: Option<Problem>,
    /// Files beside the manifests that are not read.
    left_out: Option<Problem>,
    /// What stands for manifests that are not read.
    unread: Vec<Problem>,
    /// All roots. A sub-directory that is one of them is read.
    roots: Arc<[PathBuf]>,
    /// Why changes are not reported by events.
    unwatched: Option<Problem>,
    /// The file system of the directory that was listed last.
    listed: Option<Place>,
    /// Files that may be being written to, and are read again soon.
    unsettled: BTreeSet<OsString>,
    problems: Problems,
    /// The problems of the path itself that are in `problems`.
    told: Vec<Problem>,
    /// The writers that are known. Their files are not read before they are closed.
    writers: Arc<Writers>,
    /// Whether a complete list was delivered.
    delivered: bool,
    /// The last good content of each file.
    saved: Left,
    saved_changed: bool,
    /// The objects that an earlier run has left, until the first look.
    left: BTreeSet<ObjectKey>,
    /// Whether these stand in for a path that cannot be accessed.
    stands_in: bool,
    /// What other readers have decoded.
    shared: Option<Arc<Shared>>,
    interner: Interner,
}

/// The result of a look.
#[derive(Debug, Default)]
pub struct Scan {
    /// The changes to deliver: at first a `Replace`, later removals before the rest, by key.
    pub changes: Vec<Change>,
    /// The number of objects whose file has other bytes now, but which mean the same as before.
    pub suppressed: u64,
    /// Whether [`Manifests::problems`] differs from before.
    pub problems_changed: bool,
    /// Whether to look again soon, since a file may be being written to.
    pub unsettled: bool,
    /// How many files could not be read and have never been: objects may be missing.
    pub unread: usize,
    /// Whether the path could not be accessed, so that all that was read of it stays.
    pub held: bool,
}

/// The type of a path.
enum Root {
    Directory,
    File,
    /// It cannot be read, with the reason.
    Unknown(String),
}

/// A path that does not exist is a mistake, or a directory that is missing for a moment. An empty
/// directory means that nothing is to be served.
const MISSING: &str = "there is no such file or directory";

/// The file system that a directory is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    device: u64,
}

impl Place {
    fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self { device: metadata.dev() })
    }
}

/// How to check files that are not named as changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Read all of them.
    Read,
    /// Read those whose stamp has changed.
    Stamp,
}

impl Manifests {
    /// Reads nothing yet. The path is a directory or a file and need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self::beside(path, Arc::default())
    }

    /// Like [`new`](Self::new), with the writers that are known.
    pub(crate) fn beside(path: PathBuf, writers: Arc<Writers>) -> Self {
        Self {
            root: path,
            in_full: false,
            is_whole: false,
            entries: BTreeMap::new(),
            definitions: BTreeMap::new(),
            current: BTreeMap::new(),
            contested: BTreeMap::new(),
            obstacle: None,
            left_out: None,
            unread: Vec::new(),
            roots: Arc::default(),
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
            shared: None,
            interner: Interner::default(),
        }
    }

    /// Decodes nothing that another reader has decoded.
    pub(crate) fn sharing(self, shared: Arc<Shared>) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// Names files with the path of the root.
    pub(crate) fn named_in_full(self) -> Self {
        Self { in_full: true, ..self }
    }

    /// Refuses all of a file if there is an error anywhere in it.
    pub(crate) fn whole(self) -> Self {
        Self { is_whole: true, ..self }
    }

    /// Knows all roots.
    pub(crate) fn among(self, roots: Arc<[PathBuf]>) -> Self {
        Self { roots, ..self }
    }

    /// Reads every file. It finds all changes, also those whose events got lost.
    pub fn rescan(&mut self, now: SystemTime) -> Scan {
        self.scan(&BTreeSet::new(), Some(Look::Read), now)
    }

    /// Reads the files of these names, and with `listing` any other that seems to have changed.
    ///
    /// If a name is missing, its change is found late, by the next [`rescan`](Self::rescan).
    pub fn refresh(&mut self, names: &BTreeSet<OsString>, listing: bool, now: SystemTime) -> Scan {
        self.scan(names, listing.then_some(Look::Stamp), now)
    }

    /// Returns all current problems, in order of place.
    pub fn problems(&self) -> &OrdSet<Problem> {
        self.problems.all()
    }

    /// Returns those of the problems that tell of manifests that are not read: sub-directories, and
    /// what is left to kustomize.
    pub(crate) fn unread(&self) -> &[Problem] {
        &self.unread
    }

    /// Returns what is wrong if the path is a file with nothing in it that is read.
    pub(crate) fn emptiness(&self) -> Option<Problem> {
        let is_recipe = self.root.file_name().is_some_and(is_kustomization);
        let found = self.entries.values().find_map(FileEntry::emptiness)?;
        let message = "a kustomization is not applied: give the output of kustomize build";
        Some(if is_recipe { Problem { message: message.to_owned(), ..found } } else { found })
    }

    /// Returns why the path itself cannot be accessed, if that is so.
    pub(crate) fn obstacle(&self) -> Option<&Problem> {
        self.obstacle.as_ref()
    }

    /// Returns all current objects, in order of kind and name.
    pub fn objects(&self) -> impl Iterator<Item = &Sourced> {
        self.current.values()
    }

    /// Takes over the content that an earlier run has saved. It is the last good content of files
    /// that cannot be read at the first look, and stands in for the path if that cannot be
    /// accessed. Objects that are gone at the first look are removed.
    pub(crate) fn take_over(&mut self, left: Left) {
        for file in left.0.values() {
            let name = OsString::from(&file.name);
            let entry = FileEntry::left(file, self.name_of(OsStr::new(&file.name)));
            for key in entry.keys() {
                self.left.insert(key.clone());
                define(&mut self.definitions, key, &name);
            }
            self.entries.insert(name, entry);
        }
        self.stands_in = !self.left.is_empty();
        self.saved = left;
    }

    /// Returns the last good content of each file, and whether it has changed since the last call.
    pub(crate) fn saved(&mut self) -> (&Left, bool) {
        let is_news = std::mem::take(&mut self.saved_changed);
        (&self.saved, is_news)
    }

    /// Sets why changes are not reported by events, if they are not.
    pub(crate) fn set_unwatched(&mut self, reason: Option<String>) {
        let problem = |message| Problem::of_file(&self.place(), Severity::Warning, message);
        self.unwatched = reason.map(problem);
    }

    fn scan(&mut self, names: &BTreeSet<OsString>, look: Option<Look>, now: SystemTime) -> Scan {
        let mut round = Round {
            now,
            suppressed: 0,
            affected: BTreeSet::new(),
            complete: true,
            ahead: Ahead::default(),
        };
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
            Err(error) => Root::Unknown(format!("cannot be accessed: {error}")),
        }
    }

    /// Keeps everything as it is: a path that cannot be read is no reason to remove Services.
    fn hold(&mut self, message: &str, round: &mut Round) {
        round.complete = false;
        let is_there = self.delivered || self.stands_in;
        let stays = what_stays(is_there.then(|| self.definitions.keys()));
        let message = format!("{message}; {stays}");
        self.obstacle = Some(Problem::of_file(&self.place(), Severity::Error, message));
    }

    /// Returns the name of a file, for people.
    fn name_of(&self, name: &OsStr) -> Arc<str> {
        if !self.in_full {
            return name.to_string_lossy().into();
        }
        // A root that is a file is that file itself.
        let is_itself = self.root.file_name() == Some(name) && !self.root.is_dir();
        let path = if is_itself { self.root.clone() } else { self.root.join(name) };
        path.to_string_lossy().into()
    }

    /// Returns the path itself, for problems.
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
            // A file is gone. It may have been renamed, and the event about its new name may still
            // be under way: listing the directory now makes one change of what would be a removal
            // and an addition.
        }
        let mut listing = match Listing::of(&self.root) {
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
        // An empty directory appears when a file system that was mounted there is unmounted.
        let here = Place::of(&self.root);
        let is_other = self.listed.is_some() && here != self.listed;
        if listing.names.is_empty() && !self.entries.is_empty() && is_other {
            self.unsettled.extend(wanted);
            return self.hold("is empty, and on another file system than before", round);
        }
        self.listed = here;
        listing.directories.retain(|name| !self.is_root(name));
        self.note_left_out(&listing);
        self.keep_only(&listing.names, round);
        if !self.delivered {
            round.ahead = self.read_ahead(&listing);
        }
        for name in &listing.names {
            let path = self.root.join(name);
            let skip = match look {
                None => self.entries.contains_key(name),
                Some(Look::Stamp) => !wanted.contains(name) && self.seems_unchanged(name, &path),
                Some(Look::Read) => false,
            };
            // The file was listed and is gone by now; so may be the whole directory.
            if !skip && self.load(name, &path, round) {
                round.complete = false;
                self.unsettled.insert(name.clone());
            }
        }
    }

    /// Decodes the files of a first look, on all CPUs.
    fn read_ahead(&mut self, listing: &Listing) -> Ahead {
        let wanted = |name: &OsString| Wanted {
            name: name.clone(),
            place: self.root.join(name),
            path: self.name_of(name),
            format: format_of(name),
        };
        let files: Vec<Wanted> = listing.names.iter().map(wanted).collect();
        Ahead::read(&files, self.shared.as_deref(), &mut self.interner)
    }

    /// Returns whether a directory in this one is another root.
    fn is_root(&self, name: &OsStr) -> bool {
        let full = |path: &Path| std::fs::canonicalize(path).ok();
        let path = full(&self.root.join(name));
        path.is_some() && self.roots.iter().any(|root| full(root) == path)
    }

    fn note_left_out(&mut self, listing: &Listing) {
        let place = self.place();
        let problem = |message: String| Problem::of_file(&place, Severity::Warning, message);
        self.left_out = listing.what_is_left_out().map(problem);
        self.unread = listing.what_is_unread().map(problem).collect();
    }

    fn look_closer(&self, names: &BTreeSet<OsString>, look: Option<Look>) -> Option<Look> {
        if !self.delivered {
            return Some(Look::Read);
        }
        // A change beside the manifests may affect the target of links, as in a mounted ConfigMap,
        // where only `..data` is replaced.
        let beside = || names.iter().any(|name| !is_manifest(name));
        let links = || self.entries.values().any(FileEntry::is_link);
        look.or_else(|| (beside() && links()).then_some(Look::Stamp))
    }

    fn seems_unchanged(&self, name: &OsStr, path: &Path) -> bool {
        let known = self.entries.get(name).and_then(FileEntry::stamp);
        known.is_some_and(|known| {
            std::fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == known)
        })
    }

    /// Drops the files that are not in `names`.
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

    /// Reads a file, and notes what that may change. Returns true if the file is absent: nothing
    /// changes then, and only a listing shows whether it is gone.
    fn load(&mut self, name: &OsStr, path: &Path, round: &mut Round) -> bool {
        let known = self.entries.remove(name);
        let is_known = known.is_some();
        let mut entry = known.unwrap_or_else(|| FileEntry::new(name, self.name_of(name)));
        let mut context = Context {
            interner: &mut self.interner,
            now: round.now,
            // A file that is not known yet cannot lose objects, and a one-shot read cannot come
            // again.
            fresh: self.delivered.then_some(FRESH),
            is_first: !self.delivered,
            ahead: &mut round.ahead,
            writers: &self.writers,
            is_whole: self.is_whole,
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
        // A first list without the file would remove the objects that it is going to have.
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

    /// Records the content of a file, if it has changed.
    fn save(&mut self, entry: &FileEntry) {
        let Some(name) = entry.path_text() else { return };
        // A file that lacks an object must not count as complete in a later run.
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

    /// Decides which file takes precedence for each object, and collects the changes.
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
        let of_path: Vec<Problem> = of_path.chain(&self.unread).cloned().collect();
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

/// The data that one look collects.
struct Round {
    now: SystemTime,
    suppressed: u64,
    /// The objects that another file may define now.
    affected: BTreeSet<ObjectKey>,
    /// Whether the path could be accessed, and no file in it is being written to.
    complete: bool,
    /// What has been decoded ahead.
    ahead: Ahead,
}

/// Says what stays in force of a root that cannot be read; nothing if it never was.
fn what_stays<'a>(keys: Option<impl Iterator<Item = &'a ObjectKey>>) -> String {
    let Some(keys) = keys else {
        return "no objects are added or removed until it can be read".to_owned();
    };
    let (mut services, mut objects) = (0, 0);
    for key in keys {
        services += usize::from(key.kind() == Kind::Service);
        objects += 1;
    }
    let (services, objects) = (counted(services, "Service"), counted(objects, "object"));
    format!("its last good content stays: {services}, {objects} in all")
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

/// Returns the problem to report if several files define an object.
fn contest(
    key: &ObjectKey,
    files: &[OsString],
    entries: &BTreeMap<OsString, FileEntry>,
) -> Option<Problem> {
    let (winner, others) = files.split_last()?;
    if others.is_empty() {
        return None;
    }
    let path: &Arc<str> = entries.get(winner)?.path();
    let others: Vec<_> = others.iter().map(|name| name.to_string_lossy()).collect();
    let message = format!("also defined in {}; {path} takes precedence", others.join(", "));
    let problem = Problem::of_file(path, Severity::Error, message);
    Some(Problem { object: Some(key.to_string()), ..problem })
}
