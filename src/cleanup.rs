//! `rulec cleanup`: remove every trace.

use std::process::ExitCode;

use anyhow::Context;
use rulec_compiler::settings::MasqueradeBit;
use rulec_sinks::NftSink;
use rulec_sinks::nft::Ownership;

/// Deletes our tables. Established connections keep their translation, which is the kernel's
/// connection tracking's affair.
///
/// # Errors
///
/// If nf_tables cannot be reached, or a running rulec owns the tables.
pub fn run() -> anyhow::Result<ExitCode> {
    let mark = MasqueradeBit::default().mark();
    let mut sink = NftSink::open(Ownership::Shared, mark).context("opening nf_tables")?;
    let families = sink.cleanup().context("deleting the tables")?;
    match families.as_slice() {
        [] => tracing::info!("there was nothing to remove"),
        _ => {
            for family in families {
                tracing::info!(%family, "deleted table rulec");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
