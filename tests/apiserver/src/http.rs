//! A connection, its requests and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::auth::{self, User};
use crate::body::{Body, Outlet};
use crate::discovery::{self, Document};
use crate::faults::{Fault, Faults, line};
use crate::journal::{Journal, RecordedEvent, Request};
use crate::link::{Link, Stream, Wire};
use crate::list::list;
use crate::object;
use crate::options::{Expiry, Features, Options};
use crate::resource::{Resource, Target, Verb};
use crate::status::Status;
use crate::store::{Key, Store};
use crate::watch::Watch;

/// Where TokenReviews are created.
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// The limit that the API server sets for writes.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// Answers larger than this are compressed for clients that accept it
/// (`defaultGzipThresholdBytes`).
const PACKED_ABOVE: usize = 128 * 1024;

/// The number of bytes of an answer that are written at a time.
const WRITTEN: usize = 64 * 1024;

/// The state that the handle and all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Mutex<Store>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) tokens: Mutex<BTreeSet<String>>,
    pub(crate) reviews: Mutex<BTreeMap<String, Value>>,
    pub(crate) features: Mutex<Features>,
}

/// The properties of a connection that its requests need.
#[derive(Debug, Clone)]
struct Peer {
    link: Arc<Link>,
    /// The client has presented a certificate of the client authority.
    certified: bool,
}

/// Serves one connection until it ends. Errors are ignored: the client reports what it notices.
pub(crate) async fn converse(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let _best_effort = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certified = stream.get_ref().1.peer_certificates().is_some();
    converse_over(stream, certified, shared).await;
}

/// Serves one connection whose client is known.
pub(crate) async fn converse_over(
    stream: impl Stream + Send + 'static,
    certified: bool,
    shared: Arc<Shared>,
) {
    let peer = Peer { link: Arc::default(), certified };
    let wire = Wire::new(stream, Arc::clone(&peer.link));
    let service = service_fn(move |request| answer(Arc::clone(&shared), peer.clone(), request));
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(wire), service).await;
}

/// Answers a request; does not return if a fault forbids an answer.
async fn answer(
    shared: Arc<Shared>,
    peer: Peer,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let target = Target::parse(&path);
    let verb = verb(&head.method, target.as_ref(), &query);
    let resource = target.as_ref().map(|target| target.resource);
    shared.journal.request(Request { verb, resource, path: path.clone(), query: query.clone() });

    match hindrance(&shared.faults, verb, resource).await {
        Some(Hindrance::NotServed) => return Ok(not_found()),
        Some(Hindrance::Status(status)) => return Ok(failed(&status)),
        None => {}
    }
    let user = {
        let tokens = shared.tokens.lock().unwrap();
        auth::authenticate(&head.headers, peer.certified, &tokens)
    };
    match user {
        Err(status) => return Ok(failed(&status)),
        Ok(User::Anonymous) if !discovery::public(&path) => {
            return Ok(failed(&auth::forbidden(verb, resource, &path)));
        }
        Ok(User::Anonymous | User::Known) => {}
    }
    if path == REVIEWS && verb == Verb::Create {
        return Ok(reviewed(&shared, body).await.unwrap_or_else(|status| failed(&status)));
    }
    let Some(target) = target else { return Ok(described(&path)) };
    if !target.resource.verbs().contains(&verb) {
        let message = "the server does not allow this method on the requested resource";
        return Ok(failed(&Status::new(405, "MethodNotAllowed", message)));
    }
    let answered = match verb {
        Verb::Create | Verb::Patch => written(&shared, &target, verb, body).await,
        Verb::Get => got(&shared, &target),
        Verb::List => listed(&shared, &peer, &target, &query, takes_gzip(&head.headers)),
        Verb::Watch => watched(&shared, &peer, &target, &query),
        Verb::Delete | Verb::Update => Err(Status::of_code(500)),
    };
    Ok(answered.unwrap_or_else(|status| failed(&status)))
}

fn verb(method: &Method, target: Option<&Target>, query: &str) -> Verb {
    let one = target.is_none_or(|target| target.name.is_some());
    match method.as_str() {
        "POST" => Verb::Create,
        "PUT" => Verb::Update,
        "PATCH" => Verb::Patch,
        "DELETE" => Verb::Delete,
        _ if one => Verb::Get,
        _ if Options::wants_watch(query) => Verb::Watch,
        _ => Verb::List,
    }
}

/// A fault that replaces any other answer.
enum Hindrance {
    NotServed,
    Status(Status),
}

async fn hindrance(faults: &Faults, verb: Verb, resource: Option<Resource>) -> Option<Hindrance> {
    let late = faults.strike(verb, resource, |fault| {
        if let Fault::Delay(by) = fault {
            return Some(*by);
        }
        (*fault == Fault::NoAnswer).then_some(Duration::MAX)
    });
    match late {
        Some(Duration::MAX) => std::future::pending().await,
        Some(by) => tokio::time::sleep(by).await,
        None => {}
    }
    faults.strike(verb, resource, |fault| {
        if let Fault::Status { code, retry_after } = fault {
            let status = Status::of_code(*code).retry_after(*retry_after);
            return Some(Hindrance::Status(status));
        }
        (*fault == Fault::NotServed).then_some(Hindrance::NotServed)
    })
}

fn got(shared: &Shared, target: &Target) -> Result<Response<Body>, Status> {
    let name = target.name.as_deref().unwrap_or_default();
    let key = Key::new(target.resource, target.namespace.as_deref().unwrap_or_default(), name);
    let store = shared.store.lock().unwrap();
    let Some(object) = store.get(target.resource, &key) else {
        let message = format!("{} {name:?} not found", target.resource.plural());
        return Err(Status::new(404, "NotFound", message));
    };
    Ok(whole(200, object))
}

fn listed(
    shared: &Shared,
    peer: &Peer,
    target: &Target,
    query: &str,
    takes_gzip: bool,
) -> Result<Response<Body>, Status> {
    let faults = &shared.faults;
    let features = *shared.features.lock().unwrap();
    let options = Options::parse(target.resource, query, features)?;
    let kind = Some(target.resource);
    let replaced = faults.strike(Verb::List, kind, |fault| {
        if let Fault::ListBody(body) = fault { Some(body.clone()) } else { None }
    });
    let bytes = match replaced {
        Some(bytes) => bytes,
        None => {
            let as_of = as_of(faults, Verb::List, target.resource, &options);
            let store = shared.store.lock().unwrap();
            list(&store, target, &options, as_of)?.to_string().into_bytes()
        }
    };
    let is_packed = takes_gzip && bytes.len() > PACKED_ABOVE;
    let bytes = if is_packed { packed(&bytes) } else { bytes };
    let (mut outlet, body) = Outlet::open(Verb::List, target.resource, faults, &peer.link);
    // In pieces, because servers do not write a long answer at once.
    tokio::spawn(async move {
        for piece in bytes.chunks(WRITTEN) {
            outlet.send(piece.to_vec()).await?;
        }
        outlet.settle().await
    });
    let mut response = streamed(body);
    if is_packed {
        shared.journal.pack(target.resource);
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let said = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    said.is_some_and(|said| said.split(',').any(|one| one.trim() == "gzip"))
}

/// Compresses at the fastest level, as API servers do.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).and_then(|()| packer.finish()).expect("memory can be written to")
}

fn watched(
    shared: &Shared,
    peer: &Peer,
    target: &Target,
    query: &str,
) -> Result<Response<Body>, Status> {
    let features = *shared.features.lock().unwrap();
    let options = Options::parse(target.resource, query, features)?;
    let as_of = as_of(&shared.faults, Verb::Watch, target.resource, &options);
    let watch = Watch::begin(&mut shared.store.lock().unwrap(), target, options, as_of);
    let (mut outlet, body) = Outlet::open(Verb::Watch, target.resource, &shared.faults, &peer.link);
    match watch {
        Ok(watch) => {
            let open = shared.journal.open_watch(target.resource);
            tokio::spawn(async move {
                let _open = open;
                watch.tell(outlet).await
            });
        }
        Err(status) if status.code == 410 && features.expiry == Expiry::Event => {
            let event = line("ERROR", &status.to_json());
            tokio::spawn(async move { outlet.send(event).await });
        }
        Err(status) => return Err(status),
    }
    Ok(streamed(body))
}

/// Returns the version that counts as the current one for a request, if it is another one.
fn as_of(faults: &Faults, verb: Verb, resource: Resource, options: &Options) -> Option<u64> {
    let of_cache = options.version.is_some();
    faults.strike(verb, Some(resource), |fault| {
        if let Fault::Lagging(version) = fault {
            return of_cache.then_some(*version);
        }
        if let Fault::AsOf(version) = fault { Some(*version) } else { None }
    })
}

/// Answers what the token of a TokenReview is.
async fn reviewed(shared: &Shared, body: Incoming) -> Result<Response<Body>, Status> {
    let mut review = read(body).await?;
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let known = shared.reviews.lock().unwrap().get(token).cloned();
    let unknown = || json!({ "authenticated": false, "user": {}, "error": "invalid bearer token" });
    review["status"] = known.unwrap_or_else(unknown);
    Ok(whole(201, &review))
}

async fn read(body: Incoming) -> Result<Value, Status> {
    let unreadable = |what: &str| Status::bad_request(format!("unable to read the body: {what}"));
    let bytes = Limited::new(body, MAX_BODY)
        .collect()
        .await
        .map_err(|error| unreadable(&error.to_string()))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| unreadable(&error.to_string()))
}

async fn written(
    shared: &Shared,
    target: &Target,
    verb: Verb,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    let given = read(body).await?;
    // A JSON patch is a list, which would have to be applied to be understood.
    if !given.is_object() || !given.get("metadata").is_none_or(Value::is_object) {
        return Err(Status::new(
            415,
            "UnsupportedMediaType",
            "this is no object, nor a merge patch",
        ));
    }
    if verb == Verb::Create && Resource::of(&given) != Some(target.resource) {
        return Err(Status::bad_request("the object is of another kind than the path"));
    }
    let namespace = target.namespace.clone().unwrap_or_default();
    // Uses up a version without storing the object, because Events are never read here.
    let version = {
        let mut store = shared.store.lock().unwrap();
        store.advance(1);
        store.version()
    };
    let mut answered = object::stored(target.resource, &given, None, version, version);
    if verb == Verb::Patch {
        answered["kind"] = target.resource.kind().into();
        answered["apiVersion"] = target.resource.api_version().into();
        answered["metadata"]["namespace"] = namespace.clone().into();
        answered["metadata"]["name"] = json!(target.name);
    }
    shared.journal.event(RecordedEvent { verb, namespace, object: given });
    Ok(whole(if verb == Verb::Create { 201 } else { 200 }, &answered))
}

fn described(path: &str) -> Response<Body> {
    match discovery::document(path) {
        Some(Document::Json(document)) => whole(200, &document),
        Some(Document::Text(text)) => plain(200, text),
        None => not_found(),
    }
}

fn failed(status: &Status) -> Response<Body> {
    let mut response = whole(status.code, &status.to_json());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// The answer of Go's HTTP server, and so of the API server, for paths that it does not know.
fn not_found() -> Response<Body> {
    plain(404, "404 page not found\n")
}

fn whole(code: u16, object: &Value) -> Response<Body> {
    respond(code, "application/json", Body::Whole(Bytes::from(object.to_string())))
}

fn plain(code: u16, text: &'static str) -> Response<Body> {
    respond(code, "text/plain; charset=utf-8", Body::Whole(Bytes::from_static(text.as_bytes())))
}

fn streamed(body: Body) -> Response<Body> {
    respond(200, "application/json", body)
}

fn respond(code: u16, kind: &'static str, body: Body) -> Response<Body> {
    Response::builder()
        .status(code)
        .header(CONTENT_TYPE, kind)
        .body(body)
        .expect("the test injects a code between 100 and 999")
}
