//! Objects as they come from the API server: those that fit the schema, and those that do not and must stop nobody else.

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};
use mq_core::effect::ObjectKey;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use std::{borrow::Cow, fmt::Debug};

/// What every kind of ours is.
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K> Object for K where K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

/// An object, or what can be said about one that does not deserialize.
///
/// The status is kept as it is stored, so that a write can be skipped when it would change nothing.
#[derive(Debug, Clone)]
pub struct Guarded<K> {
    /// The typed object, or what is wrong with it.
    pub parsed: Result<K, Invalid>,
    /// `status` as stored; null if there is none.
    pub status: Value,
    /// `spec.cluster` as stored, empty if there is none.
    pub cluster: String,
}

/// An object that does not fit the schema.
#[derive(Debug, Clone)]
pub struct Invalid {
    /// Its metadata, which always fits.
    pub metadata: ObjectMeta,
    /// Which field is wrong, and how.
    pub error: String,
    /// `spec` as stored; null if there is none.
    pub spec: Value,
}

impl<'de, K: Object> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Value::deserialize(deserializer)?;
        let status = raw.get("status").cloned().unwrap_or_default();
        let cluster = raw.pointer("/spec/cluster").and_then(Value::as_str).unwrap_or_default().to_owned();
        let parsed = match K::deserialize(&raw) {
            Ok(object) => Ok(object),
            Err(error) => {
                let spec = raw.get("spec").cloned().unwrap_or_default();
                let PartialObjectMeta::<K> { metadata, .. } =
                    serde_json::from_value(raw).map_err(serde::de::Error::custom)?;
                Err(Invalid { metadata, error: error.to_string(), spec })
            }
        };
        Ok(Self { parsed, status, cluster })
    }
}

impl<K: Object> Resource for Guarded<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.parsed.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.parsed.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

/// Our name for an object.
pub fn key_of(object: &impl ResourceExt) -> ObjectKey {
    ObjectKey {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
    }
}

/// Seconds since 1970 at which the object was created.
pub fn created_at(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or_else(|| Timestamp::MAX.as_second(), |time| time.0.as_second())
}

/// What events point at.
pub(crate) fn reference<K: Object>(object: &Guarded<K>) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: object.meta().name.clone(),
        namespace: object.meta().namespace.clone(),
        uid: object.meta().uid.clone(),
        ..ObjectReference::default()
    }
}
