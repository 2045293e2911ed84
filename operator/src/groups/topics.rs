//! Which topics a group consumes: those that its object names, and those that its patterns match.
//!
//! A pattern is a POSIX extended regular expression, read by the C library of the group's pods; the API server admits those only that
//! this crate's engine reads in the same way.

use std::collections::BTreeSet;

use mq_core::{lag::Unread, tenancy::Beginning};
use mq_crds::{MatchedTopics, is_pattern};
use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Look, literal::Extractor};

/// Bytes that a compiled pattern may take, and as much again while it is matched: a repetition of repetitions is no way to name topics.
const LARGEST: usize = 1 << 20;
/// Matched topics that a status names.
const NAMED: usize = 32;

/// What an object says of its group's topics.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Topics {
    named: BTreeSet<String>,
    patterns: Vec<Pattern>,
    /// Read by no pattern of the group.
    dead_letters: String,
}

#[derive(Debug, Clone)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// What a group consumes as far as it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Consumed {
    /// The topics.
    pub(super) topics: BTreeSet<String>,
    /// Patterns of which no topic is known, and why: that one matches nothing is not the same as no lag.
    pub(super) nothing: Unread,
    /// What patterns match, for the status; absent without patterns, and as long as it is not known.
    pub(super) matched: Option<MatchedTopics>,
}

impl Topics {
    /// From the names and patterns of an object.
    ///
    /// # Errors
    /// A pattern that is none, in words for its user.
    pub(super) fn read(all: &[String], dead_letters: String) -> Result<Self, String> {
        let (patterns, named): (Vec<&String>, Vec<&String>) = all.iter().partition(|topic| is_pattern(topic));
        let pattern = |text: &&String| {
            let read = RegexBuilder::new(text).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
            read.map(Pattern).map_err(|error| no_pattern(text, &error))
        };
        let patterns = patterns.iter().map(pattern).collect::<Result<_, _>>()?;
        Ok(Self { named: named.into_iter().cloned().collect(), patterns, dead_letters })
    }

    pub(super) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// What the group consumes of `existing` topics; an error: why they are not known.
    pub(super) fn among(&self, existing: Result<&BTreeSet<String>, &str>) -> Consumed {
        let mut consumed = Consumed { topics: self.named.clone(), ..Consumed::default() };
        let mut matched = BTreeSet::new();
        for Pattern(regex) in &self.patterns {
            let found = existing.map(|existing| {
                existing.iter().filter(|topic| !self.is_hidden(topic) && regex.is_match(topic)).collect::<Vec<_>>()
            });
            let why = match found {
                Ok(found) if !found.is_empty() => {
                    matched.extend(found.into_iter().cloned());
                    continue;
                }
                Ok(_) => "no topic of the cluster matches it; one that is made later is read within a minute",
                Err(why) => why,
            };
            consumed.nothing.insert(regex.as_str().into(), why.to_owned());
        }
        if self.has_patterns() && existing.is_ok() {
            let count = i32::try_from(matched.len()).unwrap_or(i32::MAX);
            consumed.matched = Some(MatchedTopics { count, names: matched.iter().take(NAMED).cloned().collect() });
        }
        consumed.topics.extend(matched);
        consumed
    }

    /// The group's own dead letters would go round in circles, and Kafka's own topics are nobody's.
    fn is_hidden(&self, topic: &str) -> bool {
        topic == self.dead_letters || topic.starts_with("__")
    }
}

fn no_pattern(text: &str, error: &dyn std::error::Error) -> String {
    // The first lines repeat the pattern.
    let says = error.to_string();
    format!("spec.topics: {text} is no pattern: {}", says.lines().last().unwrap_or_default())
}

/// How the names begin that a pattern can match.
///
/// # Errors
/// It is none, in words for its user.
pub(crate) fn beginnings(pattern: &str) -> Result<Vec<Beginning>, String> {
    let anything = || vec![Beginning { text: String::new(), is_all: false }];
    let parsed = regex_syntax::parse(pattern).map_err(|error| no_pattern(pattern, &error))?;
    let looks = parsed.properties();
    if !looks.look_set_prefix().contains(Look::Start) {
        return Ok(anything());
    }
    let ends = looks.look_set_suffix().contains(Look::End);
    let extracted = Extractor::new().extract(&parsed);
    let literals = extracted.literals().map(|literals| {
        let beginning = |literal: &regex_syntax::hir::literal::Literal| Beginning {
            text: String::from_utf8_lossy(literal.as_bytes()).into_owned(),
            is_all: ends && literal.is_exact(),
        };
        literals.iter().map(beginning).collect()
    });
    Ok(literals.unwrap_or_else(anything))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(topics: &[&str]) -> Topics {
        let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
        Topics::read(&topics, "orders.dlq".into()).unwrap()
    }

    fn existing() -> BTreeSet<String> {
        ["orders", "orders.eu", "orders.us", "orders.dlq", "ordersXeu", "refunds", "__consumer_offsets"]
            .map(str::to_owned)
            .into()
    }

    #[test]
    fn a_pattern_matches_what_the_agent_reads() {
        let cases: [(&[&str], &[&str]); 8] = [
            (&["orders"], &["orders"]),
            (&["gone"], &["gone"]),
            (&["^orders"], &["orders", "orders.eu", "orders.us", "ordersXeu"]),
            (&[r"^orders\.(eu|us)$", "refunds"], &["orders.eu", "orders.us", "refunds"]),
            (&["^orders.[a-z]{2}$"], &["orders.eu", "orders.us", "ordersXeu"]),
            (&["^."], &["orders", "orders.eu", "orders.us", "ordersXeu", "refunds"]),
            (&["^a|us$"], &["orders.us"]),
            (&["^[^o]"], &["refunds"]),
        ];
        for (said, expected) in cases {
            let found = read(said).among(Ok(&existing()));
            assert_eq!(found.topics.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{said:?}");
            assert_eq!(found.nothing, Unread::new(), "{said:?}");
        }
    }

    #[test]
    fn a_pattern_of_which_nothing_is_known_is_not_nothing_to_do() {
        let topics = read(&["refunds", "^payments"]);
        let matched = |count| Some(MatchedTopics { count, names: vec![] });
        for (existing, matched, words) in
            [(Ok(&existing()), matched(0), "no topic of the cluster matches it"), (Err("no answer"), None, "no answer")]
        {
            let found = topics.among(existing);
            assert_eq!((found.topics.len(), &found.matched), (1, &matched));
            assert!(found.nothing["^payments"].starts_with(words), "{found:?}");
            assert_eq!(found.nothing.len(), 1, "{found:?}");
        }
        assert_eq!(read(&["refunds"]).among(Err("no answer")).nothing, Unread::new(), "names are known");
    }

    #[test]
    fn a_status_names_some_and_counts_all() {
        let many: BTreeSet<String> = (0..100).map(|n| format!("orders.{n:03}")).collect();
        let matched = read(&["^orders", r"^orders\.0"]).among(Ok(&many)).matched.unwrap();
        assert_eq!((matched.count, matched.names.len(), matched.names[31].as_str()), (100, 32, "orders.031"));
    }

    #[test]
    fn what_is_no_pattern_is_refused_in_words() {
        for (bad, words) in [("^orders(", "unclosed group"), ("^[z-a]", "invalid"), ("^(((a{999}){999}){999})", "size")]
        {
            let refused = Topics::read(&[bad.to_owned()], String::new()).unwrap_err();
            assert!(refused.contains(words) && refused.contains(bad), "{refused}");
        }
    }

    #[test]
    fn how_names_begin_that_a_pattern_can_match() {
        let beginnings = |pattern| -> Vec<(String, bool)> {
            beginnings(pattern).unwrap().into_iter().map(|begin| (begin.text, begin.is_all)).collect()
        };
        let open = |text: &str| (text.to_owned(), false);
        let whole = |text: &str| (text.to_owned(), true);
        assert_eq!(beginnings("^orders"), [open("orders")]);
        assert_eq!(beginnings(r"^orders\.(eu|us)$"), [whole("orders.eu"), whole("orders.us")]);
        assert_eq!(beginnings(r"^orders\..*$"), [open("orders.")]);
        assert_eq!(beginnings("^orders|refunds"), [open("")], "the second is found anywhere");
        assert_eq!(beginnings("^(orders|refunds)"), [open("orders"), open("refunds")]);
        assert_eq!(beginnings("^.*orders"), [open("")]);
        assert_eq!(beginnings("^x?orders$"), [whole("xorders"), whole("orders")]);
    }
}
