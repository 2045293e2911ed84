//! librdkafka's properties of a protected connection.

use mq_core::cluster::check_broker;
use mq_protocol::body::{Connection, SaslMechanism};

use crate::credentials::Credentials;

pub(crate) const USERNAME: &str = "sasl.username";
pub(crate) const PASSWORD: &str = "sasl.password";

/// Whether the parts of a connection fit together, whatever the credentials are.
pub(crate) fn check(connection: &Connection) -> Result<(), String> {
    for (at, address) in connection.brokers.iter().enumerate() {
        check_broker(address).map_err(|wrong| format!("brokers[{at}]: {wrong}"))?;
    }
    let protocol = connection.security_protocol;
    match connection.sasl_mechanism {
        Some(mechanism) if !protocol.has_sasl() => {
            return Err(format!(
                "saslMechanism is {mechanism} and securityProtocol is {protocol}, which has no SASL; use SASL_PLAINTEXT or SASL_SSL"
            ));
        }
        None if protocol.has_sasl() => {
            return Err(format!(
                "securityProtocol is {protocol} and there is no saslMechanism; use {}",
                SaslMechanism::ALLOWED
            ));
        }
        _ => {}
    }
    if connection.ca_bundle.is_some() && !protocol.has_tls() {
        return Err(format!(
            "there is a caBundle and securityProtocol is {protocol}, which has no TLS; use SSL or SASL_SSL"
        ));
    }
    Ok(())
}

/// The properties, or what is missing and where to put it.
pub(crate) fn properties(
    connection: &Connection,
    credentials: &Credentials,
) -> Result<Vec<(&'static str, String)>, String> {
    check(connection)?;
    let protocol = connection.security_protocol;
    let mut properties = vec![("security.protocol", protocol.as_str().to_lowercase())];
    if protocol.has_tls() {
        let own = if connection.ca_bundle.is_some() { None } else { credentials.ca()? };
        properties.push(match connection.ca_bundle.as_deref().or(own) {
            Some(pem) => ("ssl.ca.pem", pem.to_owned()),
            // OpenSSL is built in and does not know where this system keeps its authorities.
            None => ("ssl.ca.location", "probe".to_owned()),
        });
        properties.push(("ssl.endpoint.identification.algorithm", "https".to_owned()));
        if let Some(certificate) = credentials.certificate()? {
            properties.push(("ssl.certificate.pem", certificate.chain));
            properties.push(("ssl.key.pem", certificate.key.reveal().to_owned()));
        }
    }
    if let Some(mechanism) = connection.sasl_mechanism {
        let login = credentials.login(protocol)?;
        properties.push(("sasl.mechanism", mechanism.to_string()));
        properties.push((USERNAME, login.username));
        properties.push((PASSWORD, login.password.reveal().to_owned()));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use mq_protocol::body::SecurityProtocol;

    use super::*;

    fn connection(protocol: SecurityProtocol, mechanism: Option<SaslMechanism>, ca: Option<&str>) -> Connection {
        Connection {
            security_protocol: protocol,
            sasl_mechanism: mechanism,
            ca_bundle: ca.map(str::to_owned),
            ..Connection::plaintext(vec!["a:1".into()])
        }
    }

    #[test]
    fn parts_that_do_not_fit_together_are_named() {
        use SecurityProtocol::{Plaintext, SaslPlaintext, SaslSsl, Ssl};
        let scram = Some(SaslMechanism::ScramSha512);
        for (bad, words) in [
            (connection(Ssl, scram, None), "saslMechanism is SCRAM-SHA-512 and securityProtocol is SSL"),
            (connection(SaslSsl, None, None), "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
            (connection(Plaintext, None, Some("PEM")), "securityProtocol is PLAINTEXT, which has no TLS"),
            (connection(SaslPlaintext, scram, Some("PEM")), "securityProtocol is SASL_PLAINTEXT, which has no TLS"),
        ] {
            let error = check(&bad).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_authorities_of_the_configuration_are_taken_before_those_of_the_pod_and_of_the_system() {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::credentials::CredentialFiles::new(folder.path(), &crate::Config::default());
        let ca = |ca: Option<&str>| {
            let found = properties(&connection(SecurityProtocol::Ssl, None, ca), &files.read()).unwrap();
            found.into_iter().find(|(name, _)| name.starts_with("ssl.ca.")).unwrap()
        };
        assert_eq!(ca(None), ("ssl.ca.location", "probe".to_owned()));
        std::fs::write(folder.path().join("ca.crt"), "pod").unwrap();
        assert_eq!(ca(None), ("ssl.ca.pem", "pod".to_owned()));
        assert_eq!(ca(Some("body")), ("ssl.ca.pem", "body".to_owned()));
    }
}
