//! What is shown, and where it is known from: the daemon, or without one the kernel; or a state that
//! the command line names.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::nft::element::Key;
use rulec_compiler::object::ObjectKey;
use rulec_compiler::{Program, State};
use rulec_sources::Problem;

use crate::cli::show::ShowArgs;
use crate::observe::state::{self, DaemonState};
use crate::observe::status::{RefusedService, Status};
use crate::observe::telemetry::complain;
use crate::observe::view::View;
use crate::tool::compiling::Compiling;
use crate::tool::daemon::{Unanswered, ask};
use crate::tool::input::{Places, Side};

/// A state with what is known about it.
pub(super) struct Known {
    /// The objects, if they are known, and the settings.
    pub(super) side: Side,
    /// What the kernel holds, or would hold.
    pub(super) state: State,
    /// How the daemon is, if it was asked.
    pub(super) status: Option<Status>,
    /// Whether this is the state of this machine's kernel.
    pub(super) is_here: bool,
    problems: Vec<Problem>,
}

impl Known {
    /// Asks the daemon, or reads what the arguments name.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn read(args: &ShowArgs) -> anyhow::Result<Self> {
        if !args.state.is_empty() {
            return Self::of_side(args, &args.state);
        }
        let Some(socket) = args.socket.path() else {
            return Self::of_kernel(args, "--socket is empty");
        };
        match ask::<DaemonState>(socket, state::STATE) {
            Ok(state) => Self::of_daemon(state),
            Err(error @ Unanswered::NoDaemon { .. }) => Self::of_kernel(args, &error.to_string()),
            Err(Unanswered::Failed(error)) => Err(error),
        }
    }

    fn of_daemon(state: DaemonState) -> anyhow::Result<Self> {
        let DaemonState { status, is_acknowledged, snapshot, problems, .. } = state;
        let snapshot = snapshot.checked().context("what the daemon says")?;
        if !is_acknowledged {
            complain(
                "what the kernel holds is not known at the moment (rulec status says why): shown is \
                 what it should hold",
            );
        }
        let settings = Arc::new(snapshot.settings().clone());
        let side = Side::of_objects("the daemon", snapshot.model(), settings);
        let (state, status) = (snapshot.state(), Some(status));
        Ok(Self { side, state, status, is_here: true, problems })
    }

    /// Takes the state of the daemon that this process is. This takes time in proportion to it.
    pub(super) fn of_view(view: &View) -> Self {
        let program = view.applied.as_ref().or(view.wanted.as_ref());
        let state = program.map(Program::state).unwrap_or_default();
        let settings = Arc::clone(&view.settings);
        let side = Side::of_objects("the daemon", Some(view.model.clone()), settings);
        let problems = view.about.problems.values().flatten().cloned().collect();
        Self { side, state, status: Some(Status::of(view)), is_here: true, problems }
    }

    fn of_kernel(args: &ShowArgs, why: &str) -> anyhow::Result<Self> {
        complain(format_args!("{why}\nshown is what the kernel holds, which knows no objects"));
        Self::of_side(args, &["kernel".to_owned()])
    }

    fn of_side(args: &ShowArgs, states: &[String]) -> anyhow::Result<Self> {
        let is_here = states == ["kernel"];
        let Compiling { settings, mut giving, node, .. } =
            Compiling::of(&args.compile, &args.socket, is_here)?;
        let places = Places::of(&args.api, &args.socket, &settings);
        let mut side = Side::read(states, &places, &settings, &node, &mut giving)
            .with_context(|| format!("--state {}", states.join(", ")))?;
        for problem in &side.problems {
            complain(problem);
        }
        let state = match side.state.take() {
            Some(state) => state,
            None => side.compile(&State::default())?.state(),
        };
        Ok(Self { side, state, status: None, is_here, problems: Vec::new() })
    }

    /// A state with what the daemon says of a Service that the kernel refuses.
    #[cfg(test)]
    pub(super) fn for_test(side: Side, state: State, refused: Option<RefusedService>) -> Self {
        let mut status = Status::for_test();
        status.kernel.refused.extend(refused);
        Self { side, state, status: Some(status), is_here: false, problems: Vec::new() }
    }

    /// Returns what the kernel said of a Service that it refuses.
    pub(super) fn refused(&self, key: &NamespacedName) -> Option<&RefusedService> {
        let key = key.to_string();
        self.status.as_ref()?.kernel.refused.iter().find(|refused| refused.service == key)
    }

    /// Returns the problems of a Service, its slices and the Pods that it selects.
    pub(super) fn problems_of(&self, key: &NamespacedName) -> Vec<String> {
        let Some(model) = self.side.model.as_ref().filter(|_| !self.problems.is_empty()) else {
            return Vec::new();
        };
        let service = model.service(key);
        let slices = model.slices_of(key).map(|it| ObjectKey::EndpointSlice(it.object.key.clone()));
        let pods = service.into_iter().flat_map(|entry| model.pods_of(&entry.object));
        let pods = pods.map(|entry| ObjectKey::Pod(entry.object.key.clone()));
        let own = std::iter::once(ObjectKey::Service(key.clone())).chain(slices).chain(pods);
        let own: Vec<String> = own.map(|key| key.to_string()).collect();
        let is_own =
            |problem: &&Problem| problem.object.as_ref().is_some_and(|object| own.contains(object));
        self.problems.iter().filter(is_own).map(ToString::to_string).collect()
    }

    /// Returns the addresses that node ports answer on, as far as they are known.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        let held = self.state.tables.values();
        let named = self.side.model.as_ref().and_then(|model| {
            model.node(&self.side.settings.node_name).map(|node| &node.object.addresses)
        });
        held.flat_map(|table| table.elements.keys()).any(|key| *key == Key::NodeIp(address))
            || named.is_some_and(|addresses| addresses.contains(&address))
    }
}
