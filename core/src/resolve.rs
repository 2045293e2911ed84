//! From what a user wrote to what a client runs with: preset + settings + checks → a value in which every field is
//! concrete, or the list of everything that is wrong with it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    knobs::{self, Domain, Knob, Side, Value},
    overrides::{self, Denied},
    presets::Preset,
    settings::{Acks, AutoOffsetReset, Compression, ConsumerSettings, ProducerSettings},
    value::ConfigValue,
};

mod librdkafka;
#[cfg(test)]
mod tests;

/// A producer's settings, complete. Its canonical JSON is part of a revision's body, so a field is never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedProducer {
    /// How many replicas acknowledge.
    pub acks: Acks,
    /// Retries of a message, beside the first attempt.
    pub retry_max: u32,
    /// Bytes.
    pub batch_size: u32,
    /// Milliseconds.
    pub linger_ms: u32,
    /// How batches are compressed.
    pub compression: Compression,
    /// Other librdkafka properties.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, String>,
}

/// A consumer's settings, complete. Its canonical JSON is part of a revision's body, so a field is never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedConsumer {
    /// Where a partition without a committed offset begins.
    pub auto_offset_reset: AutoOffsetReset,
    /// Whether the agent commits from time to time by itself.
    pub enable_auto_commit: bool,
    /// Milliseconds.
    pub auto_commit_interval_ms: u32,
    /// Milliseconds.
    pub session_timeout_ms: u32,
    /// Records.
    pub max_poll_records: u32,
    /// Milliseconds.
    pub max_poll_interval_ms: u32,
    /// Other librdkafka properties.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, String>,
}

/// One thing that is wrong with settings. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{setting} is {value}; it must be from {min} to {max} {unit}")]
    OutOfRange { setting: &'static str, value: i64, min: i64, max: i64, unit: &'static str },
    #[error(
        "sessionTimeoutMs is {session} and maxPollIntervalMs {poll}: raise maxPollIntervalMs to at least sessionTimeoutMs"
    )]
    SessionLongerThanPoll { session: u32, poll: u32 },
    #[error(
        "lingerMs is {linger} and {property} {timeout}: messages would expire while they wait; lower lingerMs or raise {property}"
    )]
    LingerLongerThanTimeout { linger: u32, property: String, timeout: i64 },
    #[error(
        "heartbeat.interval.ms is {heartbeat} and sessionTimeoutMs {session}: the group would take the consumer for dead between two heartbeats; lower heartbeat.interval.ms to at most a third of sessionTimeoutMs"
    )]
    HeartbeatLongerThanSession { heartbeat: i64, session: u32 },
    #[error("{property} is {value}; with acks all and retryMax of 1 or more it can be at most 5")]
    TooManyInFlight { property: &'static str, value: String },
    #[error(
        "{property} is {value}; with acks 1 and retryMax of 1 or more it can only be 1, or a retry would overtake its successor and a key lose its order: set acks to all, or retryMax to 0"
    )]
    UnorderedInFlight { property: &'static str, value: String },
    #[error("overrides has {count} properties; it can have at most {}", overrides::MAX_COUNT)]
    TooManyOverrides { count: usize },
    #[error(
        "overrides cannot contain {name:?}: that is not the name of a librdkafka property (lower-case letters, digits, dots)"
    )]
    NotAProperty { name: String },
    #[error("overrides cannot contain {name}: set {setting} instead")]
    HasSetting { name: String, setting: &'static str },
    #[error("overrides cannot contain {name}: {reason}")]
    Reserved { name: String, reason: &'static str },
    #[error(
        "overrides: the value of {name} has {length} characters; at most {} are possible",
        crate::value::MAX_LENGTH
    )]
    ValueTooLong { name: String, length: usize },
    #[error(
        "preset version {version} is not known here (newest: {}); upgrade this program",
        crate::presets::PRESET_VERSION
    )]
    UnknownPresetVersion { version: u32 },
}

/// Everything that is wrong with settings; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Each of them.
    pub fn as_slice(&self) -> &[Violation] {
        &self.0
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            violation.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects violations so that a user sees all of them at once.
struct Check {
    preset: Preset,
    version: u32,
    found: Vec<Violation>,
}

impl Check {
    fn new(preset: Option<Preset>, version: u32) -> Self {
        Self { preset: preset.unwrap_or_default(), version, found: Vec::new() }
    }

    fn preset(&mut self, knob: &Knob) -> Option<Value> {
        let value = knob.preset(self.preset, self.version);
        let violation = Violation::UnknownPresetVersion { version: self.version };
        if value.is_none() && !self.found.contains(&violation) {
            self.found.push(violation);
        }
        value
    }

    /// The number that was set, else the preset's; 0 stands in for one that is wrong and reported.
    fn number(&mut self, knob: &Knob, set: Option<i64>) -> u32 {
        let preset = self.preset(knob);
        let Some(value) = set.or(match preset {
            Some(Value::Integer(value)) => Some(value),
            _ => None,
        }) else {
            return 0;
        };
        self.in_range(knob, value);
        u32::try_from(value).unwrap_or_default()
    }

    fn in_range(&mut self, knob: &Knob, value: i64) {
        if let Domain::Integer { unit, min, max } = knob.domain
            && !(min..=max).contains(&value)
        {
            self.found.push(Violation::OutOfRange { setting: knob.name, value, min, max, unit });
        }
    }

    fn word<T: std::str::FromStr>(&mut self, knob: &Knob, set: Option<T>, fallback: T) -> T {
        let preset = self.preset(knob);
        set.or_else(|| match preset {
            Some(Value::Word(word)) => word.parse().ok(),
            _ => None,
        })
        .unwrap_or(fallback)
    }

    fn switch(&mut self, knob: &Knob, set: Option<bool>) -> bool {
        let preset = self.preset(knob);
        set.unwrap_or_else(|| preset == Some(Value::Switch(true)))
    }

    fn overrides(&mut self, side: Side, overrides: &BTreeMap<String, String>) {
        if overrides.len() > overrides::MAX_COUNT {
            self.found.push(Violation::TooManyOverrides { count: overrides.len() });
        }
        for (name, value) in overrides {
            let name = name.clone();
            let length = value.chars().count();
            if length > crate::value::MAX_LENGTH {
                self.found.push(Violation::ValueTooLong { name: name.clone(), length });
            }
            if !overrides::is_property_name(&name) {
                self.found.push(Violation::NotAProperty { name });
                continue;
            }
            match overrides::denied(side, &name) {
                Some(Denied::HasSetting(setting)) => self.found.push(Violation::HasSetting { name, setting }),
                Some(Denied::Reserved(reason)) => self.found.push(Violation::Reserved { name, reason }),
                None => {}
            }
        }
    }

    fn finish<T>(self, value: T) -> Result<T, Violations> {
        if self.found.is_empty() { Ok(value) } else { Err(Violations(self.found)) }
    }
}

fn text(overrides: &BTreeMap<String, ConfigValue>) -> BTreeMap<String, String> {
    overrides.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
}

/// The integer that the first of `names` is overridden with, with that name.
fn overridden<'a>(overrides: &BTreeMap<String, String>, names: &[&'a str]) -> Option<(&'a str, i64)> {
    names.iter().find_map(|name| Some((*name, overrides.get(*name)?.trim().parse().ok()?)))
}

impl ProducerSettings {
    /// The complete settings, with the values of preset version `version` where nothing is set.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, at once.
    pub fn resolve(&self, version: u32) -> Result<ResolvedProducer, Violations> {
        let mut check = Check::new(self.preset, version);
        let resolved = ResolvedProducer {
            acks: check.word(&knobs::ACKS, self.acks, Acks::All),
            retry_max: check.number(&knobs::RETRY_MAX, self.retry_max),
            batch_size: check.number(&knobs::BATCH_SIZE, self.batch_size),
            linger_ms: check.number(&knobs::LINGER_MS, self.linger_ms),
            compression: check.word(&knobs::COMPRESSION, self.compression, Compression::None),
            overrides: text(&self.overrides),
        };
        resolved.check_together(&mut check);
        check.finish(resolved)
    }
}

impl ResolvedProducer {
    /// Checks settings that did not come from [`ProducerSettings::resolve`] in this process, such as those of a revision.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, at once.
    pub fn validate(&self) -> Result<(), Violations> {
        let mut check = Check::new(None, crate::presets::PRESET_VERSION);
        check.in_range(&knobs::RETRY_MAX, self.retry_max.into());
        check.in_range(&knobs::BATCH_SIZE, self.batch_size.into());
        check.in_range(&knobs::LINGER_MS, self.linger_ms.into());
        self.check_together(&mut check);
        check.finish(())
    }

    /// Whether retries make no duplicates and keep the order.
    pub fn is_idempotent(&self) -> bool {
        self.acks == Acks::All && self.retry_max >= 1
    }

    /// Whether a retried batch could arrive after its successor: it is repeated, and the broker does not know its number.
    fn needs_one_in_flight(&self) -> bool {
        !self.is_idempotent() && self.acks != Acks::None && self.retry_max > 0
    }

    fn check_together(&self, check: &mut Check) {
        check.overrides(Side::Producer, &self.overrides);
        let timeout = overridden(&self.overrides, &["delivery.timeout.ms", "message.timeout.ms"]);
        if let Some((property, timeout)) = timeout
            && timeout != 0
            && timeout <= i64::from(self.linger_ms)
        {
            let property = property.to_owned();
            check.found.push(Violation::LingerLongerThanTimeout { linger: self.linger_ms, property, timeout });
        }
        for property in ["max.in.flight.requests.per.connection", "max.in.flight"] {
            let Some(value) = self.overrides.get(property).map(|value| value.trim().to_owned()) else { continue };
            // A number that cannot be read here may mean something to librdkafka.
            let above = |max: u32| value.parse::<u32>().map_or(true, |value| value > max);
            if self.is_idempotent() && above(5) {
                check.found.push(Violation::TooManyInFlight { property, value });
            } else if self.needs_one_in_flight() && above(1) {
                check.found.push(Violation::UnorderedInFlight { property, value });
            }
        }
    }
}

impl ConsumerSettings {
    /// The complete settings, with the values of preset version `version` where nothing is set.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, at once.
    pub fn resolve(&self, version: u32) -> Result<ResolvedConsumer, Violations> {
        let mut check = Check::new(self.preset, version);
        let resolved = ResolvedConsumer {
            auto_offset_reset: check.word(&knobs::AUTO_OFFSET_RESET, self.auto_offset_reset, AutoOffsetReset::Earliest),
            enable_auto_commit: check.switch(&knobs::ENABLE_AUTO_COMMIT, self.enable_auto_commit),
            auto_commit_interval_ms: check.number(&knobs::AUTO_COMMIT_INTERVAL_MS, self.auto_commit_interval_ms),
            session_timeout_ms: check.number(&knobs::SESSION_TIMEOUT_MS, self.session_timeout_ms),
            max_poll_records: check.number(&knobs::MAX_POLL_RECORDS, self.max_poll_records),
            max_poll_interval_ms: check.number(&knobs::MAX_POLL_INTERVAL_MS, self.max_poll_interval_ms),
            overrides: text(&self.overrides),
        };
        resolved.check_together(&mut check);
        check.finish(resolved)
    }
}

impl ResolvedConsumer {
    /// Checks settings that did not come from [`ConsumerSettings::resolve`] in this process, such as those of a revision.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, at once.
    pub fn validate(&self) -> Result<(), Violations> {
        let mut check = Check::new(None, crate::presets::PRESET_VERSION);
        check.in_range(&knobs::AUTO_COMMIT_INTERVAL_MS, self.auto_commit_interval_ms.into());
        check.in_range(&knobs::SESSION_TIMEOUT_MS, self.session_timeout_ms.into());
        check.in_range(&knobs::MAX_POLL_RECORDS, self.max_poll_records.into());
        check.in_range(&knobs::MAX_POLL_INTERVAL_MS, self.max_poll_interval_ms.into());
        self.check_together(&mut check);
        check.finish(())
    }

    fn check_together(&self, check: &mut Check) {
        check.overrides(Side::Consumer, &self.overrides);
        if let Some((_, heartbeat)) = overridden(&self.overrides, &["heartbeat.interval.ms"])
            && heartbeat >= self.session_timeout_ms.into()
        {
            check.found.push(Violation::HeartbeatLongerThanSession { heartbeat, session: self.session_timeout_ms });
        }
        if self.session_timeout_ms > self.max_poll_interval_ms {
            check.found.push(Violation::SessionLongerThanPoll {
                session: self.session_timeout_ms,
                poll: self.max_poll_interval_ms,
            });
        }
    }
}
