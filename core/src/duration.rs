//! A length of time as users write it: `500ms`, `20s`, `5m`, `1h`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The form of the text.
pub const PATTERN: &str = "^[0-9]+(ms|s|m|h)$";

/// Longest text; enough for a year in milliseconds.
pub const MAX_LENGTH: usize = 11;

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

/// A text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a whole number and ms, s, m or h, such as 500ms, 20s, 5m, 1h")]
pub struct NotADuration(String);

impl Span {
    /// That many seconds.
    pub const fn from_secs(seconds: u32) -> Self {
        Self(Duration::from_secs(seconds as u64))
    }

    /// The length.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let parse = || {
            let unit = text.find(|c: char| !c.is_ascii_digit())?;
            let (number, unit) = text.split_at(unit);
            let number: u64 = number.parse().ok()?;
            let millis = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return None,
            };
            (text.len() <= MAX_LENGTH).then_some(())?;
            number.checked_mul(millis).map(Duration::from_millis)
        };
        parse().map(Self).ok_or_else(|| NotADuration(text.to_owned()))
    }
}

impl fmt::Display for Span {
    /// With the largest unit that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (divisor, unit) = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")]
            .into_iter()
            .find(|(divisor, _)| millis > 0 && millis.is_multiple_of(*divisor))
            .unwrap_or((1, "ms"));
        write!(f, "{}{unit}", millis / divisor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PATTERN, "maxLength": MAX_LENGTH})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts() {
        for (text, millis) in [("0s", 0), ("500ms", 500), ("20s", 20_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(text.parse::<Span>().unwrap().duration(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "5", "s", "1.5s", "-1s", "1 s", "1d", "1S", "99999999999h", "９s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(number in 0_u64..100_000_000, unit in prop::sample::select(vec!["ms", "s", "m", "h"])) {
            let span: Span = format!("{number}{unit}").parse().unwrap();
            let text = span.to_string();
            // "0h" is written "0ms"; every other text becomes no longer.
            prop_assert_eq!(text.parse::<Span>().unwrap(), span);
        }
    }
}
