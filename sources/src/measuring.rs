//! What is done with the bytes of an API server, as functions without a connection, for
//! `benches/instructions`; and a node without a thread, for `benches/fleet`.

pub use crate::api::measuring::Slices;
pub use crate::relay::measuring::follow_relay;
