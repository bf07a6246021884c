//! API servers for tests. [`ApiServer`] runs in the test's process and can imitate the faults of
//! real servers; [`RealServer`] is a kube-apiserver with an etcd, available if [`Assets`] are
//! named. A scenario that works with both is written once, over [`Server`], and
//! [`on_both_servers!`] makes the tests.
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
//! The server is a thread with its own runtime; [`ApiServer`] is a synchronous handle to it. The
//! thread inherits the network namespace of the thread that starts the server.
//!
//! # Supported parts of the protocol
//!
//! - HTTP/1.1 over TLS 1.2 and 1.3, JSON, chunked answers, one watch event per line.
//! - `v1` Services and Nodes, `discovery.k8s.io/v1` EndpointSlices, `networking.k8s.io/v1`
//!   ServiceCIDRs: get, list and watch, in one namespace or all. `events.k8s.io/v1` Events: create
//!   and patch, recorded and not stored.
//! - `authentication.k8s.io/v1` TokenReviews: create, answered as [`ApiServer::set_review`] says.
//! - `/api`, `/apis` and the resource lists below them, `/version`, `/livez`, `/readyz`,
//!   `/healthz`.
//! - Bearer tokens and client certificates. A wrong token gets 401; a request without credentials
//!   is `system:anonymous`, which may read public paths and gets 403 for the rest.
//! - Label selectors as in the API. Field selectors by `metadata.name`, `metadata.namespace`, and
//!   for Services `spec.clusterIP` and `spec.type`; others are refused, as real servers do.
//! - Lists: gzip above 128 KiB for clients that accept it; `limit` and `continue` over one
//!   snapshot, `resourceVersion`, `resourceVersionMatch`. Like the watch cache, the server ignores
//!   `limit` with `resourceVersion=0`. Items carry no `kind` and `apiVersion`, as in real typed
//!   lists.
//! - Watches: from a version, from "now" with all objects first, or as a streaming list (KEP-3157)
//!   with the closing bookmark; bookmarks; `timeoutSeconds`. An object that starts or stops
//!   matching the selectors is ADDED or DELETED. [`ApiServer::set_streaming_lists`] switches
//!   streaming lists off: such a watch is then refused with 422, as by a server without the
//!   `WatchList` feature.
//! - 410 `Expired` for versions that [`ApiServer::compact`] removed: for watches an ERROR event (as
//!   kube-apiserver does), or an HTTP status if set with [`ApiServer::set_expiry`]; for lists and
//!   continue tokens always a status, which for tokens contains a new token that continues without
//!   consistency.
//! - One sequence of versions for all kinds, as etcd has. An update that changes nothing makes
//!   none.
//!
//! # Unsupported parts
//!
//! HTTP/2, compressed watches (real servers do not have them either), protobuf, tables and
//! metadata-only objects. Defaulting and validation: an object is stored as given, except for the
//! fields of `metadata` that belong to the server. Writes by clients, except for Events, and so
//! neither resource-version conflicts nor server-side apply. Authorisation (inject a 403), priority
//! and fairness (inject a 429), admission, aggregation, OpenAPI. A version in the future is refused
//! at once, where real servers wait three seconds for it. A watch without `timeoutSeconds` does not
//! end, where real servers end it after 30 to 60 minutes; bookmarks are sent when the test asks for
//! them and before a timeout, not every minute.
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
mod inward;
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
