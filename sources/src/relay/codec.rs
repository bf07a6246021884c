//! Messages in frames of gRPC.

use prost::Message;
use rulec_relay::discovery::{DeltaRequest, DeltaResponse};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

#[derive(Debug, Default)]
pub(super) struct RelayCodec;

impl Codec for RelayCodec {
    type Encode = DeltaRequest;
    type Decode = DeltaResponse;
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
    type Item = DeltaRequest;
    type Error = Status;

    fn encode(&mut self, request: DeltaRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for RelayCodec {
    type Item = DeltaResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DeltaResponse>, Status> {
        let response = DeltaResponse::decode(buffer);
        response.map(Some).map_err(|error| Status::data_loss(error.to_string()))
    }
}
