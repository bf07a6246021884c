//! One file: what it says, and what it said when it was last good.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rulec_compiler::object::{Object, ObjectKey};

use super::saved::SavedFile;
use super::{BLANK, EMPTY, RESTLESS};
use crate::decode::{Decoded, Format, decode};
use crate::file::{self, Content, LARGEST, Stamp};
use crate::intern::Interner;
use crate::problem::{Problem, Severity};
use crate::writers::Writers;

/// What is known of a file. Its bytes are not kept, only their hash.
#[derive(Debug)]
pub(super) struct Entry {
    name: OsString,
    path: Arc<str>,
    format: Format,
    /// The stamp of the content that `hash` is of, if the file was read without trouble.
    stamp: Option<Stamp>,
    hash: Option<blake3::Hash>,
    objects: BTreeMap<ObjectKey, Object>,
    /// What is wrong with the content.
    faults: Vec<Problem>,
    /// Why the content could not be read.
    obstacle: Option<Problem>,
    link: bool,
    /// Whether it has ever been read as a whole, be it by an earlier run.
    read: bool,
    /// The hash of the content that the objects are of.
    good: Option<blake3::Hash>,
    /// Whether nobody has got the objects yet: they are an earlier run's.
    left: bool,
    /// Whether something in it could not be read for the first list, and has not been since.
    unread: bool,
    /// Since when it has been written to too lately to be believed.
    restless: Option<SystemTime>,
}

/// What reading a file needs from outside.
pub(super) struct Context<'a> {
    pub(super) interner: &'a mut Interner,
    /// When the look began.
    pub(super) now: SystemTime,
    /// How old the last write must be for the file to be believed, if that matters.
    pub(super) fresh: Option<Duration>,
    /// Whether no complete list has been told yet.
    pub(super) is_first: bool,
    pub(super) writers: &'a Writers,
}

/// What reading a file brought.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Whether there is a file at all.
    pub(super) exists: bool,
    /// Whether nothing has its name. What was read of it stays until a listing shows that it is gone, and
    /// not its directory.
    pub(super) absent: bool,
    pub(super) gone: Vec<ObjectKey>,
    pub(super) new: Vec<ObjectKey>,
    pub(super) changed: Vec<ObjectKey>,
    pub(super) suppressed: u64,
    /// Whether the file may just be written to, and is not believed yet.
    pub(super) unsettled: bool,
    /// Whether the file is known to be written to, and is not believed before its writer is done.
    pub(super) written: bool,
}

impl News {
    /// There is a file, and no news of it.
    fn none() -> Self {
        Self { exists: true, ..Self::default() }
    }

    /// It is not believed yet.
    fn waiting() -> Self {
        Self { unsettled: true, ..Self::none() }
    }
}

impl Entry {
    pub(super) fn new(name: &OsStr) -> Self {
        let extension = Path::new(name).extension();
        let json = extension.is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        Self {
            name: name.to_owned(),
            path: name.to_string_lossy().into(),
            format: if json { Format::Json } else { Format::Yaml },
            stamp: None,
            hash: None,
            objects: BTreeMap::new(),
            faults: Vec::new(),
            obstacle: None,
            link: false,
            read: false,
            good: None,
            left: false,
            unread: false,
            restless: None,
        }
    }

    /// One that an earlier run has read.
    pub(super) fn left(saved: &SavedFile) -> Self {
        let objects = saved.objects.iter().map(|object| (object.key(), object.clone())).collect();
        let good = blake3::Hash::from_hex(&saved.hash).ok();
        Self { objects, good, read: true, left: true, ..Self::new(OsStr::new(&saved.name)) }
    }

    /// What it gave when it was last good, for the next start. A name that is no text is not kept.
    pub(super) fn saved(&self) -> Option<SavedFile> {
        let name = self.name.to_str()?.to_owned();
        let hash = self.good?.to_hex().to_string();
        Some(SavedFile { name, hash, objects: self.objects.values().cloned().collect() })
    }

    /// Its name, if that is a text.
    pub(super) fn path_text(&self) -> Option<&str> {
        self.name.to_str()
    }

    /// Whether this is what it gave when it was last good.
    pub(super) fn is_saved_as(&self, saved: Option<&SavedFile>) -> bool {
        match (saved, self.good) {
            (None, None) => true,
            (Some(saved), Some(good)) => {
                // Another version of the program may have made something else of the same bytes.
                blake3::Hash::from_hex(&saved.hash).is_ok_and(|hash| hash == good)
                    && self.objects.values().eq(&saved.objects)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Whether objects of it may be missing: it could not be read, and nothing is known of it.
    pub(super) fn is_unread(&self) -> bool {
        self.unread
    }

    /// Relative to the manifest directory.
    pub(super) fn path(&self) -> &Arc<str> {
        &self.path
    }

    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    pub(super) fn is_link(&self) -> bool {
        self.link
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    pub(super) fn object(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key)
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> + Clone {
        self.obstacle.iter().chain(&self.faults)
    }

    /// Reads the file again.
    pub(super) fn load(&mut self, path: &Path, context: &mut Context<'_>) -> News {
        let link = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        self.link = link;
        self.obstacle = None;
        let content = file::read(path);
        if !matches!(content, Ok(Content::Bytes { .. })) {
            self.stamp = None;
            self.restless = None;
        }
        match content {
            Ok(Content::Bytes { bytes, before, after }) => {
                // Of the one that is kept, a write in between must differ; the other one knows of it.
                self.take(&bytes, before, after, context)
            }
            Ok(Content::Missing) if link => self.keep("a link to nothing", context),
            Ok(Content::Missing) => News { absent: true, ..News::none() },
            Ok(Content::Directory) => News { exists: false, ..self.forget() },
            Ok(Content::Special) => {
                let reason = "not a regular file; pipes, sockets and devices are not read";
                let news = self.keep(reason, context);
                // Nothing is missing: such a thing never had objects.
                self.unread = false;
                news
            }
            Ok(Content::TooLarge) => {
                self.keep(&format!("larger than {} MiB", LARGEST >> 20), context)
            }
            Err(error) => self.keep(&format!("cannot be read: {error}"), context),
        }
    }

    fn problem(&self, severity: Severity, message: &str) -> Problem {
        Problem::of_file(&self.path, severity, message)
    }

    /// Keeps what was last good.
    fn keep(&mut self, reason: &str, context: &Context<'_>) -> News {
        self.miss(context);
        let kept = if self.read { "; its last good content stays" } else { "" };
        self.obstacle = Some(self.problem(Severity::Error, &format!("{reason}{kept}")));
        News::none()
    }

    /// Believes nothing yet. Says whether there is still time for that.
    fn wait(&mut self, now: SystemTime) -> bool {
        let since = *self.restless.get_or_insert(now);
        // A clock that was set back must not make it longer.
        let is_early = now.duration_since(since).is_ok_and(|waited| waited < RESTLESS);
        if is_early {
            self.stamp = None;
        }
        is_early
    }

    /// Takes notice that there is no content.
    fn forget(&mut self) -> News {
        self.hash = None;
        self.good = None;
        self.faults.clear();
        let gone = std::mem::take(&mut self.objects).into_keys().collect();
        News { exists: true, gone, ..News::none() }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        stamp: Stamp,
        latest: Stamp,
        context: &mut Context<'_>,
    ) -> News {
        // Asked after reading: a writer who comes now has not changed what was read. None of it counts,
        // not even what it adds: a list that breaks off is a list.
        if context.writers.has(&self.name) {
            self.stamp = None;
            return News { exists: true, written: true, ..News::none() };
        }
        let hash = blake3::hash(bytes);
        if self.hash == Some(hash) {
            self.stamp = Some(stamp);
            self.restless = None;
            return News::none();
        }
        let is_fresh = context.fresh.is_some_and(|fresh| latest.is_younger(fresh, context.now));
        if is_fresh && self.wait(context.now) {
            return News::waiting();
        }
        // A disk that is full and an editor that crashed leave nothing; who means nothing writes a comment.
        if bytes.is_empty() {
            // One that has come and has never had a byte is being written, or so it looks at first.
            let is_new = !self.read && !context.is_first;
            if is_new && latest.is_younger(EMPTY, context.now) {
                self.stamp = None;
                return News::waiting();
            }
            let is_young = context.fresh.is_some() && latest.is_younger(BLANK, context.now);
            if is_young && self.wait(context.now) {
                return News::waiting();
            }
            self.restless = None;
            self.stamp = Some(stamp);
            return self.keep("is empty (0 bytes)", context);
        }
        let decoded = decode(&self.path, bytes, self.format, context.interner);
        let emptied = decoded.blank && !decoded.unreadable && !self.objects.is_empty();
        if emptied && latest.is_younger(BLANK, context.now) && self.wait(context.now) {
            return News::waiting();
        }
        self.restless = None;
        self.stamp = Some(stamp);
        self.hash = Some(hash);
        if decoded.unreadable {
            self.miss(context);
            self.faults = decoded.problems;
            return News::none();
        }
        self.good = Some(hash);
        self.replace(decoded, context.is_first)
    }

    /// Takes notice that something in it could not be read.
    fn miss(&mut self, context: &Context<'_>) {
        self.unread |= context.is_first && !self.read;
    }

    /// Takes over what a well-formed file says, and keeps of the old what it says badly.
    fn replace(&mut self, decoded: Decoded, is_first: bool) -> News {
        let mut news = News::none();
        self.faults = decoded.problems;
        let mut old = std::mem::take(&mut self.objects);
        for object in decoded.objects {
            let key = object.key();
            if self.objects.insert(key.clone(), object).is_some() {
                let message = "defined more than once in this file; the last one counts";
                let object = Some(key.to_string());
                self.faults.push(Problem { object, ..self.problem(Severity::Warning, message) });
            }
        }
        for (key, object) in &mut self.objects {
            match old.remove(key) {
                None => news.new.push(key.clone()),
                Some(before) if before == *object => {
                    // The old copy is shared with whoever got it, so the new one is a waste. An earlier
                    // run's is nobody's, and shares nothing with others.
                    if !self.left {
                        *object = before;
                        news.suppressed += 1;
                    }
                }
                Some(_) => news.changed.push(key.clone()),
            }
        }
        for (key, object) in old {
            // An object that is broken beyond its name may be any that is missing now.
            if decoded.nameless || decoded.broken.contains(&key) {
                self.objects.insert(key, object);
            } else {
                news.gone.push(key);
            }
        }
        let is_missing = |key| !self.objects.contains_key(key);
        let misses = (decoded.nameless && !self.read) || decoded.broken.iter().any(is_missing);
        self.unread = misses && (self.unread || is_first);
        self.read = true;
        self.left = false;
        news
    }
}
