//! A client of the server, made anew when it may be the client's fault that it does not work.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::{Notify, OnceCell};
use tower::{BoxError, ServiceExt};
use tracing::{debug, info};

use super::fault::{Fault, chain};
use super::saved::Identity;
use super::{ApiAccess, ApiOptions, ApiStatus};

/// When the kernel begins to ask whether the other end of a quiet connection is still there, and how
/// often. A machine that died is noticed after `KEEPALIVE_IDLE + KEEPALIVE_RETRIES * KEEPALIVE_EACH`.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_EACH: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 4;

/// How long a connection may take to come about. A start may be what makes the server's address lead
/// somewhere, so that the next attempt finds it.
const CONNECT: Duration = Duration::from_secs(5);

/// For how long bytes that we sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// What all that is asked of the server shares.
pub(super) struct Access {
    pub(super) options: ApiOptions,
    pub(super) status: Arc<ApiStatus>,
    held: RefCell<Option<Held>>,
    streams: Cell<bool>,
    /// Tells that a list has come.
    pub(super) reached: Notify,
    /// Which server it is, once that was asked.
    pub(super) identity: OnceCell<Identity>,
}

struct Held {
    client: Client,
    generation: u64,
    /// Whether to make another before it is used again.
    doubtful: bool,
}

impl Access {
    pub(super) fn new(options: ApiOptions, status: Arc<ApiStatus>) -> Self {
        Self {
            options,
            status,
            held: RefCell::new(None),
            streams: Cell::new(true),
            reached: Notify::new(),
            identity: OnceCell::new(),
        }
    }

    /// What to call the server.
    pub(super) fn name(&self) -> impl fmt::Display {
        let ApiAccess { kubeconfig, master } = &self.options.access;
        match (master, kubeconfig) {
            (Some(master), _) => master.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "of this cluster".to_owned(),
        }
    }

    /// A client, and its number for [`doubt`](Self::doubt).
    pub(super) async fn client(&self) -> Result<(Client, u64), Fault> {
        let mut generation = 0;
        if let Some(held) = &*self.held.borrow() {
            if !held.doubtful {
                return Ok((held.client.clone(), held.generation));
            }
            generation = held.generation + 1;
        }
        match self.make().await {
            Ok(client) => {
                let held = Held { client: client.clone(), generation, doubtful: false };
                *self.held.borrow_mut() = Some(held);
                Ok((client, generation))
            }
            // Files are gone for a moment while they are rotated. The old client may still do.
            Err(fault) => match &*self.held.borrow() {
                Some(held) => {
                    debug!(%fault, "the client cannot be made anew; the old one is used");
                    Ok((held.client.clone(), held.generation))
                }
                None => Err(fault),
            },
        }
    }

    /// Something failed with this client that another may do better, unless there already is another.
    pub(super) fn doubt(&self, generation: u64) {
        if let Some(held) = &mut *self.held.borrow_mut()
            && held.generation == generation
        {
            held.doubtful = true;
        }
    }

    /// Whether the server may be able to stream lists.
    pub(super) fn streams(&self) -> bool {
        self.streams.get()
    }

    /// The server has said that it cannot stream lists.
    pub(super) fn streams_not(&self, reason: &Fault) {
        if self.streams.replace(false) {
            info!(%reason, "the server does not stream lists; they are read in pages");
        }
    }

    /// The host that the server is asked at, as far as the files can be read.
    pub(super) async fn host(&self) -> Option<String> {
        let config = config(&self.options.access).await.ok()?;
        config.cluster_url.host().map(str::to_owned)
    }

    async fn make(&self) -> Result<Client, Fault> {
        client_of(&config(&self.options.access).await?).map_err(|error| unusable(&error))
    }
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::Config(chain(error))
}

/// A kubeconfig that cannot be read. What the parser says may quote from it, and it holds secrets, so
/// of that only the place is said.
fn unreadable(path: &Path, error: &KubeconfigError) -> Fault {
    let KubeconfigError::Parse(parsing) = error else { return unusable(error) };
    let place =
        parsing.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    let place = place.unwrap_or_default();
    Fault::Config(format!("{}: cannot be parsed{place}", path.display()))
}

async fn config(access: &ApiAccess) -> Result<Config, Fault> {
    let master = match &access.master {
        None => None,
        Some(text) => Some(Config::new(
            text.parse()
                .map_err(|error| Fault::Config(format!("{text:?} is not a URL: {error}")))?,
        )),
    };
    let config = match (&access.kubeconfig, master) {
        (Some(path), master) => {
            let file = Kubeconfig::read_from(path).map_err(|error| unreadable(path, &error))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            let mut config = config.map_err(|error| unusable(&error))?;
            if let Some(master) = master {
                config.cluster_url = master.cluster_url;
            }
            config
        }
        (None, Some(master)) => master,
        (None, None) => Config::incluster().map_err(|error| unusable(&error))?,
    };
    if !matches!(config.cluster_url.scheme_str(), Some("http" | "https")) {
        let message = format!("{:?} is not a URL of http or https", config.cluster_url.to_string());
        return Err(Fault::Config(message));
    }
    if config.proxy_url.is_some() {
        return Err(Fault::Config("proxy-url is not supported".to_owned()));
    }
    Ok(config)
}

/// The client that kube would make, but with keepalive, and without retries and log lines of its own.
fn client_of(config: &Config) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EACH));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let http: legacy::Client<_, Body> =
        legacy::Client::builder(TokioExecutor::new()).build(connector);
    let http = http.map_err(BoxError::from);
    let builder = ClientBuilder::new(http, config.default_namespace.clone())
        .with_layer(&config.extra_headers_layer()?);
    let base = config.base_uri_layer();
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).with_layer(&base).build(),
        None => builder.with_layer(&base).build(),
    })
}
