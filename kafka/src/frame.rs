//! From bytes to messages and back. Nothing here trusts the other side.

use bytes::{Buf, Bytes, BytesMut, TryGetError};
use kafka_protocol::{
    messages::{RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes, buf::ByteBuf},
};

use crate::{ErrorKind, api::Api};

/// Takes the next complete frame (without its length) from the front of `buffer`, `None` if it is not complete yet.
pub(crate) fn next(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, ErrorKind> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let announced = i32::from_be_bytes(*prefix);
    let length = usize::try_from(announced)
        .ok()
        .filter(|length| (4..=max).contains(length))
        .ok_or_else(|| ErrorKind::Malformed(format!("frame of {announced} bytes; allowed are 4 to {max}")))?;
    if buffer.len() < 4 + length {
        buffer.reserve((4 + length - buffer.len()).min(READ_AHEAD));
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// A length that is only announced reserves no more than this.
const READ_AHEAD: usize = 64 * 1024;

/// The correlation id of a response; every frame of [`next`] has one.
pub(crate) fn correlation_id(frame: &Bytes) -> Option<i32> {
    frame.first_chunk::<4>().map(|id| i32::from_be_bytes(*id))
}

/// Encodes a request with its length in front. The correlation id is written by [`set_correlation_id`].
pub(crate) fn encode<A: Api>(request: &A, version: i16, client_id: &str) -> Result<BytesMut, ErrorKind> {
    encode_as(A::KEY, A::header_version(version), request, version, client_id)
}

pub(crate) fn encode_as<M: Encodable>(
    key: i16,
    header_version: i16,
    request: &M,
    version: i16,
    client_id: &str,
) -> Result<BytesMut, ErrorKind> {
    let header = RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())));
    let mut buffer = BytesMut::zeroed(4);
    header.encode(&mut buffer, header_version).map_err(|e| ErrorKind::Encode(e.to_string()))?;
    request.encode(&mut buffer, version).map_err(|e| ErrorKind::Encode(e.to_string()))?;
    let length = i32::try_from(buffer.len() - 4)
        .map_err(|_| ErrorKind::Encode(format!("request of {} bytes does not fit a frame", buffer.len())))?;
    buffer[..4].copy_from_slice(&length.to_be_bytes());
    Ok(buffer)
}

/// The correlation id stands after length, key and version, in every header version.
pub(crate) fn set_correlation_id(request: &mut BytesMut, id: i32) {
    if let Some(place) = request.get_mut(8..12) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Decodes a whole response frame: header, body, nothing behind it.
pub(crate) fn decode<R: Decodable + HeaderVersion>(frame: Bytes, version: i16) -> Result<R, ErrorKind> {
    let mut buffer = Guarded { inner: frame, varint: 0, shift: 0 };
    ResponseHeader::decode(&mut buffer, R::header_version(version)).map_err(|e| ErrorKind::Malformed(e.to_string()))?;
    let response = R::decode(&mut buffer, version).map_err(|e| ErrorKind::Malformed(e.to_string()))?;
    match buffer.remaining() {
        0 => Ok(response),
        rest => Err(ErrorKind::Malformed(format!("{rest} bytes after the end of the message"))),
    }
}

/// A buffer that refuses lengths which cannot be true.
///
/// The generated decoders reserve memory for an array before they read it. A length of four thousand million in a frame of
/// twenty bytes would end the process: a failed allocation is an abort, not an error. In flexible versions every length is
/// an unsigned varint, and the decoders read varints byte by byte, so they can be checked here: no array, string or byte
/// field has more items than bytes that follow it, nor more than [`LARGEST`]. Tags of tagged fields pass through here too,
/// hence [`SMALL`].
struct Guarded {
    inner: Bytes,
    varint: u64,
    shift: u32,
}

const SMALL: u64 = 4096;

/// More topics, groups or bytes of a member's assignment than any cluster has; bounds what a large frame of garbage can reserve.
const LARGEST: u64 = 1 << 20;

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.inner.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.inner.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.inner.advance(count);
    }

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.inner.try_get_u8()?;
        self.varint |= u64::from(byte & 0x7f) << self.shift;
        if byte >= 0x80 && self.shift < 28 {
            self.shift += 7;
            return Ok(byte);
        }
        // Compact lengths are stored plus one.
        let (value, available) = (std::mem::take(&mut self.varint), self.inner.remaining());
        self.shift = 0;
        if value > SMALL.max((available as u64 + 1).min(LARGEST)) {
            return Err(TryGetError { requested: usize::try_from(value).unwrap_or(usize::MAX), available });
        }
        Ok(byte)
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.inner.peek_bytes(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.inner.get_bytes(size)
    }
}

#[cfg(test)]
mod tests;
