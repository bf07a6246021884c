//! Sends requests to the server, and reads the answers as they arrive.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use flate2::write::GzDecoder;
use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http_body_util::BodyExt;
use kube::Client;
use kube::api::{ListParams, VersionMatch, WatchParams};
use kube::client::Body;
use kube::core::{Request, Status};
use tokio::time::timeout;

use super::access::Access;
use super::fault::Fault;
use super::resource::Resource;
use super::status::ApiStatus;
use crate::error::{chain, printable};

/// The longest event. etcd takes objects of up to 1.5 MiB, so real ones are shorter.
const LONGEST_LINE: usize = 64 << 20;

/// The longest list. A server may send all of it although it was asked for a page.
const LONGEST_TEXT: usize = 1 << 30;

/// How many bytes of a compressed answer are decompressed at a time.
const PIECE: usize = 16 << 10;

/// How many bytes of the explanation of a refusal are read.
const LONGEST_REFUSAL: usize = 64 << 10;

/// The longest wait that a server can ask for; longer ones are shortened to this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The request to make.
#[derive(Clone, Copy, Debug)]
pub(super) enum Query<'a> {
    /// The complete list; if it is to be the newest, a page of it. A list from the server's cache
    /// comes as a whole.
    List { limit: Option<u32>, age: Age<'a> },
    /// The next page.
    Page { limit: Option<u32>, token: &'a str },
    /// The complete list as events, followed by changes.
    Stream { age: Age<'a> },
    /// The changes since a resource version.
    Watch { version: &'a str },
}

/// How old a list may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age<'a> {
    /// Any version that the server has in its cache.
    Any,
    /// This version or a later one.
    NotOlderThan(&'a str),
    /// The version at the moment of the request.
    Newest,
}

/// A body that is being read.
pub(super) struct BodyLines {
    body: Body,
    status: Arc<ApiStatus>,
    buffer: Vec<u8>,
    /// Where the next line starts in the buffer.
    start: usize,
    /// Up to where no end of that line was found.
    searched: usize,
    longest: usize,
    /// The decompressor, if it is compressed.
    inflate: Option<GzDecoder<Vec<u8>>>,
    /// How many bytes have been read, after decompression.
    total: usize,
}

/// Sends a query, and waits for the answer to begin.
pub(super) async fn ask(
    access: &Access,
    client: &Client,
    resource: Resource,
    query: Query<'_>,
) -> Result<BodyLines, Fault> {
    let labels = resource.label_selector().map(str::to_owned);
    let fields =
        resource.field_selector((!access.options.all_nodes).then_some(&access.options.node_name));
    let path = Request::new(resource.path());
    let list = ListParams {
        label_selector: labels.clone(),
        field_selector: fields.clone(),
        ..ListParams::default()
    };
    let is_list = matches!(query, Query::List { .. } | Query::Page { .. });
    let request = match query {
        Query::List { limit, age } => path.list(&match age {
            Age::Any => ListParams { resource_version: Some("0".to_owned()), ..list },
            Age::NotOlderThan(version) => ListParams {
                resource_version: Some(version.to_owned()),
                version_match: Some(VersionMatch::NotOlderThan),
                ..list
            },
            Age::Newest => ListParams { limit, ..list },
        }),
        Query::Page { limit, token } => {
            path.list(&ListParams { limit, continue_token: Some(token.to_owned()), ..list })
        }
        Query::Stream { .. } | Query::Watch { .. } => {
            let (version, send_initial_events) = match query {
                Query::Watch { version } => (version, false),
                Query::Stream { age: Age::NotOlderThan(version) } => (version, true),
                Query::Stream { age: Age::Any } => ("0", true),
                Query::Stream { age: Age::Newest } | Query::List { .. } | Query::Page { .. } => {
                    ("", true)
                }
            };
            let seconds = u32::try_from(access.options.timing.watch.as_secs()).unwrap_or(u32::MAX);
            let params = WatchParams {
                label_selector: labels,
                field_selector: fields,
                timeout: Some(seconds.max(1)),
                bookmarks: true,
                send_initial_events,
            };
            path.watch(&params, version)
        }
    };
    let mut request = request.map_err(|error| Fault::Config(chain(&error)))?;
    // Servers compress answers that are longer than 128 KiB, but not watches.
    if is_list && access.compresses() {
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    send(access, client, request).await
}

/// Sends a request, and waits for the answer to begin. A status other than success is an error.
pub(super) async fn send(
    access: &Access,
    client: &Client,
    request: http::Request<Vec<u8>>,
) -> Result<BodyLines, Fault> {
    let request = request.map(Body::from);
    let patience = access.options.timing.answer;
    let response = match timeout(patience, client.send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(access.unreachable(&error)),
        Err(_) => return Err(Fault::Silence(patience)),
    };
    access.status.hear();
    let (head, body) = response.into_parts();
    let encoding = head.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let is_packed = encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case(b"gzip"));
    let mut answer = BodyLines {
        body,
        status: access.status.clone(),
        buffer: Vec::new(),
        start: 0,
        searched: 0,
        longest: LONGEST_TEXT,
        inflate: is_packed.then(|| GzDecoder::new(Vec::new())),
        total: 0,
    };
    if head.status.is_success() {
        return Ok(answer);
    }
    let retry_after = head.headers.get("retry-after").and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| text.trim().parse().ok());
    answer.longest = LONGEST_REFUSAL;
    // A refusal whose explanation is too long or cut off is still a refusal.
    while let Ok(true) = answer.more(patience).await {}
    Err(refusal(head.status.as_u16(), retry_after, &answer.buffer))
}

fn packed_wrongly(error: &std::io::Error) -> Fault {
    Fault::garbled(format!("cannot be decompressed: {}", printable(&error.to_string())))
}

/// Returns the fault for a status other than success, with its reason.
fn refusal(code: u16, retry_after: Option<u64>, text: &[u8]) -> Fault {
    let status: Option<Status> = serde_json::from_slice(text).ok();
    let details = status.as_ref().and_then(|status| status.details.as_ref());
    let asked = details.map(|details| u64::from(details.retry_after_seconds)).filter(|s| *s > 0);
    let message = match status {
        Some(status) if !status.message.is_empty() => status.message,
        Some(status) => status.reason,
        // Proxies and load balancers answer with pages of their own.
        None => {
            let text = String::from_utf8_lossy(text);
            let line = text.lines().map(str::trim).find(|line| !line.is_empty());
            line.unwrap_or("without an explanation").to_owned()
        }
    };
    Fault::Status { code, message: printable(&message), retry_after: retry(retry_after.or(asked)) }
}

fn retry(seconds: Option<u64>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

/// Returns the fault for a status that came as an event.
pub(super) fn refusal_of(status: Status) -> Fault {
    let seconds = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
    let retry_after = retry(seconds.filter(|seconds| *seconds > 0));
    Fault::Status { code: status.code, message: printable(&status.message), retry_after }
}

impl BodyLines {
    /// Reads more bytes; false at the end.
    async fn more(&mut self, patience: Duration) -> Result<bool, Fault> {
        let frame = match timeout(patience, self.body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Fault::Connection(chain(&error))),
            Ok(None) => {
                if let Some(inflate) = &mut self.inflate {
                    inflate.try_finish().map_err(|error| packed_wrongly(&error))?;
                    let rest = std::mem::take(inflate.get_mut());
                    self.put(&rest)?;
                    self.inflate = None;
                    return Ok(!rest.is_empty());
                }
                return Ok(false);
            }
            Err(_) => return Err(Fault::Silence(patience)),
        };
        self.status.hear();
        if let Ok(data) = frame.into_data() {
            self.status.receive(data.len());
            if self.inflate.is_none() {
                self.put(&data)?;
            }
            // Decompress small pieces, so that data that grows a thousand times is noticed in time.
            for piece in data.chunks(PIECE) {
                let Some(inflate) = &mut self.inflate else { break };
                inflate.write_all(piece).map_err(|error| packed_wrongly(&error))?;
                let text = std::mem::take(inflate.get_mut());
                self.put(&text)?;
            }
        }
        Ok(true)
    }

    /// Appends to the buffer.
    fn put(&mut self, text: &[u8]) -> Result<(), Fault> {
        if self.buffer.len() - self.start + text.len() > self.longest {
            return Err(Fault::garbled(format!("longer than {} MiB", self.longest >> 20)));
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(text);
        Ok(())
    }

    /// Returns the bytes that have arrived since the last call; `None` at the end.
    pub(super) async fn chunk(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            let goes_on = self.more(patience).await?;
            if !self.buffer.is_empty() {
                self.total += self.buffer.len();
                if self.total > LONGEST_TEXT {
                    return Err(Fault::garbled(format!("longer than {} MiB", LONGEST_TEXT >> 20)));
                }
                return Ok(Some(std::mem::take(&mut self.buffer)));
            }
            if !goes_on {
                return Ok(None);
            }
        }
    }

    /// Reads the rest, which is known to be short.
    pub(super) async fn text(mut self, patience: Duration) -> Result<Vec<u8>, Fault> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk(patience).await? {
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }

    /// Reads the rest and discards it.
    pub(super) async fn drain(mut self, patience: Duration) -> Result<(), Fault> {
        while self.chunk(patience).await?.is_some() {}
        Ok(())
    }

    /// Returns the next line; `None` at the end. A line without an end was cut off and is dropped:
    /// it comes again with the next watch.
    pub(super) async fn line(&mut self, patience: Duration) -> Result<Option<&[u8]>, Fault> {
        self.longest = LONGEST_LINE;
        let end = loop {
            if let Some(end) = self.end() {
                break end;
            }
            if !self.more(patience).await? {
                return Ok(None);
            }
        };
        let start = self.start;
        self.start = end + 1;
        self.searched = self.start;
        Ok(self.buffer.get(start..end))
    }

    /// Returns whether the next line is in the buffer already.
    pub(super) fn has_line(&mut self) -> bool {
        self.end().is_some()
    }

    /// Finds where the next line ends.
    fn end(&mut self) -> Option<usize> {
        let rest = self.buffer.get(self.searched..)?;
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(offset) => {
                self.searched += offset;
                Some(self.searched)
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }
}
