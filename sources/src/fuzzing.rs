//! What is read of the bytes of others, as functions of bytes, for `tests/fuzz`: none may panic,
//! and each asserts that nothing is lost in silence.

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;

pub use crate::api::fuzzing::{api_event, api_list};
pub use crate::kubelet::fuzzing::{kubelet_list, kubelet_stream};
pub use crate::manifests::fuzzing::{STACK_BYTES, cni_cache, json, yaml};
pub use crate::podman::fuzzing::podman;
pub use crate::recording::decode as recording;
pub use crate::relay::fuzzing::relay;

/// Reads messages of rtnetlink as addresses of interfaces and as routes.
pub fn addresses_and_routes(bytes: &[u8]) {
    for message in crate::rtnetlink::messages(bytes) {
        let Ok(message) = message else { break };
        let NetlinkPayload::InnerMessage(answer) = message.payload else { continue };
        if let RouteNetlinkMessage::NewAddress(one) = &answer {
            let _ = crate::interfaces::address(one);
        }
        if let RouteNetlinkMessage::NewRoute(one) = &answer {
            let _ = crate::networks::used(one, None);
        }
    }
}

/// Reads the content of a state file as that of every source.
pub fn state(bytes: &[u8]) {
    crate::api::fuzzing::saved(bytes);
    crate::manifests::fuzzing::saved(bytes);
    crate::pods::fuzzing::saved(bytes);
    crate::allocate::fuzzing::saved(bytes);
}
