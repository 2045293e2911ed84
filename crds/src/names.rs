//! Shapes of names, shared by the kinds. Each is a CEL rule rather than a pattern, because only a rule has a message.

use kube::core::Rule;

/// Longest name of a topic in Kafka.
pub(crate) const KAFKA_NAME: u32 = 249;

/// A Kafka name; the rule sits on a string of at most [`KAFKA_NAME`] characters.
pub(crate) fn kafka_name(what: &str) -> Rule {
    Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'").message(&*format!(
        "{what} must have 1 to {KAFKA_NAME} characters of a-z, A-Z, 0-9, dot, underscore and dash, and not be . or .."
    ))
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
