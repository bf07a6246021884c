//! A state as the command line names it: that of the kernel or of a snapshot, or what manifests
//! compile to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::change::{Change, Origin, Provenance, Sourced};
use rulec_compiler::frontend::PortKey;
use rulec_compiler::model::Entry;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Backend;
use rulec_compiler::object::{
    Conditions, InterfaceAddresses, Object, PodAddresses, Service, ServicePort,
};
use rulec_compiler::remark::{self, Remark};
use rulec_compiler::resolve::{self, host};
use rulec_compiler::{Frontend, Model, Program, Settings, State};
use rulec_sinks::ipvs;
use rulec_sources::Severity;

use crate::cli::CompileArgs;
use crate::clock;
use crate::kernel;
use crate::snapshot::Snapshot;

/// The addresses of the node that manifests are compiled for.
#[derive(Debug, Default)]
pub(crate) struct NodeAddresses {
    /// The addresses from the command line.
    pub(crate) told: Vec<IpAddr>,
    /// True if the node is this machine, because the command reads its kernel, too.
    pub(crate) is_here: bool,
    /// How its kernel holds the addresses that exist only for IPVS.
    pub(crate) ipvs: ipvs::Options,
}

impl NodeAddresses {
    /// Takes the addresses from the command line.
    ///
    /// # Errors
    ///
    /// If the name of the device is invalid.
    pub(crate) fn of(args: &CompileArgs, is_here: bool) -> anyhow::Result<Self> {
        let given = &args.settings.ipvs;
        let ipvs = kernel::options(given.addresses(), given.device())?;
        Ok(Self { told: args.own_addresses.clone(), is_here, ipvs })
    }

    /// Reads the addresses of this machine's interfaces.
    pub(crate) fn read(&self) -> anyhow::Result<Sourced> {
        let except = Some(self.ipvs.device.as_str());
        rulec_sources::read_interfaces(except).context("reading the node's addresses")
    }

    /// Returns the addresses of the node's interfaces, as far as they are known. Those of this
    /// machine are used if it is the node, or if no addresses are known at all.
    fn interfaces(&self, model: &Model, settings: &Settings) -> anyhow::Result<Sourced> {
        let node = model.node(&settings.node_name);
        let named = node.into_iter().flat_map(|node| &node.object.addresses);
        let mut known: BTreeSet<IpAddr> =
            self.told.iter().chain(named).chain(&settings.node_addresses).copied().collect();
        // The first address on the command line is the primary one.
        let mut primary = self.told.clone();
        if self.is_here || known.is_empty() {
            let read = self.read()?;
            let Object::InterfaceAddresses(held) = &read.object else { return Ok(read) };
            known = self.told.iter().chain(&held.addresses).copied().collect();
            primary.extend(&held.primary);
        }
        let addresses = InterfaceAddresses { addresses: known.into_iter().collect(), primary };
        Ok(Sourced {
            object: Object::InterfaceAddresses(Arc::new(addresses)),
            provenance: Provenance("interfaces".into()),
        })
    }
}

/// A state and what is known about it.
pub(crate) struct Side {
    /// The name of the state in the output.
    pub(crate) name: String,
    /// The objects, if they are known.
    pub(crate) model: Option<Model>,
    /// The content of the kernel. `None` for manifests: it depends on the slots that were there
    /// before.
    pub(crate) state: Option<State>,
    pub(crate) settings: Arc<Settings>,
    /// Whether a part of it could not be read, or could not be used.
    pub(crate) incomplete: bool,
}

impl Side {
    /// Reads the state that an argument names: `kernel`, a snapshot, or manifests.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn read(
        state: &str,
        settings: &Arc<Settings>,
        node: &NodeAddresses,
    ) -> anyhow::Result<Self> {
        let path = Path::new(state);
        if state == "kernel" {
            let mark = settings.masquerade_bit.mark();
            let ipvs = settings.ipvs().map(|_| node.ipvs.clone());
            let (held, _) = kernel::look(mark, ipvs)?.read().context("reading the kernel")?;
            return Ok(Self {
                name: state.to_owned(),
                model: None,
                state: Some(held),
                settings: Arc::clone(settings),
                incomplete: false,
            });
        }
        if Snapshot::is_one(path) {
            let snapshot = Snapshot::read(path)?;
            return Ok(Self {
                name: state.to_owned(),
                model: snapshot.model(),
                state: Some(snapshot.state()),
                settings: Arc::new(snapshot.settings().clone()),
                incomplete: false,
            });
        }
        let reading = rulec_sources::read(path)?;
        for problem in &reading.problems {
            anstream::eprintln!("{problem}");
        }
        let incomplete = reading.problems.iter().any(|problem| problem.severity == Severity::Error);
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(reading.objects));
        let has_host_pods = model.pods().any(|entry| entry.object.addresses == PodAddresses::Node);
        if settings.node_port_addresses.needs_interfaces()
            || settings.ipvs().is_some()
            || has_host_pods
        {
            let addresses = node.interfaces(&model, settings)?;
            model.apply(Origin::Kernel, Change::Apply(addresses));
        }
        for Entry { object: service, provenance, .. } in model.services() {
            for (address, node) in resolve::elsewhere(&model, settings, service) {
                let what = "not served at this address in IPVS mode";
                let key = &service.key;
                anstream::eprintln!(
                    "{provenance}: Service {key}: {address}: {what}: it belongs to Node {node}"
                );
            }
        }
        Ok(Self {
            name: state.to_owned(),
            model: Some(model),
            state: None,
            settings: Arc::clone(settings),
            incomplete,
        })
    }

    /// Returns the remarks about objects that have no effect, though they probably should.
    pub(crate) fn remarks(&self) -> Vec<Remark> {
        self.model.iter().flat_map(|model| remark::all(model, &self.settings)).collect()
    }

    /// Compiles the manifests, with slots that continue those of a state.
    pub(crate) fn compile(&self, seed: &State) -> anyhow::Result<Program> {
        let model = self.model.clone().unwrap_or_default();
        let now = clock::seconds()?;
        Ok(Program::compile_at(&model, Arc::clone(&self.settings), seed, now))
    }

    /// Returns the Service port that a comment in the kernel refers to. A key that is too long for
    /// a comment is there under a shortened name.
    pub(crate) fn meant(&self, comment: &PortKey) -> PortKey {
        let services = self.model.iter().flat_map(Model::services);
        let keys = services.filter(|_| comment.is_shortened()).flat_map(|entry| {
            let Service { key, ports, .. } = &*entry.object;
            let key_of =
                |port: &ServicePort| PortKey { service: key.clone(), port: port.name.clone() };
            ports.iter().map(key_of).map(Arc::new)
        });
        let meant = keys.into_iter().find(|key| *key.comment() == *comment);
        meant.map_or_else(|| comment.clone(), Arc::unwrap_or_clone)
    }

    /// Returns which object names a backend, and its condition.
    pub(crate) fn sighting(&self, owner: &PortKey, backend: Backend) -> Option<String> {
        let model = self.model.as_ref()?;
        let owner = &self.meant(owner);
        let (service, port, _) = self.port(owner)?;
        for slice in model.slices_of(&owner.service) {
            let implements = slice.object.ports.iter().any(|slice_port| {
                slice_port.name == port.name
                    && slice_port.protocol == port.protocol
                    && slice_port.port == backend.port
            });
            let endpoint =
                slice.object.endpoints.iter().find(|endpoint| endpoint.address == backend.address);
            if let Some(endpoint) = endpoint.filter(|_| implements) {
                return Some(format!(
                    "EndpointSlice {} ({}) endpoint {}: {}",
                    slice.object.key,
                    slice.provenance,
                    endpoint.address,
                    condition(endpoint.conditions)
                ));
            }
        }
        for pod in model.pods_of(service) {
            let addresses = host::addresses_of(model, &self.settings, &pod.object);
            if addresses.contains(&backend.address) {
                return Some(format!(
                    "Pod {} ({}) selected by spec.selector: {}",
                    pod.object.key,
                    pod.provenance,
                    condition(pod.object.conditions)
                ));
            }
        }
        None
    }

    /// Returns the field of a Service that claims a frontend.
    pub(crate) fn field_of(&self, key: &NamespacedName, frontend: Frontend) -> Option<String> {
        let model = self.model.as_ref()?;
        let (_, provenance) = self.service(key)?;
        resolve::resolve(model, &self.settings, key).into_iter().find_map(|route| {
            let (_, rank) = route.frontends.iter().find(|(asked, _)| *asked == frontend)?;
            Some(format!("Service {key} ({provenance}) {}", rank.field()))
        })
    }

    pub(crate) fn service(&self, key: &NamespacedName) -> Option<(&Service, &Provenance)> {
        let entry = self.model.as_ref()?.service(key)?;
        Some((&entry.object, &entry.provenance))
    }

    pub(crate) fn port(&self, owner: &PortKey) -> Option<(&Service, &ServicePort, &Provenance)> {
        let (service, provenance) = self.service(&owner.service)?;
        let port = service.ports.iter().find(|port| port.name == owner.port)?;
        Some((service, port, provenance))
    }
}

pub(crate) fn condition(conditions: Conditions) -> &'static str {
    match conditions {
        Conditions { ready: true, .. } => "ready",
        Conditions { serving: true, terminating: true, .. } => "serving, but terminating",
        Conditions { terminating: true, .. } => "terminating",
        Conditions { .. } => "not ready",
    }
}
