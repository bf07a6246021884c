//! The names of Services, and of Pods in headless ones, with their addresses, as lines of a hosts
//! file.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::net::IpAddr;

use rulec_compiler::name::{Name, Namespace};
use rulec_compiler::net::Family;
use rulec_compiler::object::{ClusterIps, Pod, Service, ServiceType};
use rulec_compiler::resolve::host;
use rulec_compiler::{Frontend, Model, Program};

/// The first line of the file.
const HEAD: &str = "# Written by rulec, which replaces the file whenever a Service changes.\n";

/// Returns the content of the file: all names that a program serves, in order.
pub(super) fn text(program: &Program, model: &Model, domain: &str) -> String {
    let mut text = HEAD.to_owned();
    for entry in model.services() {
        let service = &*entry.object;
        let (namespace, name) = (&service.key.namespace, &service.key.name);
        for address in addresses(program, model, service) {
            add_line(&mut text, address, name, namespace, domain);
        }
        for (hostname, address) in hosts(program, model, service) {
            add_line(&mut text, address, &format_args!("{hostname}.{name}"), namespace, domain);
        }
    }
    text
}

fn add_line(
    text: &mut String,
    address: IpAddr,
    name: &dyn fmt::Display,
    namespace: &Namespace,
    domain: &str,
) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{address} {name}.{namespace}.svc.{domain} {name}.{namespace}.svc {name}.{namespace}"
    );
}

/// Returns the addresses of a Service: its cluster addresses, or the endpoints of a headless one.
fn addresses(program: &Program, model: &Model, service: &Service) -> BTreeSet<IpAddr> {
    if service.cluster_ips != ClusterIps::default() {
        let all = Family::ALL.into_iter().filter_map(|family| service.cluster_ips.of(family));
        return all.filter(|address| is_served(program, service, *address)).collect();
    }
    if !is_headless(service) {
        return BTreeSet::new();
    }
    let slices = model.counting_slices_of(service).flat_map(|slice| &slice.object.endpoints);
    let endpoints = slices.filter(|endpoint| endpoint.conditions.ready);
    let of_pods =
        pods(model, service).flat_map(|pod| host::addresses_of(model, program.settings(), pod));
    endpoints.map(|endpoint| endpoint.address).chain(of_pods).collect()
}

/// Returns the Pods of a headless Service that have names of their own in it, and their addresses.
fn hosts<'a>(
    program: &Program,
    model: &'a Model,
    service: &'a Service,
) -> BTreeSet<(&'a Name, IpAddr)> {
    if !is_headless(service) {
        return BTreeSet::new();
    }
    let named = pods(model, service).filter_map(|pod| Some((pod, pod.host.as_ref()?)));
    let named = named.filter(|(_, host)| host.subdomain == service.key.name);
    named
        .flat_map(|(pod, host)| {
            let addresses = host::addresses_of(model, program.settings(), pod);
            addresses.into_iter().map(|address| (&host.hostname, address))
        })
        .collect()
}

/// Returns whether a Service leads to its Pods by their own addresses. One for which there was no
/// address is not headless.
fn is_headless(service: &Service) -> bool {
    service.cluster_ips == ClusterIps::default()
        && service.kind != ServiceType::ExternalName
        && service.asks.cluster_ips.is_none()
}

/// Returns the Pods of a Service that may have names.
fn pods<'a>(model: &'a Model, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
    let all = model.pods_of(service).map(|pod| &*pod.object);
    all.filter(|pod| pod.conditions.ready || service.publish_not_ready)
}

/// Returns whether a port of the Service has the address. Another Service may have the same one.
fn is_served(program: &Program, service: &Service, address: IpAddr) -> bool {
    service.ports.iter().any(|port| {
        let frontend = Frontend::Address { address, protocol: port.protocol, port: port.port };
        program.winner(frontend).is_some_and(|winner| winner.owner.service == service.key)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use rulec_compiler::{Change, Origin, Settings, State};

    use super::*;

    /// Returns the lines for objects; the kernel has only what is compiled from `held`.
    fn lines(held: &str, now: &str) -> Vec<String> {
        let model = |yaml: &str| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("all.yaml");
            fs::write(&path, format!("# Objects, if any.\n{yaml}")).unwrap();
            let mut model = Model::default();
            let objects = rulec_sources::read(&path).unwrap().objects;
            model.apply(Origin::Manifests, Change::everything(objects));
            model
        };
        let settings = Arc::new(Settings::new("na".into()));
        let program = Program::compile(&model(held), settings, &State::default());
        let text = text(&program, &model(now), "cluster.local");
        text.strip_prefix(HEAD).unwrap().lines().map(str::to_owned).collect()
    }

    fn service(name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{{spec}, ports: [{{port: 80}}]}}\n"
        )
    }

    fn pod(name: &str, address: &str, status: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: db}}}}\n\
             status: {{podIP: {address}, conditions: [{{type: Ready, status: '{status}'}}]}}\n"
        )
    }

    #[test]
    fn each_cluster_address_has_a_line() {
        let both = service("web", "clusterIPs: [10.96.0.10, 'fd00:96::a']");
        let one = service("api", "clusterIP: 10.96.0.9");
        let all = format!("{both}{one}");
        assert_eq!(
            lines(&all, &all),
            [
                "10.96.0.9 api.default.svc.cluster.local api.default.svc api.default",
                "10.96.0.10 web.default.svc.cluster.local web.default.svc web.default",
                "fd00:96::a web.default.svc.cluster.local web.default.svc web.default",
            ]
        );
    }

    #[test]
    fn an_address_that_the_kernel_does_not_have_is_left_out() {
        let web = service("web", "clusterIP: 10.96.0.10");
        let other = service("web", "clusterIP: 10.96.0.11");
        assert_eq!(lines("", &web), [""; 0]);
        assert_eq!(lines(&other, &web), [""; 0]);
        // The address belongs to the first of two.
        let two = format!("{}{web}", service("a", "clusterIP: 10.96.0.10"));
        assert_eq!(
            lines(&two, &two),
            ["10.96.0.10 a.default.svc.cluster.local a.default.svc a.default"]
        );
    }

    #[test]
    fn a_headless_service_has_its_ready_endpoints() {
        let headless = service("db", "clusterIP: None, selector: {app: db}");
        let pods = [pod("a", "10.50.1.5", "True"), pod("b", "10.50.1.6", "False")].concat();
        let all = format!("{headless}{pods}");
        let line =
            |address| format!("{address} db.default.svc.cluster.local db.default.svc db.default");
        assert_eq!(lines(&all, &all), [line("10.50.1.5")]);
        let spec = "clusterIP: None, selector: {app: db}, publishNotReadyAddresses: true";
        let all = format!("{}{pods}", service("db", spec));
        assert_eq!(lines(&all, &all), [line("10.50.1.5"), line("10.50.1.6")]);
        // Neither an alias nor a Service without an address is headless.
        let alias =
            service("db", "type: ExternalName, externalName: a.example, selector: {app: db}");
        let bare = service("db", "selector: {app: db}");
        for other in [alias, bare] {
            let all = format!("{other}{pods}");
            assert_eq!(lines(&all, &all), [""; 0]);
        }
    }

    /// As the DNS specification of Kubernetes has it, for addresses of Pods.
    #[test]
    fn a_pod_with_a_hostname_has_a_name_in_the_headless_service_of_its_subdomain() {
        let named = |spec: &str, name: &str, address: &str, status: &str| {
            let spec = format!("{}\nspec: {{{spec}}}", pod(name, address, status).trim_end());
            format!("{spec}\n")
        };
        let service_line = |address: &str| {
            format!("{address} db.default.svc.cluster.local db.default.svc db.default")
        };
        let host_line = |address: &str| {
            format!("{address} a.db.default.svc.cluster.local a.db.default.svc a.db.default")
        };
        let pods = [
            named("hostname: a, subdomain: db", "one", "10.50.1.5", "True"),
            named("hostname: a, subdomain: other", "two", "10.50.1.6", "True"),
            named("hostname: a", "three", "10.50.1.7", "True"),
            named("hostname: a, subdomain: db", "four", "10.50.1.8", "False"),
        ]
        .concat();
        let all = format!("{}{pods}", service("db", "clusterIP: None, selector: {app: db}"));
        let lines_of_services = ["10.50.1.5", "10.50.1.6", "10.50.1.7"].map(service_line);
        assert_eq!(lines(&all, &all), [&lines_of_services[..], &[host_line("10.50.1.5")]].concat());
        // Two Pods of one name are two addresses of it.
        let spec = "clusterIP: None, selector: {app: db}, publishNotReadyAddresses: true";
        let all = format!("{}{pods}", service("db", spec));
        let hosts = ["10.50.1.5", "10.50.1.8"].map(host_line);
        assert_eq!(lines(&all, &all)[4..], hosts);
        // Clients of a cluster address do not ask for Pods.
        let spec = "clusterIP: 10.96.0.10, selector: {app: db}";
        let all = format!("{}{pods}", service("db", spec));
        assert_eq!(lines(&all, &all), [service_line("10.96.0.10")]);
        // A Service that does not select the Pods does not name them.
        let all = format!("{}{pods}", service("db", "clusterIP: None, selector: {app: none}"));
        assert_eq!(lines(&all, &all), [""; 0]);
    }
}
