use std::{fmt, str::FromStr};

use uuid::Uuid;

/// The id that Kafka gives a topic when it is created. A topic that is deleted and created again has another one.
///
/// The textual form is Kafka's own, 22 characters of URL-safe base64, as `kafka-topics.sh --describe` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(Uuid);

/// The text is not a topic id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a topic id: expected 22 characters of URL-safe base64")]
pub struct InvalidTopicId(String);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl TopicId {
    /// `None` for the zero id, which Kafka uses for "no id".
    pub(crate) fn known(id: Uuid) -> Option<Self> {
        (!id.is_nil()).then_some(Self(id))
    }

    /// The id as a number.
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }

    pub(crate) fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 128 bits are 21 digits of 6 bits and one of 2 bits, which stands left-aligned in its 6.
        let bits = self.0.as_u128();
        for digit in 0..22_u32 {
            let six = if digit < 21 { bits >> (122 - 6 * digit) } else { bits << 4 };
            let index = usize::from((six & 0x3f) as u8);
            write!(f, "{}", char::from(ALPHABET[index]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

impl FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTopicId(text.to_owned());
        if text.len() != 22 {
            return Err(invalid());
        }
        let mut bits = 0_u128;
        for (position, byte) in text.bytes().enumerate() {
            let digit = ALPHABET.iter().position(|a| *a == byte).ok_or_else(invalid)? as u128;
            match position {
                21 if digit & 0xf != 0 => return Err(invalid()),
                21 => bits = bits << 2 | digit >> 4,
                _ => bits = bits << 6 | digit,
            }
        }
        Self::known(Uuid::from_u128(bits)).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn is_written_as_kafka_writes_it() {
        // org.apache.kafka.common.Uuid.toString of the two constants that Kafka reserves.
        let one = TopicId(Uuid::from_u128(1));
        assert_eq!(one.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!("AAAAAAAAAAAAAAAAAAAAAQ".parse(), Ok(one));
        assert!("AAAAAAAAAAAAAAAAAAAAAA".parse::<TopicId>().is_err(), "the zero id is no id");
        assert!("AAAAAAAAAAAAAAAAAAAAAR".parse::<TopicId>().is_err(), "bits beyond the 128");
        assert!("short".parse::<TopicId>().is_err());
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(bits in 1..u128::MAX) {
            let id = TopicId(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
