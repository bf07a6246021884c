//! A difference as commands of `nft` and `ipvsadm`, in the order in which they can be carried out.

use std::io::{self, Write};

use rulec_compiler::Delta;
use rulec_compiler::ipvs::text as ipvs_text;

/// Writes commands for `nft -f`, for rules that use this mark.
pub(super) fn nft(out: &mut impl Write, delta: &Delta, mark: u32) -> io::Result<()> {
    let [prepare, switch, retire] = delta.shared.stages();
    for op in prepare.iter().chain(switch) {
        out.write_all(op.commands(mark).as_bytes())?;
    }
    for group in &delta.groups {
        writeln!(out, "# Service {}", group.service)?;
        for op in group.ops.iter() {
            out.write_all(op.commands(mark).as_bytes())?;
        }
    }
    for op in retire {
        out.write_all(op.commands(mark).as_bytes())?;
    }
    Ok(())
}

/// Writes lines for `ipvsadm --restore`. Operations that do not concern IPVS are left out.
pub(super) fn ipvsadm(out: &mut impl Write, delta: &Delta) -> io::Result<()> {
    for step in delta.steps() {
        for it in step.on_ipvs() {
            if let Some(command) = ipvs_text::command(it.op) {
                writeln!(out, "{command}")?;
            }
        }
    }
    Ok(())
}
