//! From what a kind reports to the status that is written, or to no write at all.
//!
//! One writer per object writes the whole status. `lastTransitionTime` moves only when a condition's status flips, and nothing else in
//! a status may depend on the clock, so an object at rest is never written.

use k8s_openapi::jiff::Timestamp;
use mq_core::condition::Condition;
use serde_json::{Map, Number, Value, json};

/// The status to write, or `None` if the stored one says the same.
///
/// `fields` is all of the status but `conditions` and `observedGeneration`.
pub(crate) fn next(
    stored: &Value,
    fields: Map<String, Value>,
    conditions: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Option<Value> {
    let mut status = fields;
    let conditions: Vec<_> = conditions.iter().map(|c| render(stored, c, generation, now)).collect();
    status.insert("conditions".into(), conditions.into());
    status.insert("observedGeneration".into(), generation.into());
    let status = normal(Value::Object(status));
    (status != normal(stored.clone())).then_some(status)
}

/// `status` of a condition that is stored, if it is.
pub(crate) fn stored<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status.get("conditions")?.as_array()?.iter().find(|c| c["type"] == kind)
}

/// The stored status without its conditions.
pub(crate) fn fields(stored: &Value) -> Map<String, Value> {
    let mut fields = stored.as_object().cloned().unwrap_or_default();
    fields.remove("conditions");
    fields
}

fn render(stored_status: &Value, condition: &Condition, generation: i64, now: Timestamp) -> Value {
    let status = condition.status.as_str();
    let since = stored(stored_status, condition.kind.as_str())
        .filter(|old| old["status"] == status)
        .and_then(|old| old["lastTransitionTime"].as_str())
        .map_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), str::to_owned);
    json!({
        "type": condition.kind.as_str(),
        "status": status,
        "reason": condition.reason.as_str(),
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}

/// One spelling: no nulls, whole numbers without a point, conditions sorted by type. The API server keeps a list map in an order of
/// its own, drops nulls, and gives 90.0 back as 90: a status that differed in nothing else would be written for ever.
fn normal(status: Value) -> Value {
    let mut status = plain(status);
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
    }
    status
}

fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, plain(v))).collect(),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Number(number) => whole(&number).map_or(Value::Number(number), Value::from),
        other => other,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "whole and within what a float holds exactly")]
fn whole(number: &Number) -> Option<i64> {
    let float = number.as_f64().filter(|_| number.is_f64())?;
    (float.fract() == 0.0 && float.abs() < 2_f64.powi(53)).then_some(float as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::{condition::Verdict, reason::Reason};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn fields(partitions: i64) -> Map<String, Value> {
        [("partitions".to_owned(), partitions.into()), ("topicId".to_owned(), Value::Null)].into_iter().collect()
    }

    fn ready(message: &str) -> Vec<Condition> {
        Verdict::ready(Reason::InSync, message).conditions()
    }

    #[test]
    fn nothing_is_written_when_only_time_passes() {
        let first = next(&Value::Null, fields(3), &ready("fine"), 1, at(100)).unwrap();
        assert_eq!(first["conditions"][0]["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(next(&first, fields(3), &ready("fine"), 1, at(999)), None);
    }

    #[test]
    fn the_transition_time_moves_only_on_a_flip() {
        let first = next(&Value::Null, fields(3), &ready("fine"), 1, at(100)).unwrap();
        let reworded = next(&first, fields(3), &ready("still fine"), 2, at(200)).unwrap();
        assert_eq!(reworded["conditions"][0]["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(reworded["conditions"][0]["observedGeneration"], 2);
        let stalled = Verdict::stalled(Reason::InvalidSpec, "no").conditions();
        let flipped = next(&reworded, fields(3), &stalled, 2, at(300)).unwrap();
        assert_eq!(flipped["conditions"][0]["lastTransitionTime"], "1970-01-01T00:05:00Z");
        assert_eq!(flipped["conditions"][1]["type"], "Stalled");
    }

    #[test]
    fn the_order_of_stored_conditions_does_not_matter() {
        let unknown = Verdict::unknown(Reason::ClusterUnreachable, "no answer").conditions();
        let mut stored = next(&Value::Null, fields(3), &unknown, 1, at(100)).unwrap();
        stored["conditions"].as_array_mut().unwrap().reverse();
        assert_eq!(next(&stored, fields(3), &unknown, 1, at(200)), None);
    }

    #[test]
    fn a_whole_number_is_the_same_without_its_point() {
        let terms = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        let written = terms(r#"{"capacity": 90.0, "need": 0.0, "arrival": 2.5}"#);
        let first = next(&Value::Null, written.clone(), &ready("fine"), 1, at(100)).unwrap();
        assert_eq!(first["capacity"].to_string(), "90");
        assert_eq!(next(&first, written, &ready("fine"), 1, at(200)), None);
        let stored = terms(r#"{"capacity": 90, "need": 0, "arrival": 2.5}"#);
        assert_eq!(next(&first, stored, &ready("fine"), 1, at(300)), None);
    }

    #[test]
    fn abnormal_conditions_disappear() {
        let stalled = Verdict::stalled(Reason::InvalidSpec, "no").conditions();
        let first = next(&Value::Null, fields(3), &stalled, 1, at(100)).unwrap();
        let healed = next(&first, fields(3), &ready("fine"), 1, at(200)).unwrap();
        assert_eq!(healed["conditions"].as_array().unwrap().len(), 1);
    }
}
