//! The sources without threads, network and clock of their own, for `tests/simulation`.

pub use crate::api::simulation::{Dial, follow_api};
pub use crate::manifests::simulation::Directory;
