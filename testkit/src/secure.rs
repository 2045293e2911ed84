//! The broker's listeners with TLS and SASL: addresses, certificates and users.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::alter_user_scram_credentials_request::ScramCredentialUpsertion;
use kafka_protocol::messages::{AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, ApiKey};
use kafka_protocol::protocol::StrBytes;
use ring::pbkdf2;
use serde::Deserialize;

use crate::{Broker, wire};

/// Ways into the broker beside the plain one. Its certificate names 127.0.0.1 and localhost.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secure {
    folder: PathBuf,
    /// `host:port` of TLS alone.
    pub ssl: String,
    /// `host:port` of TLS with a certificate of the client.
    pub mutual_tls: String,
    /// `host:port` of SASL without TLS. With SCRAM-SHA-512 a connection must prove itself again within 5 s.
    pub sasl_plaintext: String,
    /// `host:port` of SASL inside TLS; as above.
    pub sasl_ssl: String,
    /// Users of every mechanism.
    pub users: Vec<User>,
}

/// A user of the SASL listeners.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    pub username: String,
    pub password: String,
}

impl Secure {
    /// A file of the authority, as PEM: `ca.crt`, and two clients' `client.crt`, `client.key`, `client-2.crt`, `client-2.key`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn pem(&self, name: &str) -> Result<String> {
        let path = self.folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }
}

/// Kafka's number of SCRAM-SHA-512.
const SCRAM_SHA_512: i8 = 2;
const VERSION: i16 = 0;

impl Broker {
    /// Gives a user this password for SCRAM-SHA-512, from the next login on; a new user appears.
    ///
    /// # Errors
    /// The broker does not answer or refuses.
    pub async fn set_scram_password(&self, username: &str, password: &str) -> Result<()> {
        let attempt = || format!("setting the SCRAM password of {username}");
        let salt = username.as_bytes();
        let iterations = 4096;
        let mut salted = [0; 64];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA512,
            std::num::NonZero::new(iterations).context("no iterations")?,
            salt,
            password.as_bytes(),
            &mut salted,
        );
        let user = ScramCredentialUpsertion::default()
            .with_name(StrBytes::from_string(username.to_owned()))
            .with_mechanism(SCRAM_SHA_512)
            .with_iterations(i32::try_from(iterations)?)
            .with_salt(Bytes::copy_from_slice(salt))
            .with_salted_password(Bytes::copy_from_slice(&salted));
        let request = AlterUserScramCredentialsRequest::default().with_upsertions(vec![user]);
        let api = (ApiKey::AlterUserScramCredentials, VERSION);
        let answer: AlterUserScramCredentialsResponse =
            wire::ask(self.bootstrap(), api, &request, |_| ()).await.with_context(attempt)?;
        for result in answer.results {
            ensure!(result.error_code == 0, "{}: the broker refuses: {:?}", attempt(), result.error_message);
        }
        Ok(())
    }
}
