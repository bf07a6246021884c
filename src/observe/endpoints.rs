//! The content of the daemon's two servers by TCP, as in kube-proxy, and the start of all three.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http::{Bind, HttpAnswer, Site, serve};
use super::page::{PAGE, PageSite};
use super::socket;
use super::state::StateSite;
use crate::config::{Config, Mode};
use crate::observe::health::Health;
use crate::observe::metrics::{Metrics, scrape};

/// Where and how the daemon serves its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The address of `/healthz`, `/livez` and `/readyz`, if they are served.
    pub healthz: Option<SocketAddr>,
    /// The address of `/metrics`, `/metrics/slis`, `/proxyMode` and `/configz`, if they are served.
    pub metrics: Option<SocketAddr>,
    /// How long the kernel may be behind before the node is unhealthy.
    pub staleness: Duration,
    /// Whether it is fatal if an address is not available.
    pub hard_fail: bool,
    /// The proxy mode.
    pub mode: Mode,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            healthz: config.healthz,
            metrics: config.metrics,
            staleness: config.sync_period.saturating_mul(2),
            hard_fail: config.bind_address_hard_fail,
            mode: config.mode,
        }
    }
}

impl Options {
    /// Returns how to listen at one of the addresses.
    pub fn bind(&self, address: SocketAddr) -> Bind {
        // As in Go: `[::]` means every address of both families.
        Bind { address, v6_only: false, hard_fail: self.hard_fail }
    }
}

/// The servers that are running. Dropping it ends them.
#[derive(Debug)]
pub struct Servers(JoinSet<io::Result<Infallible>>);

impl Servers {
    /// Starts the configured servers. Must be called from within a runtime.
    pub fn start(
        options: &Options,
        health: HealthSite,
        metrics: MetricsSite,
        socket: Option<(PathBuf, StateSite)>,
    ) -> Self {
        let mut servers = JoinSet::new();
        if let Some(address) = options.healthz {
            servers.spawn(serve("healthz".to_owned(), options.bind(address), health));
        }
        if let Some(address) = options.metrics {
            servers.spawn(serve("metrics".to_owned(), options.bind(address), metrics));
        }
        if let Some((path, state)) = socket {
            servers.spawn(socket::serve(path, state));
        }
        Self(servers)
    }

    /// Resolves with the reason when one of them has ended: its address is not available, and that
    /// is fatal.
    pub async fn failure(mut self) -> anyhow::Error {
        match self.0.join_next().await {
            None => std::future::pending().await,
            Some(Err(error)) => anyhow::Error::new(error).context("a server died"),
            Some(Ok(Err(error))) => error.into(),
            Some(Ok(Ok(never))) => match never {},
        }
    }
}

/// `/healthz`, `/livez` and `/readyz`.
#[derive(Clone, Debug)]
pub struct HealthSite {
    /// The health of the daemon, always up to date.
    pub health: watch::Receiver<Health>,
    /// Counts the answers.
    pub metrics: Arc<Metrics>,
}

impl Site for HealthSite {
    async fn answer(&self, path: &str, _: &str) -> HttpAnswer {
        let health = self.health.borrow().clone();
        let (now, wall) = (Instant::now(), Timestamp::now());
        match path {
            "/healthz" => {
                let answer = health.healthz(now, wall);
                self.metrics.kube_proxy.healthz(answer.code);
                answer
            }
            "/livez" => {
                let answer = health.livez(now, wall);
                self.metrics.kube_proxy.livez(answer.code);
                answer
            }
            "/readyz" => health.readyz(),
            _ => HttpAnswer::not_found(),
        }
    }
}

/// Returns the metrics, or why there are none at the moment.
fn exposition(text: anyhow::Result<String>) -> HttpAnswer {
    match text {
        Ok(text) => HttpAnswer {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..HttpAnswer::text(StatusCode::OK, text)
        },
        Err(error) => HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
    }
}

/// `/metrics`, and the paths that describe the process.
#[derive(Clone, Debug)]
pub struct MetricsSite {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Asks the daemon for its current state.
    pub scraper: scrape::Scraper,
    /// The proxy mode.
    pub mode: Mode,
    /// The effective configuration, as JSON.
    pub config: Arc<serde_json::Value>,
    /// The page for people, if it is served.
    pub page: Option<PageSite>,
}

impl Site for MetricsSite {
    fn allows(&self, method: &Method, path: &str) -> bool {
        *method == Method::GET || path != PAGE || self.page.is_none()
    }

    async fn answer(&self, path: &str, query: &str) -> HttpAnswer {
        match path {
            PAGE => match &self.page {
                Some(page) => page.answer(query).await,
                None => HttpAnswer::not_found(),
            },
            "/metrics" => exposition(self.scraper.scrape(Arc::clone(&self.metrics)).await),
            "/metrics/slis" => exposition(self.metrics.slis_text().map_err(Into::into)),
            // Here, it says only that the process answers.
            "/healthz" => {
                self.metrics.slis.pinged();
                HttpAnswer::text(StatusCode::OK, "ok")
            }
            "/proxyMode" => HttpAnswer::text(StatusCode::OK, self.mode.name()),
            "/configz" => HttpAnswer::json(StatusCode::OK, &*self.config),
            _ => HttpAnswer::not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::monitor::Monitor;

    #[tokio::test]
    async fn the_proxy_mode_page_shows_the_effective_mode() {
        let monitor = Monitor::new(Duration::from_secs(60), []);
        for (mode, name) in [(Mode::Nftables, "nftables"), (Mode::Ipvs, "ipvs")] {
            let site = monitor.metrics_site(mode, serde_json::Value::Null);
            assert_eq!(site.answer("/proxyMode", "").await.body, name);
        }
    }
}
