//! All files of the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rulec_compiler::name::NamespacedName;

use super::record::{self, INTERFACE, Record};
use crate::manifests::file::{self, Content, LARGEST, Stamp};
use crate::manifests::fill::Found;
use crate::problem::{Problem, Severity};

/// How old the last write to a file that is wrong must be before that is reported: libcni does not
/// write its files in one step.
const SETTLE: Duration = Duration::from_secs(1);

/// See the module's documentation. Between looks, it has the last good content of each file.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    files: BTreeMap<OsString, Entry>,
    /// Whether it has ever been listed.
    listed: bool,
    /// Whether a complete look has been made, so that a new file is one that was just written.
    begun: bool,
}

#[derive(Debug, Default)]
struct Entry {
    /// The stamp of the content that was read.
    stamp: Option<Stamp>,
    modified: Option<SystemTime>,
    record: Option<Record>,
    /// Whether it has ever been read.
    read: bool,
    /// Whether it was there at the first look.
    first: bool,
    fault: Option<Problem>,
}

/// The result of a look.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(super) found: Found,
    /// Whether a file may be being written to, so that it is worth to look again soon.
    pub(super) unsettled: bool,
}

impl Cache {
    /// Reads nothing yet.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), listed: false, begun: false }
    }

    /// Reads what has changed. `boot` is when the machine was started.
    pub(crate) fn look(&mut self, now: SystemTime, boot: SystemTime) -> Look {
        let mut look = Look::default();
        let fault = match list(&self.directory) {
            Ok(names) => {
                self.files.retain(|name, _| names.contains(name));
                for name in names {
                    look.unsettled |= self.load(&name, now);
                }
                self.listed = true;
                None
            }
            Err(error) => Some(self.obstacle(&error)),
        };
        self.begun = true;
        let faults = self.files.values().filter_map(|entry| entry.fault.clone());
        look.found.problems = faults.chain(fault).collect();
        let is_unread = |entry: &&Entry| entry.first && !entry.read;
        let unread = self.files.values().filter(is_unread).count();
        look.found.unread = unread + usize::from(!self.listed);
        look.found.addresses = self.addresses(boot);
        look
    }

    fn obstacle(&self, error: &io::Error) -> Problem {
        let place: Arc<str> = self.directory.display().to_string().into();
        let what = match file::is_missing(error) {
            true => "there is no such directory".to_owned(),
            false => format!("cannot be listed: {error}"),
        };
        let stays = match self.listed {
            true => "the addresses of Pods stay",
            false => "no Pod has an address of it",
        };
        Problem::of_file(&place, Severity::Error, format!("{what}; {stays}"))
    }

    /// Reads a file if it has changed. Returns whether it may be being written to.
    fn load(&mut self, name: &OsStr, now: SystemTime) -> bool {
        let path = self.directory.join(name);
        let begun = self.begun;
        let entry = self.files.entry(name.to_owned()).or_default();
        entry.first |= !begun;
        let metadata = fs::metadata(&path);
        if let Ok(metadata) = &metadata
            && entry.stamp == Some(Stamp::of(metadata))
        {
            return false;
        }
        entry.stamp = None;
        let outcome = match file::read(&path) {
            Ok(Content::Bytes { bytes, before, .. }) => {
                entry.modified = metadata.and_then(|metadata| metadata.modified()).ok();
                let is_young = before.is_younger(SETTLE, now);
                match record::read(&bytes) {
                    Err(_) if is_young && begun => return true,
                    outcome => {
                        entry.stamp = Some(before);
                        outcome
                    }
                }
            }
            // The next listing shows whether it is gone.
            Ok(Content::Missing) => return true,
            Ok(Content::Directory | Content::Special) => Ok(None),
            Ok(Content::TooLarge) => Err(format!("larger than {} MiB", LARGEST >> 20)),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        match outcome {
            Ok(record) => {
                entry.record = record;
                entry.read = true;
                entry.fault = None;
            }
            Err(message) => {
                let kept = if entry.read { "; its last good content stays" } else { "" };
                let place: Arc<str> = path.display().to_string().into();
                let message = format!("{message}{kept}");
                entry.fault = Some(Problem::of_file(&place, Severity::Error, message));
            }
        }
        false
    }

    /// Returns the addresses of all Pods. Of several files of a Pod, the newest counts: the others
    /// are of containers that are gone, or on their way.
    fn addresses(&self, boot: SystemTime) -> BTreeMap<NamespacedName, Vec<std::net::IpAddr>> {
        let mut newest: BTreeMap<&NamespacedName, (&Entry, &Record)> = BTreeMap::new();
        for entry in self.files.values() {
            let Some(record) = &entry.record else { continue };
            if !entry.is_of_this_boot(record, boot) {
                continue;
            }
            let known = newest.get(&record.pod).map(|(known, _)| known.modified);
            if known.is_none_or(|known| known < entry.modified) {
                newest.insert(&record.pod, (entry, record));
            }
        }
        let of = |(pod, (_, record)): (&NamespacedName, (&Entry, &Record))| {
            (pod.clone(), record.addresses.clone())
        };
        newest.into_iter().map(of).collect()
    }
}

impl Entry {
    /// Returns whether the container has not ended with the machine: the files stay when it is
    /// started anew. Network namespaces do not. Without one, the time of the file has to do, though
    /// the clock may have been wrong.
    fn is_of_this_boot(&self, record: &Record, boot: SystemTime) -> bool {
        let is_newer = || self.modified.is_some_and(|modified| modified >= boot);
        match &record.namespace {
            // Another process may have the number.
            Some(namespace) if namespace.starts_with("/proc") => {
                namespace.try_exists().unwrap_or(true) && is_newer()
            }
            // One that cannot be seen is not gone.
            Some(namespace) => namespace.try_exists().unwrap_or_else(|_| is_newer()),
            None => is_newer(),
        }
    }
}

/// Lists the files of the interface of Pods. Their names are `NETWORK-CONTAINER-INTERFACE`; there are
/// as many of `lo`.
fn list(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let suffix = format!("-{INTERFACE}");
    let is_of_pod = |name: &OsString| name.as_encoded_bytes().ends_with(suffix.as_bytes());
    names.filter(|name| name.as_ref().map_or(true, is_of_pod)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn record(pod: &str, address: &str, more: &str) -> String {
        format!(
            r#"{{"kind": "cniCacheV1", "ifName": "eth0", {more}
               "cniArgs": [["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", "{pod}"]],
               "result": {{"ips": [{{"address": "{address}/24"}}]}}}}"#
        )
    }

    struct Site {
        directory: TempDir,
        cache: Cache,
        boot: SystemTime,
    }

    impl Site {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let cache = Cache::new(directory.path().to_owned());
            Self { directory, cache, boot: SystemTime::UNIX_EPOCH }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).unwrap();
        }

        /// Sets when a file was written to: so long ago.
        fn age(&self, name: &str, seconds: u64) {
            let file = File::options().write(true).open(self.directory.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        }

        fn look(&mut self) -> Look {
            self.cache.look(SystemTime::now(), self.boot)
        }

        /// Returns each Pod with its addresses.
        fn pods(&mut self) -> Vec<String> {
            let found = self.look().found.addresses;
            found.iter().map(|(pod, addresses)| format!("{pod} {addresses:?}")).collect()
        }
    }

    #[test]
    fn pods_come_change_and_go_with_their_files() {
        let mut site = Site::new();
        site.write("net-1-eth0", &record("a", "10.0.0.1", ""));
        assert_eq!(site.pods(), ["default/a [10.0.0.1]"]);
        site.write("net-2-eth0", &record("b", "10.0.0.2", ""));
        site.write("net-1-eth0", &record("a", "10.0.0.33", ""));
        assert_eq!(site.pods(), ["default/a [10.0.0.33]", "default/b [10.0.0.2]"]);
        fs::remove_file(site.directory.path().join("net-1-eth0")).unwrap();
        assert_eq!(site.pods(), ["default/b [10.0.0.2]"]);
        assert_eq!(site.look().found.problems.len(), 0);
    }

    #[test]
    fn the_newest_container_of_a_pod_counts() {
        let mut site = Site::new();
        site.write("net-2-eth0", &record("a", "10.0.0.2", ""));
        site.write("net-1-eth0", &record("a", "10.0.0.1", ""));
        site.age("net-1-eth0", 60);
        site.age("net-2-eth0", 90);
        assert_eq!(site.pods(), ["default/a [10.0.0.1]"]);
        site.age("net-2-eth0", 30);
        assert_eq!(site.pods(), ["default/a [10.0.0.2]"]);
    }

    #[test]
    fn what_was_there_before_the_machine_started_is_left_out() {
        let mut site = Site::new();
        let namespace = site.directory.path().with_extension("namespace");
        let more = format!(r#""netns": "{}","#, namespace.display());
        site.write("net-1-eth0", &record("a", "10.0.0.1", &more));
        site.write("net-2-eth0", &record("b", "10.0.0.2", ""));
        site.age("net-1-eth0", 60);
        site.age("net-2-eth0", 60);
        assert_eq!(site.pods(), ["default/b [10.0.0.2]"], "its namespace is gone");
        fs::write(&namespace, "").unwrap();
        site.boot = SystemTime::now() - Duration::from_secs(30);
        assert_eq!(site.pods(), ["default/a [10.0.0.1]"], "whatever the clock says");
        fs::remove_file(&namespace).unwrap();
        assert_eq!(site.pods(), [""; 0]);
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let mut site = Site::new();
        site.write("net-1-eth0", &record("a", "10.0.0.1", ""));
        site.write("net-2-eth0", "{");
        let look = site.look();
        assert_eq!((look.found.unread, look.unsettled), (1, false), "at a start, nothing waits");
        let problems: Vec<String> = look.found.problems.iter().map(ToString::to_string).collect();
        assert!(problems[0].contains("net-2-eth0: cannot be decoded"), "{problems:?}");
        // Half a file is probably being written.
        site.write("net-1-eth0", "{");
        let look = site.look();
        assert!(look.unsettled && look.found.problems.len() == 1);
        site.age("net-1-eth0", 60);
        let look = site.look();
        assert!(!look.unsettled && look.found.unread == 1);
        let problems: Vec<String> = look.found.problems.iter().map(ToString::to_string).collect();
        assert!(problems[0].ends_with("; its last good content stays"), "{problems:?}");
        assert_eq!(site.pods(), ["default/a [10.0.0.1]"]);
        site.write("net-2-eth0", &record("b", "10.0.0.2", ""));
        let look = site.look();
        assert_eq!((look.found.unread, look.found.addresses.len()), (0, 2));
        // The whole directory.
        let aside = site.directory.path().with_extension("aside");
        fs::rename(site.directory.path(), &aside).unwrap();
        let look = site.look();
        let problems: Vec<String> = look.found.problems.iter().map(ToString::to_string).collect();
        assert!(problems.iter().any(|text| text.contains("there is no such directory")));
        assert_eq!((look.found.unread, look.found.addresses.len()), (0, 2));
        fs::rename(&aside, site.directory.path()).unwrap();
    }

    #[test]
    fn a_directory_that_was_never_there_counts_as_unread() {
        let mut site = Site::new();
        let path = site.directory.path().join("results");
        site.cache = Cache::new(path.clone());
        let look = site.look();
        assert_eq!((look.found.unread, look.found.problems.len()), (1, 1));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(site.look().found, Found::default());
    }
}
