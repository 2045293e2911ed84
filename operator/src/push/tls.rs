//! The certificates of the push server. The operator is its own authority: no secret passes through Helm.
//!
//! One Secret in the operator's namespace, written by the lease holder. The authority is replaced years before it ends,
//! and the new one is trusted (`ca.crt` holds both) long before it signs: the serving certificate keeps its signature
//! until its own renewal, so that every pod has the new bundle by then.

use std::collections::BTreeMap;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};

const CA_DAYS: i64 = 3650;
const SERVING_DAYS: i64 = 90;

/// Everything that the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Authorities that agents are to trust, the newest first.
    pub authorities: Vec<Authority>,
    /// Private key of the newest authority, PEM.
    pub ca_key: String,
    /// Serving certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
    /// Facts about the serving certificate.
    pub serving: Serving,
}

/// A trusted authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Certificate, PEM.
    pub certificate: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// What the serving certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// Names and addresses in it.
    pub hosts: Vec<String>,
    /// When it ends.
    pub not_after: Timestamp,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The generator refused.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// The clock is outside of what certificates can say.
    #[error("cannot date a certificate: {0}")]
    Date(#[from] jiff::Error),
    /// The Secret was changed by somebody.
    #[error("the Secret lacks {0} or it cannot be read; delete the Secret and the operator makes a new one")]
    Damaged(&'static str),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("Material").field("serving", &self.serving).finish_non_exhaustive()
    }
}

impl Material {
    /// The first certificates.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(hosts: &[String], now: Timestamp) -> Result<Self, TlsError> {
        let (authority, ca_key) = authority(now)?;
        let (certificate, key, serving) = serving(&ca_key, &authority, hosts, now)?;
        Ok(Self { authorities: vec![authority], ca_key: ca_key.serialize_pem(), certificate, key, serving })
    }

    /// The certificates after what is due now, or `None` when nothing is. One step at a time: a new authority first,
    /// and the serving certificate no sooner than at the next call.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn renewed(&self, hosts: &[String], now: Timestamp) -> Result<Option<Self>, TlsError> {
        let newest = self.authorities.first().ok_or(TlsError::Damaged("ca.crt"))?;
        if is_due(newest.not_after, CA_DAYS, now)? {
            let (authority, ca_key) = authority(now)?;
            let kept = self.authorities.iter().filter(|authority| now < authority.not_after).cloned();
            let authorities = std::iter::once(authority).chain(kept).collect();
            return Ok(Some(Self { authorities, ca_key: ca_key.serialize_pem(), ..self.clone() }));
        }
        if is_due(self.serving.not_after, SERVING_DAYS, now)? || self.serving.hosts != hosts {
            let ca_key = KeyPair::from_pem(&self.ca_key)?;
            let (certificate, key, serving) = serving(&ca_key, newest, hosts, now)?;
            return Ok(Some(Self { certificate, key, serving, ..self.clone() }));
        }
        Ok(None)
    }

    /// What agents are to trust, PEM.
    pub fn bundle(&self) -> String {
        self.authorities.iter().map(|authority| authority.certificate.as_str()).collect()
    }

    /// As the data of a Secret.
    ///
    /// # Errors
    /// [`TlsError::Damaged`], which cannot happen to values made here.
    pub fn to_data(&self) -> Result<BTreeMap<String, String>, TlsError> {
        let json = |part: &'static str, value: serde_json::Result<String>| value.map_err(|_| TlsError::Damaged(part));
        Ok([
            ("ca.crt", self.bundle()),
            ("ca.key", self.ca_key.clone()),
            ("tls.crt", self.certificate.clone()),
            ("tls.key", self.key.clone()),
            ("authorities", json("authorities", serde_json::to_string(&self.authorities))?),
            ("serving", json("serving", serde_json::to_string(&self.serving))?),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into())
    }

    /// From the data of a Secret.
    ///
    /// # Errors
    /// [`TlsError::Damaged`].
    pub fn from_data(data: &BTreeMap<String, String>) -> Result<Self, TlsError> {
        let text = |name: &'static str| data.get(name).cloned().ok_or(TlsError::Damaged(name));
        let authorities: Vec<Authority> =
            serde_json::from_str(&text("authorities")?).map_err(|_| TlsError::Damaged("authorities"))?;
        if authorities.is_empty() {
            return Err(TlsError::Damaged("authorities"));
        }
        let ca_key = text("ca.key")?;
        KeyPair::from_pem(&ca_key).map_err(|_| TlsError::Damaged("ca.key"))?;
        Ok(Self {
            authorities,
            ca_key,
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
            serving: serde_json::from_str(&text("serving")?).map_err(|_| TlsError::Damaged("serving"))?,
        })
    }
}

/// Less than a third of its life is left.
fn is_due(not_after: Timestamp, days: i64, now: Timestamp) -> Result<bool, TlsError> {
    Ok(now.checked_add((days * 24 / 3).hours())? >= not_after)
}

fn authority(now: Timestamp) -> Result<(Authority, KeyPair), TlsError> {
    let key = KeyPair::generate()?;
    let (params, not_after) = authority_params(now)?;
    Ok((Authority { certificate: params.self_signed(&key)?.pem(), not_after }, key))
}

fn authority_params(now: Timestamp) -> Result<(CertificateParams, Timestamp), TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "mq-operator authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let not_after = date(&mut params, now, CA_DAYS)?;
    Ok((params, not_after))
}

fn serving(
    ca_key: &KeyPair,
    authority: &Authority,
    hosts: &[String],
    now: Timestamp,
) -> Result<(String, String, Serving), TlsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "mq-operator push");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let not_after = date(&mut params, now, SERVING_DAYS)?.min(authority.not_after);
    // Only name and key of the issuer go into what it signs, and these are the same for each authority.
    let issuer = Issuer::new(authority_params(now)?.0, ca_key);
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem(), Serving { hosts: hosts.to_vec(), not_after }))
}

/// Valid from yesterday, for clocks that differ. Returns the end, which is at midnight.
fn date(params: &mut CertificateParams, now: Timestamp, days: i64) -> Result<Timestamp, TlsError> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let (from, to) = (today.checked_sub(1.day())?, today.checked_add(days.days())?);
    let date = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = date(from);
    params.not_after = date(to);
    Ok(to.to_zoned(TimeZone::UTC)?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn hosts() -> Vec<String> {
        vec!["push.mq.svc".into(), "127.0.0.1".into()]
    }

    #[test]
    fn nothing_is_renewed_before_its_time() {
        let material = Material::new(&hosts(), at("2026-01-01T10:00:00Z")).unwrap();
        assert_eq!(material.renewed(&hosts(), at("2026-02-01T00:00:00Z")).unwrap(), None);
    }

    #[test]
    fn the_serving_certificate_is_renewed_by_the_same_authority() {
        let material = Material::new(&hosts(), at("2026-01-01T10:00:00Z")).unwrap();
        let renewed = material.renewed(&hosts(), at("2026-03-05T00:00:00Z")).unwrap().unwrap();
        assert_eq!(renewed.authorities, material.authorities);
        assert_ne!(renewed.certificate, material.certificate);
        assert!(renewed.serving.not_after > material.serving.not_after);
        let other = material.renewed(&["other".to_owned()], at("2026-01-02T00:00:00Z")).unwrap().unwrap();
        assert_eq!(other.serving.hosts, ["other"]);
    }

    #[test]
    fn a_new_authority_is_trusted_before_it_signs() {
        let material = Material::new(&hosts(), at("2026-01-01T10:00:00Z")).unwrap();
        let later = at("2033-01-01T00:00:00Z");
        let renewed = material.renewed(&hosts(), later).unwrap().unwrap();
        assert_eq!(renewed.authorities.len(), 2);
        assert!(renewed.bundle().contains(&material.bundle()));
        assert_eq!(renewed.certificate, material.certificate);
        // The ended authority leaves the bundle with the next change of authority.
        let much_later = renewed.renewed(&hosts(), at("2040-01-01T00:00:00Z")).unwrap().unwrap();
        assert!(!much_later.bundle().contains(&material.bundle()));
    }

    #[test]
    fn the_secret_gives_back_what_it_was_given() {
        let material = Material::new(&hosts(), at("2026-01-01T10:00:00Z")).unwrap();
        let mut data = material.to_data().unwrap();
        assert_eq!(Material::from_data(&data).unwrap(), material);
        assert!(!format!("{material:?}").contains("PRIVATE"));
        for name in ["authorities", "ca.key", "tls.crt", "tls.key", "serving"] {
            let removed = data.remove(name).unwrap();
            assert!(matches!(Material::from_data(&data), Err(TlsError::Damaged(part)) if part == name));
            data.insert(name.to_owned(), removed);
        }
    }
}
