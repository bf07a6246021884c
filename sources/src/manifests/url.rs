//! A URL of manifests as a root.
//!
//! ```text
//!  Poll ──────▶ fetch ─────────▶ Page ───────▶ Teller ─▶ Outlet
//!  (when)       (GET, headers,   (what         (update,
//!                304, faults)     changed)      state)
//! ```
//!
//! The server is asked again and again, as the kubelet does with `--manifest-url`. What it answers
//! is read like a file; whatever else it does, the last good content stays.

mod fault;
mod fetch;
mod options;
mod poll;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime;
use tokio::sync::{Notify, oneshot};
use tracing::info;

use self::fetch::Fetched;
use self::poll::Poll;
use super::outlet::Outlet;
use super::scan::{Memory, Page};
use super::tell::Teller;
use super::text::STACK_BYTES;
use crate::error::{SourceError, chain};
use crate::state::StateDir;

pub use options::{ManifestHeader, ManifestUrl, ManifestUrls};

/// Follows the manifests of a URL.
#[derive(Debug)]
pub(super) struct UrlSource {
    url: ManifestUrl,
    options: Arc<ManifestUrls>,
    /// Its name for people, which no other root has.
    name: Arc<str>,
    /// Which of the URLs it is.
    position: usize,
    state: Option<StateDir>,
    nudge: Arc<Notify>,
}

impl UrlSource {
    /// Creates one source for each URL. None is asked yet.
    pub(super) fn all(options: ManifestUrls) -> Vec<Self> {
        let options = Arc::new(options);
        let names: Vec<String> = options.urls.iter().map(ToString::to_string).collect();
        let of = |(position, url): (usize, &ManifestUrl)| {
            // Without their queries, two may look alike.
            let name = &names[position];
            let alike = names[..position].iter().filter(|other| *other == name).count();
            let name = if alike == 0 { name.clone() } else { format!("{name} ({})", alike + 1) };
            Self {
                url: url.clone(),
                options: Arc::clone(&options),
                name: name.into(),
                position,
                state: None,
                nudge: Arc::default(),
            }
        };
        options.urls.iter().enumerate().map(of).collect()
    }

    pub(super) fn with_state(self, state: Option<StateDir>) -> Self {
        Self { state, ..self }
    }

    /// Returns what makes it ask at once.
    pub(super) fn nudge(&self) -> Arc<Notify> {
        Arc::clone(&self.nudge)
    }

    /// Sends the content of the URL and then its changes, until the receiver is dropped.
    pub(super) async fn run_to(self, out: Outlet) -> Result<(), SourceError> {
        let (ended, end) = oneshot::channel();
        // The thread ends when this is dropped, and so if this future is.
        let (_stop, stopped) = oneshot::channel();
        let shared = out.share();
        std::thread::Builder::new()
            .name("rulec-manifests".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _ = ended.send(self.follow(shared, stopped));
            })
            .map_err(SourceError::Thread)?;
        tokio::select! {
            () = out.closed() => Ok(()),
            end = end => match end {
                Ok(Ok(())) if out.is_closed() => Ok(()),
                Ok(Err(error)) => Err(SourceError::Thread(error)),
                Ok(Ok(())) | Err(_) => Err(SourceError::Ended),
            },
        }
    }

    /// The thread: decoding a large answer must not delay a change on its way to the kernel.
    fn follow(self, out: Outlet, mut stopped: oneshot::Receiver<()>) -> io::Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        info!(url = %self.name, "following manifests");
        let memory = self.state.as_ref().map(|state| {
            let name = Memory::name("manifests-url", self.position);
            Memory::load(state, &name, &self.identity())
        });
        let mut teller = Teller::new(out, memory);
        let mut page = Page::new(self.name);
        if let Some(left) = teller.left() {
            page.take_over(left);
        }
        let mut poll = Poll::new(self.url, self.options, self.nudge);
        loop {
            let outcome = runtime.block_on(async {
                tokio::select! {
                    _ = &mut stopped => None,
                    outcome = poll.next() => Some(outcome),
                }
            });
            let Some(outcome) = outcome else { return Ok(()) };
            let scan = match outcome {
                Ok(Fetched::Body(bytes)) => page.receive(&bytes),
                Ok(Fetched::Unchanged) => page.confirm(),
                Err(fault) => page.hold(&chain(&fault)),
            };
            if page.is_garbled() {
                // The server may soon have an answer that it takes for an older one.
                poll.forget();
            }
            let problems = page.problems().clone();
            let told = teller.tell(scan, problems, |memory| {
                let (saved, is_news) = page.saved();
                memory.save(saved, is_news);
            });
            if told.is_err() {
                return Ok(());
            }
        }
    }

    /// Returns what says in a state that it is of this URL. The query may be a secret.
    fn identity(&self) -> PathBuf {
        format!("{} {}", self.url, self.url.fingerprint()).into()
    }
}
