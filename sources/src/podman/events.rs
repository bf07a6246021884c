//! The events of podman, a line each.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::client::Answer;
use super::fault::Fault;
use crate::error::printable;

/// Events of containers, Pods and networks: `{"type":["container","pod","network"]}`. Those of
/// networks name the container that is connected or disconnected.
pub(super) const PATH: &str = "/events?stream=true&filters=\
    %7B%22type%22%3A%5B%22container%22%2C%22pod%22%2C%22network%22%5D%7D";

/// How many events may wait for a look.
pub(super) const WAITING: usize = 1024;

/// The longest event. It has all labels of a container.
const LONGEST: usize = 4 << 20;

/// An event.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Happened {
    action: String,
    pub(super) actor: Actor,
    /// Why there are no events: podman may only notice when it has begun to answer.
    #[serde(rename = "message")]
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Actor {
    /// A container or a Pod.
    #[serde(rename = "ID")]
    pub(super) id: String,
}

impl Happened {
    /// Returns whether it is the outcome of a health check, which may be that of the one before.
    pub(super) fn is_health_check(&self) -> bool {
        self.action == "health_status"
    }

    /// Returns whether Pods may have changed. What is not known may be anything.
    fn matters(&self) -> bool {
        // What happens inside of a container, or to its files; and a look at it.
        let others =
            ["exec", "exec_died", "attach", "mount", "unmount", "commit", "export", "sync"];
        !others.contains(&&*self.action)
    }
}

/// Reads events until they end, or nobody listens any more. The last thing it says is why.
pub(super) async fn hear(answer: Answer, out: mpsc::Sender<Result<Happened, Fault>>) {
    let fault = read(answer, &out).await;
    // Nobody listens any more if this fails.
    let _ = out.send(Err(fault)).await;
}

async fn read(answer: Answer, out: &mpsc::Sender<Result<Happened, Fault>>) -> Fault {
    let Answer { mut body, connection: _connection } = answer;
    let mut buffer = BytesMut::new();
    loop {
        let data = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => return Fault::Connection(error),
            None => return Fault::Ended,
        };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end);
            buffer.advance(1);
            let happened: Happened = match serde_json::from_slice(&line) {
                Ok(happened) => happened,
                Err(source) => return Fault::Garbled { path: "/events".to_owned(), source },
            };
            if happened.action.is_empty() && !happened.message.is_empty() {
                return Fault::NoEvents(printable(&happened.message));
            }
            if happened.matters() && out.send(Ok(happened)).await.is_err() {
                return Fault::Ended;
            }
        }
        if buffer.len() > LONGEST {
            return Fault::TooLong(LONGEST);
        }
    }
}
