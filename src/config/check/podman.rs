//! How podman is reached.

use std::path::PathBuf;

use crate::config::Surroundings;
use crate::config::options::RunArgs;
use crate::config::values::Values;

/// The socket of the API of podman that runs as root.
const SOCKET: &str = "/run/podman/podman.sock";

/// Returns the socket of podman, if it is a source. It is one by itself only beside manifests, and
/// if neither an API server nor the kubelet knows the node's Pods.
pub(super) fn podman(
    values: &mut Values,
    run: &RunArgs,
    has_others: bool,
    surroundings: &Surroundings,
) -> Option<PathBuf> {
    let args = &run.podman;
    let socket = args.podman_socket.clone().unwrap_or_else(|| SOCKET.into());
    let unused = |values: &mut Values, reason| {
        if args.podman_socket.is_some() {
            values.option_unused("--podman-socket", reason);
        }
    };
    match args.podman {
        Some(true) => return Some(socket),
        Some(false) => unused(values, "--podman is false"),
        None if has_others => {
            unused(values, "the API server or the kubelet knows the Pods; set --podman as well");
        }
        None if !run.has_manifests() => unused(values, "there are no manifests"),
        None => match (surroundings.has_podman)(&socket) {
            Ok(true) => return Some(socket),
            Ok(false) => unused(values, "there is no such socket; --podman waits for it"),
            Err(error) => {
                let message = format!(
                    "is not given, and whether {} exists cannot be seen: {error}; podman is not \
                     followed",
                    socket.display()
                );
                values.warn_of_option("--podman", message);
            }
        },
    }
    None
}
