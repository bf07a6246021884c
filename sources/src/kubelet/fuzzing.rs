//! Answers of the kubelet as bytes.

use bytes::BytesMut;

use super::grpc::Frames;
use super::{poll, stream};
use crate::pods::fuzzing as pods;
use crate::pods::pod::Raw;

/// Reads a stream of the pods API: messages with their lengths.
pub fn kubelet_stream(bytes: &[u8]) {
    let mut frames = Frames(BytesMut::from(bytes));
    while let Ok(Some(message)) = frames.next() {
        match stream::event(message) {
            Ok(Some(event)) => pods::event(event),
            Ok(None) => {}
            Err(fault) => assert!(!fault.to_string().is_empty()),
        }
    }
}

/// Reads the answer of `/pods`.
pub fn kubelet_list(bytes: &[u8]) {
    for pod in poll::pods(bytes).into_iter().flatten() {
        pods::pod(Raw::Json(pod));
    }
}
