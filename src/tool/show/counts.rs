//! What is counted of Services and endpoints: the new connections so far, which a daemon counts if it
//! is told to, and the flows that conntrack has now, which it lists when it is asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::flows::{FlowKind, Forecast};
use rulec_compiler::frontend::PortKey;
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::nft::traffic::Traffic;
use rulec_compiler::object::Object;
use rulec_compiler::{Flow, Program};
use rulec_sinks::conntrack::{Live, survey};
use rulec_sources::read_interfaces;

use super::known::Known;
use super::port::{EndpointView, PortView, Reason};
use super::service::ServiceView;
use crate::cli::show::{ShowArgs, ShowOutput, Subject};
use crate::observe::telemetry::complain;
use crate::observe::traffic::{PortTraffic, TRAFFIC, TrafficReport};
use crate::tool::daemon::ask;
use crate::tool::diff::BY_IPVS;

/// Why a backend is named that is no endpoint.
const GONE: &str = "no endpoint any more, but flows go on to it";

/// Which columns there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// New connections, if they are counted.
    pub(super) connections: Option<Traffic>,
    /// Flows.
    pub(super) flows: bool,
}

impl Counted {
    /// Asks for what is wanted, and adds it to the Services.
    ///
    /// # Errors
    ///
    /// If flows are wanted, and cannot be read.
    pub(super) fn add(
        args: &ShowArgs,
        known: &Known,
        services: &mut [ServiceView],
    ) -> anyhow::Result<Self> {
        let connections = match args.output {
            ShowOutput::Text => None,
            ShowOutput::Wide | ShowOutput::Json | ShowOutput::Yaml => {
                connections(args, known, services)
            }
        };
        if args.flows {
            flows(args, known, services)?;
        }
        Ok(Self { connections, flows: args.flows })
    }
}

/// Adds the new connections, if a daemon was asked that counts them; returns what it counts. What is
/// missing in a wide table is said.
fn connections(args: &ShowArgs, known: &Known, services: &mut [ServiceView]) -> Option<Traffic> {
    known.status.as_ref()?;
    let traffic = known.side.settings.traffic;
    let is_wide = args.output == ShowOutput::Wide;
    let lacks = |why: &str| {
        if is_wide {
            complain(format_args!("new connections are not shown: {why}"));
        }
    };
    if traffic == Traffic::Off {
        lacks(match known.side.settings.ipvs() {
            Some(_) => "in mode ipvs, only IPVS counts them (ipvsadm -ln --stats)",
            None => {
                "the daemon does not count them: rulec run --traffic services or endpoints does"
            }
        });
        return None;
    }
    let report: TrafficReport = match ask(args.socket.path()?, TRAFFIC) {
        Ok(report) => report,
        Err(error) => {
            complain(format_args!("new connections are not shown: {error}"));
            return None;
        }
    };
    if traffic == Traffic::Services && args.what == Subject::Endpoints {
        lacks("the daemon counts those of Services alone: rulec run --traffic endpoints does more");
    }
    put_connections(&report, services);
    Some(report.counted)
}

fn put_connections(report: &TrafficReport, services: &mut [ServiceView]) {
    let mut by_service: HashMap<(&str, &str), Vec<&PortTraffic>> = HashMap::new();
    for port in &report.ports {
        by_service.entry((&port.namespace, &port.service)).or_default().push(port);
    }
    for service in services {
        let Some(counted) = by_service.get(&(&*service.namespace, &*service.name)) else {
            continue;
        };
        service.connections = Some(counted.iter().map(|port| port.connections).sum());
        for port in &mut service.ports {
            let of_port = counted.iter().find(|it| it.port == port.name);
            let endpoints = of_port.into_iter().flat_map(|port| &port.endpoints);
            let totals: HashMap<&str, u64> =
                endpoints.map(|it| (&*it.endpoint, it.connections)).collect();
            for endpoint in &mut port.endpoints {
                endpoint.connections = totals.get(&*endpoint.endpoint).copied();
            }
        }
    }
}

/// The flows to a Service port, by backend.
type ByPort = BTreeMap<(PortKey, Family), BTreeMap<Backend, u64>>;

/// Adds the flows that conntrack has. Backends that are no endpoints any more are added, if flows go
/// on to them, so that none is left out.
fn flows(args: &ShowArgs, known: &Known, services: &mut [ServiceView]) -> anyhow::Result<()> {
    let state = args.state.join(", ");
    anyhow::ensure!(
        known.is_here,
        "--flows: flows are those of the running kernel, and --state {state} is another state"
    );
    let settings = &known.side.settings;
    anyhow::ensure!(settings.ipvs().is_none() && !known.state.has_ipvs(), BY_IPVS);
    let Object::InterfaceAddresses(held) = read_interfaces(None).context("--flows")?.object else {
        anyhow::bail!("--flows: the addresses of this machine cannot be read");
    };
    let own: Vec<IpAddr> = held.addresses.clone();
    let program = Program::held_in(&known.state, Arc::clone(settings));
    let forecast = Forecast::new(&known.state, &program, &own);
    let found = survey(|found: &mut Found, live| found.add(live, &forecast)).context("--flows")?;
    let mut by_port = found.by_port(|owner| known.side.meant(owner));
    for port in services.iter_mut().flat_map(|service| &mut service.ports) {
        let flows = by_port.remove(&(port.key.clone(), port.family)).unwrap_or_default();
        put_flows(port, flows);
    }
    Ok(())
}

fn put_flows(port: &mut PortView, mut flows: BTreeMap<Backend, u64>) {
    let names: BTreeMap<String, Backend> =
        flows.keys().map(|backend| (backend.to_string(), *backend)).collect();
    let mut told = HashSet::new();
    for endpoint in &mut port.endpoints {
        let backend = names.get(&endpoint.endpoint);
        endpoint.flows = Some(backend.and_then(|it| flows.get(it)).copied().unwrap_or(0));
        told.extend(backend.copied());
    }
    flows.retain(|backend, _| !told.contains(backend));
    port.endpoints.extend(flows.into_iter().map(|(backend, flows)| EndpointView {
        endpoint: backend.to_string(),
        flows: Some(flows),
        unused: vec![Reason { policy: None, reason: GONE.to_owned() }],
        ..EndpointView::default()
    }));
}

/// The flows to Services so far.
#[derive(Default)]
struct Found {
    /// A flow may be listed twice.
    seen: HashSet<(Protocol, SocketAddr, SocketAddr)>,
    /// Whose a flow is, of those with the same destination and backend.
    owners: HashMap<(Flow, Option<FlowKind>), Option<Arc<PortKey>>>,
    flows: HashMap<(Arc<PortKey>, Backend), u64>,
}

impl Found {
    /// Adds a flow, if it is one to a Service that was translated, and was not listed before.
    fn add(&mut self, live: &Live, forecast: &Forecast) {
        let flow = live.flow;
        let owner = self.owners.entry((flow, live.kind)).or_insert_with(|| {
            forecast.judge(&flow, live.kind).map(|judged| Arc::clone(judged.owner))
        });
        let (Some(owner), true, Some(backend)) = (owner, flow.is_translated(), flow.backend())
        else {
            return;
        };
        if self.seen.insert((flow.protocol, live.client, flow.destination)) {
            *self.flows.entry((Arc::clone(owner), backend)).or_default() += 1;
        }
    }

    /// Returns them by Service port, which is named as it is meant.
    fn by_port(self, meant: impl Fn(&PortKey) -> PortKey) -> ByPort {
        let mut by_port = ByPort::new();
        for ((owner, backend), flows) in self.flows {
            let family = Family::of(backend.address);
            *by_port.entry((meant(&owner), family)).or_default().entry(backend).or_default() +=
                flows;
        }
        by_port
    }
}
