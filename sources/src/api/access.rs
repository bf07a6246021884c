//! A client of the server, which is replaced when it may be the cause of failures.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::{Mutex, Notify, OnceCell};
use tower::{BoxError, Service, ServiceExt};
use tracing::{debug, info};

use super::fault::Fault;
use super::plugin::{Credential, Leash, Plugin, is_over};
use super::position::Identity;
use super::proxy::{self, Proxy, Scheme};
use super::{ApiAccess, ApiOptions, ApiStatus};
use crate::error::chain;

/// When the kernel begins to probe whether the other end of a quiet connection still exists, and
/// how often. A dead machine is noticed after
/// `KEEPALIVE_IDLE + KEEPALIVE_RETRIES * KEEPALIVE_EACH`.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_EACH: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 4;

/// How long connecting may take. The start of this daemon may be what makes the server's address
/// work, so that the next attempt succeeds.
const CONNECT: Duration = Duration::from_secs(5);

/// How long bytes that we sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// The state that all requests to the server share.
pub(super) struct Access {
    pub(super) options: ApiOptions,
    pub(super) status: Arc<ApiStatus>,
    held: RefCell<Option<Held>>,
    /// Locked while a client is made; holds why the last attempt failed.
    making: Mutex<Option<Fault>>,
    /// The number of attempts to make a client.
    attempts: Cell<u64>,
    /// The credential that a plugin printed, and the plugin.
    credential: RefCell<Option<(Plugin, Credential)>>,
    leash: Leash,
    /// The proxy by which the server is reached.
    proxy: RefCell<Option<String>>,
    compresses: Cell<bool>,
    streams: Cell<bool>,
    /// Notified when a list has come.
    pub(super) reached: Notify,
    /// Identifies the server, once it was asked.
    pub(super) identity: OnceCell<Identity>,
    /// Makes connections in place of the network.
    #[cfg(feature = "simulation")]
    dialer: Option<super::dialer::Dialer>,
}

struct Held {
    client: Client,
    generation: u64,
    /// When its credentials expire.
    until: Option<Timestamp>,
    /// Whether to replace it before it is used again.
    doubtful: bool,
}

impl Held {
    fn is_good(&self) -> bool {
        !self.doubtful && !self.until.is_some_and(is_over)
    }

    fn get(&self) -> (Client, u64) {
        (self.client.clone(), self.generation)
    }
}

impl Access {
    pub(super) fn new(options: ApiOptions, status: Arc<ApiStatus>, leash: Leash) -> Self {
        Self {
            options,
            status,
            held: RefCell::new(None),
            making: Mutex::new(None),
            attempts: Cell::new(0),
            credential: RefCell::new(None),
            leash,
            proxy: RefCell::new(None),
            compresses: Cell::new(true),
            streams: Cell::new(true),
            reached: Notify::new(),
            identity: OnceCell::new(),
            #[cfg(feature = "simulation")]
            dialer: None,
        }
    }

    /// Connects in this way instead of by the network.
    #[cfg(feature = "simulation")]
    pub(super) fn dialing(self, dialer: super::dialer::Dialer) -> Self {
        Self { dialer: Some(dialer), ..self }
    }

    #[cfg(feature = "simulation")]
    fn connect(&self, config: &Config, proxy: Option<Proxy>) -> kube::Result<Client> {
        match &self.dialer {
            Some(dialer) => client_by(config, dialer.clone()),
            None => client_of(config, proxy),
        }
    }

    #[cfg(not(feature = "simulation"))]
    #[allow(clippy::unused_self, reason = "a simulation connects in another way")]
    fn connect(&self, config: &Config, proxy: Option<Proxy>) -> kube::Result<Client> {
        client_of(config, proxy)
    }

    /// Returns the name of the server for logs and for the saved state.
    pub(super) fn name(&self) -> impl fmt::Display {
        let ApiAccess { kubeconfig, master } = &self.options.access;
        match (master, kubeconfig) {
            (Some(master), _) => master.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "of this cluster".to_owned(),
        }
    }

    /// Returns a client, and its number for [`doubt`](Self::doubt). Concurrent callers that need a
    /// new client wait for the same attempt to make one.
    pub(super) async fn client(&self) -> Result<(Client, u64), Fault> {
        if let Some(held) = self.held.borrow().as_ref().filter(|held| held.is_good()) {
            return Ok(held.get());
        }
        let attempts = self.attempts.get();
        let mut failure = self.making.lock().await;
        // Otherwise another caller has tried it during the wait.
        if self.attempts.get() == attempts {
            *failure = self.make().await.err();
            self.attempts.set(attempts + 1);
        }
        let held = self.held.borrow();
        match (&*failure, &*held) {
            (None, Some(held)) => Ok(held.get()),
            // Files may be missing for a moment while they are rotated, and the old client may
            // still work. Without a credential, it does not.
            (Some(fault @ (Fault::Config(_) | Fault::Connection(_))), Some(held)) => {
                debug!(%fault, "cannot make a new client, keeping the old one");
                Ok(held.get())
            }
            (Some(fault), _) => Err(fault.clone()),
            (None, None) => Err(Fault::Config("there is no client yet".to_owned())),
        }
    }

    /// Notes a failure of this client that a new one may avoid, unless it was replaced already.
    pub(super) fn doubt(&self, generation: u64, fault: &Fault) {
        if let Some(held) = &mut *self.held.borrow_mut()
            && held.generation == generation
        {
            held.doubtful = true;
            if fault.code() == Some(401) {
                *self.credential.borrow_mut() = None;
            }
        }
    }

    /// Returns whether lists may be compressed.
    pub(super) fn compresses(&self) -> bool {
        self.compresses.get()
    }

    /// Returns a fault for a connection that failed or broke, with the proxy that was used.
    pub(super) fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Fault {
        let text = chain(error);
        Fault::Connection(match &*self.proxy.borrow() {
            Some(proxy) => format!("{text} (via {proxy})"),
            None => text,
        })
    }

    /// Returns whether the server may be able to stream lists.
    pub(super) fn streams(&self) -> bool {
        self.streams.get()
    }

    /// Notes that the server does not support streaming lists.
    pub(super) fn streams_not(&self, reason: &Fault) {
        if self.streams.replace(false) {
            info!(%reason, "the server does not stream lists, reading them in pages");
        }
    }

    /// Returns the host of the server, if the files can be read.
    pub(super) async fn host(&self) -> Option<String> {
        let reach = reach(&self.options).await.ok()?;
        reach.config.cluster_url.host().map(str::to_owned)
    }

    /// Makes a client from the current content of the files.
    async fn make(&self) -> Result<(), Fault> {
        let Reach { mut config, proxy, plugin } = reach(&self.options).await?;
        let mut until = None;
        if let Some(plugin) = plugin {
            let is_usable = |held: &(Plugin, Credential)| held.0 == plugin && !held.1.is_over();
            if !self.credential.borrow().as_ref().is_some_and(is_usable) {
                let limit = self.options.timing.plugin;
                let credential = plugin.run(limit, &self.leash).await?;
                debug!(until = ?credential.until, "a credential plugin has answered");
                *self.credential.borrow_mut() = Some((plugin, credential));
            }
            if let Some((_, credential)) = &*self.credential.borrow() {
                credential.apply(&mut config.auth_info);
                until = credential.until;
            }
        }
        self.compresses.set(!config.disable_compression);
        let name = proxy.as_ref().map(ToString::to_string);
        if *self.proxy.borrow() != name {
            info!(proxy = name.as_deref().unwrap_or("none"), "proxy for the API server");
            *self.proxy.borrow_mut() = name;
        }
        let client = self.connect(&config, proxy).map_err(|error| unusable(&error))?;
        let mut held = self.held.borrow_mut();
        let generation = held.as_ref().map_or(0, |held| held.generation + 1);
        *held = Some(Held { client, generation, until, doubtful: false });
        Ok(())
    }
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::Config(chain(error))
}

/// Returns the fault for a kubeconfig that cannot be read. The parser's message may quote the file,
/// which contains secrets, so only the position is reported.
fn unreadable(path: &Path, error: &KubeconfigError) -> Fault {
    let KubeconfigError::Parse(parsing) = error else { return unusable(error) };
    let place =
        parsing.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    let place = place.unwrap_or_default();
    Fault::Config(format!("{}: cannot be parsed{place}", path.display()))
}

/// The settings for reaching the server.
struct Reach {
    config: Config,
    proxy: Option<Proxy>,
    plugin: Option<Plugin>,
}

async fn reach(options: &ApiOptions) -> Result<Reach, Fault> {
    let ApiAccess { kubeconfig, master } = &options.access;
    let master = match master {
        None => None,
        Some(text) => Some(Config::new(
            text.parse()
                .map_err(|error| Fault::Config(format!("{text:?} is not a URL: {error}")))?,
        )),
    };
    let mut proxy_url = None;
    let mut config = match (kubeconfig, master) {
        (Some(path), master) => {
            let (mut config, url) = config_of(path).await?;
            proxy_url = url;
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
    let proxy = proxy::choose(&config.cluster_url, proxy_url.as_deref(), &options.proxies)?;
    let is_plain = config.cluster_url.scheme_str() == Some("http")
        && proxy.as_ref().is_none_or(|proxy| proxy.scheme != Scheme::Https);
    if is_plain || config.accept_invalid_certs {
        // No certificate is verified. Otherwise the client needs the authorities of the system,
        // which a node may not have.
        config.root_cert.get_or_insert_default();
    }
    let user = &mut config.auth_info;
    // An auth provider runs a command as well; Kubernetes removed auth providers in 1.26.
    if user.auth_provider.as_ref().is_some_and(|provider| provider.config.contains_key("cmd-path"))
    {
        let message = "users[].user.auth-provider is not supported, use a credential plugin (exec)";
        return Err(Fault::Config(message.to_owned()));
    }
    let has_other = user.token.is_some() || user.token_file.is_some() || user.username.is_some();
    let mut exec = user.exec.take().filter(|_| !has_other);
    if let Some(cluster) = exec.as_mut().and_then(|exec| exec.cluster.as_mut()) {
        cluster.proxy_url = proxy_url;
    }
    let plugin = exec.map(Plugin::new).transpose()?;
    Ok(Reach { config, proxy, plugin })
}

/// Reads a kubeconfig, and its `proxy-url`.
async fn config_of(path: &Path) -> Result<(Config, Option<String>), Fault> {
    let mut file = Kubeconfig::read_from(path).map_err(|error| unreadable(path, &error))?;
    // Without a `proxy-url`, kube would read the environment in its own way, so set a placeholder.
    let mut proxy_url = None;
    let context = file.contexts.iter().find(|it| Some(&it.name) == file.current_context.as_ref());
    let name = context.and_then(|it| it.context.as_ref()).map(|it| it.cluster.clone());
    let cluster = file.clusters.iter_mut().find(|it| Some(&it.name) == name.as_ref());
    if let Some(cluster) = cluster.and_then(|it| it.cluster.as_mut()) {
        proxy_url = cluster.proxy_url.replace("http://chosen.otherwise".to_owned());
    }
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| unusable(&error))?;
    config.proxy_url = None;
    Ok((config, proxy_url))
}

/// Makes the client that kube would make, but with keepalive, and without its retries and log
/// lines.
fn client_of(config: &Config, proxy: Option<Proxy>) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EACH));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let Some(proxy) = proxy else { return client_by(config, tcp) };
    let authorization = proxy.authorization();
    match proxy.scheme {
        Scheme::Http => client_by(config, tunnel(proxy.url, tcp, authorization)),
        Scheme::Https => {
            let tls = config.rustls_https_connector_with_connector(tcp)?;
            client_by(config, tunnel(proxy.url, tls, authorization))
        }
        Scheme::Socks5 => {
            let socks = SocksV5::new(proxy.url, tcp);
            client_by(
                config,
                match proxy.user {
                    Some((user, password)) => socks.with_auth(user, password),
                    None => socks,
                },
            )
        }
    }
}

fn tunnel<C>(proxy: Uri, connector: C, authorization: Option<HeaderValue>) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy, connector);
    match authorization {
        Some(authorization) => tunnel.with_auth(authorization),
        None => tunnel,
    }
}

/// Makes a client that connects by this connector.
fn client_by<C>(config: &Config, connector: C) -> kube::Result<Client>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: std::error::Error + Send + Sync + 'static,
{
    let connector = config.rustls_https_connector_with_connector(connector)?;
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
