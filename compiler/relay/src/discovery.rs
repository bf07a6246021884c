//! The messages of `envoy.service.discovery.v3`, with the fields that are used.
//!
//! Unknown fields are skipped, as always in protocol buffers, so that other implementations of the
//! protocol can take part.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

/// The path of the call: `AggregatedDiscoveryService.DeltaAggregatedResources`.
pub const METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// `DeltaDiscoveryRequest`: a subscription, or the answer to a response.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaRequest {
    /// The node that asks. Only the first request needs it.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The type of the resources.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names that are wanted from now on. None in the first request means all resources.
    #[prost(string, repeated, tag = "3")]
    pub subscribe: Vec<String>,
    /// Names that are no longer wanted.
    #[prost(string, repeated, tag = "4")]
    pub unsubscribe: Vec<String>,
    /// The resources that the node has from before, by name, with their versions.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_versions: BTreeMap<String, String>,
    /// The response that is answered.
    #[prost(string, tag = "6")]
    pub nonce: String,
    /// Why the response cannot be used, if it cannot.
    #[prost(message, optional, tag = "7")]
    pub error: Option<Status>,
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// The name of the node.
    #[prost(string, tag = "1")]
    pub id: String,
    /// More about it.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<Struct>,
    /// The program that asks.
    #[prost(string, tag = "6")]
    pub user_agent: String,
}

/// The name in `Node::metadata` of the position of what the node has (`Standing`).
pub const POSITION: &str = "rulec.io/position";

impl Node {
    /// Returns a text of the metadata.
    pub fn text(&self, name: &str) -> Option<&str> {
        let value = self.metadata.as_ref()?.fields.get(name)?;
        Some(&value.string)
    }
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
pub struct Struct {
    /// Values by name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`, as far as it is a text.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// The text.
    #[prost(string, tag = "3")]
    pub string: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// The code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// The reason, for people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `DeltaDiscoveryResponse`: what has changed.
#[derive(Clone, PartialEq, Message)]
pub struct DeltaResponse {
    /// Where the relay stands with this response (`Standing`). Only the last response of a batch has
    /// it: what came before is complete with it, and belongs together.
    #[prost(string, tag = "1")]
    pub position: String,
    /// Resources that are new or have changed.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// The type of all resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Identifies the response, for its answer.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// The names of resources that are gone.
    #[prost(string, repeated, tag = "6")]
    pub removed: Vec<String>,
}

/// `Resource`.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    /// A hash of the content.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The content.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// The name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Any {
    /// The type of the value.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}
