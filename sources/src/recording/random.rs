//! Random bytes, for identifiers and keys.

use std::fs::File;
use std::io::{self, Read};

/// Returns random bytes of the kernel.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
