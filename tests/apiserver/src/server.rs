//! The interface to either server.

use std::path::Path;

use serde_json::Value;

use crate::faults::{Fault, Scope};
use crate::handle::{ApiServer, Settings};
use crate::journal::Request;
use crate::kubeconfig::Credential;
use crate::resource::{Resource, Verb};
use crate::store::Restart;

/// A server that a scenario can run against. Abilities of the in-process server only, such as to
/// send garbage, are not here: a scenario that needs them takes an [`ApiServer`].
pub trait Server: Sized + Send + Sync {
    /// Starts a server; it serves when this returns.
    fn with(settings: Settings) -> Self;

    /// Starts a server with the default settings.
    fn start() -> Self {
        Self::with(Settings::default())
    }

    /// Returns the version that `/version` reports.
    fn git_version(&self) -> String;

    /// Returns whether lists can be streamed as watches. A kube-apiserver does so if its etcd
    /// reports the progress of watches (3.4.25, 3.5.8).
    fn streams(&self) -> bool;

    /// Returns the URL at which clients reach the server.
    fn url(&self) -> String;

    /// Writes a kubeconfig that trusts the server.
    fn write_kubeconfig(&self, path: &Path, credential: &Credential);

    /// Sets the bearer tokens that are accepted from now on. Clients may have to reconnect.
    fn set_tokens(&self, tokens: &[&str]);

    /// Returns the objects that the server creates itself, of the kinds of [`Resource`].
    fn its_own(&self) -> Vec<Value>;

    /// Creates or replaces an object. If nothing changes, watches are not notified.
    fn apply(&self, object: &Value);

    /// Creates or replaces many objects, in any order.
    fn apply_all(&self, objects: &[Value]) {
        for object in objects {
            self.apply(object);
        }
    }

    /// Deletes an object, if there is one.
    fn delete(&self, resource: Resource, namespace: &str, name: &str);

    /// Forgets all versions but the latest: requests for older ones get 410.
    fn forget(&self);

    /// Forbids clients to read a kind: 403.
    fn forbid(&self, resource: Resource);

    /// Allows it again.
    fn allow(&self, resource: Resource);

    /// Refuses connections of clients, and closes all open ones. Objects can still be written.
    fn down(&self);

    /// Accepts connections again.
    fn up(&self);

    /// Closes all connections of clients.
    fn drop_connections(&self);

    /// Ends without closing anything in order and comes back with the same objects. Writers wait
    /// until it is back; this function does not.
    fn crash(&self);

    /// Returns all requests of clients, in the order in which they arrived.
    fn requests(&self) -> Vec<Request>;

    /// Returns the number of requests with the verb for the kind.
    fn count(&self, verb: Verb, resource: Resource) -> usize {
        let wanted =
            |request: &&Request| (request.verb, request.resource) == (verb, Some(resource));
        self.requests().iter().filter(wanted).count()
    }

    /// Returns the number of open watches of the kind.
    fn open_watches(&self, resource: Resource) -> usize;
}

impl Server for ApiServer {
    fn with(settings: Settings) -> Self {
        Self::with(settings)
    }

    fn git_version(&self) -> String {
        "of the tests, in this process".to_owned()
    }

    fn streams(&self) -> bool {
        self.streams()
    }

    fn url(&self) -> String {
        self.url()
    }

    fn write_kubeconfig(&self, path: &Path, credential: &Credential) {
        self.write_kubeconfig(path, credential);
    }

    fn set_tokens(&self, tokens: &[&str]) {
        self.set_tokens(tokens.iter().copied());
        self.drop_connections();
    }

    fn its_own(&self) -> Vec<Value> {
        Vec::new()
    }

    fn apply(&self, object: &Value) {
        self.apply(object);
    }

    fn delete(&self, resource: Resource, namespace: &str, name: &str) {
        self.delete(resource, namespace, name);
    }

    fn forget(&self) {
        self.compact();
    }

    fn forbid(&self, resource: Resource) {
        self.fault(Scope::resource(resource), Fault::status(403));
    }

    fn allow(&self, resource: Resource) {
        self.lift_same(Scope::resource(resource), &Fault::status(403));
    }

    fn down(&self) {
        self.down();
    }

    fn up(&self) {
        self.up();
    }

    fn drop_connections(&self) {
        self.drop_connections();
    }

    fn crash(&self) {
        self.restart(Restart::Kept);
    }

    fn requests(&self) -> Vec<Request> {
        self.requests()
    }

    fn open_watches(&self, resource: Resource) -> usize {
        self.open_watches(resource)
    }
}

/// Makes a test of each scenario on each server. A scenario is a function that is generic over the
/// server, `fn name<S: Server>()`; with `async` before the list, an asynchronous one.
///
/// The tests are in the modules `on_the_server_in_process` and `on_the_real_server`. The latter end
/// at once, with a message, if no real server is named: see [`Assets`](crate::Assets).
#[macro_export]
macro_rules! on_both_servers {
    (async $($scenario:ident),+ $(,)?) => {
        mod on_the_server_in_process {
            $(
                #[tokio::test]
                async fn $scenario() {
                    super::$scenario::<$crate::ApiServer>().await;
                }
            )+
        }
        mod on_the_real_server {
            $(
                #[tokio::test]
                async fn $scenario() {
                    if $crate::Assets::named().is_some() {
                        super::$scenario::<$crate::RealServer>().await;
                    }
                }
            )+
        }
    };
    ($($scenario:ident),+ $(,)?) => {
        mod on_the_server_in_process {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario::<$crate::ApiServer>();
                }
            )+
        }
        mod on_the_real_server {
            $(
                #[test]
                fn $scenario() {
                    if $crate::Assets::named().is_some() {
                        super::$scenario::<$crate::RealServer>();
                    }
                }
            )+
        }
    };
}
