//! What is done with the bytes of an API server, as functions without a connection, for
//! `benches/instructions`.

pub use crate::api::measuring::Slices;
