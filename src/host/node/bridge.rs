//! Bridges of Pods.
//!
//! A packet between two ports of a bridge passes the rules only if the bridge passes packets to
//! netfilter. If it does not, the reply of an endpoint goes straight to a client on the same bridge,
//! which knows nothing of the endpoint. If it does, a translated packet that returns to its port is
//! bridged, not routed, and the bridge sends it only to a port in hairpin mode. Promiscuous mode of
//! the bridge does not change that.

use std::collections::BTreeSet;

use rulec_compiler::net::Family;
use rulec_sinks::{Bridge, Device};

use super::finding::tables;
use super::{Finding, Kernel, Needs};

/// The devices of Pods.
const POD: &str = "veth";

/// Returns what is wrong with the bridges that lead to endpoints on this node.
pub(super) fn find(
    needs: &Needs,
    kernel: &Kernel,
    setting: impl Fn(&str) -> Option<u32>,
) -> Vec<Finding> {
    let used: BTreeSet<(u32, Family)> = needs
        .local
        .iter()
        .filter_map(|endpoint| {
            let (index, device) = kernel.device(*endpoint)?;
            device.bridge.is_some().then(|| (index, Family::of(*endpoint)))
        })
        .collect();
    let mut findings = BTreeSet::new();
    for (index, family) in used {
        let Some(Device { name, bridge: Some(Bridge { filters }), .. }) =
            kernel.devices.get(&index)
        else {
            continue;
        };
        let name = || name.clone();
        let of_all = setting(&format!("bridge/bridge-nf-call-{}", tables(family)));
        let passes = filters.contains(&family) || of_all.is_some_and(|it| it != 0);
        let ports = kernel
            .devices
            .values()
            .filter(|it| it.kind == POD && it.port.is_some_and(|port| port.bridge == index));
        if passes {
            let off = ports.filter(|it| it.port.is_some_and(|port| !port.hairpin));
            let ports: Vec<String> = off.map(|it| it.name.clone()).collect();
            if !ports.is_empty() {
                findings.insert(Finding::NoHairpin { bridge: name(), ports });
            }
        } else if ports.count() > 1 && !needs.masquerades_all {
            let is_loaded = of_all.is_some();
            findings.insert(Finding::Bridged { family, bridge: name(), is_loaded });
        }
    }
    findings.into_iter().collect()
}
