//! What a client really runs with, by the names that users know, and where that differs from what it was told.

use std::collections::BTreeMap;

use mq_core::knobs::{self, Domain, Knob, Side};
use rdkafka::config::ClientConfig;
use serde::Serialize;
use serde_json::Value as Json;

use crate::drive::Applied;

/// Compares settings with the running client. `property` reads librdkafka's values, `agent` those that only the agent has.
pub(crate) fn effective<S: Serialize>(
    side: Side,
    settings: &S,
    told: &ClientConfig,
    property: impl Fn(&str) -> Option<String>,
    agent: impl Fn(&str) -> Option<String>,
    unknown_keys: Vec<String>,
) -> Applied {
    let mut applied = Applied { effective: BTreeMap::new(), not_applied: unknown_keys };
    // Never another form: settings are a struct of numbers, words and switches.
    let Ok(Json::Object(wanted)) = serde_json::to_value(settings) else { return applied };
    for knob in knobs::of(side) {
        let Some(want) = wanted.get(knob.name).map(text) else { continue };
        let have = match knob.librdkafka {
            Some(name) => property(name).map(|have| word(knob, have)),
            None => agent(knob.name),
        };
        if have.as_ref() != Some(&want) {
            applied.not_applied.push(format!("settings.{}", knob.name));
        }
        if let Some(have) = have {
            applied.effective.insert(knob.name.to_owned(), have);
        }
    }
    if let Some(Json::Object(overrides)) = wanted.get("overrides") {
        for name in overrides.keys() {
            let have = property(name);
            if have != normal(told, name) {
                applied.not_applied.push(format!("settings.overrides.{name}"));
            }
            if let Some(have) = have {
                applied.effective.insert(format!("overrides.{name}"), have);
            }
        }
    }
    applied
}

/// The value as librdkafka itself would write it: `on` and `true` are the same to it.
fn normal(told: &ClientConfig, name: &str) -> Option<String> {
    let mut alone = ClientConfig::new();
    alone.set(name, told.get(name)?);
    alone.create_native_config().ok()?.get(name).ok()
}

fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Words of librdkafka's own where it answers with the older one of two.
const SYNONYMS: [(&str, &str); 2] = [("smallest", "earliest"), ("largest", "latest")];

/// librdkafka answers with Kafka's number where users write a word (acks are -1), or with an older word.
fn word(knob: &Knob, have: String) -> String {
    let Domain::Word { words, numbers } = knob.domain else { return have };
    if let Some((_, newer)) = SYNONYMS.iter().find(|(older, newer)| *older == have && words.contains(newer)) {
        return (*newer).to_owned();
    }
    let number = have.parse::<i64>().ok();
    let index = number.and_then(|number| numbers.iter().position(|known| *known == number));
    index.and_then(|index| words.get(index)).map_or(have, |word| (*word).to_owned())
}
