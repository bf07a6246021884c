//! A client that does only what it is told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rulec_relay::Topic;
use rulec_relay::discovery::{DeltaRequest, DeltaResponse, METHOD, Node};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Raw {
    requests: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    response: Response<Incoming>,
    unread: BytesMut,
    _connection: JoinSet<()>,
}

/// Returns the first request of a node.
pub(crate) fn first(node: &str) -> DeltaRequest {
    let node = Node { id: node.to_owned(), ..Node::default() };
    DeltaRequest { node: Some(node), ..subscription(Topic::Services) }
}

/// Returns the request for all resources of a type.
pub(crate) fn subscription(topic: Topic) -> DeltaRequest {
    DeltaRequest { type_url: topic.url().to_owned(), ..DeltaRequest::default() }
}

/// Returns the answer to a response with Services.
pub(crate) fn answer(nonce: u64) -> DeltaRequest {
    DeltaRequest { nonce: nonce.to_string(), ..subscription(Topic::Services) }
}

impl Raw {
    /// Begins a call, with so many bytes that may be on their way.
    pub(crate) async fn connect(address: SocketAddr, window: Option<u32>) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(socket))
            .await
            .unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move { drop(connection.await) });
        let (requests, sent) = mpsc::channel(16);
        let request = Request::post(format!("http://{address}{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(ReceiverStream::new(sent)))
            .unwrap();
        let response = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        Self { requests, response, unread: BytesMut::new(), _connection: task }
    }

    pub(crate) async fn send(&self, bytes: &[u8]) {
        let frame = Frame::data(Bytes::copy_from_slice(bytes));
        timeout(PATIENCE, self.requests.send(Ok(frame))).await.unwrap().unwrap();
    }

    pub(crate) async fn ask(&self, request: &DeltaRequest) {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        self.send(&[&[0], &length[..], &message].concat()).await;
    }

    /// Reads something, and returns its length.
    pub(crate) async fn read(&mut self) -> usize {
        let frame = timeout(PATIENCE, self.response.body_mut().frame()).await.unwrap();
        let data = frame.unwrap().unwrap().into_data().unwrap();
        self.unread.extend_from_slice(&data);
        data.len()
    }

    /// Reads until a response has a position.
    pub(crate) async fn until_position(&mut self) {
        loop {
            while let Some(length) = self.unread.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.unread.len() < 5 + length {
                    break;
                }
                let message = self.unread.split_to(5 + length);
                if !DeltaResponse::decode(&message[5..]).unwrap().position.is_empty() {
                    return;
                }
            }
            self.read().await;
        }
    }

    /// Reads until the end, and returns the status.
    pub(crate) async fn end(&mut self) -> (i32, String) {
        let mut headers = self.response.headers().clone();
        while let Some(frame) = timeout(PATIENCE, self.response.body_mut().frame()).await.unwrap() {
            if let Ok(trailers) = frame.unwrap().into_trailers() {
                headers.extend(trailers);
            }
        }
        let text = |name: &str| headers.get(name).map_or("", |it| it.to_str().unwrap()).to_owned();
        (text("grpc-status").parse().unwrap(), text("grpc-message").replace("%20", " "))
    }
}
