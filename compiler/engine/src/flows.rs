//! Flows that may contradict the rules of the kernel, until another part of the daemon checks them.
//!
//! Rules decide about the first packet of a flow only. So after a change of the rules, flows that
//! exist already may have to be deleted. The flows to check are collected over all commits since
//! the last check; the rules to check them by are those of the last commit.

use rulec_compiler::flows::{Rules, Suspects, node_port_addresses};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Model, Program};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct FlowChecks {
    /// Flows to check, and the rules to check them by.
    pending: Option<(Suspects, Rules)>,
    /// Frontends that were removed by commits with an unknown outcome.
    uncertain: Suspects,
}

impl FlowChecks {
    /// Adds flows to check, now that the kernel holds the program. For Services that are held back,
    /// the program has what they had before: their flows wait for the next try.
    pub(crate) fn acknowledged<'a>(
        &mut self,
        suspects: Suspects,
        program: &Program,
        model: &Model,
        held_back: impl Iterator<Item = &'a NamespacedName>,
    ) {
        if suspects.is_empty() && self.pending.is_none() {
            return;
        }
        let own = model.interface_addresses();
        let own = own.into_iter().flat_map(|entry| entry.object.addresses.iter().copied());
        let addresses = node_port_addresses(program, own);
        let rules = Rules::new(program, addresses, held_back.cloned().collect());
        let mut all = self.pending.take().map(|(pending, _)| pending).unwrap_or_default();
        all.merge(suspects);
        self.pending = Some((all, rules));
    }

    /// Notes that a commit failed, of which a part may have been committed nevertheless. The next
    /// commit starts from what was read, so it no longer knows the frontends that this one removed.
    pub(crate) fn failed(&mut self, suspects: &Suspects) {
        self.uncertain.keep_gone(suspects);
    }

    /// Takes the frontends that failed commits may have removed.
    pub(crate) fn take_uncertain(&mut self) -> Suspects {
        std::mem::take(&mut self.uncertain)
    }

    /// Takes the flows to check, and the rules to check them by.
    pub(crate) fn take(&mut self) -> Option<(Suspects, Rules)> {
        self.pending.take()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;
    use std::sync::Arc;

    use rulec_compiler::Settings;
    use rulec_compiler::frontend::Frontend;
    use rulec_compiler::name::NodeName;
    use rulec_compiler::net::Protocol;

    use super::*;

    fn program() -> Program {
        Program::new(Arc::new(Settings::new(NodeName::from("na"))))
    }

    fn frontend(last: u8) -> Frontend {
        Frontend::Address {
            address: IpAddr::from([10, 96, 0, last]),
            protocol: Protocol::Udp,
            port: NonZeroU16::MIN,
        }
    }

    fn changed(last: u8) -> Suspects {
        let mut suspects = Suspects::default();
        suspects.udp.frontends.insert(frontend(last));
        suspects
    }

    fn removed(last: u8) -> Suspects {
        let mut suspects = Suspects::default();
        suspects.udp.gone.insert(frontend(last));
        suspects
    }

    fn acknowledged(checks: &mut FlowChecks, suspects: Suspects) {
        checks.acknowledged(suspects, &program(), &Model::default(), [].into_iter());
    }

    #[test]
    fn a_commit_that_affects_no_flow_causes_no_check() {
        let mut checks = FlowChecks::default();
        acknowledged(&mut checks, Suspects::default());
        assert!(checks.take().is_none());
    }

    #[test]
    fn flows_of_several_commits_are_checked_together_and_once() {
        let mut checks = FlowChecks::default();
        acknowledged(&mut checks, changed(1));
        acknowledged(&mut checks, Suspects::default());
        acknowledged(&mut checks, changed(2));
        let mut both = changed(1);
        both.merge(changed(2));
        assert_eq!(checks.take().unwrap().0, both);
        assert!(checks.take().is_none());
    }

    #[test]
    fn frontends_that_a_failed_commit_may_have_removed_are_remembered() {
        let mut checks = FlowChecks::default();
        let mut suspects = changed(1);
        suspects.merge(removed(2));
        checks.failed(&suspects);
        assert!(checks.take().is_none(), "nothing is known about the rules");
        assert_eq!(checks.take_uncertain(), removed(2));
        assert_eq!(checks.take_uncertain(), Suspects::default());
    }
}
