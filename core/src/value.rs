//! A configuration value of Kafka as users write it in YAML: a string, an integer or true/false.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// Longest text of one value, in characters. Kafka's longest usual values are throttle lists and cipher lists.
pub const MAX_LENGTH: usize = 4096;

/// One value. Kafka itself only knows text, so that `true` and `"true"` mean the same: compare [`ConfigValue::to_string`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ConfigValue {
    /// `true` or `false`
    Switch(bool),
    /// An integer.
    Integer(i64),
    /// Text.
    Text(String),
}

impl fmt::Display for ConfigValue {
    /// The text that Kafka and librdkafka take.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
        }
    }
}

impl From<bool> for ConfigValue {
    fn from(value: bool) -> Self {
        Self::Switch(value)
    }
}

impl From<i64> for ConfigValue {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<&str> for ConfigValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for ConfigValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<'de> Deserialize<'de> for ConfigValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ConfigValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an integer or true/false (write other numbers in quotes)")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<ConfigValue, E> {
                Ok(value.into())
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ConfigValue, E> {
                Ok(value.into())
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ConfigValue, E> {
                // Above i64 only text is left; Kafka reads the same digits.
                Ok(i64::try_from(value).map_or_else(|_| ConfigValue::Text(value.to_string()), ConfigValue::Integer))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<ConfigValue, E> {
                Ok(value.into())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ConfigValue {
    fn schema_name() -> Cow<'static, str> {
        "ConfigValue".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A structural schema cannot say "string, integer or boolean". Without a type each keyword binds only values
        // of its own kind, so these refuse what is none of the three, except `{}` and `[]`, which `core` refuses.
        json_schema!({
            "x-kubernetes-preserve-unknown-fields": true,
            "maxLength": MAX_LENGTH,
            "multipleOf": 1,
            "maxProperties": 0,
            "maxItems": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_kinds_are_read_and_written_as_they_were() {
        for json in ["true", "-7", r#""5""#, r#""""#] {
            let value: ConfigValue = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
        let big: ConfigValue = serde_json::from_str("18446744073709551615").unwrap();
        assert_eq!(big.to_string(), "18446744073709551615");
    }

    #[test]
    fn other_kinds_are_refused_with_advice() {
        for json in ["1.5", "{}", "[]", "null"] {
            let error = serde_json::from_str::<ConfigValue>(json).unwrap_err().to_string();
            assert!(error.contains("a string, an integer or true/false"), "{json}: {error}");
        }
    }
}
