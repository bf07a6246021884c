//! What arguments name, as it was read. Both sides of a comparison can be read at the same time,
//! before anything is given out.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::{Settings, State};
use rulec_sources::recording::{self, Header};
use rulec_sources::{Overlap, Reading, Shared};

use super::api::API;
use super::{INPUT, NodeAddresses, Places, recorded};
use crate::history::moment::{Moment, SIGN};
use crate::kernel;
use crate::observe::changes::STATES;
use crate::observe::telemetry::complain;
use crate::snapshot::Snapshot;
use crate::tool::daemon::ask;

/// A state as arguments name it: `kernel`, `api`, a snapshot, a recording, or manifests in one or more paths or on
/// standard input.
pub(crate) struct Named<'a> {
    pub(super) states: Vec<&'a str>,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// It is read later.
    Kernel,
    Snapshot(Box<Snapshot>),
    /// A state of a recording, and what could not be read of it.
    Recording(Box<(Header, recording::Moment)>),
    /// Objects, of manifests or of an API server.
    Manifests(Reading),
}

impl<'a> Named<'a> {
    /// Reads what arguments name. What another side has decoded is not decoded again.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn read(states: &'a [impl AsRef<str>], places: &Places) -> anyhow::Result<Self> {
        let states: Vec<&str> = states.iter().map(AsRef::as_ref).collect();
        let is_url = |state: &&str| state.starts_with("http://") || state.starts_with("https://");
        anyhow::ensure!(
            !states.iter().any(is_url),
            "only rulec run fetches manifests: save what the URL answers to a file, and name that"
        );
        let is_other = |state: &&str| {
            ["kernel", API].contains(state)
                || state.starts_with(SIGN)
                || Snapshot::is_one(Path::new(state))
                || recorded::names_one(state)
        };
        let other = states.iter().copied().find(is_other);
        let alone = other.or_else(|| states.iter().copied().find(|state| *state == INPUT));
        if let Some(alone) = alone.filter(|_| states.len() > 1) {
            anyhow::bail!("{alone}: only paths of manifests can be named together");
        }
        let content = match other {
            Some("kernel") => Content::Kernel,
            Some(API) => {
                if Path::new(API).exists() {
                    complain("api is the API server; the path of this name is ./api");
                }
                Content::Manifests(places.server.read()?)
            }
            Some(moment) if moment.starts_with(SIGN) => {
                Content::Snapshot(Box::new(past(moment, places.socket())?))
            }
            Some(state) if recorded::names_one(state) => {
                Content::Recording(Box::new(recorded::read(state)?))
            }
            Some(path) => Content::Snapshot(Box::new(Snapshot::read(Path::new(path))?)),
            None => Content::Manifests(manifests(&states, &places.shared)?),
        };
        Ok(Self { states, content })
    }

    /// Reads what the kernel of this machine holds.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn kernel(settings: &Settings, node: &NodeAddresses) -> anyhow::Result<State> {
        let mark = settings.masquerade_bit.mark();
        let ipvs = settings.ipvs().map(|_| node.ipvs.clone());
        let (held, _) = kernel::look(mark, ipvs)?.read().context("reading the kernel")?;
        Ok(held)
    }

    /// Returns whether it is what a kernel holds.
    pub(crate) fn is_of_kernel(&self) -> bool {
        !matches!(self.content, Content::Manifests(_))
    }
}

/// Asks the daemon for its state at a moment.
fn past(moment: &str, socket: Option<&Path>) -> anyhow::Result<Snapshot> {
    let parsed: Moment = moment.parse().map_err(anyhow::Error::msg)?;
    let socket = socket.with_context(|| {
        format!("{moment}: moments are those of the daemon, and --socket is empty")
    })?;
    let path = format!("{STATES}/{}", parsed.to_string().trim_start_matches(SIGN));
    let snapshot: Snapshot = ask(socket, &path).context(moment.to_owned())?;
    snapshot.checked().with_context(|| format!("{moment}: what the daemon says"))
}

/// Reads manifests in one or more paths, or on standard input.
fn manifests(paths: &[&str], shared: &Arc<Shared>) -> anyhow::Result<Reading> {
    if let [INPUT] = paths {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
        anyhow::ensure!(
            !Snapshot::begins(&bytes),
            "standard input is a snapshot: save it to a file, and name that"
        );
        return Ok(rulec_sources::read_text(INPUT, &bytes));
    }
    let all: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    if let Some(overlap) = Overlap::find(&all) {
        anyhow::bail!("{overlap}");
    }
    Ok(rulec_sources::read_sharing(&all, shared)?)
}
