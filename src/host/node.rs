//! What is wrong with the node itself: connections to Services fail although the rules are right.
//!
//! - `route`: the node's own connections have no route, so that no rule ever sees them;
//! - `forwarding`: packets to endpoints elsewhere, and their replies, are not forwarded;
//! - `firewall`: a chain of others drops what is forwarded;
//! - `bridge`: packets between Pods of one bridge do not pass the rules, or do not come back;
//! - `reverse_path`: packets of a client are dropped because of where they arrive.
//!
//! Each decides about what was read of the `kernel`, according to what Services need (`needs`).
//! Nothing is changed: a `finding` names the command that mends it. This examines the network
//! namespace of the calling thread.

mod bridge;
mod finding;
mod firewall;
mod forwarding;
mod kernel;
mod needs;
mod reverse_path;
mod route;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;

use anyhow::Context;
use rulec_compiler::net::Family;
use rulec_sinks::nft::foreign::Foreign;

use kernel::Kernel;

pub use finding::Finding;
pub use needs::Needs;

/// What was found, and what could not be looked at.
#[derive(Debug, Default)]
pub struct Look {
    /// What was found.
    pub findings: Vec<Finding>,
    /// Why the rest is not known.
    pub errors: Vec<anyhow::Error>,
}

/// Looks for everything that is in the way of what Services need of the node.
pub fn look(needs: &Needs) -> Look {
    let kernel = match Kernel::read(needs) {
        Ok(kernel) => kernel,
        Err(error) => return Look { findings: Vec::new(), errors: vec![error] },
    };
    // IPVS has cluster addresses as addresses of the node.
    let mut findings = if needs.is_ipvs { Vec::new() } else { route::find(needs, &kernel) };
    findings.extend(forwarding::find(needs, &kernel, setting));
    findings.extend(reverse_path::find(needs, &kernel, setting));
    let mut errors = Vec::new();
    // IPVS neither translates on a bridge, nor lets conntrack know what is translated.
    if !needs.is_ipvs {
        match firewall(&kernel.forwards(needs)) {
            Ok(found) => findings.extend(found),
            Err(error) => errors.push(error),
        }
        findings.extend(bridge::find(needs, &kernel, setting));
    }
    Look { findings, errors }
}

fn firewall(families: &[Family]) -> anyhow::Result<Vec<Finding>> {
    if families.is_empty() {
        return Ok(Vec::new());
    }
    let chains = Foreign::open().and_then(|mut foreign| foreign.dropping_forwards());
    let chains = chains.context("looking for chains that drop forwarded packets")?;
    Ok(firewall::find(families, chains, has_legacy_filter))
}

/// Reads a number below `/proc/sys/net`; `None` if the kernel does not have it.
fn setting(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?.trim().parse().ok()
}

/// Returns whether iptables' legacy back end has a table `filter`, or may have one: only root can
/// read which tables it has, and it is usually not loaded where it is not used.
fn has_legacy_filter(family: Family) -> bool {
    let file = match family {
        Family::Ipv4 => "ip_tables_names",
        Family::Ipv6 => "ip6_tables_names",
    };
    match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
        Ok(names) => names.lines().any(|name| name == "filter"),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}
