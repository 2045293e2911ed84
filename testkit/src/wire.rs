//! Single requests in Kafka's protocol, for what the clients cannot do.

use anyhow::{Result, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends one request over a connection of its own, after `rewrite` had its way with the encoded bytes.
pub(crate) async fn ask<Q: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
    bootstrap: &str,
    (key, version): (ApiKey, i16),
    request: &Q,
    rewrite: impl FnOnce(&mut [u8]),
) -> Result<A> {
    let header = RequestHeader::default().with_request_api_key(key as i16).with_request_api_version(version);
    let mut message = BytesMut::new();
    header.encode(&mut message, Q::header_version(version))?;
    request.encode(&mut message, version)?;
    rewrite(&mut message);
    let mut socket = TcpStream::connect(bootstrap).await?;
    socket.write_i32(i32::try_from(message.len())?).await?;
    socket.write_all(&message).await?;
    let mut answer = vec![0; usize::try_from(socket.read_i32().await?)?];
    socket.read_exact(&mut answer).await?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, A::header_version(version))?;
    let response = A::decode(&mut answer, version)?;
    ensure!(!answer.has_remaining(), "{} bytes after the end of the answer", answer.remaining());
    Ok(response)
}
