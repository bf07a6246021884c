//! `rulec cleanup`: remove every trace, of ours or of kube-proxy.

use std::process::ExitCode;

use anyhow::Context;
use rulec_compiler::settings::MasqueradeBit;
use rulec_sinks::kube_proxy::{self, Outcome};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Sink};

use crate::cli::CleanupArgs;

/// Removes what the arguments say.
///
/// # Errors
///
/// If nf_tables cannot be reached, a running process owns the tables, or the kernel refuses.
pub fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    if args.kube_proxy {
        kube_proxys()?
    } else {
        ours()?
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes our tables. Established connections keep their translation if somebody else's NAT rules are
/// there: conntrack remembers it, but the kernel applies it only as long as the network namespace has
/// any NAT chain.
fn ours() -> anyhow::Result<()> {
    let families = sink()?.cleanup().context("deleting the tables")?;
    if families.is_empty() {
        tracing::info!("there was nothing to remove");
    }
    for family in families {
        tracing::info!(%family, "deleted table rulec");
    }
    Ok(())
}

/// Deletes what kube-proxy has left, and names what is still there.
fn kube_proxys() -> anyhow::Result<()> {
    let (state, _) = sink()?.read().context("reading our tables")?;
    if state.tables.is_empty() {
        tracing::warn!("rulec has not programmed this node: nobody serves its Services now");
    }
    let outcomes = kube_proxy::remove().context("removing what kube-proxy has left")?;
    if outcomes.is_empty() {
        tracing::info!("there was nothing to remove");
    }
    for outcome in outcomes {
        match outcome {
            Outcome::Removed(what) => tracing::info!("removed {what}"),
            Outcome::Needed { family, table, chain, by } => {
                tracing::warn!(%family, table, "chain {chain} stays: chain {by} needs it");
            }
            Outcome::Left(what) => tracing::warn!("left {what}: {}", what.remedy()),
        }
    }
    Ok(())
}

fn sink() -> anyhow::Result<NftSink> {
    let mark = MasqueradeBit::default().mark();
    NftSink::open(Ownership::Shared, mark).context("opening nf_tables (are you root?)")
}
