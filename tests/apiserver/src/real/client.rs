//! The test's own client: one request, one answer, no retry.

use std::sync::mpsc as answers;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use kube::Config;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// A request without an answer within this time counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer with any status code.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) code: u16,
    /// Null if the body is not JSON.
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

enum Job {
    Run(Box<dyn FnOnce() + Send>),
    Send {
        method: Method,
        path: String,
        body: Option<String>,
        answer: answers::Sender<Result<Answer, String>>,
    },
}

/// A thread with connections, in the network namespace of the thread that created it.
#[derive(Debug)]
pub(super) struct Client {
    // Invariant: both are `Some` until drop.
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub(super) fn with_kubeconfig(text: &str) -> Self {
        let file = Kubeconfig::from_yaml(text).expect("our own kubeconfig is valid");
        Self::start(async move {
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.expect("and usable")
        })
    }

    /// Creates a client for a server that asks for no credentials.
    pub(super) fn with_url(url: &str) -> Self {
        let config = Config::new(url.parse().expect("our own URL is valid"));
        Self::start(async move { config })
    }

    fn start(config: impl Future<Output = Config> + Send + 'static) -> Self {
        let (jobs, mut received) = unbounded_channel::<Job>();
        let work = async move {
            let mut config = config.await;
            config.default_retry = false;
            let client = kube::Client::try_from(config).expect("a client is made");
            while let Some(job) = received.recv().await {
                let (method, path, body, answer) = match job {
                    Job::Run(work) => {
                        work();
                        continue;
                    }
                    Job::Send { method, path, body, answer } => (method, path, body, answer),
                };
                let client = client.clone();
                tokio::spawn(async move {
                    let outcome = timeout(PATIENCE, send(&client, method, &path, body)).await;
                    let outcome = outcome.unwrap_or_else(|_| Err("no answer".to_owned()));
                    // The receiver is gone if its test has failed.
                    let _gone = answer.send(outcome);
                });
            }
        };
        let thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime starts")
                    .block_on(work);
            })
            .expect("a thread starts");
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Sends a request, and waits for the answer.
    ///
    /// # Errors
    ///
    /// When there is no answer. The server may have carried out the request nevertheless.
    pub(super) fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let (answer, wait) = answers::channel();
        let body = body.map(Value::to_string);
        self.give(Job::Send { method, path: path.to_owned(), body, answer });
        wait.recv().map_err(|error| error.to_string())?
    }

    /// Runs a function in the thread's network namespace, which processes inherit.
    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = answers::channel();
        self.give(Job::Run(Box::new(move || {
            // The receiver is gone if its test has failed.
            let _gone = done.send(work());
        })));
        wait.recv().expect("the thread lives")
    }

    fn give(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("until drop there is a thread");
        assert!(jobs.send(job).is_ok(), "the thread lives");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<Answer, String> {
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body.unwrap_or_default().into_bytes()))
        .map_err(|error| error.to_string())?;
    let response = client.send(request).await.map_err(|error| format!("{error:?}"))?;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(Answer { code, body: serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default() })
}
