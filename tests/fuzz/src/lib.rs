//! Everything that reads the bytes of others, as functions of bytes.
//!
//! ```text
//!  fuzz/corpus/TARGET ─▶ mutation ─▶ TARGETS ◀─ fuzz/fuzz_targets (libFuzzer, nightly)
//! ```
//!
//! - [`TARGETS`] has each reader with the most that it may allocate. A target fails by a panic.
//! - [`mutation`] makes other inputs of a corpus, the same ones for the same seed.
//! - `tests/corpus.rs` runs both on a stable compiler.

pub mod mutation;
mod target;

use rulec_sinks::fuzzing as sinks;
use rulec_sources::fuzzing as sources;

pub use sources::STACK_BYTES;
pub use target::Target;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All targets.
///
/// What a target may allocate is a constant and a multiple of the length of its input, about three
/// times of what was found. The constants of YAML follow from its limits: how much aliases may
/// repeat.
pub const TARGETS: [Target; 19] = [
    Target { name: "manifest_yaml", run: target::yaml, least: 192 * MIB, factor: 4096 },
    Target { name: "manifest_json", run: target::json, least: 4 * MIB, factor: 1024 },
    Target { name: "api_list", run: sources::api_list, least: 64 * KIB, factor: 512 },
    Target { name: "api_event", run: sources::api_event, least: 64 * KIB, factor: 256 },
    Target { name: "kubelet_stream", run: sources::kubelet_stream, least: 64 * KIB, factor: 128 },
    Target { name: "kubelet_list", run: sources::kubelet_list, least: 64 * KIB, factor: 512 },
    Target { name: "podman", run: sources::podman, least: 64 * KIB, factor: 512 },
    Target { name: "relay", run: sources::relay, least: 64 * KIB, factor: 2048 },
    Target { name: "cni_cache", run: sources::cni_cache, least: 64 * KIB, factor: 64 },
    Target { name: "state", run: sources::state, least: 4 * MIB, factor: 1024 },
    Target { name: "addresses", run: sources::addresses_and_routes, least: 64 * KIB, factor: 64 },
    Target { name: "nftables", run: sinks::nftables, least: 256 * KIB, factor: 256 },
    Target { name: "ipvs", run: sinks::ipvs, least: 64 * KIB, factor: 16 },
    Target { name: "conntrack", run: sinks::conntrack, least: 64 * KIB, factor: 16 },
    Target { name: "links_and_routes", run: sinks::links_and_routes, least: 64 * KIB, factor: 64 },
    Target { name: "configuration", run: target::configuration, least: 16 * MIB, factor: 4096 },
    Target { name: "name", run: target::name, least: 64 * KIB, factor: 512 },
    Target { name: "recording", run: target::recording, least: 4 * MIB, factor: 4096 },
    Target { name: "snapshot", run: target::snapshot, least: 4 * MIB, factor: 4096 },
];

/// Runs a target by its name, for the programs of libFuzzer.
///
/// # Panics
///
/// If the target has a fault, or there is none of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        panic!("there is no target {name}");
    };
    (target.run)(bytes);
}
