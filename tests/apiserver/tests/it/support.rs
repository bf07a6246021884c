//! kube's client, connected to the server.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use rulec_apiserver::{ApiServer, Credential, Resource};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

pub(crate) fn service(name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "clusterIP": cluster_ip, "ports": [{ "port": 80, "protocol": "TCP" }] },
    })
}

pub(crate) async fn client(server: &ApiServer) -> Client {
    client_with(server, &Credential::Token("token".to_owned())).await
}

pub(crate) async fn client_with(server: &ApiServer, credential: &Credential) -> Client {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    server.write_kubeconfig(&path, credential);
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    // The tests need to see 429 and 503, which the client would retry by default.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

pub(crate) fn services(client: Client) -> Api<Service> {
    Api::all(client)
}

/// Returns the status code of a refusal; 0 if there was none.
pub(crate) fn code<T>(answer: kube::Result<T>) -> u16 {
    match answer {
        Ok(_) => 0,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other:?}"),
    }
}

/// Awaits the future with a time limit.
pub(crate) async fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("nothing happened")
}

pub(crate) async fn until(condition: impl Fn() -> bool) {
    now(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// The events of a watcher as words, while it runs as a task.
pub(crate) struct Log {
    said: UnboundedReceiver<Result<String, String>>,
    pub(crate) errors: Vec<String>,
    task: JoinHandle<()>,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Log {
    pub(crate) async fn of(server: &ApiServer, config: watcher::Config) -> Self {
        let services = services(client(server).await);
        let (say, said) = unbounded_channel();
        let task = tokio::spawn(async move {
            let mut events = watcher(services, config).boxed();
            while let Some(event) = events.next().await {
                let failed = event.is_err();
                let word = event.map(|event| word(&event)).map_err(|error| format!("{error:?}"));
                if say.send(word).is_err() {
                    return;
                }
                if failed {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Self { said, errors: Vec::new(), task }
    }

    /// Returns the next event, which must not be an error.
    pub(crate) async fn next(&mut self) -> String {
        now(self.said.recv()).await.expect("the watcher goes on").expect("no error")
    }

    /// Returns the names of the initial objects; there must be no error before.
    pub(crate) async fn initial(&mut self) -> Vec<String> {
        let names = self.errors_until_initial().await;
        assert_eq!(self.errors, [""; 0]);
        names
    }

    /// Returns the names of the first complete initial list, and collects errors before it.
    pub(crate) async fn errors_until_initial(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            match now(self.said.recv()).await.expect("the watcher goes on") {
                Err(error) => self.errors.push(error),
                Ok(word) if word == "begin" => names.clear(),
                Ok(word) if word == "done" => return names,
                Ok(word) => names.extend(word.strip_prefix("init ").map(str::to_owned)),
            }
        }
    }

    /// Returns the next event, and collects errors before it.
    pub(crate) async fn change_after_errors(&mut self) -> String {
        loop {
            match now(self.said.recv()).await.expect("the watcher goes on") {
                Err(error) => self.errors.push(error),
                Ok(word) => return word,
            }
        }
    }

    /// Returns the next error, which must be the next event.
    pub(crate) async fn error(&mut self) -> String {
        now(self.said.recv()).await.expect("the watcher goes on").expect_err("an error")
    }

    /// Waits until the server has the watch.
    pub(crate) async fn watching(&self, server: &ApiServer) {
        until(|| server.open_watches(Resource::Services) == 1).await;
    }
}

fn word(event: &Event<Service>) -> String {
    let named = |what: &str, service: &Service| {
        format!("{what} {}", service.metadata.name.as_deref().unwrap_or_default())
    };
    match event {
        Event::Init => "begin".to_owned(),
        Event::InitApply(service) => named("init", service),
        Event::InitDone => "done".to_owned(),
        Event::Apply(service) => named("apply", service),
        Event::Delete(service) => named("delete", service),
    }
}
