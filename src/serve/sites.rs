//! What the two servers of the daemon show, as kube-proxy's do.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Answer, Bind, Site, serve};
use crate::config::{Config, Mode};
use crate::health::Health;
use crate::metrics::{Metrics, scrape};
use crate::monitor::Monitor;

/// Where the daemon shows how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where `/healthz`, `/livez` and `/readyz` are, if anywhere.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics`, `/metrics/slis`, `/proxyMode` and `/configz` are, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// How long the kernel may be behind before that is unhealthy.
    pub staleness: Duration,
    /// Whether it is fatal that an address cannot be had.
    pub hard_fail: bool,
    /// What is programmed.
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
    /// How to listen at one of the addresses.
    pub fn bind(&self, address: SocketAddr) -> Bind {
        // As in Go: `[::]` stands for every address of both families.
        Bind { address, v6_only: false, hard_fail: self.hard_fail }
    }
}

/// The servers that are running. Dropping it ends them.
#[derive(Debug)]
pub struct Servers(JoinSet<io::Result<Infallible>>);

impl Servers {
    /// Starts those that are configured. Must be called from within a runtime.
    pub fn start(options: &Options, monitor: &Monitor, config: serde_json::Value) -> Self {
        let mut servers = JoinSet::new();
        if let Some(address) = options.healthz {
            let site = monitor.health_site();
            servers.spawn(serve("healthz".to_owned(), options.bind(address), site));
        }
        if let Some(address) = options.metrics {
            let site = monitor.metrics_site(options.mode, config);
            servers.spawn(serve("metrics".to_owned(), options.bind(address), site));
        }
        Self(servers)
    }

    /// Is ready with the reason when one of them has ended: its address cannot be had, and that is
    /// fatal.
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
    /// How the daemon is, always up to date.
    pub health: watch::Receiver<Health>,
    /// Where the answers are counted.
    pub metrics: Arc<Metrics>,
}

impl Site for HealthSite {
    async fn answer(&self, path: &str) -> Answer {
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
            _ => Answer::not_found(),
        }
    }
}

/// Metrics, or why there are none at the moment.
fn exposition(text: anyhow::Result<String>) -> Answer {
    match text {
        Ok(text) => Answer {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            ..Answer::text(StatusCode::OK, text)
        },
        Err(error) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
    }
}

/// `/metrics` and what says what this is.
#[derive(Clone, Debug)]
pub struct MetricsSite {
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// Asks the daemon what there is.
    pub scraper: scrape::Scraper,
    /// What is programmed.
    pub mode: Mode,
    /// The effective configuration, as JSON.
    pub config: Arc<serde_json::Value>,
}

impl Site for MetricsSite {
    async fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => exposition(self.scraper.scrape(Arc::clone(&self.metrics)).await),
            "/metrics/slis" => exposition(self.metrics.slis_text().map_err(Into::into)),
            // Here, it says only that somebody answers.
            "/healthz" => {
                self.metrics.slis.pinged();
                Answer::text(StatusCode::OK, "ok")
            }
            "/proxyMode" => Answer::text(StatusCode::OK, self.mode.name()),
            "/configz" => Answer::json(StatusCode::OK, &*self.config),
            _ => Answer::not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_mode_is_the_one_in_force() {
        let monitor = Monitor::new(Duration::from_secs(60), []);
        for (mode, name) in [(Mode::Nftables, "nftables"), (Mode::Ipvs, "ipvs")] {
            let site = monitor.metrics_site(mode, serde_json::Value::Null);
            assert_eq!(site.answer("/proxyMode").await.body, name);
        }
    }
}
