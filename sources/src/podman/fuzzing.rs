//! Answers of podman as bytes.

use super::events::Happened;
use super::pod::World;
use crate::pods::fuzzing as pods;

/// Reads lines: the list of Pods, that of containers, the descriptions by id, and events.
pub fn podman(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let world = World {
        pods: serde_json::from_slice(line()).unwrap_or_default(),
        containers: serde_json::from_slice(line()).unwrap_or_default(),
        described: serde_json::from_slice(line()).unwrap_or_default(),
        failed: Default::default(),
    };
    for event in world.events().into_iter().flatten() {
        pods::event(event);
    }
    for line in lines {
        let _ = serde_json::from_slice::<Happened>(line);
    }
}
