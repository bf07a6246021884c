//! `--flows`: what becomes of the flows that conntrack has now.
//!
//! The compiler says which flows a daemon would delete, by the code with which the daemon decides.
//! `next` asks the oracle where the next packet of such a flow goes. `outlook` is what both mean
//! for a flow, `found` the numbers, `text` and `json` write them.
//!
//! Flows are judged while the kernel lists them, those of one frontend and backend once. What is
//! remembered of a flow to a Service is its addresses, since a flow may be listed twice; of all
//! others, nothing.

mod found;
mod json;
mod next;
mod outlook;
mod text;

use std::net::IpAddr;

use anyhow::Context;
use rulec_compiler::flows::Forecast;
use rulec_compiler::object::Object;
use rulec_compiler::{Program, Settings};
use rulec_sinks::conntrack::survey;

use super::comparison::Comparison;
use crate::cli::{DiffArgs, Output};
use crate::tool::input::NodeAddresses;
use found::Found;
use next::Next;

pub(super) use found::Flows;
pub(super) use json::FlowsDocument;
pub(super) use text::write;

/// Why flows are not told in mode ipvs.
pub(crate) const BY_IPVS: &str = "--flows: not available in mode ipvs: IPVS decides about connections by \
                       records of its own";

/// Refuses what `--flows` cannot be asked for.
pub(super) fn check(args: &DiffArgs, settings: &Settings) -> anyhow::Result<()> {
    let from = args.from.join(", ");
    anyhow::ensure!(
        args.from == ["kernel"],
        "--flows: needs --from kernel, not --from {from}: flows are those of the running kernel"
    );
    anyhow::ensure!(
        matches!(args.output, Output::Text | Output::Json),
        "--flows: only with --output text or json"
    );
    anyhow::ensure!(settings.ipvs().is_none(), BY_IPVS);
    Ok(())
}

/// Reads the flows of this machine, and judges each.
///
/// # Errors
///
/// If IPVS is in use on either side, if nothing is known of the new state but what a kernel holds, or if the
/// kernel does not list its flows.
pub(super) fn read(node: &NodeAddresses, comparison: &Comparison) -> anyhow::Result<Flows> {
    let is_by_ipvs = comparison.to.settings.ipvs().is_some() || comparison.old.has_ipvs();
    anyhow::ensure!(!is_by_ipvs, BY_IPVS);
    let program: Program = comparison.wanted()?.with_context(|| {
        format!(
            "--flows: {} is a snapshot without objects, so that nobody knows to which \
                 endpoints flows may go on",
            comparison.to.name
        )
    })?;
    let own = own_addresses(node)?;
    let forecast = Forecast::new(&comparison.old, &program, &own);
    let mut next = Next::new(comparison, &own)?;
    let found = survey(|found: &mut Found, live| found.add(live, &forecast, &mut next));
    let found = found.context("--flows")?;
    next.finish()?;
    Ok(found.finish(|owner| comparison.meant(owner).service))
}

/// Returns the addresses of this machine.
fn own_addresses(node: &NodeAddresses) -> anyhow::Result<Vec<IpAddr>> {
    let Object::InterfaceAddresses(held) = node.read()?.object else { return Ok(Vec::new()) };
    Ok(node.told.iter().chain(&held.addresses).copied().collect())
}
