//! The servers of `spec.healthCheckNodePort`: they tell load balancers how many endpoints of a
//! Service this node has.
//!
//! There is one server for each Service and family, as in kube-proxy, on the addresses that node
//! ports answer on. The cost of a change of Services or endpoints is proportional to the change.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hyper::StatusCode;
use im::ordmap::DiffItem;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::resolve::local::LocalView;
use rulec_compiler::resolve::node_ports;
use rulec_compiler::{Model, Settings};
use rulec_engine::Locals;
use rulec_sources::{Note, Notes};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::Health;

use crate::observe::http::{Bind, HttpAnswer, Site, serve};

/// The addresses that servers listen on.
pub type Addresses = BTreeMap<Family, BTreeSet<IpAddr>>;

/// Returns the addresses that servers listen on, according to the settings: those that node ports
/// answer on, and loopback where it is among the networks.
pub fn addresses(model: &Model, settings: &Settings) -> Addresses {
    let any = |family| match family {
        Family::Ipv4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let of = |family| match node_ports::addresses(model, settings, family) {
        None => BTreeSet::from([any(family)]),
        Some(some) => some.into_iter().collect(),
    };
    Family::ALL.into_iter().map(|family| (family, of(family))).collect()
}

/// The running servers.
#[derive(Debug)]
pub struct HealthChecks {
    health: watch::Receiver<Health>,
    /// The Services that the servers are for.
    known: Locals,
    addresses: Addresses,
    /// Reports failures as Events of the Services, if there is an API server.
    pub notes: Option<Notes>,
    servers: BTreeMap<(NamespacedName, Family), HealthServer>,
    /// The tasks of the servers.
    tasks: Tasks,
}

type Tasks = JoinSet<io::Result<Infallible>>;

/// One server, listening on all of its addresses.
#[derive(Debug)]
struct HealthServer {
    name: String,
    port: NonZeroU16,
    site: CheckSite,
    listeners: BTreeMap<IpAddr, Listener>,
}

/// Dropping it closes the port on its address.
#[derive(Debug)]
struct Listener(AbortHandle);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthChecks {
    /// Starts without servers.
    pub fn new(health: watch::Receiver<Health>) -> Self {
        Self {
            health,
            known: Locals::new(),
            addresses: Addresses::new(),
            notes: None,
            servers: BTreeMap::new(),
            tasks: Tasks::new(),
        }
    }

    /// Resolves with the reason when a server has died, which none does on its own.
    pub async fn failure(&mut self) -> anyhow::Error {
        loop {
            match self.tasks.join_next().await {
                // There may be servers again at the next call.
                None => return std::future::pending().await,
                Some(Ok(Err(error))) => return anyhow::Error::new(error).context("a health check"),
                Some(Ok(Ok(never))) => match never {},
                // The server was closed on purpose.
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => {
                    return anyhow::Error::new(error).context("a health check died");
                }
            }
        }
    }

    /// Moves the current and future servers to these addresses. Must be called from within a
    /// runtime.
    pub fn listen_on(&mut self, addresses: Addresses) {
        if self.addresses == addresses {
            return;
        }
        self.addresses = addresses;
        for ((_, family), server) in &mut self.servers {
            server.listen_on(self.addresses.get(family), &mut self.tasks);
        }
    }

    /// Opens, changes and closes servers, so that they match these Services. Must be called from
    /// within a runtime.
    pub fn follow(&mut self, wanted: &Locals) {
        if self.known.ptr_eq(wanted) {
            return;
        }
        let known = std::mem::replace(&mut self.known, wanted.clone());
        for item in known.diff(wanted) {
            match item {
                DiffItem::Add(service, view) => self.set(service, Some(view)),
                DiffItem::Update { new: (service, view), .. } => self.set(service, Some(view)),
                DiffItem::Remove(service, _) => self.set(service, None),
            }
        }
    }

    fn set(&mut self, service: &NamespacedName, view: Option<&LocalView>) {
        for family in Family::ALL {
            let wanted =
                view.and_then(|view| Some((view.health_check?, view.families.get(&family)?.ready)));
            let key = (service.clone(), family);
            match (wanted, self.servers.get(&key)) {
                (Some((port, ready)), Some(server)) if server.port == port => {
                    server.site.endpoints.store(ready, Ordering::Relaxed);
                }
                (Some((port, ready)), _) => {
                    let site = CheckSite {
                        service: Arc::new(service.clone()),
                        endpoints: Arc::new(AtomicUsize::new(ready)),
                        health: self.health.clone(),
                        notes: self.notes.clone(),
                    };
                    let name = format!("health check of Service {service} ({family})");
                    let mut server = HealthServer { name, port, site, listeners: BTreeMap::new() };
                    server.listen_on(self.addresses.get(&family), &mut self.tasks);
                    self.servers.insert(key, server);
                }
                (None, _) => {
                    self.servers.remove(&key);
                }
            }
        }
    }
}

impl HealthServer {
    fn listen_on(&mut self, addresses: Option<&BTreeSet<IpAddr>>, tasks: &mut Tasks) {
        // Closes first: an address and the unspecified address cannot be bound at the same time.
        self.listeners.retain(|held, _| addresses.is_some_and(|wanted| wanted.contains(held)));
        for ip in addresses.into_iter().flatten() {
            let Entry::Vacant(vacant) = self.listeners.entry(*ip) else { continue };
            let address = SocketAddr::new(*ip, self.port.get());
            let bind = Bind { address, v6_only: true, hard_fail: false };
            let (name, site) = (self.name.clone(), self.site.clone());
            vacant.insert(Listener(tasks.spawn(serve(name, bind, site))));
        }
    }
}

/// The answer to a load balancer, for any path.
#[derive(Clone, Debug)]
struct CheckSite {
    service: Arc<NamespacedName>,
    endpoints: Arc<AtomicUsize>,
    health: watch::Receiver<Health>,
    notes: Option<Notes>,
}

/// The body, as in kube-proxy.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Named<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl CheckSite {
    /// It does not matter here whether the node is about to be removed, as in kube-proxy: under
    /// policy Local, the endpoints that leave the node report that themselves.
    fn at(&self, now: Instant) -> HttpAnswer {
        let service_proxy_healthy = self.health.borrow().is_healthy(now);
        let local_endpoints = self.endpoints.load(Ordering::Relaxed);
        let service =
            Named { namespace: self.service.namespace.as_str(), name: self.service.name.as_str() };
        let is_well = service_proxy_healthy && local_endpoints > 0;
        let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = Body { service, local_endpoints, service_proxy_healthy };
        HttpAnswer { weight: Some(local_endpoints), ..HttpAnswer::json(code, &body) }
    }
}

impl Site for CheckSite {
    async fn answer(&self, _: &str, _: &str) -> HttpAnswer {
        self.at(Instant::now())
    }

    /// Reports it as kube-proxy does.
    fn waits_for(&self, address: SocketAddr, error: &io::Error) {
        let Some(notes) = &self.notes else { return };
        let service = (*self.service).clone();
        let text = format!("failed to start healthcheck {service} on {address}: {error}");
        let (reason, action) = ("FailedToStartServiceHealthcheck", "Listen");
        notes.leave(Note { service, reason, action, text });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_answer_depends_on_endpoints_and_proxy_but_not_on_the_node() {
        let minute = Duration::from_secs(60);
        let (health, watched) = watch::channel(Health::new(minute, Timestamp::UNIX_EPOCH));
        let site = CheckSite {
            service: Arc::new(NamespacedName::new("shop", "web")),
            endpoints: Arc::new(AtomicUsize::new(0)),
            health: watched,
            notes: None,
        };
        let start = Instant::now();
        let ask = |time: Duration| {
            let answer = site.at(start + time);
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            (answer.code.as_u16(), answer.weight, body)
        };
        let body = |endpoints: usize, healthy: bool| {
            json!({
                "service": {"namespace": "shop", "name": "web"},
                "localEndpoints": endpoints,
                "serviceProxyHealthy": healthy,
            })
        };
        assert_eq!(ask(Duration::ZERO), (503, Some(0), body(0, true)));
        site.endpoints.store(2, Ordering::Relaxed);
        health.send_modify(|health| health.is_eligible = false);
        assert_eq!(ask(Duration::ZERO), (200, Some(2), body(2, true)));
        health.send_modify(|health| health.behind_since = Some(start));
        assert_eq!(ask(minute), (503, Some(2), body(2, false)));
    }

    #[tokio::test]
    async fn the_death_of_a_server_is_reported() {
        let (_health, watched) =
            watch::channel(Health::new(Duration::from_secs(60), Timestamp::UNIX_EPOCH));
        let mut checks = HealthChecks::new(watched);
        // A server that is closed on purpose is no failure.
        checks.tasks.spawn(std::future::pending()).abort();
        checks.tasks.spawn(async { panic!("on purpose") });
        assert!(checks.failure().await.to_string().contains("a health check died"));
    }
}
