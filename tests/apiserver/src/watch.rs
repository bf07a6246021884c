//! Watches.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::body::{Closed, Outlet};
use crate::faults::{Fault, Injection, line};
use crate::object::at_version;
use crate::options::Options;
use crate::resource::Target;
use crate::status::Status;
use crate::store::{Change, Message, Store};

/// An accepted watch: its first messages, and the channel from which the rest comes.
#[derive(Debug)]
pub(crate) struct Watch {
    target: Target,
    options: Options,
    /// Changes up to this version are not sent.
    from: u64,
    initial: Vec<Arc<Value>>,
    /// Whether a bookmark follows the initial objects (KEP-3157).
    mark_initial_end: bool,
    missed: Vec<Arc<Change>>,
    messages: UnboundedReceiver<Message>,
    last: Vec<u8>,
}

impl Watch {
    /// Begins a watch.
    ///
    /// With `as_of`, the server treats this version as the current one.
    ///
    /// # Errors
    ///
    /// 410 for a version that is compacted, 504 for a streaming list of a version not reached.
    pub(crate) fn begin(
        store: &mut Store,
        target: &Target,
        options: Options,
        as_of: Option<u64>,
    ) -> Result<Self, Status> {
        let current = as_of.map_or(store.version(), |version| version.min(store.version()));
        let wanted = options.version.unwrap_or(0);
        let (with_initial, from) = match (options.send_initial_events, wanted) {
            (Some(true), _) if wanted > current => {
                return Err(Status::too_large(wanted, current));
            }
            (Some(true), _) | (None, 0) => (true, current),
            (Some(false), 0) => (false, current),
            (Some(false) | None, _) => (false, wanted),
        };
        let expired =
            |oldest| Status::expired(format!("too old resource version: {from} ({oldest})"));
        let missed =
            store.since(target.resource, from).map_err(|compacted| expired(compacted.0))?;
        let initial = if with_initial {
            let objects =
                store.snapshot(target.resource, from).map_err(|compacted| expired(compacted.0))?;
            objects
                .into_iter()
                .filter(|(key, _)| target.namespace.as_ref().is_none_or(|of| key.in_namespace(of)))
                .map(|(_, object)| object)
                .filter(|object| options.selector.matches(object))
                .collect()
        } else {
            Vec::new()
        };
        let (sender, messages) = unbounded_channel();
        store.subscribe(target.resource, sender);
        Ok(Self {
            target: target.clone(),
            mark_initial_end: options.send_initial_events == Some(true) && options.bookmarks,
            options,
            from,
            initial,
            missed,
            messages,
            last: Vec::new(),
        })
    }

    /// Sends events until the watch's time is up or the client is gone.
    pub(crate) async fn tell(mut self, mut outlet: Outlet) -> Result<(), Closed> {
        let end = self.options.timeout.map(|timeout| Instant::now() + timeout);
        let first = outlet.strikes(|fault| {
            if let Fault::WatchBegins(first) = fault { Some(first.clone()) } else { None }
        });
        if let Some(first) = first
            && self.inject(&mut outlet, &first).await? == Next::End
        {
            return Ok(());
        }
        for object in std::mem::take(&mut self.initial) {
            self.event(&mut outlet, "ADDED", &object).await?;
        }
        if self.mark_initial_end {
            let annotations = json!({ "k8s.io/initial-events-end": "true" });
            self.bookmark(&mut outlet, self.from, Some(annotations)).await?;
        }
        for change in std::mem::take(&mut self.missed) {
            self.change(&mut outlet, &change).await?;
        }
        loop {
            // Faults take effect even while there is nothing to send.
            outlet.settle().await?;
            let timeout = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                disturbed = outlet.disturbed() => disturbed?,
                () = timeout => {
                    // Real servers send a bookmark shortly before the end, so that the watch can be
                    // resumed from there.
                    if self.options.bookmarks {
                        self.bookmark(&mut outlet, self.from, None).await?;
                    }
                    return Ok(());
                }
                message = self.messages.recv() => {
                    let Some(message) = message else { return Ok(()) };
                    if self.message(&mut outlet, message).await? == Next::End {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn message(&mut self, outlet: &mut Outlet, message: Message) -> Result<Next, Closed> {
        match message {
            Message::Change(change) => self.change(outlet, &change).await?,
            Message::Bookmark(version) => {
                if self.options.bookmarks && version >= self.from {
                    self.bookmark(outlet, version, None).await?;
                }
            }
            Message::Inject(injection) => return self.inject(outlet, &injection).await,
        }
        Ok(Next::More)
    }

    async fn change(&mut self, outlet: &mut Outlet, change: &Change) -> Result<(), Closed> {
        if change.version <= self.from {
            return Ok(());
        }
        self.from = change.version;
        let foreign = |namespace: &String| !change.key.in_namespace(namespace);
        if self.target.namespace.as_ref().is_some_and(foreign) {
            return Ok(());
        }
        let Some((kind, object)) = seen(change, &self.options) else { return Ok(()) };
        self.event(outlet, kind, &object).await?;
        if outlet.strikes(|fault| matches!(fault, Fault::Duplicates).then_some(())).is_some() {
            self.event(outlet, kind, &object).await?;
        }
        Ok(())
    }

    async fn event(
        &mut self,
        outlet: &mut Outlet,
        kind: &str,
        object: &Value,
    ) -> Result<(), Closed> {
        self.last = line(kind, object);
        outlet.send(self.last.clone()).await
    }

    async fn bookmark(
        &mut self,
        outlet: &mut Outlet,
        version: u64,
        annotations: Option<Value>,
    ) -> Result<(), Closed> {
        self.from = version;
        let mut metadata =
            json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        let object = json!({
            "kind": self.target.resource.kind(),
            "apiVersion": self.target.resource.api_version(),
            "metadata": metadata,
        });
        outlet.send(line("BOOKMARK", &object)).await
    }

    async fn inject(&mut self, outlet: &mut Outlet, injection: &Injection) -> Result<Next, Closed> {
        match injection.bytes(self.target.resource) {
            Some(bytes) => outlet.send(bytes).await?,
            None if *injection == Injection::End => {
                outlet.settle().await?;
                return Ok(Next::End);
            }
            None => outlet.send(self.last.clone()).await?,
        }
        Ok(Next::More)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    End,
    More,
}

/// Returns the event that a change is to a watch with selectors. An object that stops matching is
/// DELETED, with its previous content and the version of the change.
fn seen(change: &Change, options: &Options) -> Option<(&'static str, Value)> {
    let matching = |object: &Option<Arc<Value>>| {
        object.as_ref().filter(|object| options.selector.matches(object)).map(Arc::clone)
    };
    match (matching(&change.before), matching(&change.after)) {
        (None, None) => None,
        (None, Some(after)) => Some(("ADDED", Value::clone(&after))),
        (Some(_), Some(after)) => Some(("MODIFIED", Value::clone(&after))),
        (Some(before), None) => Some(("DELETED", at_version(&before, change.version))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Expiry, Features};
    use crate::resource::Resource;
    use crate::store::Key;

    #[test]
    fn an_object_appears_and_disappears_with_the_selector() {
        let features = Features { streaming_lists: true, expiry: Expiry::Event };
        let options = Options::parse(Resource::Nodes, "labelSelector=!off", features).unwrap();
        let with = |labels: &[&str], version: u64| {
            let labels: Value = labels.iter().map(|l| ((*l).to_owned(), json!(""))).collect();
            let metadata = json!({ "labels": labels, "resourceVersion": version.to_string() });
            Some(Arc::new(json!({ "metadata": metadata })))
        };
        let seen_as = |before, after| {
            let (resource, key) = (Resource::Nodes, Key::new(Resource::Nodes, "", "n"));
            let change = Change { version: 9, resource, key, before, after };
            seen(&change, &options).map(|(kind, object)| {
                (kind, object["metadata"]["resourceVersion"].as_str().unwrap().to_owned())
            })
        };
        let nine = |kind| Some((kind, "9".to_owned()));
        assert_eq!(seen_as(None, with(&[], 9)), nine("ADDED"));
        assert_eq!(seen_as(with(&[], 8), with(&["x"], 9)), nine("MODIFIED"));
        assert_eq!(seen_as(with(&[], 8), with(&["off"], 9)), nine("DELETED"));
        assert_eq!(seen_as(with(&["off"], 8), with(&[], 9)), nine("ADDED"));
        assert_eq!(seen_as(with(&[], 8), None), nine("DELETED"));
        assert_eq!(seen_as(with(&["off"], 8), None), None);
        assert_eq!(seen_as(None, with(&["off"], 9)), None);
    }
}
