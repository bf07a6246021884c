//! A state as the command line names it: that of the kernel or of a snapshot, or what manifests
//! compile to.

mod api;
mod manifests;
mod named;
mod places;
pub(crate) mod recorded;
mod sightings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ipnet::IpNet;
use rulec_compiler::change::{Change, Origin, Provenance, Sourced};
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::{NamespacedName, PortName};
use rulec_compiler::nft::Key;
use rulec_compiler::object::{InterfaceAddresses, Object, PodAddresses, Service, ServicePort};
use rulec_compiler::remark::{self, Remark};
use rulec_compiler::resolve;
use rulec_compiler::{Frontend, Model, Program, Settings, State};
use rulec_sinks::ipvs;
use rulec_sources::{
    AllocatedValue, CniCache, Completion, Problem, Ranges, Reading, Severity, StateDir,
};

use crate::cli::{IpvsAddresses, RangeArgs};
use crate::clock;
use crate::config;
use crate::kernel;
use manifests::{in_full, not_bound};
use named::Content;
pub(crate) use named::Named;
pub(crate) use places::Places;
pub(crate) use sightings::condition;

/// The name of standard input.
pub(crate) const INPUT: &str = "-";

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
    /// Takes the addresses that were told, and how the kernel holds those for IPVS.
    ///
    /// # Errors
    ///
    /// If the name of the device is invalid.
    pub(crate) fn of(
        told: Vec<IpAddr>,
        addresses: IpvsAddresses,
        device: &str,
        is_here: bool,
    ) -> anyhow::Result<Self> {
        let ipvs = kernel::options(addresses, device)?;
        Ok(Self { told, is_here, ipvs })
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

/// What Services and Pods of manifests are given: the same on all sides of a comparison.
#[derive(Debug)]
pub(crate) struct Giving {
    ranges: Ranges,
    completion: Completion,
    /// Where the daemon finds the addresses of Pods.
    cni_cache: Option<PathBuf>,
}

impl Giving {
    /// Takes the options of a daemon.
    ///
    /// # Errors
    ///
    /// If they are wrong.
    pub(crate) fn of(
        ranges: &RangeArgs,
        state_dir: Option<&Path>,
        cni_cache: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let state = state_dir.map(|path| StateDir::new(path.to_owned()));
        let ranges = config::ranges(ranges)?;
        Ok(Self { completion: Completion::new(ranges.clone(), state.as_ref()), ranges, cni_cache })
    }

    /// Gives Services what they have in a kernel or a snapshot, as far as it can have been given
    /// out.
    pub(crate) fn recall(&mut self, state: &State) {
        let elements = state.tables.values().flat_map(|table| &table.elements);
        let held = elements.filter_map(|(key, held)| {
            let (Key::Service(frontend) | Key::Reject(frontend)) = key else { return None };
            let value = match frontend {
                Frontend::Address { address, .. } => AllocatedValue::ClusterIp(*address),
                Frontend::NodePort { port, .. } => AllocatedValue::NodePort(*port),
            };
            Some((held.owner.clone()?, value))
        });
        self.completion.recall(held.collect());
    }

    /// Notes what manifests write. To be called with all sides of a comparison before any is made:
    /// what one writes is given to no other Service, and to the same one on the other side.
    pub(crate) fn note(&mut self, named: &Named<'_>) {
        if let Content::Manifests(reading) = &named.content {
            self.completion.note(&reading.objects);
        }
    }

    /// Returns the networks that cluster addresses are given out of.
    pub(crate) fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.ranges.open_networks()
    }

    /// Gives out the defaults, without a state.
    #[cfg(test)]
    pub(crate) fn defaults() -> anyhow::Result<Self> {
        let ranges = config::ranges(&RangeArgs::default())?;
        Ok(Self { completion: Completion::new(ranges.clone(), None), ranges, cni_cache: None })
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
    /// What is wrong with its manifests, in order of place; the places are those of this command. Of
    /// a snapshot, what was wrong when it was made.
    pub(crate) problems: Vec<Problem>,
    /// The Service ports whose names are too long for a comment, by the comment.
    shortened: BTreeMap<Arc<PortKey>, Arc<PortKey>>,
}

impl Side {
    /// Reads the state that arguments name.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn read(
        states: &[impl AsRef<str>],
        places: &Places,
        settings: &Arc<Settings>,
        node: &NodeAddresses,
        giving: &mut Giving,
    ) -> anyhow::Result<Self> {
        Self::of(Named::read(states, places)?, settings, node, giving)
    }

    /// Makes a side of what was read.
    ///
    /// # Errors
    ///
    /// If the kernel or the node's addresses cannot be read, or nothing of it can be used.
    pub(crate) fn of(
        named: Named<'_>,
        settings: &Arc<Settings>,
        node: &NodeAddresses,
        giving: &mut Giving,
    ) -> anyhow::Result<Self> {
        let name = named.states.join(", ");
        match named.content {
            Content::Kernel => {
                let held = Named::kernel(settings, node)?;
                giving.recall(&held);
                Ok(Self {
                    name,
                    model: None,
                    state: Some(held),
                    settings: Arc::clone(settings),
                    problems: Vec::new(),
                    shortened: BTreeMap::new(),
                })
            }
            Content::Snapshot(snapshot) => {
                let (model, held) = (snapshot.model(), snapshot.state());
                giving.recall(&held);
                let problems = manifests::of_snapshot(snapshot.incomplete(), &name);
                Ok(Self {
                    name,
                    shortened: model.as_ref().map(shortened).unwrap_or_default(),
                    model,
                    state: Some(held),
                    settings: Arc::new(snapshot.settings().clone()),
                    problems,
                })
            }
            Content::Recording(recorded) => {
                let (header, moment) = *recorded;
                let model = moment.model().clone();
                let problems = moment.problems().cloned().collect();
                Ok(Self {
                    name,
                    shortened: shortened(&model),
                    model: Some(model),
                    state: None,
                    settings: Arc::new(header.settings),
                    problems,
                })
            }
            Content::Manifests(reading) => {
                Self::of_manifests(&named.states, reading, settings, node, giving)
            }
        }
    }

    fn of_manifests(
        paths: &[&str],
        reading: Reading,
        settings: &Arc<Settings>,
        node: &NodeAddresses,
        giving: &mut Giving,
    ) -> anyhow::Result<Self> {
        let Reading { objects, problems, unread } = reading;
        let is_empty = objects.is_empty();
        let (objects, given) = giving.completion.complete(objects);
        let cni_cache = &giving.cni_cache;
        let node_name = settings.node_name.clone();
        let cache = cni_cache.clone().map(|directory| CniCache { directory, node_name });
        let (objects, found) = match &cache {
            Some(cache) => cache.fill(objects),
            None => (objects, Vec::new()),
        };
        let is_unread = |problem: &Problem| unread.contains(problem);
        let told = problems.into_iter().filter(|it| !is_unread(it)).chain(given).chain(found);
        // To a comparison, what was not read is missing.
        let missing = unread.iter().map(|it| Problem { severity: Severity::Error, ..it.clone() });
        let problems: BTreeSet<Problem> =
            told.chain(missing).map(|problem| in_full(problem, paths)).collect();
        let mut errors = problems.iter().filter(|it| it.severity == Severity::Error);
        if let Some(error) = errors.next().filter(|_| is_empty) {
            anyhow::bail!("nothing of it can be used: {error}");
        }
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(objects));
        let has_host_pods = model.pods().any(|entry| entry.object.addresses == PodAddresses::Node);
        if settings.node_port_addresses.needs_interfaces()
            || settings.ipvs().is_some()
            || has_host_pods
        {
            let addresses = node.interfaces(&model, settings)?;
            model.apply(Origin::Kernel, Change::Apply(addresses));
        }
        let mut problems: Vec<Problem> = problems.into_iter().collect();
        problems.extend(not_bound(&model, settings).map(|problem| in_full(problem, paths)));
        Ok(Self {
            name: paths.join(", "),
            shortened: shortened(&model),
            model: Some(model),
            state: None,
            settings: Arc::clone(settings),
            problems,
        })
    }

    /// Returns a state of which the objects are known, if they are, and not what they compile to.
    pub(crate) fn of_objects(name: &str, model: Option<Model>, settings: Arc<Settings>) -> Self {
        let shortened = model.as_ref().map(shortened).unwrap_or_default();
        let problems = Vec::new();
        Self { name: name.to_owned(), model, state: None, settings, problems, shortened }
    }

    /// Returns whether it is manifests without a Service.
    pub(crate) fn has_no_service(&self) -> bool {
        let services = self.model.as_ref().map(Model::services);
        self.state.is_none() && services.is_some_and(|mut all| all.next().is_none())
    }

    /// Returns what could not be read or used.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error)
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
        let meant = self.shortened.get(comment);
        meant.map_or_else(|| comment.clone(), |key| PortKey::clone(key))
    }

    /// Returns the name of a Service that a comment shortens, if one of its ports is known.
    pub(crate) fn long_name(&self, shortened: &NamespacedName) -> Option<&NamespacedName> {
        // The first port with its shortened name.
        let first = PortKey { service: shortened.clone(), port: PortName::from("") };
        let (comment, key) = self.shortened.range(first..).next()?;
        (comment.service == *shortened).then_some(&key.service)
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

/// Returns the Service ports whose names are too long for a comment, by the comment.
fn shortened(model: &Model) -> BTreeMap<Arc<PortKey>, Arc<PortKey>> {
    let ports = model.services().flat_map(|entry| {
        let Service { key, ports, .. } = &*entry.object;
        let key_of = |port: &ServicePort| PortKey { service: key.clone(), port: port.name.clone() };
        ports.iter().map(key_of).map(Arc::new)
    });
    let named = ports.map(|key| (key.comment(), key));
    named.filter(|(comment, _)| comment.is_shortened()).collect()
}
