//! Which object and field a step is there for.

use rulec_compiler::frontend::PortKey;
use rulec_compiler::nft::rule::{Scratch, Statement};
use rulec_compiler::nft::set::SetId;
use rulec_compiler::oracle::{Masquerade, Verdict};
use rulec_compiler::state::State;

use super::way::{Step, Way};
use crate::tool::explain::{Explained, Explanation};
use crate::tool::input::Side;

/// Returns what each step is there for, if that is known. `same` is the outcome that was expected.
pub(super) fn steps(
    side: &Side,
    state: &State,
    explanation: &Explanation,
    same: Option<&Explained>,
    way: &Way,
) -> Vec<Option<String>> {
    let frontend = explanation.frontend().map(|served| served.frontend);
    let owner = frontend.and_then(|frontend| Some(side.meant(state.owner(frontend)?)));
    let about = About { side, owner, frontend, way, same };
    way.steps.iter().map(|step| about.step(step)).collect()
}

struct About<'a> {
    side: &'a Side,
    owner: Option<PortKey>,
    frontend: Option<rulec_compiler::Frontend>,
    way: &'a Way,
    same: Option<&'a Explained>,
}

impl About<'_> {
    fn step(&self, step: &Step) -> Option<String> {
        let (rule, _) = step.rule.as_ref()?;
        rule.0.iter().rev().find_map(|statement| self.statement(statement))
    }

    fn statement(&self, statement: &Statement) -> Option<String> {
        if let Statement::Dnat { .. } = statement {
            return self.backend();
        }
        if let Statement::Masquerade = statement {
            return Some(self.masquerade().to_owned());
        }
        if let Statement::SetPriority(Scratch::Map { map: set, .. })
        | Statement::Member { set, is_member: true, .. } = statement
        {
            return self.set(*set);
        }
        None
    }

    fn backend(&self) -> Option<String> {
        let owner = self.owner.as_ref()?;
        let Verdict::Backend(backend) = self.way.verdict else { return None };
        let unknown = || format!("an endpoint of Service {}: {backend}", owner.service);
        Some(self.side.sighting(owner, backend).unwrap_or_else(unknown))
    }

    fn masquerade(&self) -> &'static str {
        match self.same.and_then(|it| it.outcome.masquerade) {
            Some(Masquerade::Hairpin) => "the packet would return to its source (hairpin)",
            Some(Masquerade::Mark) | None => "replies return through this node",
        }
    }

    fn set(&self, set: SetId) -> Option<String> {
        let field = |what: &str| Some(self.service()? + " " + what);
        match set {
            SetId::Services(_) => {
                let (frontend, owner) = (self.frontend?, self.owner.as_ref()?);
                let named = self.side.field_of(&owner.service, frontend);
                Some(
                    named.unwrap_or_else(|| format!("Service {} serves {frontend}", owner.service)),
                )
            }
            SetId::LocalGroups => field("spec.externalTrafficPolicy is Local"),
            SetId::Firewalled => field("has spec.loadBalancerSourceRanges"),
            SetId::SourceRanges => field("spec.loadBalancerSourceRanges has the client"),
            SetId::Rejects(_) => field("has no usable endpoint"),
            SetId::Affinity(affinity) => {
                field(&format!("spec.sessionAffinity: {} s", affinity.timeout))
            }
            SetId::ServiceCidrs => Some("a ServiceCIDR has the address, and no Service".to_owned()),
            SetId::ClusterIps => Some("a cluster address".to_owned()),
            SetId::Classes
            | SetId::Draws
            | SetId::UnmasqueradedSources
            | SetId::UnmasqueradedInterfaces
            | SetId::PodSources
            | SetId::PodInterfaces
            | SetId::NodeIps
            | SetId::NodePortProtocols
            | SetId::Hairpin
            | SetId::Vips
            | SetId::Endpoints
            | SetId::MemberGroups
            | SetId::MemberSlots
            | SetId::Members
            | SetId::NextMembers
            | SetId::Turns
            | SetId::InvalidProtocols => None,
        }
    }

    fn service(&self) -> Option<String> {
        let key = &self.owner.as_ref()?.service;
        Some(match self.side.service(key) {
            Some((_, provenance)) => format!("Service {key} ({provenance})"),
            None => format!("Service {key}"),
        })
    }
}
