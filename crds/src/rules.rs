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
/// repetition (`a+?`) or of an anchor, a dash in a class only first, last or within a range, no escape but that of the dot, `^` only
/// where it begins a pattern or a class, and parentheses in pairs.
pub(crate) fn topic_patterns() -> Rule {
    let Patterns { pieces, pairs, doubtful } = Patterns::new();
    let literal = |regex: String| regex.replace('\\', "\\\\");
    let [pieces, pairs, doubtful] = [pieces, pairs, doubtful].map(literal);
    Rule::new(format!(
        "self.all(topic, !topic.startsWith('^') || topic.matches('{pieces}') && topic.matches('{pairs}') && !topic.matches('{doubtful}'))"
    ))
    .message(
        "a pattern of topics begins with ^ and consists of names, . [a-z] [^a-z] [[:alpha:]] (a|b) $ \\. and the repetitions * + ? {1,3}, \
         none of which follows another one or $; a dash in brackets is the first or last there, or part of one range; parentheses come in \
         pairs, at most three deep",
    )
}

/// What says together whether a pattern of topics is admitted.
struct Patterns {
    /// Matches all that consists of the right pieces.
    pieces: String,
    /// Matches parentheses in pairs.
    pairs: String,
    /// Finds pieces that may not follow each other.
    doubtful: String,
}

impl Patterns {
    fn new() -> Self {
        // The names of POSIX; Rust knows `word` too.
        let named = r"\[:(alnum|alpha|blank|cntrl|digit|graph|lower|print|punct|space|upper|xdigit):\]";
        let range = "[a-zA-Z0-9._](-[a-zA-Z0-9._])?";
        let class = format!(r"\[\^?(-|-?({range}|{named})+-?)\]");
        // No C library takes fewer than 255 repetitions, and some no more.
        let times = "([01]?[0-9]{1,2}|2[0-4][0-9]|25[0-5])";
        let pieces = format!(r"^\^([a-zA-Z0-9._|()$-]|\\[.]|{class}|[*+?]|\{{{times}(,{times}?)?\}})*$");
        let inner = (0..3).fold("[^()]*".to_owned(), |inner, _| format!(r"[^()]*(\({inner}\)[^()]*)*"));
        Self { pieces, pairs: format!("^{inner}$"), doubtful: r"[(|^*+?}$][*+?{]".to_owned() }
    }
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
    use regex::Regex;

    use super::*;

    fn is_admitted(pattern: &str) -> bool {
        let Patterns { pieces, pairs, doubtful } = Patterns::new();
        let [pieces, pairs, doubtful] = [pieces, pairs, doubtful].map(|regex| Regex::new(&regex).unwrap());
        pieces.is_match(pattern) && pairs.is_match(pattern) && !doubtful.is_match(pattern)
    }

    #[test]
    fn patterns_are_admitted_that_every_engine_reads_alike() {
        for good in [
            "^",
            "^orders",
            r"^orders\.(eu|us)$",
            "^orders-[a-z]{2}$",
            "^[^a-zA-Z0-9._-]+",
            "^[-a]",
            "^[^-a-z]",
            "^[-]x",
            "^[[:digit:]-]",
            "^[[:alpha:][:digit:]_]*$",
            r"^(a(b(c)?)+|d)*\.[a-z]{1,30}",
        ] {
            assert!(is_admitted(good), "{good}");
            assert!(Regex::new(good).is_ok(), "{good}");
        }
        for bad in [
            "^[a-z0-9-_]+$",
            "^[a--b]",
            "^[--a]",
            "^[[:word:]]+",
            "^[[:foo:]]",
            "^[[:digit:]--0]",
            "^[[:digit:]-x]",
            "^[]",
            "^[a",
            "^orders$*",
            "^orders${2}",
            "^a+?",
            "^a(*b)",
            "^(?i)a",
            "^a)",
            "^a)(b",
            "^orders(",
            "^((((a))))",
            r"^a\d",
            "^a|^b",
        ] {
            assert!(!is_admitted(bad), "{bad}");
        }
    }

    #[test]
    fn the_defaults_in_rules_do_not_depend_on_the_preset() {
        for knob in [SESSION_TIMEOUT_MS, MAX_POLL_INTERVAL_MS, AUTO_COMMIT_INTERVAL_MS] {
            let values = Preset::ALL.map(|preset| knob.preset(preset, PRESET_VERSION));
            assert!(values.iter().all(|value| value.is_some() && *value == values[0]), "{}: {values:?}", knob.name);
        }
    }
}
