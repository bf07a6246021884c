//! The API source in the runtime of its caller, with connections that the caller makes.

use std::sync::Arc;

use rulec_compiler::name::NodeName;
use rulec_relay::Position;
use tokio::sync::mpsc;

use super::access::Access;
use super::dialer::Dialer;
use super::plugin::Leash;
use super::{ApiAccess, ApiOptions, ApiTiming, Notes, ProxyVariables, TokenReviews, follow};
use crate::state::StateDir;
use crate::update::Update;

pub use super::dialer::Dial;

/// The server's name. Nothing resolves it.
const URL: &str = "http://api.simulation";

/// Follows the server until the receiver is dropped. It needs no credentials.
pub async fn follow_api(
    node_name: NodeName,
    state: Option<StateDir>,
    dial: Dial,
    out: mpsc::Sender<Update>,
) {
    let options = ApiOptions {
        access: ApiAccess { kubeconfig: None, master: Some(URL.to_owned()) },
        node_name,
        proxies: ProxyVariables::default(),
        timing: ApiTiming::default(),
        state,
        all_nodes: false,
        floor: Position::default(),
        tells_positions: false,
    };
    let (_notes, left) = Notes::new();
    let (_reviews, questions) = TokenReviews::new();
    let access = Access::new(options, Arc::default(), Leash::default()).dialing(Dialer::new(dial));
    follow(access, out, left, questions).await;
}
