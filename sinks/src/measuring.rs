//! What is done on the way to the kernel, as functions without a kernel, for `benches/instructions`.

pub use crate::nft::measuring::Encoder;
