//! The kubelet's messages as protobuf: only the fields that are read, by their numbers.
//!
//! A Pod becomes the same [`Document`] as one that was written as JSON, so that one set of rules
//! says what its fields mean.

use bytes::Bytes;
use prost::{DecodeError, Message};
use std::collections::BTreeMap;

use crate::decode::document::{
    Annotations, Condition, Container, ContainerPort, Document, List, Metadata, PodIp, Spec, Status,
};
use crate::decode::field::{Field, Text, Texts};

/// One message of the stream of Pods.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchPodsEvent {
    #[prost(enumeration = "EventType", tag = "1")]
    pub(crate) r#type: i32,
    /// A Pod; of a deleted one, only namespace, name and UID.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) pod: Bytes,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum EventType {
    Unspecified = 0,
    Added = 1,
    Modified = 2,
    Deleted = 3,
    InitialSyncComplete = 4,
}

/// A Pod whose parts are decoded one by one, so that one that cannot be decoded still has a name.
#[derive(Clone, PartialEq, Message)]
struct PodParts {
    #[prost(bytes = "bytes", tag = "1")]
    metadata: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    spec: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    status: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(message, tag = "9")]
    deletion_timestamp: Option<Time>,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct PodSpec {
    #[prost(message, repeated, tag = "2")]
    containers: Vec<ContainerMessage>,
    #[prost(string, tag = "10")]
    node_name: String,
    #[prost(bool, tag = "11")]
    host_network: bool,
    #[prost(string, tag = "16")]
    hostname: String,
    #[prost(string, tag = "17")]
    subdomain: String,
    #[prost(message, repeated, tag = "20")]
    init_containers: Vec<ContainerMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMessage {
    #[prost(message, repeated, tag = "6")]
    ports: Vec<PortMessage>,
    #[prost(string, tag = "24")]
    restart_policy: String,
}

#[derive(Clone, PartialEq, Message)]
struct PortMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    container_port: i32,
    #[prost(string, tag = "4")]
    protocol: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodStatus {
    #[prost(string, tag = "1")]
    phase: String,
    #[prost(message, repeated, tag = "2")]
    conditions: Vec<ConditionMessage>,
    #[prost(string, tag = "6")]
    pod_ip: String,
    #[prost(message, repeated, tag = "12")]
    pod_ips: Vec<IpMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ConditionMessage {
    #[prost(string, tag = "1")]
    r#type: String,
    #[prost(string, tag = "2")]
    status: String,
}

#[derive(Clone, PartialEq, Message)]
struct IpMessage {
    #[prost(string, tag = "1")]
    ip: String,
}

/// A part of a Pod that cannot be decoded, and why.
pub(super) type Fault = (&'static str, DecodeError);

/// Decodes a Pod. A part that cannot be decoded is left out and returned as an error, with the name
/// of its field.
///
/// # Errors
///
/// If not even its metadata can be decoded.
pub(super) fn decode(bytes: Bytes) -> Result<(Document, Option<Fault>), DecodeError> {
    let parts = PodParts::decode(bytes)?;
    let metadata = ObjectMeta::decode(parts.metadata)?;
    let spec = PodSpec::decode(parts.spec);
    let status = PodStatus::decode(parts.status);
    let mut document = Document { metadata: is(metadata.written()), ..Document::default() };
    let mut fault = None;
    match spec {
        Ok(spec) => document.spec = is(spec.written()),
        Err(error) => fault = Some(("spec", error)),
    }
    match status {
        Ok(status) => document.status = is(status.written()),
        Err(error) => fault = Some(("status", error)),
    }
    Ok((document, fault))
}

fn is<T>(part: T) -> Field<Box<T>> {
    Field::Is(Box::new(part))
}

/// An empty text is an absent one, in protobuf as in Kubernetes.
fn text(text: String) -> Field<Text> {
    if text.is_empty() { Field::Absent } else { Field::Is(text.into()) }
}

fn list<M, T>(messages: Vec<M>, written: impl Fn(M) -> T) -> List<T> {
    Field::Is(messages.into_iter().map(|message| is(written(message))).collect())
}

impl ObjectMeta {
    fn written(mut self) -> Metadata {
        let labels =
            self.labels.into_iter().map(|(key, value)| (key.into(), Field::Is(value.into())));
        let mut annotation = |name: &str| self.annotations.remove(name).map_or(Field::Absent, text);
        Metadata {
            name: text(self.name),
            namespace: text(self.namespace),
            uid: text(self.uid),
            labels: Field::Is(Texts(labels.collect())),
            annotations: is(Annotations {
                config_source: annotation("kubernetes.io/config.source"),
                weight: annotation("rulec.io/weight"),
                ..Annotations::default()
            }),
            // That there is one is all that counts.
            deletion_timestamp: self
                .deletion_timestamp
                .map_or(Field::Absent, |time| text(time.seconds.to_string())),
            ..Metadata::default()
        }
    }
}

impl PodSpec {
    fn written(self) -> Spec {
        Spec {
            node_name: text(self.node_name),
            host_network: Field::Is(self.host_network),
            hostname: text(self.hostname),
            subdomain: text(self.subdomain),
            containers: list(self.containers, ContainerMessage::written),
            init_containers: list(self.init_containers, ContainerMessage::written),
            ..Spec::default()
        }
    }
}

impl ContainerMessage {
    fn written(self) -> Container {
        let ports = list(self.ports, |port| ContainerPort {
            name: text(port.name),
            protocol: text(port.protocol),
            container_port: Field::Is(port.container_port.into()),
        });
        Container { restart_policy: text(self.restart_policy), ports }
    }
}

impl PodStatus {
    fn written(self) -> Status {
        let conditions = list(self.conditions, |condition| Condition {
            r#type: text(condition.r#type),
            status: text(condition.status),
        });
        Status {
            phase: text(self.phase),
            conditions,
            pod_ip: text(self.pod_ip),
            pod_ips: list(self.pod_ips, |address| PodIp { ip: text(address.ip) }),
            ..Status::default()
        }
    }
}
