//! Compares our tables with a program while another socket commits.
//!
//! A dump shows each element as it is at the time, and the kernel resumes it by counting: if an
//! element that it has returned is deleted meanwhile, it skips one that nobody has touched. So what
//! a dump lacks is looked up. (An element that it returns twice, after an addition, does no harm.)

use rulec_compiler::nft::Key;
use rulec_compiler::{Delta, Op, Program, State, ipvs};
use rulec_engine::SinkError;

use super::{NftSink, dump, wire};

impl NftSink {
    /// Returns the delta from the kernel's content to a program, as `Sink::check` asks for it.
    /// `ipvs` is the content of IPVS, if that is used.
    pub(crate) fn compare(
        &mut self,
        program: &Program,
        ipvs: ipvs::State,
    ) -> Result<Delta, SinkError> {
        let read = dump::glance(&mut self.socket, &mut self.seq, self.mark);
        let mut state = read.map_err(SinkError::Unavailable)?;
        state.ipvs = ipvs;
        let delta = Delta::reconcile(&state, program);
        match self.complete(&mut state, &delta)? {
            0 => Ok(delta),
            _ => Ok(Delta::reconcile(&state, program)),
        }
    }

    /// Adds the elements that a dump has skipped, and returns their number.
    fn complete(&mut self, state: &mut State, delta: &Delta) -> Result<usize, SinkError> {
        let mut skipped = 0;
        let lacking = delta.ops().filter_map(Op::added).map(|element| element.key);
        for key in lacking.filter(|key| is_one_element(*key)) {
            let Some(table) = state.tables.get_mut(&key.family()) else { continue };
            if !table.sets.contains(&key.set()) || table.elements.contains_key(&key) {
                continue;
            }
            let held = dump::look_up(&mut self.socket, &mut self.seq, key);
            if let Some(held) = held.map_err(SinkError::Unavailable)? {
                table.elements.insert(key, held);
                skipped += 1;
            }
        }
        Ok(skipped)
    }
}

/// Returns false if the kernel holds a key as the two bounds of a range. There are few of these, and
/// one answer lists them all.
fn is_one_element(key: Key) -> bool {
    wire::range_end(key).is_none()
}
