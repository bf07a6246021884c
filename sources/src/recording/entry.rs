//! What a recording says.

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::change::Sourced;
use rulec_compiler::object::{Kind, ObjectKey};
use rulec_compiler::{Change, Model, Origin, Settings};
use serde::{Deserialize, Deserializer, Serialize};

use super::strange;
use crate::problem::Problem;
use crate::update::Update;

/// What holds for all of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The same in the files of one recording, and in no other.
    pub id: String,
    /// Which of its files it is.
    pub generation: u64,
    /// The version of the program that has begun the file.
    pub program: String,
    /// When the file was begun.
    pub created: Timestamp,
    /// Whether names and addresses are pseudonyms.
    #[serde(default)]
    pub masked: bool,
    /// The settings of the daemon.
    pub settings: Settings,
    /// The sources of the daemon.
    pub sources: Vec<Origin>,
}

/// One entry of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When the daemon heard of it, by the clock of its node.
    pub time: Timestamp,
    /// What it heard.
    #[serde(deserialize_with = "what")]
    pub what: What,
}

/// Reads what an entry says.
fn what<'de, D: Deserializer<'de>>(deserializer: D) -> Result<What, D::Error> {
    let mut what = What::deserialize(deserializer)?;
    check(&mut what).map_err(serde::de::Error::custom)?;
    Ok(what)
}

fn check(what: &mut What) -> Result<(), String> {
    match what {
        What::Whole(whole) => whole.sources.iter_mut().try_for_each(|held| {
            held.problems.iter_mut().for_each(strange::clean);
            held.objects.iter_mut().try_for_each(strange::sourced)
        }),
        What::Update(recorded) => {
            recorded.problems.iter_mut().flatten().for_each(strange::clean);
            recorded.changes.iter_mut().try_for_each(|change| match change {
                RecordedChange::Apply(one) => strange::sourced(one),
                RecordedChange::Remove(removed) => strange::key(removed),
                RecordedChange::Replace { objects, .. } => {
                    objects.iter_mut().try_for_each(strange::sourced)
                }
            })
        }
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// Everything that the sources have sent so far.
    Whole(Whole),
    /// One update of a source.
    Update(Recorded),
}

/// Everything that the sources have sent so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Whole {
    /// Why it is there.
    pub reason: WholeReason,
    /// By source.
    pub sources: Vec<Held>,
}

/// Why a recording has a whole state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WholeReason {
    /// The daemon has started. Nothing has been sent yet.
    Start,
    /// The file before was full.
    Full,
    /// This many updates before could not be written in time.
    Gap(u64),
    /// It is the begin of a part of another recording.
    Part,
}

/// What a source has sent so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Which source it is.
    pub origin: Origin,
    /// How it is.
    pub said: Said,
    /// Its problems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// Its objects.
    pub objects: Vec<Sourced>,
}

/// How a source says that it is. See [`Update`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Said {
    /// Whether it has delivered its first complete lists.
    pub complete: bool,
    /// The number of files that could not be read.
    pub unread: usize,
    /// Whether it is unavailable.
    pub unavailable: bool,
    /// When its content was last known to be current.
    pub stale: Option<Timestamp>,
}

impl Said {
    /// Returns what an update says.
    pub fn of(update: &Update) -> Self {
        let Update { complete, unread, unavailable, stale, .. } = *update;
        Self { complete, unread, unavailable, stale }
    }
}

/// How a source is, with its problems.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What it says.
    pub said: Said,
    /// Its problems.
    pub problems: OrdSet<Problem>,
}

/// One update of a source. The triggers of changes are not recorded: they are times of other clocks,
/// and only measure the daemon that has heard of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recorded {
    /// Which source it is.
    pub origin: Origin,
    /// How it is.
    pub said: Said,
    /// The number of objects that were written to without a change of meaning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
    /// Its problems, unless they are those of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problems: Option<Vec<Problem>>,
    /// Its changes.
    pub changes: Vec<RecordedChange>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A change. See [`Change`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordedChange {
    /// The object is new, or its meaning has changed.
    Apply(Sourced),
    /// The object is gone.
    Remove(ObjectKey),
    /// The complete list of the source's objects of these kinds.
    Replace {
        /// The kinds that are listed.
        kinds: Vec<Kind>,
        /// The objects.
        objects: Vec<Sourced>,
    },
}

impl From<Change> for RecordedChange {
    fn from(change: Change) -> Self {
        match change {
            Change::Apply(sourced) => Self::Apply(sourced),
            Change::Remove(key) => Self::Remove(key),
            Change::Replace { kinds, objects } => Self::Replace { kinds: kinds.to_vec(), objects },
        }
    }
}

impl RecordedChange {
    /// Returns the same as changes that a source sends. A list of several kinds is one of each: the
    /// order makes no difference.
    pub fn changes(self) -> Vec<Change> {
        match self {
            Self::Apply(sourced) => vec![Change::Apply(sourced)],
            Self::Remove(key) => vec![Change::Remove(key)],
            Self::Replace { kinds, objects } if Kind::ALL.iter().all(|it| kinds.contains(it)) => {
                vec![Change::everything(objects)]
            }
            Self::Replace { kinds, mut objects } => {
                let mut changes = Vec::with_capacity(kinds.len() + 1);
                for kind in kinds {
                    let is_of = |sourced: &mut Sourced| sourced.object.key().kind() == kind;
                    let listed = objects.extract_if(.., is_of).collect();
                    changes.push(Change::Replace { kinds: alone(kind), objects: listed });
                }
                changes.extend(objects.into_iter().map(Change::Apply));
                changes
            }
        }
    }
}

/// Returns a list of one kind.
fn alone(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::Service => &[Kind::Service],
        Kind::EndpointSlice => &[Kind::EndpointSlice],
        Kind::Pod => &[Kind::Pod],
        Kind::Node => &[Kind::Node],
        Kind::ServiceCidr => &[Kind::ServiceCidr],
        Kind::InterfaceAddresses => &[Kind::InterfaceAddresses],
    }
}

impl Whole {
    /// Makes one of a model and of how each source is.
    pub fn of<'a>(
        reason: WholeReason,
        model: &Model,
        sources: impl IntoIterator<Item = (Origin, &'a Status)>,
    ) -> Self {
        let held = sources.into_iter().map(|(origin, Status { said, problems })| Held {
            origin,
            said: *said,
            problems: problems.iter().cloned().collect(),
            objects: Vec::new(),
        });
        let mut sources: Vec<Held> = held.collect();
        let overridden = model.overridden().map(|(sourced, origin)| (origin, sourced.clone()));
        for (origin, sourced) in model.objects_by_origin().chain(overridden) {
            if let Some(held) = sources.iter_mut().find(|held| held.origin == origin) {
                held.objects.push(sourced);
            }
        }
        Self { reason, sources }
    }
}
