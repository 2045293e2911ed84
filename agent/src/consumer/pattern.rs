//! Topics by pattern. A topic that begins with `^` is a POSIX extended regular expression: the consumer reads every topic whose name it
//! finds, also those that are made later.

use rdkafka::config::ClientConfig;

/// Topics that a client never sees, as a list of patterns with commas between them.
const HIDDEN: &str = "topic.blacklist";

pub(crate) fn is_pattern(topic: &str) -> bool {
    topic.starts_with('^')
}

/// Hides what no pattern may find: the group's own dead letters, which would go round in circles, and Kafka's own topics.
pub(crate) fn hide(config: &mut ClientConfig, dead_letters: &str) {
    let own = format!("^{}$", dead_letters.replace('.', "\\."));
    let others = config.get(HIDDEN).filter(|others| !others.is_empty()).map(|others| format!("{others},"));
    config.set(HIDDEN, format!("{}^__,{own}", others.unwrap_or_default()));
}

/// Whether librdkafka can read the pattern. It is asked itself, by the one property that takes patterns: it is the system's C library that
/// reads them in the end. A pattern with a comma cannot be asked for like that, and is judged when it is subscribed.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    if pattern.contains(',') {
        return Ok(());
    }
    let mut asked = ClientConfig::new();
    asked.set(HIDDEN, pattern);
    asked.create_native_config().map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_itself_judges_a_pattern() {
        for good in ["^orders", r"^orders\.(eu|us)\.[a-z]+$", "^a{1,2}$", "^"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["^orders(", "^[a-"] {
            assert!(check(bad).unwrap_err().contains("parse pattern"), "{bad}");
        }
    }

    #[test]
    fn what_a_user_hides_stays_hidden() {
        let mut config = ClientConfig::new();
        hide(&mut config, "g.dlq");
        assert_eq!(config.get(HIDDEN), Some(r"^__,^g\.dlq$"));
        config.set(HIDDEN, "^old");
        hide(&mut config, "g.dlq");
        assert_eq!(config.get(HIDDEN), Some(r"^old,^__,^g\.dlq$"));
    }
}
