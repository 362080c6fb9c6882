//! Numbers of a request: 32-bit floats, and OpenAI's seeds. It knows how they are written, not what they stand for.

use std::borrow::Cow;
use std::fmt;

use agentlm_core::params::narrow;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Visitor};

/// A number as [`narrow`] makes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Single(pub(crate) f32);

impl From<f64> for Single {
    fn from(value: f64) -> Self {
        Self(narrow(value))
    }
}

impl From<Single> for f32 {
    fn from(value: Single) -> Self {
        value.0
    }
}

impl<'de> Deserialize<'de> for Single {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Single;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("f32")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Single, E> {
                Ok(Single::from(value))
            }

            #[expect(clippy::cast_precision_loss, reason = "24 bits of it are kept in the end")]
            fn visit_u64<E>(self, value: u64) -> Result<Single, E> {
                Ok(Single::from(value as f64))
            }

            #[expect(clippy::cast_precision_loss, reason = "24 bits of it are kept in the end")]
            fn visit_i64<E>(self, value: i64) -> Result<Single, E> {
                Ok(Single::from(value as f64))
            }
        }

        deserializer.deserialize_f32(Number)
    }
}

impl JsonSchema for Single {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Single".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "format": "float"})
    }
}

/// A seed of any 64 bits. OpenAI's are signed, TGI's are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u64);

impl From<Seed> for u64 {
    fn from(seed: Seed) -> Self {
        seed.0
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Integer;

        impl Visitor<'_> for Integer {
            type Value = Seed;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an integer of 64 bits")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Seed, E> {
                Ok(Seed(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Seed, E> {
                Ok(Seed(value.cast_unsigned()))
            }
        }

        deserializer.deserialize_u64(Integer)
    }
}

impl JsonSchema for Seed {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Seed".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_becomes_neither_zero_nor_infinite() {
        let cases = [
            ("0", 0.0),
            ("-0.0", 0.0),
            ("1e-50", f32::from_bits(1)),
            ("-1e-300", -f32::from_bits(1)),
            ("0.1", 0.1),
            ("7", 7.0),
            ("-7", -7.0),
            ("1e39", f32::MAX),
            ("-1e300", f32::MIN),
        ];
        for (text, expected) in cases {
            let Single(value) = serde_json::from_str(text).unwrap();
            assert_eq!(value, expected, "{text}");
        }
        for text in [r#""1""#, "null", "true", "[]"] {
            let error = serde_json::from_str::<Single>(text).unwrap_err().to_string();
            assert!(error.contains("expected f32"), "{text}: {error}");
        }
    }
}
