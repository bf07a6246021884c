//! Messages in frames of gRPC.

use bytes::{BufMut, Bytes};
use prost::Message;
use rulec_relay::discovery::DeltaRequest;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// How many bytes a buffer has at first. Most messages are small, and there is one buffer for each
/// direction of each node.
const BUFFER: usize = 1 << 10;

/// From how many bytes on a buffer is sent before more is put into it.
const FULL: usize = 16 << 10;

/// Responses come as bytes, because they consist of parts that are encoded already.
#[derive(Debug, Default)]
pub(crate) struct RelayCodec;

impl Codec for RelayCodec {
    type Encode = Bytes;
    type Decode = DeltaRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RelayCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, response: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(response);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, FULL)
    }
}

impl Decoder for RelayCodec {
    type Item = DeltaRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DeltaRequest>, Status> {
        let request = DeltaRequest::decode(buffer);
        request.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, FULL)
    }
}
