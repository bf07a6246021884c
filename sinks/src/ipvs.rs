//! IPVS: virtual and real servers over generic netlink, and the addresses that make them reachable.
//!
//! The kernel executes each request by itself: there are no transactions. Many requests are sent in
//! one call, in the given order; refusals are returned, and all others take effect.
//!
//! - `options`: the options;
//! - `wire`: virtual and real servers as bytes;
//! - `sink`: IPVS and nf_tables as one sink;
//! - `addresses`: a dummy device, or local routes.

mod addresses;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod options;
mod sink;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use nix::libc::{EEXIST, ENOENT, EPERM};
use rulec_compiler::ipvs::{self, Op, Scheduler, Scheduling, Server, State, VirtualServer};
use rulec_compiler::net::{Backend, Protocol};

pub use self::options::{Addresses, Device, Options};
pub use self::sink::IpvsSink;

use self::addresses::{Bound, change_of};
use self::wire::{ShownReal, ShownServer};
use crate::netlink::{Bus, Open, Requests, Writer};
use crate::rtnetlink::AddressChange;

/// The number of virtual servers that the kernel certainly lists in one piece. It continues a
/// longer list by counting the virtual servers of all network namespaces
/// (`ip_vs_genl_dump_services`, Linux 6.1), so it skips some if others come or go meanwhile. A list
/// is believed when the next one is the same.
const ONE_PIECE: usize = 8;

/// The number of further lists. If others change theirs all the time, the last one must do.
const LIST_ATTEMPTS: usize = 4;

/// The IPVS of the network namespace of the thread that opened it.
pub struct Ipvs {
    requests: Requests,
    /// The number of the netlink family. It changes when the module is reloaded.
    family: u16,
    bound: Bound,
}

/// The reason why IPVS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel has no IPVS, and could not load its module.
    #[error(
        "this kernel has no IPVS: load its module with `modprobe ip_vs`, or install the kernel's \
         modules if it is missing"
    )]
    Absent,
    /// There is no permission to change it.
    #[error("not permitted to program IPVS: CAP_NET_ADMIN is needed")]
    Forbidden,
    /// The kernel cannot be reached.
    #[error("IPVS cannot be reached")]
    Unavailable(#[source] io::Error),
}

/// The reason why a scheduler cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The kernel has no such scheduler, and could not load its module.
    #[error(
        "this kernel has no IPVS scheduler {0}: load its module with `modprobe ip_vs_{0}`, or \
         install the kernel's modules if it is missing"
    )]
    Absent(Scheduler),
    /// The kernel cannot be reached, or refused something else.
    #[error("cannot check for the scheduler in the kernel")]
    Unavailable(#[from] io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(ENOENT) => Self::Absent,
            Some(EPERM) => Self::Forbidden,
            _ => Self::Unavailable(error),
        }
    }
}

impl Ipvs {
    /// Opens it. The kernel loads the module by itself if it can. Nothing is changed.
    ///
    /// # Errors
    ///
    /// See `OpenError`.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let mut requests = Requests::open(Bus::Generic)?;
        let family = family(&mut requests)?;
        let bound = Bound::open(options)?;
        let mut ipvs = Self { requests, family, bound };
        // A process that may not send this request may not do anything else.
        ipvs.ask(wire::GET_INFO, |_| {})?;
        Ok(ipvs)
    }

    /// Creates the dummy device if it is wanted and absent, like the first bound address does.
    ///
    /// # Errors
    ///
    /// If the kernel does not support such devices, if another kind of device has the name, or if
    /// it cannot be reached.
    pub fn prepare(&mut self) -> io::Result<()> {
        self.bound.prepare()
    }

    /// Reads the virtual servers of the network namespace, whoever added them, and our addresses.
    /// Virtual servers that a `VirtualServer` cannot name are left out: those of firewall marks,
    /// and those of all ports.
    ///
    /// The kernel's dump does not tell if others add or delete virtual servers during it. A long
    /// list is asked for again until two are equal; if others never pause, one may be missing.
    ///
    /// # Errors
    ///
    /// If it cannot be read now.
    pub fn read(&mut self) -> io::Result<State> {
        self.family = family(&mut self.requests)?;
        let mut shown = self.list()?;
        let mut is_certain = shown.len() <= ONE_PIECE;
        for _ in 0..LIST_ATTEMPTS {
            if is_certain {
                break;
            }
            let again = self.list()?;
            is_certain = again == shown;
            shown = again;
        }
        if !is_certain {
            tracing::debug!(
                "other processes change virtual servers all the time; one may be missing"
            );
        }
        let mut servers = BTreeMap::new();
        for (server, attributes) in shown {
            let reals = self.dump_reals(server, |real| real.real)?;
            servers.insert(server, Server { attributes, reals });
        }
        Ok(State { servers, bound: self.bound.read()? })
    }

    /// Lists the virtual servers once.
    fn list(&mut self) -> io::Result<BTreeMap<VirtualServer, Option<ipvs::Attributes>>> {
        self.dump_servers(|servers: &mut BTreeMap<_, _>, shown| {
            servers.extend(shown.server.map(|server| (server, shown.attributes)));
        })
    }

    /// Executes operations in this order. Returns the indices of those that were refused, with the
    /// errors; all others have taken effect.
    ///
    /// If the scheduler of a virtual server changes, the kernel waits until no packet uses the old
    /// one any more; no other operation waits.
    ///
    /// # Errors
    ///
    /// If the socket failed: any of the operations may have been done.
    pub fn apply(&mut self, ops: &[Op]) -> io::Result<Vec<(usize, io::Error)>> {
        let mut refused = Vec::new();
        let mut done = 0;
        let is_command = |op: &Op| wire::command(op).is_some();
        for run in ops.chunk_by(|one, next| is_command(one) == is_command(next)) {
            // One of the two contains the whole run, the other is empty.
            let commands: Vec<(u8, &Op)> =
                run.iter().filter_map(|op| Some((wire::command(op)?, op))).collect();
            let changes: Vec<AddressChange> = run.iter().filter_map(change_of).collect();
            let family = self.family;
            let mut found =
                self.requests.batch(&commands, |writer, flags, seq, (command, op)| {
                    let message = generic(writer, family, flags, seq, *command);
                    wire::write_operands(writer, op);
                    message
                })?;
            found.extend(self.bound.apply(&changes)?);
            refused.extend(found.into_iter().map(|(idx, error)| (done + idx, error)));
            done += run.len();
        }
        Ok(refused)
    }

    /// Returns the numbers of connections and clients (remembered for persistence) that the real
    /// servers of these virtual servers keep. Servers that are gone are left out.
    ///
    /// # Errors
    ///
    /// If it cannot be read now.
    pub fn connections(
        &mut self,
        servers: &[VirtualServer],
    ) -> io::Result<BTreeMap<(VirtualServer, Backend), u32>> {
        let mut connections = BTreeMap::new();
        for server in servers {
            let reals = self.dump_reals(*server, |real| real.connections)?;
            connections.extend(reals.into_iter().map(|(real, count)| ((*server, real), count)));
        }
        Ok(connections)
    }

    /// Sets how many seconds connections without packets last: TCP, TCP after a FIN, UDP. 0 keeps
    /// the kernel's value.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: it counts in smaller units, and a time is limited to 2³¹ of them.
    pub fn set_timeouts(&mut self, tcp: u32, tcp_fin: u32, udp: u32) -> io::Result<()> {
        if (tcp, tcp_fin, udp) == (0, 0, 0) {
            return Ok(());
        }
        self.ask(wire::SET_CONFIG, |writer| wire::write_timeouts(writer, tcp, tcp_fin, udp))
    }

    /// Checks whether the kernel has a scheduler. If no virtual server uses it, one is added and
    /// deleted again (TCP 198.51.100.0:20000, which no Service uses), so that the kernel loads the
    /// scheduler's module.
    ///
    /// # Errors
    ///
    /// `Absent` if it has none; `Unavailable` if that cannot be checked.
    pub fn probe_scheduler(&mut self, scheduling: &Scheduling) -> Result<(), SchedulerError> {
        let used = self.dump_servers(|used: &mut BTreeSet<String>, shown| {
            used.insert(shown.scheduler.to_owned());
        })?;
        if used.contains(scheduling.scheduler.name()) {
            return Ok(());
        }
        let probe = VirtualServer {
            address: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)),
            protocol: Protocol::Tcp,
            port: PROBE_PORT,
        };
        let attributes = ipvs::Attributes { scheduling: *scheduling, persistence: None };
        let add = |ipvs: &mut Self| {
            ipvs.ask(wire::NEW_SERVICE, |writer| {
                wire::write_server(writer, probe, Some(&attributes));
            })
        };
        let delete = |ipvs: &mut Self| {
            ipvs.ask(wire::DEL_SERVICE, |writer| wire::write_server(writer, probe, None))
        };
        let mut added = add(self);
        if added.as_ref().is_err_and(|error| error.raw_os_error() == Some(EEXIST)) {
            // It is left over from an interrupted probe.
            delete(self)?;
            added = add(self);
        }
        match added {
            Ok(()) => Ok(delete(self)?),
            Err(error) if error.raw_os_error() == Some(ENOENT) => {
                Err(SchedulerError::Absent(scheduling.scheduler))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes our device and our routes, which removes all our addresses from the node. Virtual
    /// servers stay.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or cannot be reached.
    pub fn cleanup(&mut self) -> io::Result<()> {
        self.bound.cleanup()
    }

    /// Sends one request that is only acknowledged.
    fn ask(&mut self, command: u8, mut write: impl FnMut(&mut Writer)) -> io::Result<()> {
        let family = self.family;
        self.requests.ask(
            |writer, flags, seq| {
                let message = generic(writer, family, flags, seq, command);
                write(writer);
                message
            },
            |_| {},
        )
    }

    fn dump_servers<T: Default>(
        &mut self,
        mut each: impl FnMut(&mut T, ShownServer<'_>),
    ) -> io::Result<T> {
        let family = self.family;
        self.requests.dump(
            |writer, flags, seq| generic(writer, family, flags, seq, wire::GET_SERVICE),
            |all, message| {
                if let Some(shown) = ShownServer::read(message) {
                    each(all, shown);
                }
            },
        )
    }

    /// Returns the wanted property of each real server of a virtual server; nothing if that is
    /// gone.
    fn dump_reals<T>(
        &mut self,
        server: VirtualServer,
        of: impl Fn(&ShownReal) -> T,
    ) -> io::Result<BTreeMap<Backend, T>> {
        let family = self.family;
        self.requests.dump(
            |writer, flags, seq| {
                let message = generic(writer, family, flags, seq, wire::GET_DEST);
                wire::write_server(writer, server, None);
                message
            },
            |all: &mut BTreeMap<_, _>, message| {
                let shown = ShownReal::read(message, server);
                all.extend(shown.map(|shown| (shown.backend, of(&shown))));
            },
        )
    }
}

const PROBE_PORT: NonZeroU16 = NonZeroU16::new(20_000).unwrap();

fn generic(writer: &mut Writer, family: u16, flags: u16, seq: u32, command: u8) -> Open {
    writer.generic(family, flags, seq, command, wire::IPVS_GENL_VERSION)
}

/// Queries the number of the family, which makes the kernel load the module if it is absent.
fn family(requests: &mut Requests) -> io::Result<u16> {
    let mut id = None;
    requests.ask(
        |writer, flags, seq| {
            let kind = wire::GENL_ID_CTRL;
            let (command, version) = (wire::CTRL_CMD_GETFAMILY, wire::CTRL_VERSION);
            let message = writer.generic(kind, flags, seq, command, version);
            wire::write_family_name(writer);
            message
        },
        |message| id = id.take().or_else(|| wire::read_family_id(message)),
    )?;
    id.ok_or_else(|| io::Error::other("the kernel reported no number for the IPVS family"))
}
