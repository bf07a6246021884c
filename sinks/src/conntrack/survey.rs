//! Reads all flows, once and without a filter.

use std::io;
use std::net::SocketAddr;

use nix::libc::{EINVAL, EPERM};
use rulec_compiler::Flow;
use rulec_compiler::flows::FlowKind;

use super::wire;
use crate::netlink::{Bus, Requests};

/// A flow that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The flow.
    pub flow: Flow,
    /// The address and port of the client.
    pub client: SocketAddr,
    /// Its kind; `None` for a connection that was answered.
    pub kind: Option<FlowKind>,
}

/// The reason why flows could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// There is no permission to read flows.
    #[error("not permitted to read the flows of conntrack: CAP_NET_ADMIN is needed")]
    Forbidden,
    /// The kernel has no ctnetlink.
    #[error("this kernel does not tell the flows of conntrack: it has no ctnetlink")]
    Absent,
    /// The kernel cannot be reached, or did not return all flows.
    #[error("cannot read the flows of conntrack")]
    Unavailable(#[source] io::Error),
}

/// Passes on all flows of the default zone that have not ended, of the network namespace of the
/// calling thread, and returns what the caller has made of them. What it made of a listing that the
/// kernel interrupted is dropped, and the flows are listed again.
///
/// A flow may come twice, if the flow before it ends meanwhile.
///
/// # Errors
///
/// See `SurveyError`: nothing is ever left out in silence.
pub fn survey<T: Default>(mut each: impl FnMut(&mut T, &Live)) -> Result<T, SurveyError> {
    let mut requests = Requests::open(Bus::Netfilter).map_err(SurveyError::Unavailable)?;
    // One listing has both families.
    let write = |writer: &mut _, flags, seq| wire::write_listing(writer, flags, seq);
    let found = requests.dump(write, |found, message| {
        if let Some(live) = wire::read_live(message) {
            each(found, &live);
        }
    });
    found.map_err(|error| match error.raw_os_error() {
        Some(EPERM) => SurveyError::Forbidden,
        Some(EINVAL) => SurveyError::Absent,
        _ => SurveyError::Unavailable(error),
    })
}
