//! The changes that are kept: the newest, bounded by number and by an estimate of their memory.

mod held;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rulec_engine::{Acknowledged, Base};

use super::change::{Cost, Event};
use super::disk::Found;
use super::entry::{Around, Entry, Point};
use super::timeline::Stamp;
use super::weight;
use crate::config::options::HistoryArgs;
pub(super) use held::Whereabouts;

/// How many changes wait until those of earlier processes are read. More are noted without them: the
/// disk hangs.
const WAITING: usize = 256;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many changes; 0 for none.
    pub changes: usize,
    /// How many bytes they may take, as an estimate. The newest is kept whatever it takes.
    pub bytes: usize,
}

impl From<&HistoryArgs> for Limits {
    fn from(HistoryArgs { history_changes, history_mib }: &HistoryArgs) -> Self {
        Self { changes: *history_changes, bytes: history_mib << 20 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { changes: HistoryArgs::CHANGES, bytes: HistoryArgs::MIB << 20 }
    }
}

/// A change of the history, for whoever reads one after the other.
#[derive(Debug)]
pub struct Next {
    /// The change.
    pub entry: Arc<Entry>,
    /// How many before it are no longer kept.
    pub lost: u64,
}

/// An entry with how much memory it takes, as an estimate.
#[derive(Debug)]
struct Kept {
    entry: Arc<Entry>,
    /// Without its document.
    bytes: usize,
    /// What the document takes, if somebody has asked for it.
    document: usize,
    /// Whether that is more than the least that an entry takes.
    is_weighed: bool,
    /// Whether the state after it is on disk, too.
    is_stored: bool,
}

/// Changes that wait for those of earlier processes.
#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<(Acknowledged, Stamp)>,
    /// Whether those are there, and these are being added.
    is_over: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ring {
    limits: Limits,
    entries: VecDeque<Kept>,
    /// The sum of their bytes.
    bytes: usize,
    /// The number of the newest change.
    newest: u64,
    /// The state after the newest change of this process.
    latest: Option<Arc<Point>>,
    /// When the newest change of this process that is no longer kept was acknowledged.
    forgotten: Option<Stamp>,
    /// What is no longer kept, until somebody has the time to drop it.
    garbage: Vec<Arc<Entry>>,
    /// How many changes were noted since somebody had the time.
    untidied: usize,
    /// When the numbers began.
    since: Timestamp,
    /// Whether the last process may have had changes that were not recalled.
    is_cut: bool,
    /// While changes of earlier processes are read: those of this one, which get their numbers then.
    waiting: Option<Waiting>,
}

impl Ring {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            bytes: 0,
            newest: 0,
            latest: None,
            forgotten: None,
            garbage: Vec::new(),
            untidied: 0,
            since: Timestamp::now(),
            is_cut: false,
            waiting: None,
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.limits.changes > 0
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Has changes wait until those of earlier processes are recalled, whose numbers they continue.
    pub(super) fn wait(&mut self) {
        self.waiting = Some(Waiting::default());
    }

    /// Takes over changes of earlier processes. Returns whether that was soon enough.
    pub(super) fn recall(&mut self, found: Found) -> bool {
        let Some(waiting) = &mut self.waiting else { return false };
        if waiting.is_over {
            return false;
        }
        waiting.is_over = true;
        self.is_cut = !found.is_whole();
        let Found { changes, since, .. } = found;
        if let Some((first, _)) = changes.first() {
            self.since = since.unwrap_or(first.time);
        }
        for (change, length) in changes {
            // Somebody has edited the file.
            if change.id <= self.newest {
                continue;
            }
            self.newest = change.id;
            let entry = Arc::new(Entry::recalled(change));
            let document = weight::of_document(length);
            self.push(Kept {
                entry,
                bytes: size_of::<Entry>(),
                document,
                is_weighed: true,
                is_stored: true,
            });
        }
        // The numbers of changes that are lost are not known, but readers have to notice a gap.
        self.newest += u64::from(self.is_cut);
        true
    }

    /// Takes changes that have waited. They wait no longer when none is left.
    pub(super) fn take_waiting(&mut self) -> Vec<(Acknowledged, Stamp)> {
        let left = self.waiting.as_mut().map(|it| std::mem::take(&mut it.changes));
        let left = left.unwrap_or_default();
        if left.is_empty() {
            self.waiting = None;
        }
        left
    }

    /// Returns the number of the newest change.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Returns which changes can be noted now: this one, unless it has to wait.
    pub(super) fn ready(
        &mut self,
        acknowledged: Acknowledged,
        stamp: Stamp,
    ) -> Vec<(Acknowledged, Stamp)> {
        let Some(waiting) = &mut self.waiting else { return vec![(acknowledged, stamp)] };
        waiting.changes.push((acknowledged, stamp));
        match waiting.is_over || waiting.changes.len() < WAITING {
            true => Vec::new(),
            false => self.waiting.take().map_or_else(Vec::new, |it| it.changes),
        }
    }

    /// Returns when the numbers began.
    pub(super) fn since(&self) -> Timestamp {
        self.since
    }

    /// Returns whether this changes nothing since the newest change. Objects that have changed may be as
    /// before again.
    pub(super) fn is_nothing(latest: Option<&Point>, acknowledged: &Acknowledged) -> bool {
        let Acknowledged { model, cost, verdicts, .. } = acknowledged;
        let is_same = |latest: &Point| latest.model.differing(model).is_empty();
        cost.operations == 0 && verdicts.is_empty() && latest.is_some_and(is_same)
    }

    /// Returns the state after the newest change of this process.
    pub(super) fn latest(&self) -> Option<Arc<Point>> {
        self.latest.clone()
    }

    /// Adds a change, and returns its number.
    pub(super) fn note(&mut self, acknowledged: Acknowledged, stamp: Stamp) -> u64 {
        let Acknowledged { program, model, base, cost, verdicts } = acknowledged;
        self.untidied += 1;
        let after = Arc::new(Point { program, model });
        let before = self.latest.replace(Arc::clone(&after));
        let event = match (&before, base) {
            (None, _) => Event::Started,
            (Some(_), Base::Acknowledged) => Event::Changed,
            (Some(_), Base::Read) => Event::Reconciled,
            (Some(_), Base::Tampered) => Event::Repaired,
        };
        let settings_before = match event {
            Event::Started => self.entries.iter().rev().find_map(|kept| kept.entry.settings()),
            Event::Changed | Event::Reconciled | Event::Repaired => None,
        };
        let microseconds = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let cost = Cost {
            latency_microseconds: cost.latency.map(microseconds),
            commit_microseconds: microseconds(cost.commit),
            operations: cost.operations,
            transactions: cost.transactions,
            bytes: cost.bytes,
        };
        self.newest += 1;
        let around = Around { before, after, settings_before };
        let entry = Arc::new(Entry::new(self.newest, stamp, event, cost, around, verdicts));
        self.push(Kept {
            entry,
            bytes: weight::ENTRY,
            document: 0,
            is_weighed: false,
            is_stored: false,
        });
        self.newest
    }

    fn push(&mut self, kept: Kept) {
        self.bytes += kept.bytes + kept.document;
        self.entries.push_back(kept);
        self.trim();
    }

    /// Returns the entries of which nobody has found yet how much memory they take.
    pub(super) fn unweighed(&self) -> Vec<Arc<Entry>> {
        let newest = self.entries.iter().rev().take_while(|kept| !kept.is_weighed);
        newest.map(|kept| Arc::clone(&kept.entry)).collect()
    }

    /// Notes how much memory an entry takes, if it is still there.
    pub(super) fn weigh(&mut self, id: u64, bytes: usize) {
        let at = self.entries.partition_point(|kept| kept.entry.id < id);
        let is_it = |kept: &&mut Kept| kept.entry.id == id && !kept.is_weighed;
        if let Some(kept) = self.entries.get_mut(at).filter(is_it) {
            self.bytes = self.bytes - kept.bytes + bytes;
            (kept.bytes, kept.is_weighed) = (bytes, true);
            self.trim();
        }
    }

    /// Notes how much memory the document of a change takes, which somebody has asked for.
    pub(super) fn grow(&mut self, id: u64, bytes: usize) {
        let at = self.entries.partition_point(|kept| kept.entry.id < id);
        if let Some(kept) = self.entries.get_mut(at).filter(|kept| kept.entry.id == id) {
            self.bytes = self.bytes - kept.document + bytes;
            kept.document = bytes;
            self.trim();
        }
    }

    /// Notes that the states after these changes are on disk, too.
    pub(super) fn store(&mut self, ids: &[u64]) {
        for id in ids {
            let at = self.entries.partition_point(|kept| kept.entry.id < *id);
            if let Some(kept) = self.entries.get_mut(at).filter(|kept| kept.entry.id == *id) {
                kept.is_stored = true;
            }
        }
    }

    fn trim(&mut self) {
        let Limits { changes, bytes } = self.limits;
        while self.entries.len() > changes || (self.bytes > bytes && self.entries.len() > 1) {
            if self.entries.len() <= changes && self.unload() {
                continue;
            }
            let Some(oldest) = self.entries.pop_front() else { return };
            let Kept { entry: oldest, bytes, document, .. } = oldest;
            self.bytes -= bytes + document;
            if oldest.stamp().uptime.is_some() {
                self.forgotten = Some(oldest.stamp());
            }
            self.garbage.push(oldest);
        }
    }

    /// Drops the oldest states that are in memory, if the one after that change is on disk, too; the
    /// newest stay. Returns whether it did. The change stays: it is small.
    fn unload(&mut self) -> bool {
        let at = self.entries.partition_point(|kept| kept.entry.around.is_none());
        if at + 1 >= self.entries.len() {
            return false;
        }
        let Some(kept) = self.entries.get_mut(at).filter(|kept| kept.is_stored) else {
            return false;
        };
        let Some(entry) = kept.entry.without_states() else { return false };
        let bytes = size_of::<Entry>();
        self.bytes = self.bytes - kept.bytes + bytes;
        (kept.bytes, kept.is_weighed) = (bytes, true);
        self.garbage.push(std::mem::replace(&mut kept.entry, Arc::new(entry)));
        true
    }

    /// Takes what is no longer kept.
    pub(super) fn take_garbage(&mut self) -> Vec<Arc<Entry>> {
        self.untidied = 0;
        std::mem::take(&mut self.garbage)
    }

    /// Returns how many changes were noted since then.
    pub(super) fn untidied(&self) -> usize {
        self.untidied
    }

    /// Returns whether changes wait for those of earlier processes.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Returns how much memory a change takes.
    #[cfg(test)]
    pub(super) fn bytes_of(&self, id: u64) -> Option<usize> {
        let kept = self.entries.iter().find(|kept| kept.entry.id == id)?;
        Some(kept.bytes + kept.document)
    }

    /// Returns the changes, the oldest first.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        self.entries.iter().map(|kept| &kept.entry)
    }

    pub(super) fn find(&self, id: u64) -> Option<&Arc<Entry>> {
        self.all().find(|entry| entry.id == id)
    }

    /// Returns the first change after one of this number.
    pub(super) fn next(&self, after: u64) -> Option<Next> {
        let at = self.entries.partition_point(|kept| kept.entry.id <= after);
        let entry = Arc::clone(&self.entries.get(at)?.entry);
        let lost = entry.id - after - 1;
        Some(Next { entry, lost })
    }

    /// Returns the newest state, also if its change has no number yet.
    fn now(&self) -> Option<Arc<Point>> {
        let waiting = self.waiting.as_ref().and_then(|it| it.changes.last());
        let point = waiting.map(|(Acknowledged { program, model, .. }, _)| {
            Arc::new(Point { program: program.clone(), model: model.clone() })
        });
        point.or_else(|| self.latest.clone())
    }
}
