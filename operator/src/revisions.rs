//! Revisions as they are stored: `ControllerRevision`s (apps/v1) owned by their object, as those of a `StatefulSet` are.
//!
//! The API server keeps their `data` immutable. What may change is beside it, in annotations: the generation that last
//! resolved to this body, and the preset version that goes with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_openapi::{
    api::apps::v1::ControllerRevision,
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        runtime::RawExtension,
    },
};
use kube::ResourceExt;
use mq_core::{canonical, effect::ObjectKey, revision::Stored};
use mq_protocol::message::Kind;
use serde_json::{Value, json};

/// Label of everything that the operator keeps in users' namespaces.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "mq-operator");
/// Label: uid of the object that a revision belongs to.
pub const OWNER: &str = "mq.infra-kit.io/owner-uid";
/// Annotation: see [`Stored::generation`].
pub const GENERATION: &str = "mq.infra-kit.io/generation";
/// Annotation: see [`Stored::preset_version`].
pub const PRESET_VERSION: &str = "mq.infra-kit.io/preset-version";

/// Names may be 253 long; kind, uid and number follow.
const NAME_PREFIX: usize = 200;

/// A revision and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Number, hash and origin.
    pub stored: Stored,
    /// Canonical JSON.
    pub body: Bytes,
}

/// Why a stored revision is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It was not made by this operator.
    #[error("it has no label {OWNER}")]
    NoOwner,
    /// Its data has another shape.
    #[error("its data has no hash and body")]
    NoBody,
    /// Its data was changed.
    #[error("its body does not match its hash")]
    HashMismatch,
}

/// Name of the object that stores revision `number`. A second attempt to store it fails instead of making another one.
pub fn name(kind: Kind, owner: &ObjectKey, number: i64) -> String {
    let prefix: String = owner.name.chars().take(NAME_PREFIX).collect();
    let uid: String = owner.uid.chars().take(8).collect();
    format!("{}-{}-{uid}-{number}", prefix.trim_end_matches(['-', '.']), kind.as_str())
}

/// The object to create.
pub fn to_object(kind: Kind, owner: &ObjectKey, reference: OwnerReference, revision: &Revision) -> ControllerRevision {
    let Stored { number, hash, preset_version, generation, created_at: _ } = &revision.stored;
    let body: Value = serde_json::from_slice(&revision.body).unwrap_or_default();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(kind, owner, *number)),
            namespace: Some(owner.namespace.clone()),
            labels: Some(labels(&owner.uid)),
            annotations: Some(annotations(*generation, *preset_version)),
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        revision: *number,
        data: Some(RawExtension(json!({"hash": hash, "body": body}))),
    }
}

/// The annotations of a revision that this generation resolves to.
pub fn annotations(generation: i64, preset_version: u32) -> BTreeMap<String, String> {
    [(GENERATION, generation.to_string()), (PRESET_VERSION, preset_version.to_string())]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// What a stored object says, and the uid of its owner.
///
/// # Errors
/// See [`Damage`]: such a revision is never sent.
pub fn from_object(object: &ControllerRevision) -> Result<(String, Revision), Damage> {
    let owner = object.labels().get(OWNER).cloned().ok_or(Damage::NoOwner)?;
    let data = object.data.as_ref().map(|data| &data.0).ok_or(Damage::NoBody)?;
    let hash = data.get("hash").and_then(Value::as_str).ok_or(Damage::NoBody)?.to_owned();
    // The API server may keep keys in an order of its own: the canonical form brings the same bytes back.
    let body = canonical::to_json(data.get("body").ok_or(Damage::NoBody)?).map_err(|_| Damage::NoBody)?;
    if canonical::hash(&body) != hash {
        return Err(Damage::HashMismatch);
    }
    // Without its annotations it counts as one of an earlier generation.
    let note = |name: &str| object.annotations().get(name).and_then(|value| value.parse::<i64>().ok());
    let stored = Stored {
        number: object.revision,
        hash,
        preset_version: note(PRESET_VERSION).and_then(|version| u32::try_from(version).ok()).unwrap_or_default(),
        generation: note(GENERATION).unwrap_or_default(),
        created_at: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
    };
    Ok((owner, Revision { stored, body: Bytes::from(body) }))
}

fn labels(owner: &str) -> BTreeMap<String, String> {
    [MANAGED_BY, (OWNER, owner)].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> ObjectKey {
        ObjectKey { namespace: "shop".into(), name: name.into(), uid: "1a2b3c4d-0000".into() }
    }

    fn revision() -> Revision {
        let body = r#"{"a":{"x":1,"y":[1,2]},"b":"ü"}"#;
        let stored = Stored { number: 7, hash: canonical::hash(body), preset_version: 2, generation: 5, created_at: 0 };
        Revision { stored, body: Bytes::from(body) }
    }

    #[test]
    fn a_revision_comes_back_as_it_was_stored() {
        let object = to_object(Kind::Producer, &owner("orders"), OwnerReference::default(), &revision());
        assert_eq!(object.name_any(), "orders-producer-1a2b3c4d-7");
        assert_eq!(from_object(&object), Ok(("1a2b3c4d-0000".to_owned(), revision())));
    }

    #[test]
    fn names_fit_kubernetes() {
        let long = name(Kind::Consumer, &owner(&format!("{}.{}", "a".repeat(199), "b".repeat(53))), i64::MAX);
        assert!(long.len() <= 253 && !long.contains(".-"), "{long}");
    }

    #[test]
    fn what_was_tampered_with_is_not_used() {
        let object = to_object(Kind::Producer, &owner("orders"), OwnerReference::default(), &revision());
        let mut changed = object.clone();
        changed.data.as_mut().unwrap().0["body"]["a"]["x"] = json!(2);
        assert_eq!(from_object(&changed), Err(Damage::HashMismatch));
        assert_eq!(from_object(&ControllerRevision { data: None, ..object.clone() }), Err(Damage::NoBody));
        let mut foreign = object;
        foreign.metadata.labels = None;
        assert_eq!(from_object(&foreign), Err(Damage::NoOwner));
    }
}
