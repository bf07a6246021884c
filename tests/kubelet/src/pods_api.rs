//! The pods API: one gRPC method with a stream as its answer.

use std::collections::BTreeMap;
use std::future::pending;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, thread};

use bytes::Bytes;
use h2::SendStream;
use h2::server::{SendResponse, handshake};
use http::{HeaderMap, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::pod::{Pod, field, number};

/// How calls are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As by Kubernetes 1.36.
    Serves,
    /// As by a version that has only this version of the API.
    ServesVersion(&'static str),
    /// The API does not exist.
    HasNoApi,
    /// Connections are accepted, but nothing is answered, as by a process that is stopped.
    Hangs,
    /// The list begins, and never ends.
    HangsInList,
    /// The list begins, and the connection ends in the middle of a message.
    HalfMessage,
    /// The list begins, and goes on with bytes that mean nothing.
    Garbage,
    /// Another protocol.
    NotHttp2,
    /// Calls are refused, as for a client that was too slow.
    Refuses,
}

/// A kubelet. It ends when it is dropped; its socket stays, as after a crash.
#[derive(Debug)]
pub struct Kubelet {
    root: PathBuf,
    state: Arc<Mutex<State>>,
    stopped: watch::Sender<bool>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    pods: BTreeMap<String, Pod>,
    streams: Vec<mpsc::UnboundedSender<Bytes>>,
    calls: usize,
}

impl Kubelet {
    /// Starts a kubelet with this root directory.
    ///
    /// # Panics
    ///
    /// If it cannot listen there.
    #[must_use]
    pub fn start(root: &Path, behaviour: Behaviour, pods: &[Pod]) -> Self {
        let directory = root.join("pods-api");
        fs::create_dir_all(&directory).expect("the directory is made");
        let socket = directory.join("pods-api.sock");
        if let Err(error) = fs::remove_file(&socket) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("it listens");
        listener.set_nonblocking(true).expect("it does not block");
        let pods = pods.iter().map(|pod| (pod.name.clone(), pod.clone())).collect();
        let state = State { behaviour, pods, streams: Vec::new(), calls: 0 };
        let state = Arc::new(Mutex::new(state));
        let (end, mut ended) = oneshot::channel();
        let (stopped, mut is_stopped) = watch::channel(false);
        let thread = thread::spawn({
            let state = Arc::clone(&state);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime");
                let _guard = runtime.enter();
                let accepting = runtime.spawn(accept(listener, state));
                // While the runtime is not driven, nothing is answered.
                while !accepting.is_finished() {
                    let is_over = runtime.block_on(async {
                        tokio::select! {
                            _ = &mut ended => true,
                            _ = is_stopped.wait_for(|is_stopped| *is_stopped) => false,
                        }
                    });
                    if is_over {
                        return;
                    }
                    while *is_stopped.borrow() {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            }
        });
        Self { root: root.to_owned(), state, stopped, end: Some(end), thread: Some(thread) }
    }

    /// Returns its root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the number of calls so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// Changes how further connections and calls are answered.
    pub fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    /// Makes it answer nothing at all, as if its process were stopped, until
    /// [`resume`](Self::resume).
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Makes it go on.
    pub fn resume(&self) {
        self.stopped.send_replace(false);
    }

    /// Ends the streams that are open, but not their connections.
    pub fn end_streams(&self) {
        self.state().streams.clear();
    }

    /// Adds or changes a Pod.
    pub fn put(&self, pod: &Pod) {
        self.put_as(pod, &pod.protobuf());
    }

    /// Adds or changes a Pod, and sends these bytes in its place.
    pub fn put_as(&self, pod: &Pod, bytes: &[u8]) {
        let mut state = self.state();
        let old = state.pods.insert(pod.name.clone(), pod.clone());
        let kind = if old.is_some() { MODIFIED } else { ADDED };
        state.send(&message(&event(kind, bytes)));
    }

    /// Deletes a Pod.
    ///
    /// # Panics
    ///
    /// If there is no such Pod.
    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        let pod = state.pods.remove(name).expect("it has the Pod");
        state.send(&message(&event(DELETED, &pod.identity())));
    }

    /// Sends the deletion of a Pod that it does not have any more.
    pub fn send_deletion(&self, pod: &Pod) {
        self.state().send(&message(&event(DELETED, &pod.identity())));
    }

    /// Sends a message with this content.
    pub fn send(&self, content: &[u8]) {
        self.state().send(&message(content));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.resume();
        drop(self.end.take());
        let outcome = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()), "the kubelet has panicked");
        }
    }
}

impl State {
    fn send(&mut self, message: &Bytes) {
        self.streams.retain(|stream| stream.send(message.clone()).is_ok());
    }
}

/// The types of events.
const ADDED: u64 = 1;
const MODIFIED: u64 = 2;
const DELETED: u64 = 3;
const INITIAL_SYNC_COMPLETE: u64 = 4;

fn event(kind: u64, pod: &[u8]) -> Vec<u8> {
    let mut event = Vec::new();
    number(1, kind, &mut event);
    if !pod.is_empty() {
        field(2, pod, &mut event);
    }
    event
}

/// Returns a message of gRPC, which says how long it is.
fn message(content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).expect("a length fits");
    [&[0][..], &length.to_be_bytes(), content].concat().into()
}

async fn accept(listener: std::os::unix::net::UnixListener, state: Arc<Mutex<State>>) {
    let listener = UnixListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("it accepts");
        // A client may go at any time.
        let state = Arc::clone(&state);
        tokio::spawn(async move { drop(connection(stream, state).await) });
    }
}

fn behaviour(state: &Mutex<State>) -> Behaviour {
    state.lock().unwrap_or_else(PoisonError::into_inner).behaviour
}

async fn connection(mut stream: UnixStream, state: Arc<Mutex<State>>) -> Result<(), h2::Error> {
    let behaviour = behaviour(&state);
    if behaviour == Behaviour::Hangs {
        pending::<()>().await;
    }
    if behaviour == Behaviour::NotHttp2 {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        return Ok(());
    }
    let mut connection = handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, response) = call?;
        let path = request.uri().path().to_owned();
        let behaviour = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.calls += 1;
            state.behaviour
        };
        if behaviour == Behaviour::HalfMessage && path == "/v1alpha1.Pods/WatchPods" {
            let mut body = begin(response)?;
            body.send_data(message(b"12345").slice(..7), false)?;
            // The connection goes on until the bytes are sent.
            let flushed = tokio::time::timeout(Duration::from_millis(100), async {
                while connection.accept().await.is_some() {}
            });
            let _ = flushed.await;
            return Ok(());
        }
        let state = Arc::clone(&state);
        tokio::spawn(async move { drop(answer(&path, behaviour, response, &state).await) });
    }
    Ok(())
}

async fn answer(
    path: &str,
    behaviour: Behaviour,
    response: SendResponse<Bytes>,
    state: &Mutex<State>,
) -> Result<(), h2::Error> {
    let version =
        if let Behaviour::ServesVersion(version) = behaviour { version } else { "v1alpha1" };
    if behaviour == Behaviour::HasNoApi || path != format!("/{version}.Pods/WatchPods") {
        return refuse(response, 12, "unknown service");
    }
    if behaviour == Behaviour::Refuses {
        return refuse(response, 8, "rejected%20by%20rate limit");
    }
    let mut body = begin(response)?;
    let (sender, mut events) = mpsc::unbounded_channel();
    {
        // Nothing happens between the list and the events.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        for pod in state.pods.values() {
            body.send_data(message(&event(ADDED, &pod.protobuf())), false)?;
        }
        if behaviour == Behaviour::Garbage {
            body.send_data(message(&[0xff; 20]), false)?;
        } else if behaviour != Behaviour::HangsInList {
            body.send_data(message(&event(INITIAL_SYNC_COMPLETE, &[])), false)?;
        }
        state.streams.push(sender);
    }
    if behaviour == Behaviour::HangsInList {
        pending::<()>().await;
    }
    while let Some(event) = events.recv().await {
        body.send_data(event, false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "8".parse().expect("a value"));
    trailers.insert("grpc-message", "watch client channel closed".parse().expect("a value"));
    body.send_trailers(trailers)
}

fn begin(mut response: SendResponse<Bytes>) -> Result<SendStream<Bytes>, h2::Error> {
    let head = Response::builder().header("content-type", "application/grpc");
    response.send_response(head.body(()).expect("a response"), false)
}

/// Answers with an outcome alone.
fn refuse(mut response: SendResponse<Bytes>, code: u32, message: &str) -> Result<(), h2::Error> {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", code)
        .header("grpc-message", message);
    response.send_response(head.body(()).expect("a response"), true).map(drop)
}
