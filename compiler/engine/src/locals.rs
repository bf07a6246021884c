//! Views of Services with a `Local` policy, for health checks of load balancers.

use im::OrdMap;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::resolve::local::{LocalView, local_view};
use rulec_compiler::{Model, Settings};

/// Services with a `Local` policy.
pub type Locals = OrdMap<NamespacedName, LocalView>;

/// Brings the view of a Service up to date with the model.
pub(crate) fn update(
    locals: &mut Locals,
    model: &Model,
    settings: &Settings,
    service: &NamespacedName,
) {
    set(locals, service, local_view(model, settings, service));
}

/// Restores the view of a Service from other views.
pub(crate) fn restore(locals: &mut Locals, service: &NamespacedName, from: &Locals) {
    set(locals, service, from.get(service).cloned());
}

fn set(locals: &mut Locals, service: &NamespacedName, view: Option<LocalView>) {
    match view {
        Some(view) => locals.insert(service.clone(), view),
        None => locals.remove(service),
    };
}

#[cfg(test)]
mod tests {
    use rulec_compiler::change::{Change, Origin};
    use rulec_compiler::name::NodeName;

    use super::*;
    use crate::tests::{balanced, key, service};

    #[test]
    fn only_services_with_a_local_policy_have_a_view() {
        let settings = Settings::new(NodeName::from("na"));
        let mut model = Model::default();
        let mut locals = Locals::new();
        model.apply(Origin::Manifests, Change::Apply(balanced(1)));
        update(&mut locals, &model, &settings, &key(1));
        assert!(locals.contains_key(&key(1)));
        model.apply(Origin::Manifests, Change::Apply(service(1)));
        update(&mut locals, &model, &settings, &key(1));
        assert!(locals.is_empty());
    }

    #[test]
    fn a_restored_view_is_the_previous_one_or_none() {
        let settings = Settings::new(NodeName::from("na"));
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::Apply(balanced(1)));
        let mut before = Locals::new();
        update(&mut before, &model, &settings, &key(1));
        let mut locals = Locals::new();
        restore(&mut locals, &key(1), &before);
        assert_eq!(locals, before);
        restore(&mut locals, &key(1), &Locals::new());
        assert!(locals.is_empty());
    }
}
