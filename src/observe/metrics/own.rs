//! Metrics of our own: the cost of changes, and what is not as it should be.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use rulec_compiler::ipvs::Verb;
use rulec_compiler::nft;
use rulec_compiler::nft::set::SetId;
use rulec_compiler::object::Kind;
use rulec_compiler::{Delta, Op, Origin};
use rulec_sinks::nft::records::Maps;
use rulec_sources::{ApiStatus, ErrorKind, RelayStatus, Severity, StateDir};

use super::kube_proxy::put;
use super::relay::RelayMetrics;
use super::{
    SourceLabel, amount, catch_up, doubling, events, family_name, kind_name, severity_name,
    source_name,
};

/// Our own metrics, prefix `rulec_`.
#[derive(Debug)]
pub struct Own {
    delta_operations: Labelled<OperationLabel, Counter>,
    transactions: Counter,
    commit_bytes: Counter,
    queue_to_ack: Histogram,
    compile: Histogram,
    suppressed: Labelled<SourceLabel, Counter>,
    repairs: Counter,
    quarantined: Gauge,
    kept: Gauge,
    conflicts: Gauge,
    overridden: Gauge,
    affinity_limited: Gauge,
    records: Labelled<RecordsLabel, Gauge>,
    records_limit: Labelled<RecordsLabel, Gauge>,
    objects: Labelled<ObjectLabel, Gauge>,
    source_available: Labelled<SourceLabel, Gauge>,
    source_complete: Labelled<SourceLabel, Gauge>,
    source_stale: Labelled<SourceLabel, Gauge<f64, AtomicU64>>,
    source_problems: Labelled<ProblemLabel, Gauge>,
    broken_files: Gauge,
    api_errors: Labelled<ErrorLabel, Counter>,
    api_lists: Counter,
    api_events: Counter,
    api_watched: Labelled<ResourceLabel, Gauge>,
    relay: RelayMetrics,
    log_lines_dropped: Counter,
    config_refused: Gauge,
    state_bytes: Counter,
    state_write_failures: Counter,
    hosts_file_names: Gauge,
    hosts_file_write_failures: Counter,
    recording_bytes: Counter,
    recording_write_failures: Counter,
    recording_lost_updates: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OperationLabel {
    set: &'static str,
    op: &'static str,
}

impl OperationLabel {
    /// Returns the label of an operation. For anything other than elements, the set is the type of
    /// the object.
    fn of(op: &Op) -> Self {
        let (op, set) = match op {
            Op::Nft(nft::Op::AddTable(_)) => ("add", "tables"),
            Op::Nft(nft::Op::DeleteTable(_)) => ("delete", "tables"),
            Op::Nft(nft::Op::AddSet(..)) => ("add", "sets"),
            Op::Nft(nft::Op::DeleteSet(..)) => ("delete", "sets"),
            Op::Nft(nft::Op::AddChain(..)) => ("add", "chains"),
            Op::Nft(nft::Op::FlushChain(..)) => ("flush", "chains"),
            Op::Nft(nft::Op::FillChain(..)) => ("fill", "chains"),
            Op::Nft(nft::Op::DeleteChain(..)) => ("delete", "chains"),
            Op::Nft(nft::Op::Add(element)) => ("add", set_name(element.key.set())),
            Op::Nft(nft::Op::Delete(element)) => ("delete", set_name(element.key.set())),
            Op::Ipvs(op) => match op.verb() {
                Verb::Add => ("add", op.subject()),
                Verb::Set => ("set", op.subject()),
                Verb::Delete => ("delete", op.subject()),
            },
        };
        Self { set, op }
    }
}

/// Returns the name of a set whose elements we write: packets write those of the others.
fn set_name(set: SetId) -> &'static str {
    match set.name() {
        Cow::Borrowed(name) => name,
        Cow::Owned(_) => "affinity",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabel {
    kind: &'static str,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecordsLabel {
    set: String,
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabel {
    source: &'static str,
    severity: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
}

/// The numbers of operations in a delta.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<OperationLabel, u64>);

impl Tally {
    /// Counts the operations of a delta.
    pub fn of(delta: &Delta) -> Self {
        let mut tally = Self::default();
        for op in delta.ops() {
            *tally.0.entry(OperationLabel::of(op)).or_default() += 1;
        }
        tally
    }
}

impl Own {
    pub(super) fn register(to: &mut Registry) -> Self {
        let build = put(
            to,
            "build_info",
            "Always 1; the label has the version",
            Labelled::<BuildLabel, Gauge>::default(),
        );
        build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        let own = Self {
            delta_operations: put(
                to,
                "delta_operations",
                "Operations of committed deltas, by set, including those of Services that the \
                 kernel refused",
                Labelled::default(),
            ),
            transactions: put(
                to,
                "transactions",
                "Transactions that the kernel acknowledged",
                Counter::default(),
            ),
            commit_bytes: put(
                to,
                "commit_bytes",
                "Bytes of netlink in acknowledged transactions",
                Counter::default(),
            ),
            queue_to_ack: put(
                to,
                "queue_to_ack_seconds",
                "Time from the receipt of an update to the kernel's acknowledgement, without the \
                 first lists",
                // 32 µs to 67 s.
                doubling(0.000_032, 22),
            ),
            compile: put(
                to,
                "compile_seconds",
                "Time to compile changes and to find the delta to them",
                // 4 µs to 8 s.
                doubling(0.000_004, 22),
            ),
            suppressed: put(
                to,
                "suppressed_changes",
                "Changes of objects that do not change their meaning",
                Labelled::default(),
            ),
            repairs: put(
                to,
                "drift_repairs",
                "Times that the kernel's content was not as programmed, and was repaired",
                Counter::default(),
            ),
            kept: put(
                to,
                "kept_services",
                "Services in the kernel that no source names, kept because files could not be read",
                Gauge::default(),
            ),
            quarantined: put(
                to,
                "quarantined_services",
                "Services that the kernel has refused",
                Gauge::default(),
            ),
            conflicts: put(
                to,
                "frontend_conflicts",
                "Frontends with conflicting claims",
                Gauge::default(),
            ),
            overridden: put(
                to,
                "overridden_objects",
                "Objects for which another source takes precedence",
                Gauge::default(),
            ),
            affinity_limited: put(
                to,
                "affinity_limited_endpoints",
                "Endpoints beyond the limit of one Service port, which get no connections",
                Gauge::default(),
            ),
            records: put(
                to,
                "records",
                "Records in a map that packets write: those of session affinity, and of turns",
                Labelled::default(),
            ),
            records_limit: put(
                to,
                "records_limit",
                "Records that such a map has room for; beyond, new connections are served without",
                Labelled::default(),
            ),
            objects: put(to, "objects", "Objects in use, by kind and source", Labelled::default()),
            source_available: put(
                to,
                "source_available",
                "Whether a source is available; if not, its last content is held",
                Labelled::default(),
            ),
            source_complete: put(
                to,
                "source_complete",
                "Whether a source has delivered its first complete lists",
                Labelled::default(),
            ),
            source_stale: put(
                to,
                "source_stale_seconds",
                "Time since a source was last heard from, even without a change; or the age of its \
                 saved state, while that is used instead",
                Labelled::default(),
            ),
            source_problems: put(
                to,
                "source_problems",
                "Problems in the content of a source; an error means that something is not used",
                Labelled::default(),
            ),
            broken_files: put(
                to,
                "broken_files",
                "Manifests with an error; their last good content is used",
                Gauge::default(),
            ),
            api_errors: put(
                to,
                "api_errors",
                "Failed requests to the API server, and watches that failed",
                Labelled::default(),
            ),
            api_lists: put(
                to,
                "api_lists",
                "Complete lists of the API server, including the first ones",
                Counter::default(),
            ),
            api_events: put(
                to,
                "api_watch_events",
                "Events of watches of the API server, including bookmarks",
                Counter::default(),
            ),
            api_watched: put(
                to,
                "api_watched",
                "Whether a resource of the API server is watched at the moment",
                Labelled::default(),
            ),
            relay: RelayMetrics::new(to),
            log_lines_dropped: put(
                to,
                "log_lines_dropped",
                "Log lines that were lost because the reader was too slow",
                Counter::default(),
            ),
            config_refused: put(
                to,
                "config_refused",
                "Whether the configuration file is unusable; the current configuration is kept",
                Gauge::default(),
            ),
            state_bytes: put(
                to,
                "state_bytes",
                "Bytes of state and of the history written to disk for the next start",
                Counter::default(),
            ),
            state_write_failures: put(
                to,
                "state_write_failures",
                "Times that the state for the next start or the history could not be written",
                Counter::default(),
            ),
            hosts_file_names: put(
                to,
                "hosts_file_names",
                "Addresses of Services in the hosts file, each with its names",
                Gauge::default(),
            ),
            hosts_file_write_failures: put(
                to,
                "hosts_file_write_failures",
                "Times that the hosts file could not be written",
                Counter::default(),
            ),
            recording_bytes: put(
                to,
                "recording_bytes",
                "Bytes written to the recording of what the sources send",
                Counter::default(),
            ),
            recording_write_failures: put(
                to,
                "recording_write_failures",
                "Times that the recording could not be written",
                Counter::default(),
            ),
            recording_lost_updates: put(
                to,
                "recording_lost_updates",
                "Updates that are not in the recording: a whole state is in their place",
                Counter::default(),
            ),
        };
        own.create();
        own
    }

    /// Creates the series that always exist, because a rate needs a first value.
    fn create(&self) {
        let of_sets = SetId::CONSTANT.into_iter().flat_map(|set| [("add", set), ("delete", set)]);
        let of_sets = of_sets.map(|(op, set)| (op, set_name(set)));
        let others = [
            ("add", "tables"),
            ("delete", "tables"),
            ("add", "sets"),
            ("delete", "sets"),
            ("add", "chains"),
            ("flush", "chains"),
            ("fill", "chains"),
            ("delete", "chains"),
        ];
        for (op, set) in of_sets.chain(others) {
            let _ = self.delta_operations.get_or_create(&OperationLabel { set, op });
        }
    }

    /// Creates the series of a source, because a rate needs a first value.
    pub fn source(&self, origin: Origin) {
        let _ = self.suppressed.get_or_create(&SourceLabel::of(origin));
        for severity in [Severity::Error, Severity::Warning] {
            self.problems(origin, severity, 0);
        }
        if origin == Origin::Api {
            self.api(&ApiStatus::default());
        }
    }

    /// Creates the series of IPVS mode.
    pub fn ipvs(&self) {
        for (set, ops) in [
            ("virtual-servers", &["add", "set", "delete"][..]),
            ("real-servers", &["add", "set", "delete"]),
            ("addresses", &["add", "delete"]),
        ] {
            for op in ops {
                let _ = self.delta_operations.get_or_create(&OperationLabel { set, op });
            }
        }
    }

    /// Sets how many problems of a severity a source has.
    pub fn problems(&self, origin: Origin, severity: Severity, count: usize) {
        let label = ProblemLabel { source: source_name(origin), severity: severity_name(severity) };
        self.source_problems.get_or_create(&label).set(amount(count));
    }

    /// Sets how many manifests have an error.
    pub fn broken_files(&self, files: usize) {
        self.broken_files.set(amount(files));
    }

    /// Sets whether the configuration file is unusable as it is now.
    pub fn config_refused(&self, is_refused: bool) {
        self.config_refused.set(i64::from(is_refused));
    }

    /// Sets the metrics of the API source from its status.
    pub(super) fn api(&self, status: &ApiStatus) {
        for kind in ErrorKind::ALL {
            let label = ErrorLabel { kind: kind.name() };
            catch_up(&self.api_errors.get_or_create(&label), status.errors(kind));
        }
        catch_up(&self.api_lists, status.lists());
        catch_up(&self.api_events, status.events());
        for (resource, is_watched) in status.watches() {
            let label = ResourceLabel { resource };
            self.api_watched.get_or_create(&label).set(i64::from(is_watched));
        }
    }

    /// Sets what is counted of a relay, and of the API server in its place. While that has no place,
    /// it is not watched, and that is as it should be.
    pub(super) fn relay(&self, status: &RelayStatus, api: Option<&ApiStatus>) {
        self.relay.set(status);
        if let Some(api) = api {
            self.api(api);
        }
        if !status.is_replaced() {
            self.api_watched.clear();
        }
    }

    /// Sets how many log lines were lost so far.
    pub(super) fn log_lines_dropped(&self, total: u64) {
        catch_up(&self.log_lines_dropped, total);
    }

    /// Counts the operations of a commit that the kernel acknowledged.
    pub fn committed(&self, tally: &Tally) {
        for (label, count) in &tally.0 {
            self.delta_operations.get_or_create(label).inc_by(*count);
        }
    }

    /// Counts the cost of commits.
    pub fn cost(&self, transactions: usize, bytes: usize, repairs: usize) {
        self.transactions.inc_by(events(transactions));
        self.commit_bytes.inc_by(events(bytes));
        self.repairs.inc_by(events(repairs));
    }

    /// Notes how long updates took to the kernel's acknowledgement.
    pub fn acknowledged(&self, took: Duration, updates: u32) {
        for _ in 0..updates {
            self.queue_to_ack.observe(took.as_secs_f64());
        }
    }

    /// Notes how long a compilation took.
    pub fn compiled(&self, took: Duration) {
        self.compile.observe(took.as_secs_f64());
    }

    /// Counts changes that had no effect.
    pub fn suppressed(&self, origin: Origin, changes: u64) {
        self.suppressed.get_or_create(&SourceLabel::of(origin)).inc_by(changes);
    }

    pub(super) fn kept(&self, services: usize) {
        self.kept.set(amount(services));
    }

    pub(super) fn quarantined(&self, services: usize) {
        self.quarantined.set(amount(services));
    }

    pub(super) fn conflicts(&self, frontends: usize) {
        self.conflicts.set(amount(frontends));
    }

    pub(super) fn overridden(&self, objects: usize) {
        self.overridden.set(amount(objects));
    }

    pub(super) fn affinity_limited(&self, endpoints: usize) {
        self.affinity_limited.set(amount(endpoints));
    }

    /// Sets how full the maps are that packets write; those of other maps are forgotten.
    pub(super) fn records(&self, maps: &Maps) {
        self.records.clear();
        self.records_limit.clear();
        for ((family, set), filling) in maps {
            let (set, ip_family) = (set.name().into_owned(), family_name(*family));
            let label = RecordsLabel { set, ip_family };
            self.records.get_or_create(&label).set(filling.records.into());
            self.records_limit.get_or_create(&label).set(filling.limit.into());
        }
    }

    pub(super) fn objects(&self, kind: Kind, origin: Origin, count: usize) {
        let label = ObjectLabel { kind: kind_name(kind), source: source_name(origin) };
        self.objects.get_or_create(&label).set(amount(count));
    }

    /// Sets what has been written to disk since the start. Scrapes may overtake each other, so the
    /// counters never go back.
    pub fn state(&self, state: &StateDir) {
        let up_to = |counter: &Counter, count: u64| {
            counter.inc_by(count.saturating_sub(counter.get()));
        };
        up_to(&self.state_bytes, state.bytes());
        up_to(&self.state_write_failures, state.failures());
    }

    /// Sets how many addresses the hosts file has.
    pub fn hosts_file(&self, names: usize) {
        self.hosts_file_names.set(i64::try_from(names).unwrap_or(i64::MAX));
    }

    /// Counts a failure to write the hosts file.
    pub fn hosts_file_failed(&self) {
        self.hosts_file_write_failures.inc();
    }

    /// Counts what was written to the recording.
    pub fn recorded(&self, bytes: u64) {
        self.recording_bytes.inc_by(bytes);
    }

    /// Counts a failure to write the recording.
    pub fn recording_failed(&self) {
        self.recording_write_failures.inc();
    }

    /// Counts updates that are not recorded.
    pub fn recording_lost(&self, updates: u64) {
        self.recording_lost_updates.inc_by(updates);
    }

    pub(super) fn available(&self, origin: Origin, is_available: bool) {
        let label = SourceLabel::of(origin);
        self.source_available.get_or_create(&label).set(i64::from(is_available));
    }

    pub(super) fn source_is(&self, origin: Origin, is_complete: bool, silent: Option<Duration>) {
        let label = SourceLabel::of(origin);
        self.source_complete.get_or_create(&label).set(i64::from(is_complete));
        if let Some(silent) = silent {
            self.source_stale.get_or_create(&label).set(silent.as_secs_f64());
        }
    }
}
