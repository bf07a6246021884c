//! The nftables back end: a constant ruleset over data maps, and the elements that fill them.
//!
//! No chain, rule, verdict element or anonymous set belongs to a Service or an endpoint. A verdict
//! element would make the kernel revalidate the whole chain graph on each change, and an anonymous
//! set would slow every later set, whereas elements of exact-match data maps cost the same at any
//! size.
//!
//! - `skeleton`: the tables, sets, chains and rules, the same for every cluster;
//! - `pick`: the few chains that choose one of *n* backends, shared by all Services;
//! - `element`: one element of a set or map;
//! - `op`: one operation;
//! - `slots`: the assignment of backends to slots, chosen so that a change moves as few as
//!   possible;
//! - `program`: the desired content of the tables, as a persistent snapshot;
//! - `state`: the content that a kernel holds, and the reference semantics of an operation;
//! - `delta`: the operations that lead from a state or program to a program;
//! - `stage`: the steps of a delta, between which no packet meets a miss;
//! - `flows`: the existing flows that contradict the rules;
//! - `oracle`: the fate of a packet under those rules and a given state;
//! - `text`: all of it in the syntax of the `nft` tool.

pub mod delta;
pub mod element;
pub mod flows;
pub mod op;
pub mod oracle;
pub mod pick;
pub mod program;
pub mod skeleton;
pub mod slots;
pub mod stage;
pub mod state;
pub mod text;

pub use delta::{Delta, Group};
pub use element::{Element, Key, Value};
pub use flows::{Flow, Suspects};
pub use op::Op;
pub use pick::{MAX_AFFINITY_BACKENDS, Pick};
pub use program::Program;
pub use skeleton::{ChainId, Scope, SetId};
pub use slots::Slot;
pub use stage::Step;
pub use state::State;
