//! The login on a new connection: `SaslHandshake` names the mechanism, `SaslAuthenticate` carries its messages.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use kafka_protocol::{
    messages::{SaslAuthenticateRequest, SaslHandshakeRequest},
    protocol::StrBytes,
};
use mq_core::security::SaslMechanism;

use crate::{
    BrokerError, Error, ErrorKind,
    api::Api as _,
    connection::Connection,
    frame,
    scram::{self, Hash},
    security::Sasl,
};

/// The only version of `SaslHandshake` after which `SaslAuthenticate` is spoken; it has no flexible one.
const HANDSHAKE: i16 = 1;
const HANDSHAKE_KEY: i16 = 17;
const HANDSHAKE_HEADER: i16 = 1;
const HANDSHAKE_NAME: &str = "SaslHandshake";

/// Logs in. For how long that holds, where the broker says so: it closes a connection that is older.
pub(crate) async fn login(connection: &Connection, sasl: &Sasl) -> Result<Option<Duration>, Error> {
    handshake(connection, sasl.mechanism).await?;
    let lifetime = match sasl.mechanism {
        SaslMechanism::Plain => {
            // RFC 4616: no other identity, user, password.
            let message = format!("\0{}\0{}", sasl.username, sasl.password);
            authenticate(connection, message).await?.1
        }
        SaslMechanism::ScramSha256 => scram(connection, sasl, Hash::sha256()).await?,
        SaslMechanism::ScramSha512 => scram(connection, sasl, Hash::sha512()).await?,
    };
    Ok(u64::try_from(lifetime).ok().filter(|millis| *millis > 0).map(Duration::from_millis))
}

async fn scram(connection: &Connection, sasl: &Sasl, hash: Hash) -> Result<i64, Error> {
    let refused = |why| failed(connection, ErrorKind::BrokerNotTrusted(why));
    let nonce = scram::nonce().map_err(refused)?;
    let (client, first) = scram::Client::first(hash, &sasl.username, &sasl.password, nonce);
    let (answer, _) = authenticate(connection, first).await?;
    let (finished, last) = client.last(&answer).map_err(refused)?;
    let (answer, lifetime) = authenticate(connection, last).await?;
    finished.check(&answer).map_err(refused)?;
    Ok(lifetime)
}

/// One message of the mechanism and the broker's answer to it, with the lifetime of the login in milliseconds.
async fn authenticate(connection: &Connection, message: String) -> Result<(String, i64), Error> {
    let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
    let answer = connection.request(&request).await?;
    if let Some(error) = BrokerError::from_code(answer.error_code, answer.error_message.as_deref()) {
        return Err(failed(connection, ErrorKind::Authentication(error)));
    }
    let text = String::from_utf8_lossy(&answer.auth_bytes).into_owned();
    Ok((text, answer.session_lifetime_ms))
}

async fn handshake(connection: &Connection, mechanism: SaslMechanism) -> Result<(), Error> {
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism.as_str()));
    let attempt = |kind| Error::new(HANDSHAKE_NAME, connection.peer(), kind);
    let client_id = &connection.options().client_id;
    let bytes = frame::encode_as(HANDSHAKE_KEY, HANDSHAKE_HEADER, &request, HANDSHAKE, client_id).map_err(attempt)?;
    let answer = connection.exchange(HANDSHAKE_NAME, bytes, connection.options().connect_timeout).await;
    let (code, offered) = handshake_answer(answer.map_err(attempt)?)
        .ok_or_else(|| attempt(ErrorKind::Malformed("cut in the middle".to_owned())))?;
    let Some(mut error) = BrokerError::from_code(code, None) else { return Ok(()) };
    error.message = Some(format!("the broker has no {mechanism}; it offers {}", offered.join(", ")));
    Err(attempt(ErrorKind::Authentication(error)))
}

/// The code and the mechanisms. By hand, because the lengths of this message are not guarded as those of flexible ones are.
fn handshake_answer(mut frame: Bytes) -> Option<(i16, Vec<String>)> {
    frame.try_get_i32().ok()?;
    let code = frame.try_get_i16().ok()?;
    let mut mechanisms = Vec::new();
    for _ in 0..frame.try_get_i32().ok()? {
        let length = usize::try_from(frame.try_get_i16().ok()?).ok().filter(|length| *length <= frame.remaining())?;
        mechanisms.push(String::from_utf8_lossy(&frame.split_to(length)).into_owned());
    }
    Some((code, mechanisms))
}

fn failed(connection: &Connection, kind: ErrorKind) -> Error {
    Error::new(SaslAuthenticateRequest::NAME, connection.peer(), kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_handshake_is_read_and_a_cut_one_is_not() {
        let whole = [0, 0, 0, 7, 0, 33, 0, 0, 0, 2, 0, 5, b'P', b'L', b'A', b'I', b'N', 0, 1, b'X'];
        let read = |length: usize| handshake_answer(Bytes::copy_from_slice(&whole[..length]));
        assert_eq!(read(whole.len()), Some((33, vec!["PLAIN".to_owned(), "X".to_owned()])));
        assert!((0..whole.len()).all(|length| read(length).is_none()));
        let endless = [0, 0, 0, 7, 0, 0, 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(handshake_answer(Bytes::copy_from_slice(&endless)), None);
    }
}
