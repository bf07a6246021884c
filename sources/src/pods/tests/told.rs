//! A source of Pods, and what it has told so far.

use std::collections::BTreeMap;
use std::time::Duration;

use rulec_compiler::Change;
use rulec_compiler::object::{Object, ObjectKey, Pod, PodAddresses};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::error::SourceError;
use crate::update::Update;

/// After this, a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub(crate) struct Told {
    updates: mpsc::Receiver<Update>,
    _source: JoinSet<()>,
    shown: fn(&Pod) -> String,
    pub(crate) pods: BTreeMap<String, String>,
    pub(crate) last: Option<Update>,
}

impl Told {
    /// Runs a source, whose Pods are shown in this way.
    pub(crate) fn by<F>(
        run: impl FnOnce(mpsc::Sender<Update>) -> F,
        shown: fn(&Pod) -> String,
    ) -> Self
    where
        F: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        let (out, updates) = mpsc::channel(16);
        let mut task = JoinSet::new();
        let source = run(out);
        task.spawn(async move { source.await.expect("it does not fail") });
        Self { updates, _source: task, shown, pods: BTreeMap::new(), last: None }
    }

    /// Takes in updates until this holds.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            let update = timeout(PATIENCE, self.updates.recv()).await;
            let Ok(Some(update)) = update else { panic!("never: {what}: {:?}", self.last) };
            for change in &update.changes {
                match change {
                    Change::Apply(sourced) => self.put(&sourced.object),
                    Change::Remove(ObjectKey::Pod(key)) => {
                        drop(self.pods.remove(key.name.as_str()));
                    }
                    Change::Remove(key) => panic!("{key}"),
                    Change::Replace { objects, .. } => {
                        self.pods.clear();
                        objects.iter().for_each(|sourced| self.put(&sourced.object));
                    }
                }
            }
            self.last = Some(update);
        }
    }

    fn put(&mut self, object: &Object) {
        let Object::Pod(pod) = object else { panic!("{object:?}") };
        self.pods.insert(pod.key.name.to_string(), (self.shown)(pod));
    }

    /// Waits until exactly these Pods are told.
    pub(crate) async fn are(&mut self, pods: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> =
            pods.iter().map(|(name, shown)| ((*name).into(), (*shown).into())).collect();
        let is_so = |told: &Self| told.last.is_some() && told.pods == wanted;
        self.until(&format!("{wanted:?}"), is_so).await;
    }

    /// Waits until the source is available, or is not.
    pub(crate) async fn available(&mut self, is_available: bool) {
        let is_so = |told: &Self| {
            told.last.as_ref().is_some_and(|update| update.unavailable != is_available)
        };
        self.until(&format!("available: {is_available}"), is_so).await;
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let last = self.last.as_ref().unwrap();
        last.problems.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.last.as_ref().unwrap().stale.is_some()
    }
}

/// Returns the addresses of a Pod.
pub(crate) fn addresses(pod: &Pod) -> String {
    let PodAddresses::Own(addresses) = &pod.addresses else { panic!("{pod:?}") };
    addresses.iter().map(ToString::to_string).collect::<Vec<String>>().join(",")
}
