//! Decodes the files of a first look ahead, on all CPUs.
//!
//! Nearly all the time of a look goes into decoding, and files are independent. What is found here
//! counts only for a file that still has the same bytes when its turn comes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use crate::decode::Decoded;
use crate::decode::intern::Interner;
use crate::manifests::file::{self, Content};
use crate::manifests::text::{Format, STACK_BYTES, decode};

/// More threads would wait for memory.
const MOST_THREADS: usize = 8;

/// What decides the result: the name that problems have, whether it is JSON, and the hash of the
/// bytes.
type Key = (Arc<str>, bool, [u8; 32]);

/// What files decode to, for several readers of trees that are mostly the same: each content is
/// decoded once, and its objects are shared.
#[derive(Debug, Default)]
pub struct Shared(Mutex<BTreeMap<Key, Arc<OnceLock<Decoded>>>>);

impl Shared {
    fn get(&self, key: Key, decode: impl FnOnce() -> Decoded) -> Decoded {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = Arc::clone(known.entry(key).or_default());
        drop(known);
        // Whoever comes second waits for the first.
        cell.get_or_init(decode).clone()
    }
}

/// A file to read.
pub(super) struct Wanted {
    pub(super) name: OsString,
    pub(super) place: PathBuf,
    /// Its name in problems.
    pub(super) path: Arc<str>,
    pub(super) format: Format,
}

/// What files decode to, by name.
#[derive(Debug, Default)]
pub(super) struct Ahead(BTreeMap<OsString, (blake3::Hash, Decoded)>);

impl Ahead {
    /// Reads and decodes files. Those that cannot be read are left out: their turn will show why.
    /// Strings are shared by what one thread has decoded, and with `known` from then on.
    pub(super) fn read(files: &[Wanted], shared: Option<&Shared>, known: &mut Interner) -> Self {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let threads = cpus.min(MOST_THREADS).min(files.len());
        if threads < 2 && shared.is_none() {
            return Self::default();
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut found = Vec::new();
            let mut interner = Interner::default();
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                found.extend(one(file, shared, &mut interner));
            }
            (found, interner)
        };
        thread::scope(|scope| {
            let start = |_| {
                let thread = thread::Builder::new().stack_size(STACK_BYTES);
                thread.spawn_scoped(scope, work)
            };
            // Without a thread, or after a panic, the files are left to their turn.
            let workers: Vec<_> = (0..threads).filter_map(|number| start(number).ok()).collect();
            let mut all = BTreeMap::new();
            for (found, interner) in workers.into_iter().filter_map(|worker| worker.join().ok()) {
                all.extend(found);
                known.absorb(interner);
            }
            Self(all)
        })
    }

    /// Returns what a file decodes to, if it still has these bytes.
    pub(super) fn take(&mut self, name: &OsString, hash: blake3::Hash) -> Option<Decoded> {
        let (known, decoded) = self.0.remove(name)?;
        (known == hash).then_some(decoded)
    }
}

fn one(
    file: &Wanted,
    shared: Option<&Shared>,
    interner: &mut Interner,
) -> Option<(OsString, (blake3::Hash, Decoded))> {
    let Wanted { name, place, path, format } = file;
    let Ok(Content::Bytes { bytes, .. }) = file::read(place) else { return None };
    let hash = blake3::hash(&bytes);
    let mut decode = || decode(path, &bytes, *format, interner);
    let decoded = match shared {
        Some(shared) => {
            shared.get((path.clone(), *format == Format::Json, *hash.as_bytes()), decode)
        }
        None => decode(),
    };
    Some((name.clone(), (hash, decoded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of several kinds, each many times.
    fn files(directory: &tempfile::TempDir) -> Vec<Wanted> {
        let service = |number| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{clusterIP: \
                 10.0.0.{number}, ports: [{{port: 80}}]}}\n"
            )
        };
        (0..20)
            .map(|number| {
                let name = format!("{number}.yaml");
                let place = directory.path().join(&name);
                let text = if number % 5 == 4 { "a: [".to_owned() } else { service(number) };
                std::fs::write(&place, text).unwrap();
                let path = name.clone().into();
                Wanted { name: name.into(), place, path, format: Format::Yaml }
            })
            .collect()
    }

    #[test]
    fn what_is_decoded_ahead_is_what_the_turn_would_decode() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(&directory);
        files.last_mut().unwrap().place = directory.path().join("absent");
        let shared = Shared::default();
        for shared in [None, Some(&shared), Some(&shared)] {
            let mut known = Interner::default();
            let mut ahead = Ahead::read(&files, shared, &mut known);
            if ahead.0.is_empty() {
                // A machine with one CPU decodes nothing ahead.
                assert!(shared.is_none());
                continue;
            }
            for file in &files {
                let Ok(bytes) = std::fs::read(&file.place) else {
                    assert!(ahead.take(&file.name, blake3::hash(b"")).is_none());
                    continue;
                };
                let hash = blake3::hash(&bytes);
                let decoded = ahead.take(&file.name, hash).unwrap();
                let own = decode(&file.path, &bytes, file.format, &mut known);
                assert_eq!(decoded.objects, own.objects, "{:?}", file.name);
                assert_eq!(decoded.problems, own.problems, "{:?}", file.name);
                assert_eq!(decoded.unreadable, own.unreadable);
            }
        }
    }

    #[test]
    fn a_file_that_has_changed_meanwhile_is_decoded_in_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(&directory);
        let shared = Shared::default();
        let mut ahead = Ahead::read(&files, Some(&shared), &mut Interner::default());
        let name = &files.first().unwrap().name;
        assert!(ahead.take(name, blake3::hash(b"other")).is_none());
    }

    /// The second reader has the very objects of the first.
    #[test]
    fn readers_share_what_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(&directory);
        let shared = Shared::default();
        let read = || Ahead::read(&files, Some(&shared), &mut Interner::default());
        let (first, second) = (read(), read());
        let mut same = 0;
        for ((_, (_, first)), (_, (_, second))) in first.0.iter().zip(&second.0) {
            for pair in first.objects.iter().zip(&second.objects) {
                let (
                    rulec_compiler::object::Object::Service(a),
                    rulec_compiler::object::Object::Service(b),
                ) = pair
                else {
                    panic!("{pair:?}")
                };
                assert!(Arc::ptr_eq(a, b));
                same += 1;
            }
        }
        assert_eq!(same, 16);
    }
}
