//! gRPC in the bodies of a call: requests as they come, and responses.
//!
//! tonic has that, too, but each of its calls keeps two buffers that are as long as the longest
//! message that has gone through them: a hundred kilobytes for each node, for a first request that
//! names a thousand Services. Here no memory stays between messages.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use prost::Message;
use rulec_relay::discovery::DeltaRequest;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Code, Status};

/// The bytes of the flag and the length before each message.
const HEADER: usize = 5;

/// Responses on their way to a node.
pub(crate) type Out = mpsc::Sender<Result<Bytes, Status>>;

/// The requests of a call.
pub(crate) struct Requests {
    body: Body,
    /// What has come of the next request.
    buffer: BytesMut,
    longest: usize,
}

impl Requests {
    /// Reads the requests of a body, which may have this many bytes each.
    pub(crate) fn new(body: Body, longest: usize) -> Self {
        Self { body, buffer: BytesMut::new(), longest }
    }

    /// Returns the next request; `None` after the last, or if the node has gone. Nothing is lost if
    /// this future is dropped.
    ///
    /// # Errors
    ///
    /// If what the node sends cannot be read.
    pub(crate) async fn message(&mut self) -> Result<Option<DeltaRequest>, Status> {
        loop {
            if let Some(request) = self.next()? {
                return Ok(Some(request));
            }
            match self.body.frame().await {
                // Trailers say nothing.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(status)) if status.code() == Code::Cancelled => return Ok(None),
                Some(Err(status)) => return Err(status),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("the last request is cut off")),
            }
        }
    }

    /// Returns the next request if all of it has come.
    fn next(&mut self) -> Result<Option<DeltaRequest>, Status> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let [flag, length @ ..] = *header;
        if flag != 0 {
            return Err(Status::unimplemented("compressed requests are not read"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.longest {
            let message = format!("a request of {length} bytes; {} are read", self.longest);
            return Err(Status::out_of_range(message));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let request = DeltaRequest::decode(self.buffer.split_to(length));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        request.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// The responses of a call, which are encoded already.
pub(crate) struct Responses {
    responses: mpsc::Receiver<Result<Bytes, Status>>,
    is_over: bool,
}

impl Responses {
    /// Begins an answer with these responses. The first failure is the last of them.
    pub(crate) fn answer(responses: mpsc::Receiver<Result<Bytes, Status>>) -> Response<Body> {
        let mut answer = Response::new(Body::new(Self { responses, is_over: false }));
        *answer.status_mut() = StatusCode::OK;
        let grpc = HeaderValue::from_static("application/grpc");
        answer.headers_mut().insert(CONTENT_TYPE, grpc);
        answer
    }
}

impl hyper::body::Body for Responses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let status = match ready!(self.responses.poll_recv(context)) {
            Some(Ok(response)) => return Poll::Ready(Some(Ok(Frame::data(framed(&response))))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.is_over = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER + message.len());
    bytes.put_u8(0);
    // Responses are cut far below the limit.
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("2"));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    const LONGEST: usize = 100_000;

    /// Requests whose bytes come in pieces of this length.
    fn requests(bytes: &[u8], piece: usize) -> Requests {
        let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        Requests::new(Body::new(StreamBody::new(tokio_stream::iter(frames))), LONGEST)
    }

    fn request(type_url: &str) -> DeltaRequest {
        DeltaRequest { type_url: type_url.to_owned(), ..DeltaRequest::default() }
    }

    fn encoded(request: &DeltaRequest) -> Bytes {
        framed(&request.encode_to_vec())
    }

    #[tokio::test]
    async fn requests_may_be_cut_anywhere_and_leave_no_memory_behind() {
        let all = [request("a"), request(&"b".repeat(90_000)), DeltaRequest::default()];
        let bytes: Vec<u8> = all.iter().flat_map(encoded).collect();
        for piece in [1, 3, 1_000, bytes.len()] {
            let mut requests = requests(&bytes, piece);
            for wanted in &all {
                assert_eq!(requests.message().await.unwrap().as_ref(), Some(wanted));
            }
            assert_eq!(requests.buffer.capacity(), 0);
            assert_eq!(requests.message().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let whole = encoded(&request("a"));
        let long = [&[0][..], &(LONGEST as u32 + 1).to_be_bytes()].concat();
        let cases = [
            (&whole[..whole.len() - 1], Code::Internal),
            (&[1, 0, 0, 0, 0], Code::Unimplemented),
            (&long, Code::OutOfRange),
            (&framed(&[0xff; 9])[..], Code::InvalidArgument),
        ];
        for (bytes, code) in cases {
            assert_eq!(requests(bytes, 4).message().await.unwrap_err().code(), code);
        }
    }

    #[tokio::test]
    async fn responses_end_with_a_status() {
        for (last, code) in [(None, "0"), (Some(Status::aborted("why")), "10")] {
            let (out, responses) = mpsc::channel(2);
            out.send(Ok(Bytes::from_static(b"abc"))).await.unwrap();
            if let Some(status) = last {
                out.send(Err(status)).await.unwrap();
            }
            drop(out);
            let answer = Responses::answer(responses);
            assert_eq!(answer.headers()[CONTENT_TYPE], "application/grpc");
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()[Status::GRPC_STATUS], code);
            assert_eq!(body.to_bytes(), Bytes::from_static(b"\0\0\0\0\x03abc"));
        }
    }
}
