//! The settings of one producer or consumer client, as a user writes them: in a custom resource, in a file under
//! `/config/mq/`, or in code. Every field is optional; what is absent comes from the preset.
//!
//! The JSON schema (types, ranges, choices, descriptions) is taken from [`crate::knobs`], so it cannot disagree with
//! what [`crate::resolve`] checks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    knobs::{self, Side},
    presets::Preset,
    value::ConfigValue,
};

mod words;
pub use words::{Acks, AutoOffsetReset, Compression};

/// Settings of a producer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = describe_producer)]
pub struct ProducerSettings {
    /// Where the values that are not set here come from; [`Preset::Production`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// See [`knobs::ACKS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acks: Option<Acks>,
    /// See [`knobs::RETRY_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_max: Option<i64>,
    /// Bytes; see [`knobs::BATCH_SIZE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<i64>,
    /// Milliseconds; see [`knobs::LINGER_MS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger_ms: Option<i64>,
    /// See [`knobs::COMPRESSION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Other librdkafka properties by name; see [`crate::overrides`] for those that are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, ConfigValue>,
}

/// Settings of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = describe_consumer)]
pub struct ConsumerSettings {
    /// Where the values that are not set here come from; [`Preset::Production`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// See [`knobs::AUTO_OFFSET_RESET`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_offset_reset: Option<AutoOffsetReset>,
    /// See [`knobs::ENABLE_AUTO_COMMIT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_auto_commit: Option<bool>,
    /// Milliseconds; see [`knobs::AUTO_COMMIT_INTERVAL_MS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_commit_interval_ms: Option<i64>,
    /// Milliseconds; see [`knobs::SESSION_TIMEOUT_MS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_timeout_ms: Option<i64>,
    /// Records; see [`knobs::MAX_POLL_RECORDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_poll_records: Option<i64>,
    /// Milliseconds; see [`knobs::MAX_POLL_INTERVAL_MS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_poll_interval_ms: Option<i64>,
    /// Other librdkafka properties by name; see [`crate::overrides`] for those that are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, ConfigValue>,
}

fn describe_producer(schema: &mut schemars::Schema) {
    knobs::describe(Side::Producer, schema);
}

fn describe_consumer(schema: &mut schemars::Schema) {
    knobs::describe(Side::Consumer, schema);
}
