//! What protects a connection: TLS by rustls, and what the client proves itself with. Checked when it is made, so that a connection
//! can only fail for what the other side says.

use std::{fmt, sync::Arc};

use mq_core::security::SaslMechanism;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject as _},
        },
    },
};

/// How a [`crate::Client`] protects its connections. The default is neither encrypted nor authenticated.
#[derive(Clone, Default)]
pub struct Security {
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) sasl: Option<Sasl>,
}

/// A user and how it logs in.
#[derive(Clone)]
pub(crate) struct Sasl {
    pub(crate) mechanism: SaslMechanism,
    pub(crate) username: String,
    pub(crate) password: String,
}

/// A client's certificate.
#[derive(Clone, Copy)]
pub struct ClientCertificate<'a> {
    /// The certificate and those between it and its authority, PEM.
    pub certificates: &'a str,
    /// Its private key without a passphrase, PEM.
    pub key: &'a str,
}

/// Why TLS cannot be set up, before any broker was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// The authorities of brokers.
    #[error("the CA bundle cannot be used: {0}; it must be certificates as PEM")]
    Authorities(String),
    /// No authorities were given, and the system has none.
    #[error("the system knows no authorities: name those of the brokers in caBundle")]
    NoAuthorities,
    /// The client's certificate or its key.
    #[error(
        "the client certificate cannot be used: {0}; it must be PEM, with a key that has no passphrase and belongs to it"
    )]
    ClientCertificate(String),
}

impl Security {
    /// The same, inside TLS. A broker's certificate must come from `authorities` (PEM; those of the system if there are none) and name
    /// the address that is dialled. With `client`, that certificate is shown to brokers that ask for one.
    ///
    /// # Errors
    /// Something is not PEM, or a key does not belong to its certificate.
    pub fn with_tls(
        self,
        authorities: Option<&str>,
        client: Option<ClientCertificate<'_>>,
    ) -> Result<Self, SecurityError> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| SecurityError::Authorities(error.to_string()))?
            .with_root_certificates(roots(authorities)?);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let unusable = SecurityError::ClientCertificate;
                let chain = certificates(client.certificates).map_err(unusable)?;
                let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).map_err(|why| unusable(words(&why)))?;
                config.with_client_auth_cert(chain, key).map_err(|why| unusable(why.to_string()))?
            }
        };
        Ok(Self { tls: Some(TlsConnector::from(Arc::new(config))), ..self })
    }

    /// The same, with a login on each new connection.
    #[must_use]
    pub fn with_sasl(self, mechanism: SaslMechanism, username: String, password: String) -> Self {
        Self { sasl: Some(Sasl { mechanism, username, password }), ..self }
    }
}

fn roots(authorities: Option<&str>) -> Result<RootCertStore, SecurityError> {
    let mut roots = RootCertStore::empty();
    if let Some(authorities) = authorities {
        for authority in certificates(authorities).map_err(SecurityError::Authorities)? {
            roots.add(authority).map_err(|error| SecurityError::Authorities(error.to_string()))?;
        }
        return Ok(roots);
    }
    // What the system keeps and cannot be read is not needed to trust the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(SecurityError::NoAuthorities) } else { Ok(roots) }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in it".to_owned()),
        found => found.map_err(|error| words(&error)),
    }
}

fn words(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is no private key in it".to_owned(),
        error => error.to_string(),
    }
}

// Passwords and keys stay out of logs.
impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security").field("tls", &self.tls.is_some()).field("sasl", &self.sasl).finish()
    }
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientCertificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_refused_in_words() {
        let tls = |authorities, client| Security::default().with_tls(authorities, client).unwrap_err().to_string();
        assert!(tls(Some("junk"), None).contains("there is no certificate in it"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(tls(Some(broken), None).starts_with("the CA bundle cannot be used"));
        let client = ClientCertificate { certificates: broken, key: "junk" };
        assert!(tls(None, Some(client)).contains("there is no private key in it"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let security = Security::default().with_sasl(SaslMechanism::Plain, "alice".into(), "hunter2".into());
        let client = ClientCertificate { certificates: "", key: "hunter2" };
        assert!(!format!("{security:?} {client:?}").contains("hunter2"));
    }
}
