//! The Secret that holds the certificates: read, made and renewed by the lease holder.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use mq_core::effect::ObjectKey;

use super::tls::{Material, TlsError};
use crate::{
    revisions::MANAGED_BY,
    writer::{WriteError, Writer},
};

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// The Secret could not be read.
    #[error("cannot read Secret {name}: {source}")]
    Read {
        /// Of the Secret.
        name: String,
        /// The answer.
        source: kube::Error,
    },
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// See [`TlsError`].
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Where the certificates are, and for whom.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    /// Secrets of the operator's namespace.
    pub(super) secrets: Api<Secret>,
    /// The Secret.
    pub(super) key: ObjectKey,
    /// Names and addresses by which agents reach the server.
    pub(super) hosts: Vec<String>,
    /// Writes as the leader.
    pub(super) writer: Writer,
}

impl Certificates {
    /// The certificates to serve with now; makes or renews what is due.
    ///
    /// # Errors
    /// See [`CertificateError`]; all but `Tls` heal by themselves.
    pub(super) async fn current(&self) -> Result<Material, CertificateError> {
        let now = Timestamp::now();
        let name = &self.key.name;
        let read = |source| CertificateError::Read { name: name.clone(), source };
        let Some(secret) = self.secrets.get_opt(name).await.map_err(read)? else {
            let material = Material::new(&self.hosts, now)?;
            let secret = self.secret(&material, ObjectMeta::default())?;
            self.writer.write("secret", &self.key, self.secrets.create(&PostParams::default(), &secret)).await?;
            tracing::info!(secret = name, "made the certificates of the push server");
            return Ok(material);
        };
        let material = Material::from_data(&text(&secret))?;
        let Some(renewed) = material.renewed(&self.hosts, now)? else { return Ok(material) };
        // With the resourceVersion that was read: of two writers one fails and reads again.
        let secret = self.secret(&renewed, secret.metadata)?;
        self.writer.write("secret", &self.key, self.secrets.replace(name, &PostParams::default(), &secret)).await?;
        tracing::info!(secret = name, "renewed the certificates of the push server");
        Ok(renewed)
    }

    fn secret(&self, material: &Material, metadata: ObjectMeta) -> Result<Secret, TlsError> {
        let labels = [(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into();
        let metadata = ObjectMeta { name: Some(self.key.name.clone()), labels: Some(labels), ..metadata };
        Ok(Secret { metadata, string_data: Some(material.to_data()?), ..Secret::default() })
    }
}

fn text(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.filter_map(|(name, value)| Some((name.clone(), String::from_utf8(value.0.clone()).ok()?))).collect()
}
