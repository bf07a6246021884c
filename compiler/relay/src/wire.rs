//! The messages of `rulec.v1`. The name of an object is that of its resource, and not repeated.
//!
//! Addresses are 4 or 16 bytes; networks have one more byte, the length of the prefix. Enumerations
//! begin with 0 for what is usual, which takes no bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

/// A Service.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Service {
    /// 0 ClusterIP, 1 NodePort, 2 LoadBalancer, 3 ExternalName.
    #[prost(uint32, tag = "1")]
    pub(crate) kind: u32,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) cluster_ips: Vec<Bytes>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) ports: Vec<ServicePort>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub(crate) external_ips: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) load_balancer_vips: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(crate) source_ranges: Vec<Bytes>,
    /// Seconds; 0 for no session affinity.
    #[prost(uint32, tag = "7")]
    pub(crate) affinity: u32,
    #[prost(bool, tag = "8")]
    pub(crate) is_internal_local: bool,
    #[prost(bool, tag = "9")]
    pub(crate) is_external_local: bool,
    #[prost(uint32, tag = "10")]
    pub(crate) health_check_node_port: u32,
    #[prost(btree_map = "string, string", tag = "11")]
    pub(crate) selector: BTreeMap<String, String>,
    #[prost(bool, tag = "12")]
    pub(crate) publish_not_ready: bool,
    /// As the annotation names it; empty if the settings decide.
    #[prost(string, tag = "13")]
    pub(crate) load_balancing: String,
    #[prost(string, tag = "14")]
    pub(crate) scheduler: String,
    #[prost(uint32, optional, tag = "15")]
    pub(crate) scheduler_flags: Option<u32>,
    #[prost(uint32, optional, tag = "16")]
    pub(crate) drain: Option<u32>,
    /// 0 for no maximum.
    #[prost(uint32, tag = "17")]
    pub(crate) max_connections: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServicePort {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// The number of IANA; 0 for TCP.
    #[prost(uint32, tag = "2")]
    pub(crate) protocol: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) port: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) node_port: u32,
    /// The number of the target port; 0 if it has a name.
    #[prost(uint32, tag = "5")]
    pub(crate) target: u32,
    #[prost(string, tag = "6")]
    pub(crate) target_name: String,
}

/// An EndpointSlice. The endpoints are columns: most are alike in everything but the address.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndpointSlice {
    /// The name of the Service, in the namespace of the slice.
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(bool, tag = "2")]
    pub(crate) is_v6: bool,
    #[prost(message, repeated, tag = "3")]
    pub(crate) ports: Vec<SlicePort>,
    /// All addresses, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) addresses: Vec<u8>,
    /// A byte for each endpoint (`State`), or none if all are ready and on other nodes.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) states: Vec<u8>,
    /// The different hints.
    #[prost(message, repeated, tag = "6")]
    pub(crate) hints: Vec<Hints>,
    /// For each endpoint, the number of its hints from 1, or 0 for none. Empty if no endpoint has
    /// any.
    #[prost(uint32, repeated, tag = "7")]
    pub(crate) hints_of: Vec<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub(crate) weight: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SlicePort {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) protocol: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hints {
    #[prost(string, repeated, tag = "1")]
    pub(crate) zones: Vec<String>,
    /// 0 if they name no node, 1 if they name others, 2 if they name the receiver.
    #[prost(uint32, tag = "2")]
    pub(crate) nodes: u32,
}

/// What a byte of `EndpointSlice::states` consists of.
pub(crate) mod state {
    pub(crate) const NOT_READY: u8 = 1;
    pub(crate) const NOT_SERVING: u8 = 2;
    pub(crate) const TERMINATING: u8 = 4;
    /// On the node of the receiver.
    pub(crate) const HERE: u8 = 8;
    /// It names no node.
    pub(crate) const PLACELESS: u8 = 16;
    pub(crate) const ALL: u8 = 31;
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) addresses: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) pod_cidrs: Vec<Bytes>,
    #[prost(string, tag = "3")]
    pub(crate) zone: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) taints: Vec<String>,
    #[prost(bool, tag = "5")]
    pub(crate) is_deleting: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServiceCidr {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) cidrs: Vec<Bytes>,
}
