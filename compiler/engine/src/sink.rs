//! The interface that the engine expects of a kernel.

use std::fmt;
use std::io;

use rulec_compiler::Program;
use rulec_compiler::delta::Delta;
use rulec_compiler::ipvs::Draining;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::state::State;

/// A kernel that deltas are committed to.
pub trait Sink {
    /// Reads our content of the kernel.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it cannot be read now.
    fn read(&mut self) -> Result<(State, DeltaBase), SinkError>;

    /// Takes over the content that an earlier process has left, and reads it.
    ///
    /// # Errors
    ///
    /// `Owned` if another process owns it, `Unavailable` if it cannot be read now.
    fn adopt(&mut self) -> Result<(State, DeltaBase), SinkError> {
        self.read()
    }

    /// Commits a delta that was computed from `base`. Services that the kernel refuses are left out
    /// and named in the outcome; all others are committed when this returns.
    ///
    /// # Errors
    ///
    /// On any error, an unknown part of the delta is committed: read and compare before the next
    /// commit.
    fn commit(&mut self, delta: &Delta, base: DeltaBase) -> Result<Outcome, SinkError>;

    /// Returns the delta from the kernel's content to a program that it has acknowledged. Another
    /// sink may commit meanwhile: the places that it changes may or may not be in the delta, and
    /// all others are in it only if the kernel's content differs there.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it cannot be read now.
    fn check(&mut self, program: &Program) -> Result<Delta, SinkError> {
        let (state, _) = self.read()?;
        Ok(Delta::reconcile(&state, program))
    }

    /// Returns those of these IPVS real servers that have no connections.
    ///
    /// # Errors
    ///
    /// `Unavailable` if they cannot be counted now.
    fn idle(&mut self, _: &[Draining]) -> Result<Vec<Draining>, SinkError> {
        Ok(Vec::new())
    }
}

/// The state that a delta was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaBase {
    /// The state that the kernel acknowledged last, assumed to be unchanged.
    Believed,
    /// The state that was read just now, at this generation of the ruleset. If there is a
    /// generation and the tables are not exclusively ours, the kernel refuses the delta if anything
    /// has changed since.
    Read {
        /// The generation. `None` if others commit so often that no undisturbed reading was
        /// possible, so that the kernel may hold something other than what was read.
        generation: Option<u32>,
    },
}

impl DeltaBase {
    /// Returns the generation, if there is one.
    pub fn generation(self) -> Option<u32> {
        match self {
            Self::Believed => None,
            Self::Read { generation } => generation,
        }
    }
}

/// The result of a commit.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The number of transactions.
    pub transactions: usize,
    /// The number of operations committed.
    pub ops: usize,
    /// The number of netlink bytes sent.
    pub bytes: usize,
    /// The Services that the kernel refused. If there are any, elements that earlier transactions
    /// have committed for them still exist but are not reachable: read and compare before the next
    /// commit.
    pub refused: Vec<Refusal>,
}

/// A Service that the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    /// The Service.
    pub service: NamespacedName,
    /// The kernel's error.
    pub error: io::Error,
}

/// The reason why a sink failed, grouped by the necessary reaction.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The kernel holds something other than we assumed. Read and compare.
    #[error("the kernel's state is not the one that was committed last")]
    Stale,
    /// The kernel may or may not have committed. Read and compare.
    #[error("the kernel's answer was lost")]
    Unknown(#[source] io::Error),
    /// The kernel refused something that belongs to no Service. An operator must look into it.
    #[error("the kernel refused a part of the ruleset that belongs to no Service")]
    Refused(#[source] io::Error),
    /// Another process owns our table: another rulec is running. An operator must look into it.
    #[error(
        "table rulec ({family}) is owned by another process ({owner}): stop it first, since only one \
         rulec can program a network namespace"
    )]
    Owned {
        /// The family.
        family: Family,
        /// The owner of the table.
        owner: Owner,
    },
    /// The kernel cannot be reached. Try again later.
    #[error("nf_tables cannot be reached")]
    Unavailable(#[source] io::Error),
}

/// The owner of a table: a netlink socket, and the process that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The port id of the socket.
    pub portid: u32,
    /// Id and name of the process, if they can be determined.
    pub process: Option<(u32, String)>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, name)) => write!(f, "{name}, process id {pid}"),
            None => write!(f, "netlink port {}", self.portid),
        }
    }
}

/// A change of our tables by another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// The process, if the kernel named it.
    pub culprit: Option<Culprit>,
}

/// A process that committed a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// Its process id.
    pub pid: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
}
