//! Pods, and the templates of whatever makes Pods. Repositories have mostly the latter; the daemon
//! has no use for them.

use std::collections::BTreeMap;
use std::fmt;

use rulec_compiler::object::Service;

use super::documents::Document;
use super::spot::Spot;

/// Where objects that make Pods have their template. Custom resources follow Kubernetes' own.
const TEMPLATES: [&str; 2] = ["spec.template", "spec.jobTemplate.spec.template"];

/// How many workloads a message names.
const MAX_NAMES: usize = 3;

/// All workloads.
pub(super) struct Workloads<'a> {
    /// In the order of the files.
    all: Vec<Workload<'a>>,
    /// Those that have a label, by their indices.
    by_label: BTreeMap<Label<'a>, Vec<usize>>,
}

/// A label: namespace, key and value.
type Label<'a> = (&'a str, &'a str, &'a str);

impl<'a> Workloads<'a> {
    pub(super) fn of(documents: &[Document<'a>]) -> Self {
        let all: Vec<_> = documents.iter().filter_map(Workload::of).collect();
        let mut by_label = BTreeMap::<Label<'a>, Vec<usize>>::new();
        for (index, workload) in all.iter().enumerate() {
            for (key, value) in &workload.labels {
                by_label.entry((workload.namespace, key, value)).or_default().push(index);
            }
        }
        Self { all, by_label }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Workload<'a>> {
        self.all.iter()
    }

    /// Returns those that a Service selects.
    pub(super) fn selected_by(&self, service: &Service) -> Vec<&Workload<'a>> {
        let namespace = service.key.namespace.as_str();
        let label = service.selector.iter().next();
        let label = label.map(|(key, value)| (namespace, key.as_str(), value.as_str()));
        let indices = label.and_then(|label| self.by_label.get(&label));
        let found = indices.into_iter().flatten().filter_map(|index| self.all.get(*index));
        found.filter(|workload| workload.misses(service).next().is_none()).collect()
    }
}

/// A Pod, or an object with a template of Pods.
pub(super) struct Workload<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    /// The labels of its Pods.
    pub(super) labels: BTreeMap<&'a str, &'a str>,
    /// The names of its Pods' ports, each with its protocol.
    pub(super) ports: Vec<(&'a str, &'a str)>,
    spot: Spot<'a>,
}

impl<'a> Workload<'a> {
    fn of(document: &Document<'a>) -> Option<Self> {
        let Document { kind, spot: object, .. } = document;
        let is_pod = |pod: &Spot<'_>| pod.keys("spec.containers").is_there();
        let pod = match *kind {
            "Pod" => object.clone(),
            _ => TEMPLATES.iter().map(|keys| object.keys(keys)).find(is_pod)?,
        };
        let labels = pod.keys("metadata.labels");
        let labels =
            labels.entries().into_iter().filter_map(|(key, value)| Some((key, value.text()?)));
        Some(Self {
            kind,
            namespace: document.namespace(),
            name: document.name().unwrap_or_default(),
            labels: labels.collect(),
            ports: ports(&pod.key("spec")),
            spot: object.clone(),
        })
    }

    /// Returns the entries of a selector that its labels do not have.
    pub(super) fn misses<'s>(
        &self,
        service: &'s Service,
    ) -> impl Iterator<Item = (&'s str, &'s str)> {
        let entries = service.selector.iter();
        let entries = entries.map(|(key, value)| (key.as_str(), value.as_str()));
        entries.filter(|(key, value)| self.labels.get(key) != Some(value))
    }

    /// Returns whether it is in the namespace of a Service.
    pub(super) fn is_beside(&self, service: &Service) -> bool {
        self.namespace == service.key.namespace.as_str()
    }
}

/// Prints it with its place, as in `Deployment default/web (web.yaml:12)`.
impl fmt::Display for Workload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, spot, .. } = self;
        write!(f, "{kind} {namespace}/{name} ({spot})")
    }
}

/// Names some workloads, and counts the others.
pub(super) fn listed(workloads: &[&Workload<'_>]) -> String {
    let names = workloads.iter().take(MAX_NAMES).map(ToString::to_string);
    let names = names.collect::<Vec<_>>().join(", ");
    match workloads.len().saturating_sub(MAX_NAMES) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

/// Returns the named ports of a Pod's containers. Init containers serve only if they run beside the
/// others.
fn ports<'a>(spec: &Spot<'a>) -> Vec<(&'a str, &'a str)> {
    let is_sidecar = |it: &Spot<'_>| it.key("restartPolicy").text() == Some("Always");
    let beside = spec.key("initContainers").elements().into_iter().filter(is_sidecar);
    let containers = spec.key("containers").elements().into_iter().chain(beside);
    let ports = containers.flat_map(|container| container.key("ports").elements());
    let named = |port: Spot<'a>| {
        Some((port.key("name").text()?, port.key("protocol").text().unwrap_or("TCP")))
    };
    ports.filter_map(named).collect()
}
