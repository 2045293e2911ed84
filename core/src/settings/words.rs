//! The settings whose values are words. Each accepts Kafka's number for the word too.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How many replicas must have a message before the broker acknowledges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acks {
    /// The broker does not answer: a message can be lost unnoticed.
    None,
    /// The leader alone.
    Leader,
    /// All in-sync replicas.
    All,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip
    Gzip,
    /// Snappy
    Snappy,
    /// LZ4
    Lz4,
    /// Zstandard
    Zstd,
}

/// Where a consumer group without a committed offset begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AutoOffsetReset {
    /// At the oldest record that is kept.
    Earliest,
    /// After the newest record.
    Latest,
}

/// The words of a setting, with the other spellings each one has.
trait Words: Copy + 'static {
    const SETTING: &'static str;
    const ALL: &'static [(Self, &'static str, &'static [&'static str])];
}

impl Words for Acks {
    const SETTING: &'static str = "acks";
    const ALL: &'static [(Self, &'static str, &'static [&'static str])] =
        &[(Self::None, "0", &[]), (Self::Leader, "1", &[]), (Self::All, "all", &["-1"])];
}

impl Words for Compression {
    const SETTING: &'static str = "compression";
    const ALL: &'static [(Self, &'static str, &'static [&'static str])] = &[
        (Self::None, "none", &["0"]),
        (Self::Gzip, "gzip", &["1"]),
        (Self::Snappy, "snappy", &["2"]),
        (Self::Lz4, "lz4", &["3"]),
        (Self::Zstd, "zstd", &["4"]),
    ];
}

impl Words for AutoOffsetReset {
    const SETTING: &'static str = "autoOffsetReset";
    const ALL: &'static [(Self, &'static str, &'static [&'static str])] =
        &[(Self::Earliest, "earliest", &[]), (Self::Latest, "latest", &[])];
}

/// A word that a setting does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} cannot be {word:?}: use {choices}")]
pub struct UnknownWord {
    setting: &'static str,
    word: String,
    choices: String,
}

fn parse<W: Words>(word: &str) -> Result<W, UnknownWord> {
    W::ALL
        .iter()
        .find(|(_, name, others)| *name == word || others.contains(&word))
        .map(|(value, ..)| *value)
        .ok_or_else(|| UnknownWord {
            setting: W::SETTING,
            word: word.to_owned(),
            choices: W::ALL.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", "),
        })
}

fn deserialize<'de, W: Words, D: Deserializer<'de>>(deserializer: D) -> Result<W, D::Error> {
    struct Visitor<W>(std::marker::PhantomData<W>);
    impl<W: Words> de::Visitor<'_> for Visitor<W> {
        type Value = W;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a value of {}", W::SETTING)
        }
        fn visit_str<E: de::Error>(self, word: &str) -> Result<W, E> {
            parse(word).map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<W, E> {
            parse(&number.to_string()).map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<W, E> {
            parse(&number.to_string()).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Visitor(std::marker::PhantomData))
}

macro_rules! words {
    ($($name:ident),*) => {$(
        impl $name {
            /// The word that users and librdkafka both know.
            pub fn as_str(self) -> &'static str {
                // ALL lists every variant; the unit test `every_word_has_a_name` keeps it so.
                <Self as Words>::ALL.iter().find(|(value, ..)| *value == self).map_or("", |(_, name, _)| name)
            }
        }
        impl std::str::FromStr for $name {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                parse(word)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserialize(deserializer)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // Inside the settings, `knobs::describe` replaces this by the schema of the table.
                json_schema!({"type": "string"})
            }
        }
    )*};
}
words!(Acks, Compression, AutoOffsetReset);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_a_name_and_comes_back() {
        for acks in [Acks::None, Acks::Leader, Acks::All] {
            assert_eq!(acks.as_str().parse(), Ok(acks));
        }
        for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            assert_eq!(codec.as_str().parse(), Ok(codec));
        }
        for reset in [AutoOffsetReset::Earliest, AutoOffsetReset::Latest] {
            assert_eq!(reset.as_str().parse(), Ok(reset));
        }
    }

    #[test]
    fn numbers_and_words_are_both_accepted() {
        for (json, expected) in [("0", Acks::None), ("1", Acks::Leader), ("-1", Acks::All), (r#""all""#, Acks::All)] {
            assert_eq!(serde_json::from_str::<Acks>(json).unwrap(), expected, "{json}");
        }
        for (id, expected) in [
            (0, Compression::None),
            (1, Compression::Gzip),
            (2, Compression::Snappy),
            (3, Compression::Lz4),
            (4, Compression::Zstd),
        ] {
            assert_eq!(serde_json::from_str::<Compression>(&id.to_string()).unwrap(), expected);
        }
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        let error = serde_json::from_str::<Acks>("2").unwrap_err().to_string();
        assert!(error.starts_with(r#"acks cannot be "2": use 0, 1, all"#), "{error}");
        assert!(serde_json::from_str::<Compression>("true").is_err());
        assert!(serde_json::from_str::<Compression>("5").is_err());
    }
}
