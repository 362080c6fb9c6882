//! A JSON object of a request. Without it serde would take a list for any structure: its fields in their order.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A `T` that was written as an object.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = std::any::type_name::<T>();
                write!(formatter, "struct {}", name.rsplit("::").next().unwrap_or(name))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Object<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Pair {
        one: Option<u32>,
        other: Option<u32>,
    }

    #[test]
    fn an_object_is_taken_and_a_list_is_not() {
        let pair = Pair {
            one: Some(1),
            other: None,
        };
        assert_eq!(serde_json::from_str(r#"{"one":1}"#).ok(), Some(Object(pair)));
        for (text, given) in [("[1,2]", "sequence"), ("[]", "sequence"), ("7", "integer `7`")] {
            let error = serde_json::from_str::<Object<Pair>>(text)
                .unwrap_err()
                .to_string();
            let expected = format!("invalid type: {given}, expected struct Pair");
            assert!(error.starts_with(&expected), "{error}");
        }
        let error = serde_json::from_str::<Object<Pair>>(r#"{"one":"x"}"#).unwrap_err();
        assert_eq!((error.line(), error.column()), (1, 10));
    }
}
