//! `rulec relay`: the API server is followed once, and many nodes are served.
//!
//! ```text
//!  sources ──Update──▶ Model ──differences──▶ Catalogue ──▶ server ──▶ nodes
//! ```
//!
//! There is no state that outlives the process: what a node has, it says when it connects.

mod reviewer;
mod site;
mod upstream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rulec_relay_server::{Bounds, Clients, Relay, Security, TlsFiles, Tokens, serve};
use rulec_sources::TokenReviews;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::relay::RelayServerArgs;
use crate::observe::http::{self, Bind, Site};
use reviewer::ApiReviewer;
use site::{HealthSite, RelaySite};
use upstream::Upstream;

/// How many open files are not for connections of nodes.
const RESERVED: u64 = 256;

/// Serves nodes until it is told to stop.
///
/// # Errors
///
/// If the options cannot be used, the address is not available, or a source dies.
pub fn run(args: &RelayServerArgs) -> anyhow::Result<ExitCode> {
    let files = files(args)?;
    let health = address("--healthz-bind-address", &args.healthz_bind_address)?;
    let metrics = address("--metrics-bind-address", &args.metrics_bind_address)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            ended = serve_all(args, files, [health, metrics]) => ended.map(|never| match never {}),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        }
    });
    // Does not wait for the threads of the sources: one may be in the middle of reading a file.
    runtime.shutdown_background();
    outcome
}

async fn serve_all(
    args: &RelayServerArgs,
    files: Option<TlsFiles>,
    [health, metrics]: [Option<SocketAddr>; 2],
) -> anyhow::Result<Infallible> {
    let relay = Relay::new(Bounds { connections: connections(), ..Bounds::default() });
    let upstream = Upstream::start(args, relay.clone())?;
    let tokens = tokens(args, upstream.reviews())?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let security = match files {
        Some(files) => {
            tracing::info!(%address, "serving nodes");
            Security::Tls(files, tokens.clone())
        }
        None => {
            tracing::warn!(%address, "serving whoever asks, without TLS");
            Security::None
        }
    };
    let held = upstream.status();
    let site = RelaySite::new(relay.clone(), held.clone(), tokens);
    tokio::select! {
        ended = serve(listener, security, relay) => Ok(ended?),
        ended = watch("healthz", health, HealthSite(held)) => Ok(ended?),
        ended = watch("metrics", metrics, site) => Ok(ended?),
        error = upstream.run() => Err(error),
    }
}

/// Returns the files of TLS, unless there is none.
fn files(args: &RelayServerArgs) -> anyhow::Result<Option<TlsFiles>> {
    if args.insecure {
        return Ok(None);
    }
    let (Some(certificate), Some(key)) = (&args.certificate, &args.key) else {
        bail!("--certificate and --key are needed, or --insecure");
    };
    let files = TlsFiles {
        certificate: certificate.clone(),
        key: key.clone(),
        client_authority: args.client_certificate_authority.clone(),
    };
    // Before anything else is started: most mistakes are here.
    files.load(match args.token_audience {
        Some(_) => Clients::WithOrWithoutCertificate,
        None => Clients::WithCertificate,
    })?;
    Ok(Some(files))
}

/// Returns which tokens are accepted, if any are.
fn tokens(
    args: &RelayServerArgs,
    reviews: Option<TokenReviews>,
) -> anyhow::Result<Option<Arc<Tokens>>> {
    let Some(audience) = &args.token_audience else { return Ok(None) };
    let Some(reviews) = reviews else {
        bail!(
            "--token-audience needs an API server, which reviews tokens: give --kubeconfig or \
             --master, or run it in a Pod"
        );
    };
    let accounts = &args.token_service_account;
    Ok(Some(Arc::new(Tokens::new(ApiReviewer(reviews), audience.clone(), accounts))))
}

fn address(option: &str, text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text
        .parse()
        .with_context(|| format!("{option}: {text:?} is not an address with a port"))?;
    Ok(Some(address))
}

/// Serves a site, if it has an address.
async fn watch(
    what: &str,
    address: Option<SocketAddr>,
    site: impl Site,
) -> std::io::Result<Infallible> {
    match address {
        Some(address) => {
            let bind = Bind { address, v6_only: false, hard_fail: false };
            http::serve(what.to_owned(), bind, site).await
        }
        None => std::future::pending().await,
    }
}

/// Allows this process as many open files as it may have, and returns how many of them may be
/// connections of nodes: the rest is for the sources, the log and whoever looks at the relay.
fn connections() -> usize {
    let most = Bounds::default().connections;
    let files = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, hard)| {
        let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        if raised.is_ok() { hard } else { soft }
    });
    let Ok(files) = files else { return most };
    let room = usize::try_from(files.saturating_sub(RESERVED)).unwrap_or(most).max(1);
    if room < most {
        tracing::info!(files, "few files may be open, so that few nodes can connect");
    }
    room.min(most)
}
