//! The nftables back end: a constant ruleset over data maps, and the elements that fill them.
//!
//! No chain, rule, verdict element or anonymous set belongs to a Service or an endpoint, and no
//! chain that comes and goes looks into a map of Services or endpoints. A verdict
//! element would make the kernel revalidate the whole chain graph on each change, and an anonymous
//! set would slow every later set, whereas elements of exact-match data maps cost the same at any
//! size.
//!
//! - `set`, `chain`: the sets, maps and chains, the same for every cluster;
//! - `rule`: the language of rules;
//! - `ruleset`: the rules of each chain;
//! - `code`: what the maps tell a packet about its frontend: a group of backends, and a class;
//! - `size`: how a random slot is drawn among any number of backends;
//! - `maglev`: how a hash of the client leads to a slot;
//! - `group`: the backends of a Service port under one policy;
//! - `length`: the lengths of source ranges, which are exact matches, too;
//! - `localhost`: node ports on the loopback address of this node;
//! - `element`: one element of a set or map;
//! - `op`: one operation;
//! - `slots`: the assignment of backends to slots, chosen so that a change moves as few as
//!   possible;
//! - `text`: all of it in the syntax of the `nft` tool;
//! - `traffic`: which elements have a counter.

pub mod chain;
pub mod code;
pub mod element;
pub mod group;
pub mod length;
pub mod localhost;
pub mod maglev;
pub mod op;
pub mod rule;
pub mod ruleset;
pub mod set;
pub mod size;
pub mod slots;
pub mod text;
pub mod traffic;

pub use chain::ChainId;
pub use code::{Clients, Code, GroupId};
pub use element::{Element, Key, Value};
pub use op::Op;
pub use set::{Scope, SetId};
pub use slots::Slot;
