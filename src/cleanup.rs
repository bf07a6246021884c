//! `rulec cleanup`: removes everything that rulec, or kube-proxy, has put into the kernel.

use std::process::ExitCode;

use anyhow::Context;
use rulec_compiler::State;
use rulec_compiler::ipvs;
use rulec_compiler::nft::Key;
use rulec_compiler::settings::MasqueradeBit;
use rulec_sinks::ipvs::Ipvs;
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Sink};

use crate::cli::{CleanupArgs, IpvsAddresses, IpvsArgs};
use crate::host::kube_proxy::{self, Removal};
use crate::host::service_routes;
use crate::kernel;

/// Removes what the arguments name.
///
/// # Errors
///
/// If nf_tables is unreachable, a running process owns the tables, or the kernel refuses.
pub fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    if args.kube_proxy {
        kube_proxys()?
    } else {
        ours(args)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes our tables, and what IPVS mode has put into IPVS and on the node. Established
/// connections keep their translation only if there are NAT rules of others: conntrack remembers
/// it, but the kernel applies it only while the network namespace has a NAT chain.
fn ours(args: &CleanupArgs) -> anyhow::Result<()> {
    let mut sink = sink()?;
    let (state, _) = sink.read().context("reading our tables")?;
    let is_in_ipvs_mode = leaves_to_ipvs(&state);
    // The tables tell which virtual servers are ours, so they are deleted last.
    if is_in_ipvs_mode {
        ipvs(state, args)?;
    }
    let families = sink.cleanup().context("deleting the tables")?;
    let networks = service_routes::remove()?;
    if families.is_empty() && networks.is_empty() {
        tracing::info!("there was nothing to remove");
    }
    for network in networks {
        tracing::info!(%network, "removed the route to Services");
    }
    for family in families {
        tracing::info!(%family, "deleted table rulec");
    }
    Ok(())
}

/// Returns whether our tables are those of IPVS mode.
fn leaves_to_ipvs(state: &State) -> bool {
    let keys = state.tables.values().flat_map(|table| table.elements.keys());
    keys.into_iter().any(|key| matches!(key, Key::Vip(_)))
}

/// Deletes the virtual servers that our tables name, and the addresses that led to them.
fn ipvs(mut state: State, args: &CleanupArgs) -> anyhow::Result<()> {
    let device = args.ipvs_device.as_deref().unwrap_or(IpvsArgs::DEVICE);
    for addresses in [IpvsAddresses::Dummy, IpvsAddresses::LocalRoutes] {
        let options = kernel::options(addresses, device)?;
        let mut ipvs = Ipvs::open(options).context("opening IPVS")?;
        state.ipvs = ipvs.read().context("reading IPVS")?;
        let servers = state.ipvs.servers.keys().filter(|server| state.is_ours(**server));
        let ops: Vec<ipvs::Op> = servers.map(|server| ipvs::Op::DeleteServer(*server)).collect();
        let refused = ipvs.apply(&ops).context("deleting virtual servers")?;
        if let Some((_, error)) = refused.into_iter().next() {
            return Err(error).context("deleting a virtual server");
        }
        let bound = state.ipvs.bound.len();
        ipvs.cleanup().context("removing the addresses from the node")?;
        if !ops.is_empty() || bound > 0 {
            tracing::info!(servers = ops.len(), addresses = bound, "removed virtual servers");
        }
    }
    Ok(())
}

/// Deletes what kube-proxy has left, and names what is still there.
fn kube_proxys() -> anyhow::Result<()> {
    let (state, _) = sink()?.read().context("reading our tables")?;
    if state.tables.is_empty() {
        tracing::warn!("rulec has not programmed this node: its Services are not served now");
    }
    // In IPVS mode, its virtual servers and their device are ours now.
    let spare_ipvs = leaves_to_ipvs(&state);
    let outcomes = kube_proxy::remove(spare_ipvs).context("removing what kube-proxy has left")?;
    if outcomes.is_empty() {
        tracing::info!("there was nothing to remove");
    }
    for outcome in outcomes {
        match outcome {
            Removal::Removed(what) => tracing::info!("removed {what}"),
            Removal::Needed { family, table, chain, by } => {
                tracing::warn!(%family, table, "chain {chain} stays: chain {by} needs it");
            }
            Removal::Left(what) => tracing::warn!("left {what}: {}", what.remedy()),
        }
    }
    Ok(())
}

fn sink() -> anyhow::Result<NftSink> {
    let mark = MasqueradeBit::default().mark();
    NftSink::open(Ownership::Shared, mark).context("opening nf_tables (are you root?)")
}
