//! The nftables back end: a constant ruleset over data maps, and the elements that fill them.
//!
//! No chain, rule, verdict element or anonymous set belongs to a Service or an endpoint. A verdict
//! element would make the kernel revalidate the whole chain graph on each change, and an anonymous
//! set would slow every later set, whereas elements of exact-match data maps cost the same at any
//! size.
//!
//! - `set`, `chain`: the sets, maps and chains, the same for every cluster;
//! - `rule`: the language of rules;
//! - `ruleset`: the rules of each chain;
//! - `pick`: the few chains that choose one of *n* backends, shared by all Services;
//! - `element`: one element of a set or map;
//! - `op`: one operation;
//! - `slots`: the assignment of backends to slots, chosen so that a change moves as few as
//!   possible;
//! - `text`: all of it in the syntax of the `nft` tool.

pub mod chain;
pub mod element;
pub mod op;
pub mod pick;
pub mod rule;
pub mod ruleset;
pub mod set;
pub mod slots;
pub mod text;

pub use chain::ChainId;
pub use element::{Element, Key, Value};
pub use op::Op;
pub use pick::{MAX_AFFINITY_BACKENDS, Pick};
pub use set::{Scope, SetId};
pub use slots::Slot;
