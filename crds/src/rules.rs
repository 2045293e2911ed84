//! CEL rules that several kinds share. Names are a rule rather than a pattern, because only a rule has a message.

use kube::core::Rule;
use mq_core::{
    knobs::{AUTO_COMMIT_INTERVAL_MS, Knob, MAX_POLL_INTERVAL_MS, SESSION_TIMEOUT_MS},
    presets::{PRESET_VERSION, Preset},
};

/// Longest name of a topic in Kafka.
pub(crate) const KAFKA_NAME: u32 = 249;

/// A Kafka name; the rule sits on a string of at most [`KAFKA_NAME`] characters.
pub(crate) fn kafka_name(what: &str) -> Rule {
    Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'").message(&*format!(
        "{what} must have 1 to {KAFKA_NAME} characters of a-z, A-Z, 0-9, dot, underscore and dash, and not be . or .."
    ))
}

/// Those POSIX extended regular expressions over the characters of topics that every engine reads in the same way: no repetition of a
/// repetition (`a+?`), no `--` in a class, no escape but that of the dot, and `^` only where it begins a pattern or a class.
pub(crate) fn topic_patterns() -> Rule {
    let piece = [
        "[a-zA-Z0-9._|()$-]",
        r"\\\\[.]",
        r"\\[\\^?([a-zA-Z0-9._-]|\\[:[a-z]+:\\])+\\]",
        "[*+?]",
        r"\\{[0-9]{1,3}(,[0-9]{0,3})?\\}",
    ]
    .join("|");
    let doubtful = r"[(|^*+?}][*+?{]|\\[[^\\]]*--";
    Rule::new(format!(
        "self.all(topic, !topic.startsWith('^') || topic.matches('^\\\\^({piece})*$') && !topic.matches('{doubtful}'))"
    ))
    .message(
        "a pattern of topics begins with ^ and consists of names, . [a-z] [^a-z] (a|b) $ \\. and the repetitions * + ? {1,3}, none of which \
         follows another one",
    )
}

/// A field that always has a value and never another one.
pub(crate) fn immutable(what: &str) -> Rule {
    Rule::new("self == oldSelf").message(&*format!("{what} is immutable: delete this object and create another"))
}

/// An optional field that is an identity: neither changed, nor added, nor removed later. The rule sits on the parent,
/// because a rule on the field itself is not evaluated when the field comes or goes.
pub(crate) fn immutable_optional(field: &str) -> Rule {
    Rule::new(format!(
        "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    ))
    .message(&*format!(
        "{field} can be neither changed nor added nor removed later: delete this object and create another"
    ))
}

/// The one rule about consumer settings that concerns two of them; librdkafka demands it.
pub(crate) fn session_within_poll_interval() -> Rule {
    let [session, poll] = [&SESSION_TIMEOUT_MS, &MAX_POLL_INTERVAL_MS].map(|knob| or_preset("self", knob));
    Rule::new(format!("{session} <= {poll}"))
        .message("sessionTimeoutMs must not be more than maxPollIntervalMs: raise maxPollIntervalMs")
}

/// Two looks at the offsets, which the operator takes every 5 s, and a commit pass until a message that waits is seen: a promise that is
/// shorter could never be seen to be kept.
pub(crate) fn age_beyond_commits() -> Rule {
    let interval = or_preset("self.consumer", &AUTO_COMMIT_INTERVAL_MS);
    Rule::new(format!(
        "!has(self.scaling) || !has(self.scaling.objective.age) || \
         duration(self.scaling.objective.age).getMilliseconds() >= 10000 + {interval}"
    ))
    .message(
        "scaling.objective.age must be at least 10s and consumer.autoCommitIntervalMs together: two looks at the offsets and a commit pass until \
         a message that waits is seen",
    )
}

/// The setting's value, else the default; all presets give these settings the same one.
fn or_preset(settings: &str, knob: &Knob) -> String {
    let default = knob.preset(Preset::Production, PRESET_VERSION).map_or_else(String::new, |value| value.to_string());
    format!("(has({settings}.{0}) ? {settings}.{0} : {default})", knob.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_in_rules_do_not_depend_on_the_preset() {
        for knob in [SESSION_TIMEOUT_MS, MAX_POLL_INTERVAL_MS, AUTO_COMMIT_INTERVAL_MS] {
            let values = Preset::ALL.map(|preset| knob.preset(preset, PRESET_VERSION));
            assert!(values.iter().all(|value| value.is_some() && *value == values[0]), "{}: {values:?}", knob.name);
        }
    }
}
