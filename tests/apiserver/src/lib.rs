//! API servers for tests: [`ApiServer`] is inside the test's process and has the faults that real ones
//! have; [`RealServer`] is a kube-apiserver with an etcd, when [`Assets`] are named. A scenario that
//! both can play is written once, over [`Server`], and [`on_both_servers!`] makes the tests.
//!
//! # The server in the test's process
//!
//! ```no_run
//! use rulec_apiserver::{ApiServer, Credential, Fault, Resource, Scope};
//! let server = ApiServer::start();
//! server.apply(&serde_json::json!({
//!     "apiVersion": "v1", "kind": "Service",
//!     "metadata": {"namespace": "shop", "name": "web"},
//!     "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80, "protocol": "TCP"}]},
//! }));
//! server.write_kubeconfig("/tmp/kubeconfig".as_ref(), &Credential::Token("token".to_owned()));
//! let slow = server.fault(Scope::resource(Resource::Services), Fault::NoAnswer);
//! // ... what does the client do now? ...
//! server.lift(slow);
//! ```
//!
//! The server is a thread with a runtime of its own; [`ApiServer`] is a synchronous handle to it.
//! The thread is started by, and so lives in the network namespace of, whoever starts the server.
//!
//! # What of the protocol it speaks
//!
//! - HTTP/1.1 over TLS 1.2 and 1.3, JSON, chunked answers, one watch event per line.
//! - `v1` Services and Nodes, `discovery.k8s.io/v1` EndpointSlices, `networking.k8s.io/v1`
//!   ServiceCIDRs: get, list and watch, by namespace or all. `events.k8s.io/v1` Events: create and
//!   patch, recorded and not stored.
//! - `/api`, `/apis` and the resource lists below them, `/version`, `/livez`, `/readyz`, `/healthz`.
//! - Bearer tokens and client certificates. A wrong token is 401; none at all is
//!   `system:anonymous`, who may read what is public and gets 403 for the rest.
//! - Label selectors as the API has them. Field selectors by `metadata.name`, `metadata.namespace`,
//!   and for Services `spec.clusterIP` and `spec.type`; others are refused, as real servers do.
//! - Lists: gzip for who takes it, above 128 KiB; `limit` and `continue` over one snapshot, `resourceVersion`, `resourceVersionMatch`. The
//!   watch cache's habit of ignoring `limit` with `resourceVersion=0` is kept. Items carry no
//!   `kind` and `apiVersion`, as those of typed lists do not.
//! - Watches: from a version, from "now" with all objects first, or as a streaming list (KEP-3157)
//!   with the closing bookmark; bookmarks; `timeoutSeconds`. An object that starts or stops to match
//!   the selectors is ADDED or DELETED. [`ApiServer::set_streaming_lists`] switches streaming lists
//!   off: such a watch is then refused with 422, as by a server without the `WatchList` feature.
//! - 410 `Expired` for what [`ApiServer::compact`] forgot: an ERROR event for watches (what
//!   kube-apiserver does), or an HTTP status if [`ApiServer::set_expiry`] says so; always a status
//!   for lists and continue tokens, then with a token that goes on without consistency.
//! - One sequence of versions for all kinds, as etcd has. An update that changes nothing makes none.
//!
//! # What it does not
//!
//! HTTP/2, compressed watches (nor do real servers have them), protobuf, tables and metadata-only objects. Defaulting and validation: an object is
//! stored as it is given, but for what belongs to the server in `metadata`. Writes by clients, but
//! for Events; so neither resource-version conflicts nor server-side apply. Authorisation (inject a
//! 403), priority and fairness (inject a 429), admission, aggregation, OpenAPI. A version of the
//! future is refused at once, where real servers wait three seconds for it. A watch without
//! `timeoutSeconds` lasts, where real servers end it after 30 to 60 minutes; bookmarks come when the
//! test says so and before a timeout, not every minute.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this crate is for tests only: a harness that cannot work fails the test"
)]

mod auth;
mod body;
mod discovery;
mod faults;
mod handle;
mod http;
mod journal;
mod kubeconfig;
mod link;
mod list;
mod object;
mod options;
mod real;
mod resource;
mod selector;
mod serve;
mod server;
mod status;
mod store;
mod tls;
mod watch;

pub use faults::{Cut, Fault, FaultId, Injection, Scope};
pub use handle::{ApiServer, Settings};
pub use journal::{RecordedEvent, Request};
pub use kubeconfig::Credential;
pub use options::Expiry;
pub use real::{Assets, RealServer};
pub use resource::{Resource, Verb};
pub use server::Server;
pub use store::Restart;
