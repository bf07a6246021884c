//! The kernel's content as it was acknowledged last.
//!
//! After a failure the program that the kernel holds is unknown, until it has been read. The
//! rest stays, for everything that cannot wait for the read, such as health checks of load
//! balancers.

use std::sync::Arc;

use rulec_compiler::Program;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Model, Settings};

use crate::locals::{self, Locals};

/// A program, and what it was compiled from.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The program.
    pub(crate) program: Program,
    /// The model it was compiled from.
    pub(crate) model: Model,
    /// The Services of that model with a `Local` policy.
    pub(crate) locals: Locals,
}

impl Snapshot {
    /// Restores the kernel's content of a Service that it has refused. Load balancers must not be
    /// told of endpoints that are not programmed.
    pub(crate) fn restore(&mut self, service: &NamespacedName, held: &Self) {
        self.program.restore(service, &held.program);
        locals::restore(&mut self.locals, service, &held.locals);
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// `None` if it is unknown.
    program: Option<Program>,
    /// The model that the last known program was compiled from.
    model: Model,
    /// The Services of that model with a `Local` policy.
    locals: Locals,
}

impl Applied {
    /// Notes that the kernel holds this.
    pub(crate) fn acknowledged(&mut self, held: Snapshot) {
        let Snapshot { program, model, locals } = held;
        *self = Self { program: Some(program), model, locals };
    }

    /// Notes that the kernel's program is unknown, and returns the one that was known.
    pub(crate) fn forget(&mut self) -> Option<Program> {
        self.program.take()
    }

    /// Returns the program; `None` if it is unknown.
    pub(crate) fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }

    /// Returns the model that the last known program was compiled from.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the Services with a `Local` policy, as acknowledged last.
    pub(crate) fn locals(&self) -> &Locals {
        &self.locals
    }

    /// Returns the content that a refused Service falls back to; an unknown program counts as
    /// empty.
    pub(crate) fn fallback(&self, settings: &Arc<Settings>) -> Snapshot {
        let program = self.program.clone();
        let program = program.unwrap_or_else(|| Program::new(Arc::clone(settings)));
        Snapshot { program, model: self.model.clone(), locals: self.locals.clone() }
    }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::State;
    use rulec_compiler::change::{Change, Origin};
    use rulec_compiler::name::NodeName;
    use rulec_compiler::object::Kind;

    use super::*;
    use crate::tests::{balanced, key};

    fn settings() -> Arc<Settings> {
        Arc::new(Settings::new(NodeName::from("na")))
    }

    /// A snapshot with this Service.
    fn snapshot(name: u8) -> Snapshot {
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::Apply(balanced(name)));
        let program = Program::compile(&model, settings(), &State::default());
        let mut locals = Locals::new();
        locals::update(&mut locals, &model, &settings(), &key(name));
        Snapshot { program, model, locals }
    }

    #[test]
    fn what_was_acknowledged_last_outlives_a_failure_except_the_program() {
        let mut applied = Applied::default();
        assert!(applied.program().is_none());
        applied.acknowledged(snapshot(1));
        assert!(applied.program().is_some());
        assert!(applied.forget().is_some());
        assert!(applied.program().is_none());
        assert!(applied.forget().is_none());
        assert_eq!(applied.model().count(Kind::Service), 1);
        assert!(applied.locals().contains_key(&key(1)));
    }

    #[test]
    fn a_refused_service_falls_back_to_what_was_acknowledged() {
        let mut applied = Applied::default();
        applied.acknowledged(snapshot(1));
        let mut wanted = snapshot(2);
        let held = applied.fallback(&settings());
        wanted.restore(&key(1), &held);
        wanted.restore(&key(2), &held);
        assert!(wanted.program.services().map(|(service, _)| service).eq([&key(1)]));
        assert_eq!(wanted.locals, *applied.locals());
    }

    #[test]
    fn a_refused_service_falls_back_to_nothing_if_the_program_is_unknown() {
        let mut wanted = snapshot(1);
        wanted.restore(&key(1), &Applied::default().fallback(&settings()));
        assert_eq!(wanted.program.services().count(), 0);
        assert!(wanted.locals.is_empty());
    }
}
