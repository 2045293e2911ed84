//! Single requests in Kafka's protocol, for what the clients cannot do.

use anyhow::{Result, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends one request over a connection of its own, after `rewrite` had its way with the encoded bytes.
pub(crate) async fn ask<R: Request>(
    bootstrap: &str,
    request: &R,
    version: i16,
    rewrite: impl FnOnce(&mut [u8]),
) -> Result<R::Response> {
    let header = RequestHeader::default().with_request_api_key(R::KEY).with_request_api_version(version);
    let mut message = BytesMut::new();
    header.encode(&mut message, R::header_version(version))?;
    request.encode(&mut message, version)?;
    rewrite(&mut message);
    let mut socket = TcpStream::connect(bootstrap).await?;
    socket.write_i32(i32::try_from(message.len())?).await?;
    socket.write_all(&message).await?;
    let mut answer = vec![0; usize::try_from(socket.read_i32().await?)?];
    socket.read_exact(&mut answer).await?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
    let response = R::Response::decode(&mut answer, version)?;
    ensure!(!answer.has_remaining(), "{} bytes after the end of the answer", answer.remaining());
    Ok(response)
}
