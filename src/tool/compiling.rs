//! How the tools compile manifests: as their options say or, without any, as the running daemon does.

use std::path::Path;
use std::sync::Arc;

use rulec_compiler::Settings;

use crate::cli::CompileArgs;
use crate::config::options::{IpvsArgs, SocketArgs};
use crate::observe::settings::{DaemonSettings, SETTINGS};
use crate::observe::telemetry::complain;
use crate::setup;
use crate::tool::daemon::{Unanswered, ask};
use crate::tool::input::{Giving, NodeAddresses};

/// All that decides what manifests compile to.
pub(crate) struct Compiling {
    pub(crate) settings: Arc<Settings>,
    pub(crate) giving: Giving,
    pub(crate) node: NodeAddresses,
    /// Who tells the daemon of Pods that manifests lack.
    pub(crate) runners: Vec<String>,
}

impl Compiling {
    /// Reads the options or, if none is given, asks the daemon. `is_here` tells whether the kernel
    /// of this machine is one of the states.
    ///
    /// # Errors
    ///
    /// If an option is wrong.
    pub(crate) fn of(
        args: &CompileArgs,
        socket: &SocketArgs,
        is_here: bool,
    ) -> anyhow::Result<Self> {
        Self::chosen(args, args.are_given(), socket, is_here)
    }

    /// The same, for a state that is the kernel's: what Services of manifests are given does not
    /// matter.
    ///
    /// # Errors
    ///
    /// As for [`Self::of`].
    pub(crate) fn of_kernel(args: &CompileArgs, socket: &SocketArgs) -> anyhow::Result<Self> {
        Self::chosen(args, args.settings_are_given(), socket, true)
    }

    fn chosen(
        args: &CompileArgs,
        is_given: bool,
        socket: &SocketArgs,
        is_here: bool,
    ) -> anyhow::Result<Self> {
        let socket = socket.path().filter(|_| !is_given);
        match socket.and_then(asked) {
            Some(daemon) => Self::of_daemon(daemon, is_here),
            None => Self::of_options(args, is_here),
        }
    }

    fn of_options(args: &CompileArgs, is_here: bool) -> anyhow::Result<Self> {
        let state_dir = Some(&*args.state_dir).filter(|path| !path.as_os_str().is_empty());
        let ipvs = &args.settings.ipvs;
        Ok(Self {
            settings: Arc::new(setup::settings(args)?),
            giving: Giving::of(&args.ranges, state_dir, args.cni_cache.clone())?,
            node: NodeAddresses::of(
                args.own_addresses.clone(),
                ipvs.addresses(),
                ipvs.device(),
                is_here,
            )?,
            runners: Vec::new(),
        })
    }

    fn of_daemon(daemon: DaemonSettings, is_here: bool) -> anyhow::Result<Self> {
        let device = daemon.ipvs_device.as_deref().unwrap_or(IpvsArgs::DEVICE);
        let addresses = daemon.ipvs_addresses.unwrap_or_default();
        Ok(Self {
            settings: Arc::new(daemon.settings),
            giving: Giving::of(&daemon.ranges, daemon.state_dir.as_deref(), daemon.cni_cache)?,
            node: NodeAddresses::of(Vec::new(), addresses, device, is_here)?,
            runners: daemon.runners,
        })
    }
}

/// Says that manifests lack Pods which the daemon, and so the kernel, may have.
pub(crate) fn remind(runners: &[String]) {
    if !runners.is_empty() {
        let runners = runners.join(" and ");
        complain(format_args!(
            "manifests lack what {runners} told the daemon about Pods; `rulec show` has it, and so \
             has the state @now of `rulec diff`"
        ));
    }
}

/// Asks the daemon, if there is one. Whatever the answer is decides what is compared, so it is said.
fn asked(socket: &Path) -> Option<DaemonSettings> {
    let path = socket.display();
    match ask(socket, SETTINGS) {
        Ok(settings) => {
            complain(format_args!("settings: those of the daemon at {path}"));
            Some(settings)
        }
        Err(Unanswered::NoDaemon { .. }) => None,
        Err(Unanswered::Failed(error)) => {
            complain(format_args!(
                "{error:#}\nsettings: the defaults, which may not be the daemon's"
            ));
            None
        }
    }
}
