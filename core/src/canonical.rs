//! One text for one value: JSON with sorted keys, no spaces and integers only, and its SHA-256. Revisions are compared
//! and named by it, so the form must never change.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Why a value has no canonical form.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Its serializer failed.
    #[error("cannot write the value as JSON: {0}")]
    Serialize(#[from] serde_json::Error),
    /// Fractions are written differently by different programs, so a hash over them would not be stable.
    #[error("{0} is not an integer, and a canonical value holds integers only")]
    NotAnInteger(serde_json::Number),
}

/// The canonical JSON of `value`.
///
/// # Errors
/// If the value cannot be serialized or holds a number that is not an integer.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, CanonicalError> {
    let mut text = String::new();
    write(&serde_json::to_value(value)?, &mut text)?;
    Ok(text)
}

/// The lower-case hexadecimal SHA-256 of a text; of [`to_json`] it is the hash of a revision.
pub fn hash(text: impl AsRef<[u8]>) -> String {
    use std::fmt::Write;
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing into a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

// Not serde_json's own order: a crate anywhere in the build can switch its maps to insertion order.
fn write(value: &Value, text: &mut String) -> Result<(), CanonicalError> {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&serde_json::to_string(key)?);
                text.push(':');
                write(value, text)?;
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text)?;
            }
            text.push(']');
        }
        Value::Number(number) if number.is_f64() => return Err(CanonicalError::NotAnInteger(number.clone())),
        other => text.push_str(&serde_json::to_string(other)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({"b": [{"z": 1, "a": null}], "a": "\"ü\n", "B": true});
        assert_eq!(to_json(&value).unwrap(), r#"{"B":true,"a":"\"ü\n","b":[{"a":null,"z":1}]}"#);
    }

    #[test]
    fn fractions_have_no_canonical_form() {
        assert!(matches!(to_json(&json!({"a": [1.5]})), Err(CanonicalError::NotAnInteger(_))));
    }

    #[test]
    fn the_hash_is_sha256() {
        assert_eq!(hash(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    proptest! {
        #[test]
        fn it_is_json_of_the_same_value(map in proptest::collection::btree_map(".{0,8}", any::<i64>(), 0..8)) {
            let text = to_json(&map).unwrap();
            prop_assert_eq!(serde_json::from_str::<std::collections::BTreeMap<String, i64>>(&text).unwrap(), map);
        }
    }
}
