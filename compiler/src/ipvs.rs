//! IPVS: virtual servers, real servers, and the addresses that let this node answer for them.
//!
//! In this mode the kernel's IPVS chooses the backend and translates addresses. Everything that
//! IPVS does not do (masquerading, policies, source ranges, refusing traffic to unserved addresses)
//! stays with our nf_tables table. Its `services` map then decides only how clients of a frontend
//! are treated, not about backends; it also tells which virtual servers are ours.
//!
//! - `delta`: the operations from one state of a virtual server to another;
//! - `draining`: real servers that keep their connections for a time;
//! - `server`: virtual servers and real servers;
//! - `op`: one operation;
//! - `state`: the content that a kernel holds, and the reference semantics of an operation;
//! - `text`: operations in the syntax of `ipvsadm --restore`.

pub mod delta;
pub mod draining;
pub mod op;
pub mod server;
pub mod state;
pub mod text;

pub use crate::scheduling::{Scheduler, SchedulerFlags, Scheduling};
pub use draining::Draining;
pub use op::{Op, Turn, Verb};
pub use server::{Attributes, RealServer, VirtualServer};
pub use state::{Server, State};
