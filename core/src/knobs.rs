//! The one table of settings: what each is called, what it becomes in librdkafka, which values it may have, what the
//! presets give it, and what a change of it costs. Validation, both clients, the schema of the custom resources and the
//! reference page are all made from it.

use serde_json::{Value as Json, json};

use crate::presets::Preset;

/// Which client has the setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// `MqProducerConfig`.
    Producer,
    /// The `consumer` part of `MqConsumerGroup`.
    Consumer,
}

/// What a live client does when the setting changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The agent swaps a value of its own; the Kafka client is not touched.
    AgentOnly,
    /// One call into the running Kafka client.
    RunTime,
    /// A new producer takes over behind the gate; nothing is lost and sends wait for a moment.
    ProducerRecreate,
    /// The consumer drains, commits, leaves its group and joins again.
    ConsumerRecreate,
    /// The agent refuses it; the process must start anew.
    Refused,
}

/// What values a setting may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// An integer from `min` to `max`, both included.
    Integer {
        /// Such as `ms`, for people.
        unit: &'static str,
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
    },
    /// One of the words; `numbers[n]` is what Kafka's protocol calls `words[n]` (empty: words only).
    Word {
        /// What users read and write.
        words: &'static [&'static str],
        /// What users may write too.
        numbers: &'static [i64],
    },
    /// `true` or `false`.
    Switch,
}

/// One value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// In the setting's unit.
    Integer(i64),
    /// One of the setting's words.
    Word(&'static str),
    /// `true` or `false`.
    Switch(bool),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Word(value) => f.write_str(value),
            Self::Switch(value) => value.fmt(f),
        }
    }
}

/// What the presets give a setting, from one preset version on.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    /// The first preset version with these values.
    pub version: u32,
    /// Value of [`Preset::Development`].
    pub development: Value,
    /// Value of [`Preset::Staging`].
    pub staging: Value,
    /// Value of [`Preset::Production`].
    pub production: Value,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// The name that users write, in a custom resource as in a file.
    pub name: &'static str,
    /// Which client has it.
    pub side: Side,
    /// The property of librdkafka that it sets; `None` if it exists in the agent alone.
    pub librdkafka: Option<&'static str>,
    /// What values it may have.
    pub domain: Domain,
    /// Oldest first. A released entry is never edited: a new value is a new entry.
    pub presets: &'static [Since],
    /// What a change of it costs.
    pub change: Change,
    /// What it does, for users.
    pub doc: &'static str,
}

const fn same(value: Value) -> Since {
    Since { version: 1, development: value, staging: value, production: value }
}

/// `acks`.
pub const ACKS: Knob = Knob {
    name: "acks",
    side: Side::Producer,
    librdkafka: Some("acks"),
    domain: Domain::Word { words: &["0", "1", "all"], numbers: &[0, 1, -1] },
    presets: &[Since {
        version: 1,
        development: Value::Word("1"),
        staging: Value::Word("all"),
        production: Value::Word("all"),
    }],
    change: Change::ProducerRecreate,
    doc: "How many replicas must have a message before it counts as sent: 0 (nobody is asked, messages can be lost \
          unnoticed), 1 (the leader) or all (every in-sync replica; -1 is the same). With all and retryMax of 1 or more the \
          producer is idempotent: retries make no duplicates.",
};

/// `retryMax`.
pub const RETRY_MAX: Knob = Knob {
    name: "retryMax",
    side: Side::Producer,
    librdkafka: Some("message.send.max.retries"),
    domain: Domain::Integer { unit: "retries", min: 0, max: 2_147_483_647 },
    presets: &[Since {
        version: 1,
        development: Value::Integer(3),
        staging: Value::Integer(5),
        production: Value::Integer(10),
    }],
    change: Change::ProducerRecreate,
    doc: "How often a message is sent again after an attempt that may have reached a broker, with growing pauses. Attempts \
          that certainly did not (no connection, the leader has moved) do not count: they end with delivery.timeout.ms \
          (300000 unless overridden).",
};

/// `batchSize`.
pub const BATCH_SIZE: Knob = Knob {
    name: "batchSize",
    side: Side::Producer,
    librdkafka: Some("batch.size"),
    domain: Domain::Integer { unit: "bytes", min: 1, max: 2_147_483_647 },
    presets: &[Since {
        version: 1,
        development: Value::Integer(16_384),
        staging: Value::Integer(65_536),
        production: Value::Integer(65_536),
    }],
    change: Change::ProducerRecreate,
    doc: "Largest batch of messages for one partition, in bytes. A larger one costs memory and saves requests.",
};

/// `lingerMs`.
pub const LINGER_MS: Knob = Knob {
    name: "lingerMs",
    side: Side::Producer,
    librdkafka: Some("linger.ms"),
    domain: Domain::Integer { unit: "ms", min: 0, max: 60_000 },
    presets: &[Since {
        version: 1,
        development: Value::Integer(0),
        staging: Value::Integer(10),
        production: Value::Integer(10),
    }],
    change: Change::ProducerRecreate,
    doc: "How long a message may wait for others to share its batch, in milliseconds.",
};

/// `compression`.
pub const COMPRESSION: Knob = Knob {
    name: "compression",
    side: Side::Producer,
    librdkafka: Some("compression.type"),
    domain: Domain::Word { words: &["none", "gzip", "snappy", "lz4", "zstd"], numbers: &[0, 1, 2, 3, 4] },
    presets: &[Since {
        version: 1,
        development: Value::Word("none"),
        staging: Value::Word("lz4"),
        production: Value::Word("lz4"),
    }],
    change: Change::ProducerRecreate,
    doc: "How batches are compressed: none, gzip, snappy, lz4 or zstd (or Kafka's number of it, 0 to 4).",
};

/// `autoOffsetReset`.
pub const AUTO_OFFSET_RESET: Knob = Knob {
    name: "autoOffsetReset",
    side: Side::Consumer,
    librdkafka: Some("auto.offset.reset"),
    domain: Domain::Word { words: &["earliest", "latest"], numbers: &[] },
    presets: &[same(Value::Word("earliest"))],
    change: Change::ConsumerRecreate,
    doc: "Where a partition begins that has no committed offset, or whose offset is not in its log (retention passed it, or \
          the topic was created anew): earliest (nothing is skipped) or latest. A partition that is added while the group runs \
          begins at its first record with either.",
};

/// `enableAutoCommit`.
pub const ENABLE_AUTO_COMMIT: Knob = Knob {
    name: "enableAutoCommit",
    side: Side::Consumer,
    librdkafka: None,
    domain: Domain::Switch,
    presets: &[same(Value::Switch(true))],
    change: Change::AgentOnly,
    doc: "true: the agent commits what is finished every autoCommitIntervalMs. false: only on commit(), on drain and when \
          a partition moves away. Either way only handled records are committed.",
};

/// `autoCommitIntervalMs`.
pub const AUTO_COMMIT_INTERVAL_MS: Knob = Knob {
    name: "autoCommitIntervalMs",
    side: Side::Consumer,
    librdkafka: None,
    domain: Domain::Integer { unit: "ms", min: 100, max: 86_400_000 },
    presets: &[same(Value::Integer(1_000))],
    change: Change::AgentOnly,
    doc: "Time between two commits while enableAutoCommit is true, in milliseconds. After a crash up to this much work is \
          done again.",
};

/// `sessionTimeoutMs`.
pub const SESSION_TIMEOUT_MS: Knob = Knob {
    name: "sessionTimeoutMs",
    side: Side::Consumer,
    librdkafka: Some("session.timeout.ms"),
    domain: Domain::Integer { unit: "ms", min: 6_000, max: 1_800_000 },
    presets: &[same(Value::Integer(30_000))],
    change: Change::ConsumerRecreate,
    doc: "After this long without a heartbeat a crashed consumer loses its partitions to the others, in milliseconds. The \
          bounds are those that a broker has by default.",
};

/// `maxPollRecords`.
pub const MAX_POLL_RECORDS: Knob = Knob {
    name: "maxPollRecords",
    side: Side::Consumer,
    librdkafka: None,
    domain: Domain::Integer { unit: "records", min: 1, max: 100_000 },
    presets: &[same(Value::Integer(500))],
    change: Change::AgentOnly,
    doc: "How many records the agent takes in at once before earlier ones are handled. Those that wait for a slow key do not count \
          where they would keep all others out; the memory of the consumer bounds them.",
};

/// `maxPollIntervalMs`.
pub const MAX_POLL_INTERVAL_MS: Knob = Knob {
    name: "maxPollIntervalMs",
    side: Side::Consumer,
    librdkafka: Some("max.poll.interval.ms"),
    domain: Domain::Integer { unit: "ms", min: 6_000, max: 86_400_000 },
    presets: &[same(Value::Integer(300_000))],
    change: Change::ConsumerRecreate,
    doc: "After this long without a poll a consumer counts as stuck and loses its partitions, in milliseconds. Not less \
          than sessionTimeoutMs.",
};

/// Every setting, in the order of the reference page.
pub const KNOBS: [&Knob; 11] = [
    &ACKS,
    &RETRY_MAX,
    &BATCH_SIZE,
    &LINGER_MS,
    &COMPRESSION,
    &AUTO_OFFSET_RESET,
    &ENABLE_AUTO_COMMIT,
    &AUTO_COMMIT_INTERVAL_MS,
    &SESSION_TIMEOUT_MS,
    &MAX_POLL_RECORDS,
    &MAX_POLL_INTERVAL_MS,
];

/// The settings of one side.
pub fn of(side: Side) -> impl Iterator<Item = &'static Knob> {
    KNOBS.into_iter().filter(move |knob| knob.side == side)
}

impl Knob {
    /// What `preset` gives this setting in preset version `version`; `None` if that version is not known here.
    pub fn preset(&self, preset: Preset, version: u32) -> Option<Value> {
        if version > crate::presets::PRESET_VERSION {
            return None;
        }
        let values = self.presets.iter().rev().find(|values| values.version <= version)?;
        Some(match preset {
            Preset::Development => values.development,
            Preset::Staging => values.staging,
            Preset::Production => values.production,
        })
    }

    /// The setting's structural schema.
    pub fn schema(&self) -> Json {
        let mut schema = match self.domain {
            Domain::Integer { min, max, .. } => {
                json!({"type": "integer", "format": "int64", "minimum": min, "maximum": max})
            }
            Domain::Word { words, numbers: [] } => json!({"type": "string", "enum": words}),
            Domain::Word { words, numbers } => {
                let mut texts: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
                let digits: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                texts.extend(
                    digits
                        .iter()
                        .map(|number| format!("'{number}'"))
                        .filter(|text| !words.contains(&text.trim_matches('\''))),
                );
                json!({
                    "x-kubernetes-int-or-string": true,
                    "x-kubernetes-validations": [{
                        "rule": format!("type(self) == int ? self in [{}] : self in [{}]", digits.join(", "), texts.join(", ")),
                        "message": format!("{} must be one of {}", self.name, words.join(", ")),
                    }],
                })
            }
            Domain::Switch => json!({"type": "boolean"}),
        };
        let [development, staging, production] = Preset::ALL.map(|preset| {
            self.preset(preset, crate::presets::PRESET_VERSION).map_or_else(String::new, |v| v.to_string())
        });
        let presets = if development == staging && staging == production {
            format!("Every preset: {production}.")
        } else {
            format!("Presets: development {development}, staging {staging}, production {production}.")
        };
        schema["description"] = json!(format!("{} {presets}", self.doc));
        schema
    }
}

/// Puts the table's schemas into the schema of a settings struct.
pub(crate) fn describe(side: Side, schema: &mut schemars::Schema) {
    let Some(Json::Object(properties)) = schema.as_object_mut().and_then(|object| object.get_mut("properties")) else {
        return;
    };
    for knob in of(side) {
        properties.insert(knob.name.to_owned(), knob.schema());
    }
    properties.insert(
        "preset".to_owned(),
        json!({
            "type": "string",
            "enum": Preset::ALL.map(Preset::as_str),
            "description": "Where the values that are not set here come from; production if absent.",
        }),
    );
    if let Some(overrides) = properties.get_mut("overrides") {
        overrides["description"] = json!(crate::overrides::DOC);
        overrides["maxProperties"] = json!(crate::overrides::MAX_COUNT);
    }
}
