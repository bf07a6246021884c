//! Several roots as one source: URLs, directories and files of manifests, each watched by a thread of
//! its own.
//!
//! If several roots define an object, the last of them takes precedence, as the last file does in a
//! directory. Paths come after URLs: what is on the node takes precedence.

use std::path::{PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::cni::{CniCache, CniSource};
use super::fill::Fill;
use super::outlet::Junction;
use super::signal::Signal;
use super::url::{ManifestUrls, UrlSource};
use super::watch::{ManifestOptions, ManifestSource};
use crate::allocate::{Allocation, Ranges, Recall};
use crate::error::SourceError;
use crate::state::StateDir;
use crate::update::Update;

/// Watches directories of manifests, or single ones, and gives out what their Services need.
pub struct ManifestRoots {
    urls: Vec<UrlSource>,
    sources: Vec<ManifestSource>,
    cni: Option<CniSource>,
    rescan: Duration,
    ranges: Option<Ranges>,
    recall: Option<Recall>,
    state: Option<StateDir>,
}

/// Makes a source check all its files at once.
#[derive(Clone, Debug)]
pub struct Nudge {
    files: Vec<Arc<Signal>>,
    urls: Vec<Arc<Notify>>,
}

impl Nudge {
    /// Reads every file and every URL as soon as the source has finished its current work.
    pub fn look(&self) {
        self.files.iter().for_each(|signal| signal.touch(|touched| touched.lost = true));
        self.urls.iter().for_each(|nudge| nudge.notify_one());
    }
}

impl ManifestRoots {
    /// Reads nothing yet. Paths need not exist; a path that does not exist is not taken for empty.
    pub fn new(paths: Vec<PathBuf>, options: ManifestOptions) -> Self {
        let in_full = paths.len() > 1;
        let full = |path: &PathBuf| absolute(path).unwrap_or_else(|_| path.clone());
        let roots: Arc<[PathBuf]> = paths.iter().map(full).collect();
        let source = |(position, path)| {
            ManifestSource::root(path, options, position, in_full).among(roots.clone())
        };
        let sources = paths.into_iter().enumerate().map(source).collect();
        Self {
            urls: Vec::new(),
            sources,
            cni: None,
            rescan: options.rescan,
            ranges: None,
            recall: None,
            state: None,
        }
    }

    /// Follows URLs as well. What a path defines takes precedence over them.
    pub fn with_urls(self, urls: Option<ManifestUrls>) -> Self {
        let of = |source: UrlSource| source.with_state(self.state.clone());
        let urls = urls.map(UrlSource::all).unwrap_or_default();
        let urls: Vec<UrlSource> = urls.into_iter().map(of).collect();
        let in_full = !urls.is_empty();
        let named = |source: ManifestSource| if in_full { source.named_in_full() } else { source };
        Self { urls, sources: self.sources.into_iter().map(named).collect(), ..self }
    }

    /// Finds addresses of Pods that have none in their manifests, if there is such a cache.
    pub fn with_cni(self, cache: Option<CniCache>) -> Self {
        Self { cni: cache.map(|cache| CniSource::new(cache, self.rescan)), ..self }
    }

    /// Saves the last good content of files, and what is given out, for the next start, and takes
    /// over what the last run has saved.
    pub fn with_state(self, state: Option<StateDir>) -> Self {
        let of = |source: ManifestSource| source.with_state(state.clone());
        let of_url = |source: UrlSource| source.with_state(state.clone());
        Self {
            urls: self.urls.into_iter().map(of_url).collect(),
            sources: self.sources.into_iter().map(of).collect(),
            state,
            ..self
        }
    }

    /// Gives out cluster addresses and node ports of these ranges, if there are any.
    pub fn giving_out(self, ranges: Option<Ranges>) -> Self {
        Self { ranges, ..self }
    }

    /// Recalls what Service ports have in this way, if the state of what is given out cannot be
    /// read.
    pub fn recalling(self, recall: Recall) -> Self {
        Self { recall: Some(recall), ..self }
    }

    /// Returns a handle to make the source look at once.
    pub fn nudge(&self) -> Nudge {
        Nudge {
            files: self
                .sources
                .iter()
                .map(ManifestSource::signal)
                .chain(self.cni.iter().map(CniSource::signal))
                .collect(),
            urls: self.urls.iter().map(UrlSource::nudge).collect(),
        }
    }

    /// Sends the content of all roots and then its changes, until the receiver is dropped.
    ///
    /// # Errors
    ///
    /// As for [`ManifestSource::run`].
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let allocation = Allocation::new(self.ranges, self.state.as_ref(), self.recall);
        let roots = self.urls.len() + self.sources.len();
        let mut cni = self.cni;
        let fill = cni.as_mut().map(|cni| {
            let found = cni.first();
            Fill::new(&cni.options().node_name, found)
        });
        let outlets = Junction::outlets(roots, fill, allocation, &out);
        drop(out);
        let mut tasks = JoinSet::new();
        if let (Some(cni), Some(outlet)) = (cni, outlets.first()) {
            tasks.spawn(cni.run_to(outlet.share()));
        }
        let mut outlets = outlets.into_iter();
        for (source, outlet) in self.urls.into_iter().zip(&mut outlets) {
            tasks.spawn(source.run_to(outlet));
        }
        for (source, outlet) in self.sources.into_iter().zip(outlets) {
            tasks.spawn(source.run_to(outlet));
        }
        // The first that ends has failed, or there is no receiver any more.
        match tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) | None => Err(SourceError::Ended),
        }
    }
}
