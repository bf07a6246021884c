//! Services and their endpoints as text.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use rulec_compiler::load_balancing::Weight;
use rulec_compiler::object::TrafficPolicy;
use rulec_compiler::plural::counted;

use super::counts::Counted;
use super::frontend::{From, FrontendView, Outcome, PathView};
use super::port::{EndpointView, PortView};
use super::service::ServiceView;
use super::table::{Table, joined, line};
use crate::tool::input::condition;

/// What objects tell and the kernel does not.
const UNKNOWN: &str = "<unknown>";

/// What was not counted.
const UNCOUNTED: &str = "-";

/// Writes a table of Services.
pub(super) fn services(
    out: &mut impl Write,
    services: &[ServiceView],
    is_wide: bool,
    counted: Counted,
) -> io::Result<()> {
    let columns = ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "USED"];
    let more = ["INTERNAL", "EXTERNAL", "AFFINITY", "BALANCING", "RANGES", "SOURCE", "FROM"];
    let is_counted = is_wide && counted.connections.is_some();
    let of_traffic = ["CONNECTIONS"].into_iter().filter(|_| is_counted);
    let more = of_traffic.chain(more.into_iter().filter(|_| is_wide));
    let header: Vec<&str> = columns.into_iter().chain(more).collect();
    let mut table = Table::new(&header);
    for service in services {
        let (used, all) = service.endpoints();
        let external: Vec<_> =
            service.external_ips.iter().chain(&service.load_balancer_ips).collect();
        let kind = service.kind.map_or(UNKNOWN.to_owned(), |kind| format!("{kind:?}"));
        let endpoints = match (&service.refused, service.kind) {
            (Some(_), _) => "refused".to_owned(),
            // The kernel does not know of those that are not used.
            (None, None) => used.to_string(),
            (None, Some(_)) => format!("{used}/{all}"),
        };
        let row = [
            service.namespace.clone(),
            service.name.clone(),
            kind,
            joined(&service.cluster_ips),
            joined(&external),
            ports(service),
            endpoints,
        ];
        let affinity = service.session_affinity_seconds;
        let wide = [
            policy(service.internal_traffic_policy),
            policy(service.external_traffic_policy),
            affinity.map_or(String::new(), |seconds| format!("{seconds}s")),
            service.load_balancing.clone().unwrap_or_default(),
            joined(&service.source_ranges),
            service.source.map_or(UNKNOWN.to_owned(), |source| source.to_string()),
            service.from.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
        ];
        let connections = [number(service.connections)].into_iter().filter(|_| is_counted);
        let wide = connections.chain(wide.into_iter().filter(|_| is_wide));
        table.push(row.into_iter().chain(wide));
    }
    table.write(out, "")
}

/// Writes a table of endpoints.
pub(super) fn endpoints(
    out: &mut impl Write,
    services: &[ServiceView],
    is_wide: bool,
    counted: Counted,
) -> io::Result<()> {
    let is_counted = is_wide && counted.connections.is_some();
    let of_traffic = ["CONNECTIONS"].into_iter().filter(|_| is_counted);
    let of_flows = ["FLOWS"].into_iter().filter(|_| counted.flows);
    let more = ["NODE", "OBJECT", "FROM"].into_iter().filter(|_| is_wide);
    let header = ["SERVICE", "ENDPOINT", "USED"].into_iter().chain(of_traffic).chain(of_flows);
    let mut table = Table::new(&header.chain(more).chain(["WHY NOT"]).collect::<Vec<_>>());
    for port in services.iter().flat_map(|service| &service.ports) {
        for endpoint in &port.endpoints {
            let used = if endpoint.used { "yes" } else { "no" };
            let first = [port.key.to_string(), endpoint.endpoint.clone(), used.to_owned()];
            let connections = [number(endpoint.connections)].into_iter().filter(|_| is_counted);
            let flows = [number(endpoint.flows)].into_iter().filter(|_| counted.flows);
            let numbers = connections.chain(flows);
            let wide = [&endpoint.node, &endpoint.object, &endpoint.from];
            let wide = wide.map(|it| it.clone().unwrap_or_default()).into_iter();
            let wide = wide.filter(|_| is_wide);
            let why = reasons(endpoint).join("; ");
            table.push(first.into_iter().chain(numbers).chain(wide).chain([why]));
        }
    }
    table.write(out, "")
}

fn number(counted: Option<u64>) -> String {
    counted.map_or_else(|| UNCOUNTED.to_owned(), |number| number.to_string())
}

/// Describes a Service.
pub(super) fn describe(out: &mut impl Write, service: &ServiceView) -> io::Result<()> {
    let ServiceView { source, from, .. } = service;
    let mut line = |name: &str, value: String| line(out, name, &value);
    line("Name", service.key.to_string())?;
    line("Type", service.kind.map_or(String::new(), |kind| format!("{kind:?}")))?;
    let from = from.as_ref().map(|from| format!(" ({from})")).unwrap_or_default();
    line("Source", source.map_or(String::new(), |source| format!("{source}{from}")))?;
    line("Cluster IPs", joined(&service.cluster_ips))?;
    line("External IPs", joined(&service.external_ips))?;
    line("Load balancer", joined(&service.load_balancer_ips))?;
    line("Internal policy", policy(service.internal_traffic_policy))?;
    line("External policy", policy(service.external_traffic_policy))?;
    let affinity = service.session_affinity_seconds;
    line("Session affinity", affinity.map_or("none".to_owned(), |it| format!("ClientIP, {it} s")))?;
    line("Load balancing", service.load_balancing.clone().unwrap_or_default())?;
    line("Source ranges", joined(&service.source_ranges))?;
    if let Some(refused) = &service.refused {
        line("Refused", format!("by the kernel, {} times: {}", refused.attempts, refused.error))?;
    }
    for note in &service.notes {
        line("Note", note.clone())?;
    }
    for port in &service.ports {
        writeln!(out)?;
        self::port(out, port)?;
    }
    Ok(())
}

fn port(out: &mut impl Write, port: &PortView) -> io::Result<()> {
    let name = if port.name.is_empty() { String::new() } else { format!(" {}", port.name) };
    let number = port.port.map(|port| format!(" {port}")).unwrap_or_default();
    let protocol = port.protocol.map(|it| format!("/{it}")).unwrap_or_default();
    writeln!(out, "Port{name}{number}{protocol} ({})", port.family)?;
    let mut frontends = Table::new(&["FRONTEND", "POLICY", "CONNECTIONS"]);
    for frontend in &port.frontends {
        let policy = policy(frontend.policy);
        frontends.push([frontend.name.clone(), policy, fate(frontend)]);
    }
    frontends.write(out, "  ")?;
    if port.endpoints.is_empty() {
        return writeln!(out, "  no endpoints");
    }
    let shares = Shares::of(port);
    let mut rows: Vec<(Vec<String>, &EndpointView)> = Vec::new();
    for endpoint in &port.endpoints {
        let mut row = vec![endpoint.endpoint.clone()];
        row.extend(shares.of_endpoint(&endpoint.endpoint));
        row.push(endpoint.node.clone().unwrap_or_default());
        row.push(endpoint.object.clone().unwrap_or_default());
        rows.push((row, endpoint));
    }
    let mut header = vec!["ENDPOINT"];
    header.extend(shares.header());
    header.extend(["NODE", "OBJECT"]);
    let mut table = Table::new(&header);
    rows.iter().for_each(|(row, _)| table.push(row.clone()));
    let mut lines = Vec::new();
    table.write(&mut lines, "  ")?;
    let lines = String::from_utf8_lossy(&lines).into_owned();
    let mut lines = lines.lines();
    writeln!(out, "{}", lines.next().unwrap_or_default())?;
    for (line, (_, endpoint)) in lines.zip(rows) {
        writeln!(out, "{line}")?;
        for reason in reasons(endpoint) {
            writeln!(out, "    {reason}")?;
        }
        if let Some(weight) = endpoint.weight {
            writeln!(out, "    weight {weight}")?;
        }
        if let Some(why) = used_all_the_same(endpoint) {
            writeln!(out, "    {why}")?;
        }
    }
    Ok(())
}

/// Why an endpoint is used that is not ready, if it is.
pub(super) fn used_all_the_same(endpoint: &EndpointView) -> Option<String> {
    let conditions = endpoint.conditions.filter(|it| endpoint.used && !it.ready)?;
    let what = condition(conditions, Weight::default());
    Some(format!("{what}, used because no other is ready"))
}

/// What happens to connections to a frontend, in short.
pub(super) fn fate(frontend: &FrontendView) -> String {
    if let Some(owner) = &frontend.taken_by {
        return format!("go to {owner}, which has it");
    }
    if frontend.paths.is_empty() {
        return "not in the kernel".to_owned();
    }
    let path = |path: &PathView| {
        let what = match path.outcome {
            Outcome::Backend => counted(path.backends.len() as u64, "endpoint"),
            Outcome::Reject => "refused".to_owned(),
            Outcome::Drop => "dropped".to_owned(),
        };
        match path.clients {
            From::All => what,
            From::Inside => format!("inside: {what}"),
            From::Outside => format!("outside: {what}"),
        }
    };
    frontend.paths.iter().map(path).collect::<Vec<_>>().join(", ")
}

/// The shares of a port's backends under each policy that it uses.
struct Shares(Vec<(TrafficPolicy, BTreeMap<String, [u32; 2]>)>);

impl Shares {
    fn of(port: &PortView) -> Self {
        let mut shares: Vec<(TrafficPolicy, BTreeMap<String, [u32; 2]>)> = Vec::new();
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let mut found = BTreeMap::new();
            let mut is_used = false;
            for frontend in &port.frontends {
                for path in &frontend.paths {
                    let under = match path.clients {
                        From::All => frontend.policy.unwrap_or(TrafficPolicy::Cluster),
                        From::Inside => TrafficPolicy::Cluster,
                        From::Outside => TrafficPolicy::Local,
                    };
                    if under == policy {
                        is_used = true;
                        let shares = path.backends.iter();
                        found.extend(shares.map(|it| (it.endpoint.to_string(), it.share)));
                    }
                }
            }
            if is_used {
                shares.push((policy, found));
            }
        }
        Self(shares)
    }

    fn header(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(policy, _)| match policy {
            TrafficPolicy::Cluster => "CLUSTER",
            TrafficPolicy::Local => "LOCAL",
        })
    }

    fn of_endpoint(&self, endpoint: &str) -> impl Iterator<Item = String> {
        self.0.iter().map(move |(_, shares)| match shares.get(endpoint) {
            Some([share, sum]) => format!("{share}/{sum}"),
            None => "-".to_owned(),
        })
    }
}

pub(super) fn reasons(endpoint: &EndpointView) -> Vec<String> {
    let under = |policy: Option<TrafficPolicy>| match policy {
        Some(policy) => format!("{policy:?}: "),
        None => String::new(),
    };
    endpoint.unused.iter().map(|it| under(it.policy) + &it.reason).collect()
}

/// The ports as kubectl writes them: `80:30080/TCP`.
pub(super) fn ports(service: &ServiceView) -> String {
    let mut seen = BTreeSet::new();
    let mut texts = Vec::new();
    for port in &service.ports {
        let protocol = port.protocol.map(|it| format!("/{it}")).unwrap_or_default();
        let numbers: Vec<String> = match (port.port, port.node_port) {
            (Some(port), Some(node_port)) => vec![format!("{port}:{node_port}")],
            (Some(port), None) => vec![port.to_string()],
            (None, _) => port.frontends.iter().map(|it| it.number().to_string()).collect(),
        };
        for number in numbers {
            let text = number + &protocol;
            if seen.insert(text.clone()) {
                texts.push(text);
            }
        }
    }
    texts.join(",")
}

pub(super) fn policy(policy: Option<TrafficPolicy>) -> String {
    policy.map(|policy| format!("{policy:?}")).unwrap_or_default()
}
