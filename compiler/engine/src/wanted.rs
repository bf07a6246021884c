//! The content that the sources ask for: the model, and the program that is compiled from it.
//!
//! Changes go into the model at once, and only mark what they touch. The program follows when the
//! sink is idle, so that many changes cost one compilation.

use std::sync::Arc;

use rulec_compiler::change::{Change, Origin};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Dirty, Model, Program, Settings, State};

use crate::applied::Snapshot;
use crate::elsewhere::Elsewhere;
use crate::locals::{self, Locals};
use crate::reports;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Wanted {
    settings: Arc<Settings>,
    model: Model,
    /// The number of files that could not be read.
    unread: usize,
    /// The changes since the last compilation.
    dirty: Dirty,
    /// `None` before the first compilation.
    program: Option<Program>,
    /// The Services with a `Local` policy, as of the last compilation.
    locals: Locals,
    elsewhere: Elsewhere,
}

impl Wanted {
    /// Creates an empty model, not yet compiled.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            model: Model::default(),
            unread: 0,
            dirty: Dirty::default(),
            program: None,
            locals: Locals::new(),
            elsewhere: Elsewhere::default(),
        }
    }

    /// Applies changes to the model, and returns what they have touched. `invalidate` has it
    /// compiled.
    pub(crate) fn apply(&mut self, origin: Origin, changes: Vec<Change>) -> Dirty {
        let mut dirty = Dirty::default();
        for change in changes {
            dirty.merge(self.model.apply(origin, change));
        }
        dirty
    }

    /// Marks something for the next compilation.
    pub(crate) fn invalidate(&mut self, dirty: Dirty) {
        self.dirty.merge(dirty);
    }

    /// Sets the number of files that could not be read.
    pub(crate) fn set_unread(&mut self, files: usize) {
        self.unread = files;
    }

    /// Brings the program up to date with the model and returns it, except for Services that are
    /// held back. The first compilation takes its slots from what the kernel holds. `clock` is the
    /// time of the kernel's clock, in seconds.
    pub(crate) fn compile(
        &mut self,
        held: &State,
        clock: u32,
        is_held_back: impl Fn(&NamespacedName) -> bool,
    ) -> Program {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.services.retain(|service| !is_held_back(service));
        let program = match self.program.take() {
            Some(program) => self.compile_changes(program, &dirty, clock),
            None => self.compile_all(held, clock),
        };
        self.program = Some(program.clone());
        program
    }

    fn compile_all(&mut self, held: &State, clock: u32) -> Program {
        let Self { settings, model, locals, elsewhere, unread, .. } = self;
        let services = || model.services().map(|entry| &entry.object.key);
        for service in services() {
            locals::update(locals, model, settings, service);
        }
        let mut program = Program::compile_at(model, Arc::clone(settings), held, clock);
        if *unread > 0 {
            program.keep(model, held);
            reports::kept(&program, *unread);
        }
        reports::left_out(&program, model, services());
        elsewhere.report(model, settings, services());
        reports::conflicts(&program);
        program
    }

    fn compile_changes(&mut self, mut program: Program, dirty: &Dirty, clock: u32) -> Program {
        let Self { settings, model, locals, elsewhere, unread, .. } = self;
        if !dirty.is_empty() {
            for service in &dirty.services {
                locals::update(locals, model, settings, service);
            }
            program.set_clock(clock);
            program.update(model, dirty);
            reports::left_out(&program, model, dirty.services.iter());
            reports::lost_frontends(&program, dirty.services.iter());
            elsewhere.report(model, settings, dirty.services.iter());
        }
        if *unread == 0 && program.kept().next().is_some() {
            let services = program.kept().count();
            tracing::info!(services, "all files read; removing Services without a source");
            program.let_go(model);
        }
        program
    }

    /// Replaces the program by one without what is no longer used.
    pub(crate) fn replace(&mut self, program: Program) {
        self.program = Some(program);
    }

    /// Restores the kernel's content of a Service that it has refused.
    pub(crate) fn restore(&mut self, service: &NamespacedName, held: &Snapshot) {
        if let Some(program) = &mut self.program {
            program.restore(service, &held.program);
        }
        locals::restore(&mut self.locals, service, &held.locals);
    }

    /// Returns a program together with what it was just compiled from.
    pub(crate) fn snapshot(&self, program: Program) -> Snapshot {
        Snapshot { program, model: self.model.clone(), locals: self.locals.clone() }
    }

    /// Returns the program; `None` before the first compilation.
    pub(crate) fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }

    /// Returns the current model, of which changes may not be compiled yet.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the settings.
    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Returns true if all changes are compiled.
    pub(crate) fn is_compiled(&self) -> bool {
        self.dirty.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rulec_compiler::name::NodeName;
    use rulec_compiler::object::ObjectKey;

    use super::*;
    use crate::tests::{balanced, key, service, slice};

    fn wanted() -> Wanted {
        Wanted::new(Settings::new(NodeName::from("na")))
    }

    fn change(wanted: &mut Wanted, changes: Vec<Change>) {
        let dirty = wanted.apply(Origin::Manifests, changes);
        wanted.invalidate(dirty);
    }

    fn compile(wanted: &mut Wanted, held: &State) -> Program {
        wanted.compile(held, 0, |_| false)
    }

    fn services(program: &Program) -> Vec<&NamespacedName> {
        program.services().map(|(service, _)| service).collect()
    }

    #[test]
    fn changes_wait_for_the_next_compilation() {
        let mut wanted = wanted();
        let nothing = State::default();
        change(&mut wanted, vec![Change::Apply(service(1))]);
        assert!(wanted.program().is_none());
        assert_eq!(services(&compile(&mut wanted, &nothing)), [&key(1)]);
        change(&mut wanted, vec![Change::Apply(balanced(2))]);
        assert!(!wanted.is_compiled());
        assert_eq!(services(wanted.program().unwrap()), [&key(1)]);
        assert_eq!(services(&compile(&mut wanted, &nothing)), [&key(1), &key(2)]);
        assert!(wanted.is_compiled());
        assert!(wanted.locals.keys().eq([&key(2)]));
    }

    #[test]
    fn a_service_that_is_held_back_is_compiled_when_it_is_marked_again() {
        let mut wanted = wanted();
        compile(&mut wanted, &State::default());
        change(&mut wanted, vec![Change::Apply(service(1)), Change::Apply(service(2))]);
        let program = wanted.compile(&State::default(), 0, |service| *service == key(1));
        assert_eq!(services(&program), [&key(2)]);
        assert!(wanted.is_compiled());
        wanted.invalidate(Dirty { services: BTreeSet::from([key(1)]), ..Dirty::default() });
        assert_eq!(services(&compile(&mut wanted, &State::default())), [&key(1), &key(2)]);
    }

    #[test]
    fn services_that_no_source_names_are_kept_until_all_files_are_read() {
        let mut first = wanted();
        change(&mut first, vec![Change::Apply(service(1)), Change::Apply(slice(1, 2))]);
        let held = compile(&mut first, &State::default()).state();

        let mut second = wanted();
        second.set_unread(1);
        assert!(compile(&mut second, &held).kept().eq([&key(1)]));
        second.set_unread(0);
        assert_eq!(compile(&mut second, &State::default()).kept().count(), 0);
    }

    #[test]
    fn a_refused_service_is_restored_to_what_the_kernel_holds() {
        let mut wanted = wanted();
        change(&mut wanted, vec![Change::Apply(balanced(1))]);
        let program = compile(&mut wanted, &State::default());
        let held = wanted.snapshot(program);
        change(&mut wanted, vec![Change::Remove(ObjectKey::Service(key(1)))]);
        compile(&mut wanted, &State::default());
        assert!(wanted.locals.is_empty());
        wanted.restore(&key(1), &held);
        assert_eq!(services(wanted.program().unwrap()), [&key(1)]);
        assert_eq!(wanted.locals, held.locals);
    }
}
