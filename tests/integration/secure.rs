//! Every way into a broker for the operator, and what the `MqCluster` says when one is closed.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1::ControllerRevision, core::v1::Secret};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use mq_crds::{MqCluster, MqProducerConfig};
use mq_testkit::{Secure, unique, wait_until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::world::{PATIENCE, World};

pub(crate) const SECRET: &str = "kafka-admin";

/// The `spec` with this way in.
pub(crate) fn by(
    world: &World,
    address: &str,
    protocol: &str,
    mechanism: Option<&str>,
    authority: Option<&str>,
) -> Value {
    let mut spec = world.spec_of_cluster();
    spec["brokers"] = json!([address]);
    spec["securityProtocol"] = protocol.into();
    if let Some(mechanism) = mechanism {
        spec["sasl"] = json!({ "mechanism": mechanism });
        spec["admin"] = json!({"credentialsSecretRef": {"name": SECRET}});
    }
    if let Some(authority) = authority {
        spec["caBundle"] = authority.into();
    }
    spec
}

/// Writes the Secret, whole.
async fn secret(world: &World, data: &[(&str, &str)]) -> Result<()> {
    write_secret(&world.client, world.namespace(), data).await
}

pub(crate) async fn write_secret(client: &Client, namespace: &str, data: &[(&str, &str)]) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let data: serde_json::Map<_, _> = data.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": data});
    secrets.patch(SECRET, &PatchParams::apply("test").force(), &Patch::Apply(&body)).await?;
    Ok(())
}

pub(crate) async fn alice(world: &World, secure: &Secure) -> Result<()> {
    let user = &secure.users[0];
    secret(world, &[("username", &user.username), ("password", &user.password)]).await
}

/// Waits until the status answers for this spec with this reason; its words.
async fn becomes(world: &World, spec: &Value, reason: &str) -> Result<String> {
    let applied = world.apply_cluster(spec).await?;
    says(world, applied, reason).await.with_context(|| spec.to_string())
}

async fn says(world: &World, applied: MqCluster, reason: &str) -> Result<String> {
    wait_until(&format!("the MqCluster is {reason}"), PATIENCE, async || {
        let cluster = world.clusters().get(&world.cluster).await?;
        let conditions = cluster.status.context("no status")?.conditions;
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready").context("no condition")?;
        ensure!(ready.observed_generation >= applied.metadata.generation, "an earlier spec is {}", ready.reason);
        ensure!(ready.reason == reason, "it is {}: {}", ready.reason, ready.message);
        Ok(ready.message)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_and_mechanism_leads_in() -> Result<()> {
    let world = World::empty("ways").await?;
    let secure = world.kafka.secure()?;
    let ca = secure.pem("ca.crt")?;
    let ca = Some(ca.as_str());
    alice(&world, secure).await?;
    let _operator = world.operator("one").await?;
    let ways = [
        by(&world, &secure.ssl, "SSL", None, ca),
        by(&world, &secure.ssl.replace("127.0.0.1", "localhost"), "SSL", None, ca),
        by(&world, &secure.sasl_plaintext, "SASL_PLAINTEXT", Some("PLAIN"), None),
        by(&world, &secure.sasl_plaintext, "SASL_PLAINTEXT", Some("SCRAM-SHA-256"), None),
        by(&world, world.kafka.bootstrap(), "PLAINTEXT", None, None),
        by(&world, &secure.sasl_ssl, "SASL_SSL", Some("PLAIN"), ca),
        by(&world, &secure.sasl_ssl, "SASL_SSL", Some("SCRAM-SHA-512"), ca),
    ];
    for spec in &ways {
        becomes(&world, spec, "Connected").await?;
    }
    world.declare("orders", json!({})).await?;
    world.until("orders", "InSync").await?;

    // A broker that demands a certificate.
    let mut mutual = by(&world, &secure.mutual_tls, "SSL", None, ca);
    let refused = becomes(&world, &mutual, "TlsFailed").await?;
    assert!(refused.contains("TLS failed: received fatal alert"), "{refused}");
    mutual["admin"] = json!({"credentialsSecretRef": {"name": SECRET}});
    let (certificate, key) = (secure.pem("client.crt")?, secure.pem("client.key")?);
    secret(&world, &[("tls.crt", &certificate), ("tls.key", "no key")]).await?;
    let unusable = becomes(&world, &mutual, "CredentialsInvalid").await?;
    assert!(unusable.contains("there is no private key in it"), "{unusable}");
    secret(&world, &[("tls.crt", &certificate), ("tls.key", &key)]).await?;
    becomes(&world, &mutual, "Connected").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_missing_incomplete_or_wrong_is_said_and_heals() -> Result<()> {
    let world = World::empty("secret").await?;
    let secure = world.kafka.secure()?;
    let _operator = world.operator("one").await?;
    let spec = by(&world, &secure.sasl_plaintext, "SASL_PLAINTEXT", Some("SCRAM-SHA-256"), None);

    let missing = becomes(&world, &spec, "CredentialsNotFound").await?;
    assert!(missing.contains(&format!("there is no Secret {}/{SECRET}", world.namespace())), "{missing}");
    let user = &secure.users[0];
    secret(&world, &[("username", &user.username)]).await?;
    let incomplete = becomes(&world, &spec, "CredentialsInvalid").await?;
    assert!(incomplete.contains("has username and no password"), "{incomplete}");
    secret(&world, &[("username", &user.username), ("password", "wrong")]).await?;
    let wrong = becomes(&world, &spec, "AuthenticationFailed").await?;
    assert!(wrong.contains("invalid credentials with SASL mechanism SCRAM-SHA-256"), "the broker's words: {wrong}");
    world.declare("orders", json!({})).await?;
    world.until("orders", "AuthenticationFailed").await?;
    alice(&world, secure).await?;
    becomes(&world, &spec, "Connected").await?;
    world.until("orders", "InSync").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_is_used_without_a_restart() -> Result<()> {
    let world = World::empty("rotate").await?;
    let secure = world.kafka.secure()?;
    let user = unique("admin");
    world.kafka.set_scram_password(&user, "one").await?;
    secret(&world, &[("username", &user), ("password", "one")]).await?;
    let _operator = world.operator("one").await?;
    let spec = by(&world, &secure.sasl_plaintext, "SASL_PLAINTEXT", Some("SCRAM-SHA-512"), None);
    becomes(&world, &spec, "Connected").await?;

    // The broker ends logins after 5 s; the next one needs the new password.
    world.kafka.set_scram_password(&user, "two").await?;
    becomes(&world, &spec, "AuthenticationFailed").await?;
    secret(&world, &[("username", &user), ("password", "two")]).await?;
    becomes(&world, &spec, "Connected").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_reached_is_told_apart() -> Result<()> {
    let world = World::empty("apart").await?;
    let secure = world.kafka.secure()?;
    let ca = secure.pem("ca.crt")?;
    alice(&world, secure).await?;
    let _operator = world.operator("one").await?;
    let (expired, authority, _broker) = expired_broker().await?;
    let stranger = stranger()?.0.pem();
    let plain = world.kafka.bootstrap();
    let cases = [
        (
            by(&world, "no-such-host.invalid:9092", "PLAINTEXT", None, None),
            "AddressNotResolved",
            "no-such-host.invalid",
        ),
        (by(&world, "127.0.0.1:1", "SSL", None, Some(&ca)), "ClusterUnreachable", "cannot connect"),
        (by(&world, &secure.ssl, "SSL", None, Some(&stranger)), "TlsFailed", "UnknownIssuer"),
        (by(&world, &expired, "SSL", None, Some(&authority)), "TlsFailed", "expired"),
        (by(&world, plain, "SSL", None, Some(&ca)), "TlsFailed", "a listener of SSL or SASL_SSL"),
        (
            by(&world, &secure.ssl, "PLAINTEXT", None, None),
            "ClusterUnreachable",
            "one of the securityProtocol that is used",
        ),
        (by(&world, plain, "SASL_PLAINTEXT", Some("PLAIN"), None), "AuthenticationFailed", "SaslHandshake"),
    ];
    for (spec, reason, words) in cases {
        let said = becomes(&world, &spec, reason).await?;
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
    Ok(())
}

/// An authority that no broker knows.
fn stranger() -> Result<(rcgen::Certificate, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?, Issuer::new(params, key)))
}

/// A listener whose certificate has ended: its address, and its authority as PEM.
async fn expired_broker() -> Result<(String, String, AbortOnDropHandle<()>)> {
    let (authority, issuer) = stranger()?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let certificate = CertificateDer::from(params.signed_by(&key, &issuer)?.der().to_vec());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await?);
    let address = listener.local_addr()?.to_string();
    let serving = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            drop(acceptor.accept(socket).await);
        }
    });
    Ok((address, authority.pem(), AbortOnDropHandle::new(serving)))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_how_to_connect_and_never_the_credentials() -> Result<()> {
    let world = World::empty("told").await?;
    let secure = world.kafka.secure()?;
    let ca = secure.pem("ca.crt")?;
    alice(&world, secure).await?;
    world.apply_cluster(&by(&world, &secure.sasl_ssl, "SASL_SSL", Some("SCRAM-SHA-256"), Some(&ca))).await?;
    let _operator = world.operator("one").await?;
    let producers: Api<MqProducerConfig> = Api::namespaced(world.client.clone(), world.namespace());
    let producer = json!({"apiVersion": "mq.infra-kit.io/v1alpha1", "kind": "MqProducerConfig",
        "metadata": {"name": "orders"}, "spec": {"cluster": world.cluster}});
    producers.create(&PostParams::default(), &serde_json::from_value(producer)?).await?;
    let revisions: Api<ControllerRevision> = Api::namespaced(world.client.clone(), world.namespace());
    let text = wait_until("there is a revision", PATIENCE, async || {
        let revision = revisions.list(&ListParams::default()).await?.items.pop().context("none yet")?;
        Ok(serde_json::to_string(&revision.data.context("no data")?)?)
    })
    .await?;
    for told in [secure.sasl_ssl.as_str(), "SASL_SSL", "SCRAM-SHA-256", "BEGIN CERTIFICATE"] {
        assert!(text.contains(told), "{told} is not in {text}");
    }
    let user = &secure.users[0];
    assert!(!text.contains(&user.password) && !text.contains(&user.username), "{text}");
    Ok(())
}
