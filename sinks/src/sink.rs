//! What the engine expects of a kernel.

use std::io;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::nft::delta::Delta;
use rulec_compiler::nft::program::Draining;
use rulec_compiler::nft::state::State;

use crate::nft::Owner;

/// A kernel that deltas are committed to.
pub trait Sink {
    /// Reads what the kernel holds of ours.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it cannot be read now.
    fn read(&mut self) -> Result<(State, Base), SinkError>;

    /// Takes over what an earlier process has left, and reads it.
    ///
    /// # Errors
    ///
    /// `Owned` if another process has it, `Unavailable` if it cannot be read now.
    fn adopt(&mut self) -> Result<(State, Base), SinkError> {
        self.read()
    }

    /// Commits a delta that was computed from `base`. Services the kernel refuses are left out and
    /// named in the outcome; all others are committed when this returns.
    ///
    /// # Errors
    ///
    /// On any error, an unknown part of the delta is committed: read and compare before the next.
    fn commit(&mut self, delta: &Delta, base: Base) -> Result<Outcome, SinkError>;

    /// Which of these real servers of IPVS have no connections.
    ///
    /// # Errors
    ///
    /// `Unavailable` if they cannot be counted now.
    fn idle(&mut self, _: &[Draining]) -> Result<Vec<Draining>, SinkError> {
        Ok(Vec::new())
    }
}

/// What a delta was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// What the kernel acknowledged last: we believe that it still holds it.
    Believed,
    /// What was read just now, at this generation of the ruleset. If there is a generation, and the
    /// tables are not ours alone, the kernel refuses the delta if
    /// anything has changed since.
    Read {
        /// The generation. `None` if others commit too often to wait for a moment without, so that the
        /// kernel may hold something else than what was read.
        generation: Option<u32>,
    },
}

impl Base {
    pub(crate) fn generation(self) -> Option<u32> {
        match self {
            Self::Believed => None,
            Self::Read { generation } => generation,
        }
    }
}

/// What a commit did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The number of transactions.
    pub transactions: usize,
    /// The number of operations committed.
    pub ops: usize,
    /// The bytes of netlink they took.
    pub bytes: usize,
    /// The Services the kernel refused. If there are any, what was committed of them in earlier transactions
    /// is still there, and leads nowhere: read and compare before the next commit.
    pub refused: Vec<Refusal>,
}

/// A Service the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    /// The Service.
    pub service: NamespacedName,
    /// The kernel's error.
    pub error: io::Error,
}

/// Why a sink could not do what it was asked, by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The kernel holds something else than we believed. Read and compare.
    #[error("the kernel does not hold what we believed")]
    Stale,
    /// The kernel may or may not have committed. Read and compare.
    #[error("the kernel's answer was lost")]
    Unknown(#[source] io::Error),
    /// The kernel refused something that belongs to no Service. A human must look.
    #[error("the kernel refused the base of the ruleset")]
    Refused(#[source] io::Error),
    /// Another process owns our table: another rulec is running. A human must look.
    #[error(
        "table rulec ({family}) is owned by another process ({owner}): stop it first, since only one \
         rulec can program a network namespace"
    )]
    Owned {
        /// The family.
        family: Family,
        /// Whose socket owns it.
        owner: Owner,
    },
    /// The kernel cannot be reached. Try again later.
    #[error("nf_tables cannot be reached")]
    Unavailable(#[source] io::Error),
}
