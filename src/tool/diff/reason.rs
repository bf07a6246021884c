//! The reasons for changes: which object, which field, in which file.

use std::collections::BTreeMap;

use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::object::TrafficPolicy;
use rulec_compiler::resolve::{self, Rank};

use super::change::Kind;
use super::comparison::Comparison;
use super::endpoints::{Backends, Endpoints};
use super::objects::Objects;
use super::what::What;

/// Finds reasons. What it has looked up is kept: a Service may have a thousand frontends.
pub(super) struct Reasons<'a> {
    from: Objects<'a>,
    to: Objects<'a>,
    claims: [Claims; 2],
    endpoints: BTreeMap<(PortKey, Family), String>,
}

/// The frontends that Services ask for, each with the kind of its claim.
type Claims = BTreeMap<NamespacedName, BTreeMap<Frontend, Rank>>;

impl<'a> Reasons<'a> {
    pub(super) fn of(Comparison { from, to, .. }: &'a Comparison) -> Self {
        let (from, to) = (Objects::of(from), Objects::of(to));
        Self { from, to, claims: Default::default(), endpoints: BTreeMap::new() }
    }

    /// Returns the reason for a change of a frontend.
    pub(super) fn frontend(&mut self, owner: &PortKey, kind: &Kind, frontend: Frontend) -> String {
        let service = &owner.service;
        match kind.what {
            What::FrontendRemoved => self.removed(service, frontend),
            What::FrontendAdded | What::FrontendRefused | What::FrontendMoved => self
                .new_claim(service, frontend)
                .unwrap_or_else(|| format!("present in {}", self.to.side.name)),
            What::FrontendUnserved
            | What::FrontendUnservedHere
            | What::FrontendServed
            | What::FrontendRejected
            | What::FrontendDropped
            | What::BackendAdded
            | What::BackendRemoved => self.endpoints(owner, frontend.family()),
            What::FrontendOpened | What::FrontendRestricted => {
                format!("{} spec.loadBalancerSourceRanges", self.new_name(service))
            }
            What::FrontendAltered => {
                let fields = kind.fields.iter().map(ToString::to_string).collect::<Vec<_>>();
                format!("{} {}", self.new_name(service), fields.join("; "))
            }
            What::FieldChanged | What::ServiceAdded | What::ServiceRemoved => {
                self.new_name(service)
            }
            What::Repaired => self.repair(service),
        }
    }

    /// Returns the reason why elements change although the Services have the same meaning.
    pub(super) fn repair(&self, service: &NamespacedName) -> String {
        format!(
            "the elements of Service {service} in {} differ from those of {}",
            self.from.side.name, self.to.side.name
        )
    }

    /// Returns the endpoints of a Service port in a family, on both sides.
    pub(super) fn backends<'b>(&self, owner: &'b PortKey, family: Family) -> Backends<'b>
    where
        'a: 'b,
    {
        Backends::of([self.from, self.to], owner, family)
    }

    /// Returns the field of the traffic policy that asks for endpoints of this node at a frontend,
    /// if one does.
    pub(super) fn local_policy(
        &self,
        service: &NamespacedName,
        frontend: Frontend,
        is_from_outside: bool,
    ) -> Option<&'static str> {
        if is_from_outside {
            return Some("spec.externalTrafficPolicy");
        }
        let (service, _) = self.to.side.service(service)?;
        let Frontend::Address { address, .. } = frontend else { return None };
        let is_cluster_ip = service.cluster_ips.of(frontend.family()) == Some(address);
        let is_local = is_cluster_ip && service.internal_policy == TrafficPolicy::Local;
        is_local.then_some("spec.internalTrafficPolicy")
    }

    fn removed(&mut self, service: &NamespacedName, frontend: Frontend) -> String {
        // If it is still claimed, another change explains it.
        if let Some(field) = self.new_claim(service, frontend) {
            return field;
        }
        let [before, _] = &mut self.claims;
        let name = &self.to.side.name;
        match claim(self.from, before, service, frontend) {
            Some(field) => format!("was {field}"),
            None if self.to.side.service(service).is_some() => {
                format!("Service {service} in {name} does not claim it")
            }
            None => format!("there is no Service {service} in {name}"),
        }
    }

    fn new_name(&self, service: &NamespacedName) -> String {
        let known = self.to.service(service).map(|(_, name)| name);
        known.unwrap_or_else(|| format!("according to {}:", self.to.side.name))
    }

    fn new_claim(&mut self, service: &NamespacedName, frontend: Frontend) -> Option<String> {
        let [_, after] = &mut self.claims;
        claim(self.to, after, service, frontend)
    }

    fn endpoints(&mut self, owner: &PortKey, family: Family) -> String {
        let known = self.endpoints.entry((owner.clone(), family));
        known.or_insert_with(|| Endpoints::of(self.to, owner, family).summary()).clone()
    }
}

/// Returns the Service with the field that claims a frontend.
fn claim(
    objects: Objects<'_>,
    known: &mut Claims,
    key: &NamespacedName,
    frontend: Frontend,
) -> Option<String> {
    let side = objects.side;
    let model = side.model.as_ref()?;
    let (_, name) = objects.service(key)?;
    let of_service = known.entry(key.clone()).or_insert_with(|| {
        let routes = resolve::resolve(model, &side.settings, key).into_iter();
        routes.flat_map(|route| route.frontends).collect()
    });
    Some(format!("{name} {}", of_service.get(&frontend)?.field()))
}
