//! A directory of manifests that is read when its caller says so.

use std::path::PathBuf;
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::outlet::Junction;
use super::scan::{Manifests, Memory};
use super::tell::Teller;
use crate::allocate::{Allocation, Ranges};
use crate::state::StateDir;
use crate::update::Update;

/// The directory. Whoever reads it knows of no writers, as if all events of inotify were lost.
pub struct Directory {
    manifests: Manifests,
    teller: Teller,
}

impl Directory {
    /// Takes over what an earlier run has saved, and reads nothing else yet.
    pub fn new(
        path: PathBuf,
        ranges: Option<Ranges>,
        state: &StateDir,
        out: &mpsc::Sender<Update>,
    ) -> Self {
        let allocation = Allocation::new(ranges, Some(state), None);
        let outlet = Junction::outlets(1, None, allocation, out).remove(0);
        let memory = Memory::load(state, &Memory::name("manifests", 0), &path);
        let mut teller = Teller::new(outlet, Some(memory));
        let mut manifests = Manifests::new(path);
        if let Some(left) = teller.left() {
            manifests.take_over(left);
        }
        Self { manifests, teller }
    }

    /// Reads every file, and sends what is news; false if there is no receiver any more. It waits
    /// for the receiver, and so cannot be called on a thread of an asynchronous runtime.
    pub fn look(&mut self, now: SystemTime) -> bool {
        let scan = self.manifests.rescan(now);
        let problems = self.manifests.problems().clone();
        let told = self.teller.tell(scan, problems, |memory| {
            let (saved, is_news) = self.manifests.saved();
            memory.save(saved, is_news);
        });
        told.is_ok()
    }
}
