//! One gRPC call with a stream of messages as its answer, over HTTP/2 on a Unix socket.
//!
//! A message is a flag, four bytes of length, and its content. The outcome is in the trailers, or
//! in the headers of an answer without content.

use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderMap, Request, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::fault::Fault;
use crate::error::printable;

/// The longest message. The API server takes objects of 1.5 MiB at most.
const LONGEST_MESSAGE: usize = 16 << 20;

/// How many bytes may be on their way. The kubelet drops a client that is slow.
const WINDOW: u32 = 4 << 20;

/// The status of a method that a server does not have.
pub(super) const UNIMPLEMENTED: i32 = 12;

/// A connection to a server.
pub(super) struct Channel {
    requests: SendRequest<Bytes>,
    pings: Option<PingPong>,
    /// Moves the bytes; ends with this value.
    _connection: JoinSet<()>,
}

impl Channel {
    pub(super) async fn open(path: &Path) -> Result<Self, Fault> {
        let connected = UnixStream::connect(path).await;
        let socket =
            connected.map_err(|source| Fault::Connect { path: path.to_owned(), source })?;
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (requests, mut connection) =
            builder.handshake(socket).await.map_err(Fault::Connection)?;
        let pings = connection.ping_pong();
        let mut task = JoinSet::new();
        // Its failure reaches the call as well.
        task.spawn(async move { drop(connection.await) });
        Ok(Self { requests, pings, _connection: task })
    }

    /// Calls a method without arguments, and waits for the answer to begin.
    pub(super) async fn call(&mut self, method: &str) -> Result<Call, Fault> {
        let request = Request::post(format!("http://localhost/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", concat!("rulec/", env!("CARGO_PKG_VERSION")))
            .body(())
            .map_err(Fault::Call)?;
        let mut requests = self.requests.clone().ready().await.map_err(Fault::Connection)?;
        let (response, mut sender) =
            requests.send_request(request, false).map_err(Fault::Connection)?;
        // A message without fields: no flag, and no length.
        sender.send_data(Bytes::from_static(&[0; 5]), true).map_err(Fault::Connection)?;
        let response = response.await.map_err(Fault::Connection)?;
        if response.status() != StatusCode::OK {
            return Err(Fault::Http(response.status()));
        }
        if let Some(outcome) = outcome(response.headers()) {
            outcome?;
        }
        let kind = response.headers().get("content-type");
        let kind = kind.map_or("", |kind| kind.to_str().unwrap_or_default());
        if !kind.starts_with("application/grpc") {
            return Err(Fault::NotGrpc(printable(kind)));
        }
        Ok(Call { body: response.into_body(), frames: Frames::default() })
    }

    /// Returns once the server has answered a ping.
    pub(super) async fn ping(&mut self, patience: Duration) -> Result<(), Fault> {
        let Some(pings) = &mut self.pings else { return Ok(()) };
        match timeout(patience, pings.ping(Ping::opaque())).await {
            Ok(pong) => pong.map(drop).map_err(Fault::Connection),
            Err(_) => Err(Fault::Silence(patience)),
        }
    }
}

/// A call that is being answered.
pub(super) struct Call {
    body: RecvStream,
    frames: Frames,
}

impl Call {
    /// Returns the next message. Nothing is lost if this future is dropped.
    pub(super) async fn next(&mut self) -> Result<Bytes, Fault> {
        loop {
            if let Some(message) = self.frames.next()? {
                return Ok(message);
            }
            let Some(data) = self.body.data().await else { break };
            let data = data.map_err(Fault::Connection)?;
            self.frames.0.extend_from_slice(&data);
            self.body.flow_control().release_capacity(data.len()).map_err(Fault::Connection)?;
        }
        if !self.frames.0.is_empty() {
            return Err(Fault::Half);
        }
        let trailers = self.body.trailers().await.map_err(Fault::Connection)?;
        trailers.as_ref().and_then(outcome).unwrap_or(Ok(()))?;
        Err(Fault::Ended)
    }
}

/// The bytes of messages.
#[derive(Debug, Default)]
pub(super) struct Frames(pub(super) BytesMut);

impl Frames {
    const HEAD: usize = 5;

    fn length(&self) -> Option<usize> {
        let (_, length) = self.0.first_chunk::<{ Self::HEAD }>()?.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        usize::try_from(length).ok()
    }

    fn is_ready(&self) -> bool {
        self.length().is_some_and(|length| self.0.len() >= Self::HEAD + length)
    }

    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(length) = self.length() else { return Ok(None) };
        if self.0.first() != Some(&0) {
            return Err(Fault::Compressed);
        }
        if length > LONGEST_MESSAGE {
            return Err(Fault::TooLong { length, most: LONGEST_MESSAGE });
        }
        if !self.is_ready() {
            return Ok(None);
        }
        self.0.advance(Self::HEAD);
        Ok(Some(self.0.split_to(length).freeze()))
    }
}

/// Returns the outcome of a call, if these headers state it.
fn outcome(headers: &HeaderMap) -> Option<Result<(), Fault>> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().unwrap_or(-1);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").and_then(|message| message.to_str().ok());
    let message = percent_decode_str(message.unwrap_or_default()).decode_utf8_lossy();
    Some(Err(Fault::Status { code, message: printable(&message) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_wherever_their_bytes_end() {
        let bytes = [0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'c'];
        for cut in 0..=bytes.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in [&bytes[..cut], &bytes[cut..]] {
                frames.0.extend_from_slice(piece);
                while frames.is_ready() {
                    found.push(frames.next().unwrap().unwrap());
                }
                assert!(frames.next().unwrap().is_none());
            }
            assert_eq!(found, ["ab", "", "c"]);
            assert!(frames.0.is_empty());
        }
    }

    #[test]
    fn a_message_that_cannot_be_one_is_refused_before_it_is_there() {
        let mut frames = Frames(BytesMut::from(&[1, 0, 0, 0, 9][..]));
        assert!(matches!(frames.next(), Err(Fault::Compressed)));
        frames = Frames(BytesMut::from(&b"\0HTTP/1.1"[..]));
        let length = usize::try_from(u32::from_be_bytes(*b"HTTP")).unwrap();
        let error = frames.next().unwrap_err().to_string();
        assert_eq!(error, format!("a message of {length} bytes, more than {LONGEST_MESSAGE}"));
    }

    #[test]
    fn the_outcome_is_in_the_headers_or_nowhere() {
        let of = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            outcome(&pairs.collect())
        };
        assert!(of(&[]).is_none());
        assert!(of(&[("grpc-status", "0")]).unwrap().is_ok());
        let fault = of(&[("grpc-status", "8"), ("grpc-message", "too%20slow%0A")]).unwrap();
        let error = fault.unwrap_err().to_string();
        assert_eq!(error, "it answers with gRPC status 8: too slow ");
        assert!(of(&[("grpc-status", "x")]).unwrap().is_err());
    }
}
