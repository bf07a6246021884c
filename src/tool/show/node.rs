//! This node, or another one: what the compilation depends on.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use ipnet::IpNet;
use rulec_compiler::name::NodeName;
use rulec_compiler::net::Family;
use rulec_compiler::nft::element::Key;
use rulec_compiler::object::Object;
use rulec_compiler::settings::DetectLocal;
use rulec_compiler::{Origin, remark};
use serde::Serialize;

use super::known::Known;
use super::table::{joined, line};

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeView {
    pub(super) name: String,
    /// Whether it is the node that is programmed.
    pub(super) is_this: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    /// Those of its Node object.
    pub(super) addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Vec<IpNet>,
    pub(super) taints: Vec<String>,
    /// Whether it is being deleted.
    pub(super) deleting: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) programmed: Option<Programmed>,
}

/// What concerns only the node that is programmed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Programmed {
    pub(super) mode: &'static str,
    /// The addresses of its interfaces, if they are known.
    pub(super) interface_addresses: Vec<IpAddr>,
    /// The setting: `primary`, or networks; empty for every address.
    pub(super) node_port_addresses: Vec<String>,
    /// The addresses that node ports answer on; empty if it is every one.
    pub(super) node_ports_at: Vec<IpAddr>,
    /// How packets of Pods are recognised.
    pub(super) detect_local: String,
    pub(super) masquerade_all: bool,
    pub(super) load_balancing: &'static str,
    /// What has no effect because of the node, and what keeps connections from working.
    pub(super) notes: Vec<String>,
}

impl NodeView {
    /// Describes a node: this one if none is named.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub(super) fn of(known: &Known, name: Option<&str>) -> anyhow::Result<Self> {
        let own = &known.side.settings.node_name;
        let name = name.map_or_else(|| own.clone(), NodeName::from);
        let is_this = name == *own;
        let entry = known.side.model.as_ref().and_then(|model| model.node(&name));
        if entry.is_none() && !is_this {
            let nodes = known.side.model.iter().flat_map(|model| model.nodes());
            let names: Vec<String> = nodes.map(|entry| entry.object.name.to_string()).collect();
            anyhow::bail!("there is no Node {name}. Known nodes: {}", names.join(", "));
        }
        let node = entry.map(|entry| &*entry.object);
        Ok(Self {
            name: name.to_string(),
            is_this,
            source: entry.map(|entry| entry.origin),
            from: entry.map(|entry| entry.provenance.to_string()),
            addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
            zone: node.and_then(|node| Some(node.zone.as_ref()?.to_string())),
            pod_cidrs: node.map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
            taints: node
                .map(|node| node.taints.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            deleting: node.is_some_and(|node| node.deleting),
            programmed: is_this.then(|| Programmed::of(known)).transpose()?,
        })
    }
}

impl Programmed {
    fn of(known: &Known) -> anyhow::Result<Self> {
        let Known { side, state, .. } = known;
        let settings = &side.settings;
        let interfaces = side.model.as_ref().and_then(|model| model.interface_addresses());
        let read = match interfaces {
            None if known.is_here => {
                let read = rulec_sources::read_interfaces(None);
                Some(read.context("reading the node's addresses")?.object)
            }
            Some(entry) => Some(Object::InterfaceAddresses(Arc::clone(&entry.object))),
            None => None,
        };
        let interface_addresses = if let Some(Object::InterfaceAddresses(held)) = &read {
            held.addresses.clone()
        } else {
            Vec::new()
        };
        let keys = state.tables.values().flat_map(|table| table.elements.keys());
        let named = |key: &Key| if let Key::NodeIp(address) = key { Some(*address) } else { None };
        // Where every address answers, none is named.
        let is_named = |family: &Family| {
            !keys.clone().any(|key| matches!(key, Key::NodePortProtocol(of, _) if of == family))
        };
        let localhost = state.tables.iter().filter(|(_, table)| table.serves_localhost());
        let localhost = localhost.map(|(family, _)| *family).filter(is_named);
        let localhost = localhost.map(Family::localhost);
        let at: BTreeSet<IpAddr> = keys.clone().filter_map(named).chain(localhost).collect();
        let remarks = side.model.iter().flat_map(|model| remark::of_node(model, settings));
        let mut notes: Vec<String> = remarks.map(|remark| remark.to_string()).collect();
        notes.extend(known.status.iter().flat_map(|status| status.node_findings.clone()));
        Ok(Self {
            mode: if settings.ipvs().is_some() { "ipvs" } else { "nftables" },
            interface_addresses,
            node_port_addresses: settings.node_port_addresses.words().collect(),
            node_ports_at: at.into_iter().collect(),
            detect_local: detect_local(&settings.detect_local),
            masquerade_all: settings.masquerade_all,
            load_balancing: settings.load_balancing.name(),
            notes,
        })
    }
}

fn detect_local(detect: &DetectLocal) -> String {
    match detect {
        DetectLocal::ClusterCidr(networks) if networks.is_empty() => {
            "not at all (--cluster-cidr is not set)".to_owned()
        }
        DetectLocal::ClusterCidr(networks) => format!("ClusterCIDR {}", joined(networks)),
        DetectLocal::NodeCidr => "NodeCIDR".to_owned(),
        DetectLocal::Interface(pattern) => format!("interface {pattern}"),
    }
}

/// Writes it as text.
pub(super) fn write(out: &mut impl Write, node: &NodeView) -> io::Result<()> {
    let mut line = |name: &str, value: String| line(out, name, &value);
    let from = node.from.as_ref().map(|from| format!(" ({from})")).unwrap_or_default();
    line("Name", node.name.clone())?;
    line("Source", node.source.map_or("no Node object".to_owned(), |it| format!("{it}{from}")))?;
    line("Addresses", joined(&node.addresses))?;
    line("Zone", node.zone.clone().unwrap_or_default())?;
    line("Pod CIDRs", joined(&node.pod_cidrs))?;
    line("Taints", node.taints.join(","))?;
    if node.deleting {
        line("Deleting", "yes".to_owned())?;
    }
    let Some(programmed) = &node.programmed else { return Ok(()) };
    line("Mode", programmed.mode.to_owned())?;
    line("Interfaces", joined(&programmed.interface_addresses))?;
    let setting = programmed.node_port_addresses.join(",");
    let setting = if setting.is_empty() { "every address".to_owned() } else { setting };
    line("Node ports on", setting)?;
    line("Node ports at", joined(&programmed.node_ports_at))?;
    line("Pods by", programmed.detect_local.clone())?;
    line("Masquerade all", if programmed.masquerade_all { "yes" } else { "no" }.to_owned())?;
    line("Load balancing", programmed.load_balancing.to_owned())?;
    for note in &programmed.notes {
        line("Note", note.clone())?;
    }
    Ok(())
}
