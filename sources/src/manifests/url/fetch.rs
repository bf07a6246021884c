//! Asks for the content of a URL once.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, DATE, ETAG, IF_NONE_MATCH, LAST_MODIFIED,
    TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::ConfigExt;
use tokio::time::timeout;
use tower::util::BoxService;
use tower::{Service, ServiceExt};

use super::fault::Fault;
use super::options::{ManifestHeader, ManifestUrl, ManifestUrls};
use crate::manifests::file::{self, Content, LARGEST};

/// How long connecting may take, so that there is time for another address of the server.
const CONNECT: Duration = Duration::from_secs(5);

type Client = BoxService<Request<Empty<Bytes>>, Response<Incoming>, legacy::Error>;

/// What a URL answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// The server says that it is what it answered last.
    Unchanged,
    /// All of its content.
    Body(Bytes),
}

/// See the module's documentation.
pub(super) struct Fetcher {
    url: ManifestUrl,
    options: Arc<ManifestUrls>,
    client: Option<Client>,
    /// The tag that tells the server which answer we have.
    known: Option<HeaderValue>,
}

impl Fetcher {
    pub(super) fn new(url: ManifestUrl, options: Arc<ManifestUrls>) -> Self {
        Self { url, options, client: None, known: None }
    }

    /// Forgets which answer we have, so that the next one is complete.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// Asks for the content, for so long at most.
    ///
    /// # Errors
    ///
    /// If there is no complete answer with a content.
    pub(super) async fn fetch(&mut self, limit: Duration) -> Result<Fetched, Fault> {
        let outcome = timeout(limit, self.ask()).await.unwrap_or(Err(Fault::Silence(limit)));
        if outcome.is_err() {
            // Made anew: the certificates may have been replaced.
            self.client = None;
        }
        outcome
    }

    async fn ask(&mut self) -> Result<Fetched, Fault> {
        let request = self.request()?;
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(client(&self.url, self.options.certificate_authority.as_deref())?),
        };
        let ready = client.ready().await.map_err(Fault::Request)?;
        let answer = ready.call(request).await.map_err(Fault::Request)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if self.known.is_some() => return Ok(Fetched::Unchanged),
            status if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
                return Err(Fault::Redirect(status));
            }
            status => return Err(Fault::Status(status)),
        }
        let known = tag(answer.headers());
        let body = whole(answer).await?;
        self.known = known;
        Ok(Fetched::Body(body))
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, Fault> {
        let mut request = Request::get(self.url.uri());
        let fixed = [
            (USER_AGENT, concat!("rulec/", env!("CARGO_PKG_VERSION"))),
            (ACCEPT_ENCODING, "identity"),
        ];
        for (name, value) in fixed {
            request = request.header(name, value);
        }
        if let Some(tag) = &self.known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let mut request = request.body(Empty::new()).map_err(Fault::Call)?;
        let headers = request.headers_mut();
        let of_file = self.options.header_file.as_deref().map(read_headers).transpose()?;
        for ManifestHeader { name, value } in self.options.headers.iter().cloned() {
            headers.insert(name, value);
        }
        for ManifestHeader { name, value } in of_file.into_iter().flatten() {
            headers.insert(name, value);
        }
        Ok(request)
    }
}

/// Returns a client. A connection is used for one request only: one that is kept may break just
/// when it is used again, and that would look like a failure of the server.
fn client(url: &ManifestUrl, certificate_authority: Option<&Path>) -> Result<Client, Fault> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(0);
    if !url.is_https() {
        return Ok(BoxService::new(builder.build(tcp)));
    }
    if let Some(path) = certificate_authority {
        // The client does not say which file it cannot read.
        regular(path).map_err(|source| Fault::File { path: path.to_owned(), source })?;
    }
    // Without a file, the certificates of the system are used. With it, they are not loaded, since
    // a node may have none.
    let mut config = Config::new(url.uri().clone());
    config.root_cert = certificate_authority.map(|_| Vec::new());
    config.root_cert_file = certificate_authority.map(Path::to_owned);
    let tls = config.rustls_https_connector_with_connector(tcp);
    let tls = tls.map_err(|error| Fault::Tls(Box::new(error)))?;
    Ok(BoxService::new(builder.build(tls)))
}

/// Reads headers, one a line.
fn read_headers(path: &Path) -> Result<Vec<ManifestHeader>, Fault> {
    let text = text(path).map_err(|source| Fault::File { path: path.to_owned(), source })?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let header = |(line, text): (usize, &str)| {
        let wrong = |reason| Fault::Header { path: path.to_owned(), line, reason };
        text.parse().map_err(wrong)
    };
    lines.map(header).collect()
}

/// Reads a text without waiting for another process, as the other end of a pipe.
fn text(path: &Path) -> io::Result<String> {
    let bytes = match file::read(path)? {
        Content::Bytes { bytes, .. } => bytes,
        Content::Missing => return Err(io::ErrorKind::NotFound.into()),
        Content::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        Content::Special => return Err(io::Error::other("not a regular file")),
        Content::TooLarge => return Err(io::ErrorKind::FileTooLarge.into()),
    };
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Checks that a path leads to a file that can be opened.
fn regular(path: &Path) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(path).map(drop)
}

/// Returns the tag by which the next request asks whether there is another answer. A date would not
/// do: a file that takes the place of a newer one is another answer, too.
fn tag(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(ETAG)?;
    let (modified, now) = (headers.get(LAST_MODIFIED), headers.get(DATE));
    // A tag is often made of the time and the length. Within the second of the answer, there may be
    // another one of the same.
    let is_over = modified.is_none() || modified != now;
    is_over.then(|| tag.clone())
}

/// Returns the body of an answer, which must be all of it.
async fn whole(answer: Response<Incoming>) -> Result<Bytes, Fault> {
    let headers = answer.headers();
    let encoding = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity");
    if let Some(encoding) = encoding {
        return Err(Fault::Encoded(String::from_utf8_lossy(encoding.as_bytes()).into_owned()));
    }
    let codings = headers.get_all(TRANSFER_ENCODING).iter().next_back();
    let is_chunked = codings.and_then(|codings| codings.to_str().ok()).is_some_and(|codings| {
        codings.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
    });
    if !headers.contains_key(CONTENT_LENGTH) && !is_chunked {
        return Err(Fault::Endless);
    }
    let largest = usize::try_from(LARGEST).unwrap_or(usize::MAX);
    let body = Limited::new(answer.into_body(), largest).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => Fault::TooLarge,
        Err(error) => Fault::Half(error),
    })?;
    let body = body.to_bytes();
    // Who wants no objects writes a comment, as in a file.
    if body.trim_ascii().is_empty() { Err(Fault::Empty) } else { Ok(body) }
}
