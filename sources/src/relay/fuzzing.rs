//! Responses of a relay as bytes.

use prost::Message;
use rulec_compiler::name::NodeName;
use rulec_relay::discovery::DeltaResponse;

use super::store::Store;

/// Reads a response, as one that completes a state. What cannot be used must have a reason.
pub fn relay(bytes: &[u8]) {
    let Ok(response) = DeltaResponse::decode(bytes) else { return };
    let count = response.resources.len();
    let mut store = Store::new(NodeName::from("here"));
    let Ok(refused) = store.take(DeltaResponse { position: "1".to_owned(), ..response }) else {
        return;
    };
    assert!(refused.len() <= count);
    assert!(refused.is_empty() == store.problems().is_empty() || count > 1);
    let _ = store.changes();
}
