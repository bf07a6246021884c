//! Networks and interfaces.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::net::Family;
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};
use rulec_sources::parse_range;

use crate::config::check::read::text;
use crate::config::value::{Element, Typed};
use crate::config::values::Values;

pub(super) fn detect_local(values: &mut Values) -> DetectLocal {
    match text(values, "detectLocalMode").as_str() {
        "ClusterCIDR" | "" => DetectLocal::ClusterCidr(cluster_cidrs(values)),
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => {
            interface(values, "detectLocal.bridgeInterface", InterfacePattern::named)
        }
        "InterfaceNamePrefix" => {
            interface(values, "detectLocal.interfaceNamePrefix", InterfacePattern::starting_with)
        }
        other => {
            values.refuse("detectLocalMode", format!("must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix, not {other:?}"));
            DetectLocal::NodeCidr
        }
    }
}

fn cluster_cidrs(values: &mut Values) -> Vec<IpNet> {
    const PATH: &str = "clusterCIDR";
    let said = text(values, PATH);
    let mut cidrs = Vec::new();
    for piece in said.split(',').filter(|_| !said.is_empty()) {
        match parse_range(piece) {
            Some(cidr) => cidrs.push(cidr),
            None => {
                values.refuse(PATH, format!("{piece:?} is not a network such as 10.244.0.0/16"))
            }
        }
    }
    let of = |family| cidrs.iter().filter(|cidr| Family::of(cidr.addr()) == family).count();
    if said.split(',').count() > 2 || Family::ALL.into_iter().any(|family| of(family) > 1) {
        values.refuse(PATH, "must be one network, or one of each family");
    }
    cidrs
}

fn interface(
    values: &mut Values,
    path: &'static str,
    pattern: fn(&str) -> Result<InterfacePattern, String>,
) -> DetectLocal {
    match pattern(&text(values, path)) {
        Ok(pattern) => DetectLocal::Interface(pattern),
        Err(message) => {
            values.refuse(path, message);
            DetectLocal::NodeCidr
        }
    }
}

pub(super) fn node_port_addresses(values: &mut Values, mode: &str) -> NodePortAddresses {
    const PATH: &str = "nodePortAddresses";
    let said = match values.take(PATH) {
        Some(Typed::List(list)) => list,
        _ => Vec::new(),
    };
    if said.is_empty() {
        return match mode {
            "nftables" => NodePortAddresses::Primary,
            _ => NodePortAddresses::Cidrs(Vec::new()),
        };
    }
    let mut networks = Vec::new();
    let mut has_primary = false;
    for (index, Element { line, text }) in said.iter().enumerate() {
        let place = (index, *line);
        let is_word = matches!(text.as_str(), "primary" | "localhost" | "all");
        if is_word && said.iter().take(index).any(|before| before.text == *text) {
            values.refuse_element(PATH, place, format!("{text} is there twice"));
        }
        match text.as_str() {
            "primary" => has_primary = true,
            "localhost" => networks.extend(Family::ALL.map(|it| IpNet::from(it.localhost()))),
            "all" => networks.extend(Family::ALL.into_iter().flat_map(everything)),
            _ => match parse_range(text) {
                Some(network) => networks.push(network),
                None => {
                    let message = format!(
                        "{text:?} is neither a network such as 10.0.0.0/8 nor primary, localhost \
                         or all"
                    );
                    values.refuse_element(PATH, place, message);
                }
            },
        }
    }
    let selected = match has_primary {
        true if networks.is_empty() => NodePortAddresses::Primary,
        true => NodePortAddresses::PrimaryAnd(networks),
        false => NodePortAddresses::Cidrs(networks),
    };
    let has_localhost = Family::ALL.into_iter().any(|family| selected.has_localhost(family));
    if mode == "ipvs" && has_localhost {
        values.warn(PATH, "node ports do not answer on localhost in mode ipvs");
    }
    selected
}

/// Returns every address of a family, and `localhost`, which no wide network means.
fn everything(family: Family) -> [IpNet; 2] {
    let localhost = family.localhost();
    let every = match localhost {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    [every, IpNet::from(localhost)]
}
