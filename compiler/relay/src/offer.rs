//! Encoded resources and responses. What several nodes get is encoded once.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, WireType, encode_key, encode_varint};

use crate::discovery::{Any, Resource};
use crate::topic::Topic;

/// The version of a resource: a hash of its type and content. All relays give the same content the
/// same version, also after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; 16]);

impl Version {
    /// Returns the version of a value.
    pub fn of(topic: Topic, value: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(topic.url().as_bytes()).update(&[0]).update(value);
        let mut short = [0; 16];
        hasher.finalize_xof().fill(&mut short);
        Self(short)
    }

    /// Returns whether this is how it is written. A relay compares a thousand for each node that
    /// comes back, so this makes no string.
    pub fn is_written(&self, text: &str) -> bool {
        let mut written = [0; 22];
        let length = URL_SAFE_NO_PAD.encode_slice(self.0, &mut written);
        length.is_ok_and(|length| written[..length] == *text.as_bytes())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The resources that a node has, by name, with their versions; for each type.
pub type Known = [BTreeMap<String, String>; Topic::ALL.len()];

/// A resource as it is sent. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its version.
    pub version: Version,
    /// The encoded `Resource`.
    pub bytes: Bytes,
}

impl Offer {
    pub(crate) fn new(topic: Topic, name: &str, value: Vec<u8>) -> Self {
        let version = Version::of(topic, &value);
        let any = Any { type_url: topic.url().to_owned(), value: value.into() };
        let resource =
            Resource { version: version.to_string(), resource: Some(any), name: name.to_owned() };
        Self { version, bytes: resource.encode_to_vec().into() }
    }
}

/// A response that is being put together.
#[derive(Debug)]
pub struct Response {
    bytes: BytesMut,
    /// How many resources it has, and how many it says are gone.
    pub count: usize,
}

impl Response {
    /// Begins a response.
    pub fn new(topic: Topic, nonce: &str) -> Self {
        let mut bytes = BytesMut::new();
        encoding::string::encode(4, &topic.url().to_owned(), &mut bytes);
        encoding::string::encode(5, &nonce.to_owned(), &mut bytes);
        Self { bytes, count: 0 }
    }

    /// Adds a resource.
    pub fn add(&mut self, offer: &Offer) {
        encode_key(2, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(offer.bytes.len() as u64, &mut self.bytes);
        self.bytes.put_slice(&offer.bytes);
        self.count += 1;
    }

    /// Adds that a resource is gone.
    pub fn remove(&mut self, name: &str) {
        encoding::string::encode(6, &name.to_owned(), &mut self.bytes);
        self.count += 1;
    }

    /// Returns its length so far, in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the encoded response; with a position if it is the last of a batch.
    pub fn finish(mut self, position: Option<&str>) -> Bytes {
        if let Some(position) = position {
            encoding::string::encode(1, &position.to_owned(), &mut self.bytes);
        }
        self.bytes.freeze()
    }
}
