//! The document's named schemas, collected as operations name them.

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

/// Requests and answers are looked at from two sides: what a request may leave out an answer always has.
pub(crate) struct Schemas {
    asked: SchemaGenerator,
    answered: SchemaGenerator,
    /// Made of others.
    derived: Map<String, Value>,
    /// Responses that several operations have.
    responses: Map<String, Value>,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            asked: settings().for_deserialize().into_generator(),
            answered: settings().for_serialize().into_generator(),
            derived: Map::new(),
            responses: Map::new(),
        }
    }

    /// The schema of what is read into a `T`.
    pub(crate) fn asked<T: JsonSchema>(&mut self) -> Value {
        self.asked.subschema_for::<T>().to_value()
    }

    /// The schema of what is written from a `T`.
    pub(crate) fn answered<T: JsonSchema>(&mut self) -> Value {
        self.answered.subschema_for::<T>().to_value()
    }

    /// A schema of requests under another name, changed by `change`. `T` has a name of its own.
    pub(crate) fn derived<T: JsonSchema>(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        self.asked.subschema_for::<T>();
        let original = self.asked.definitions().get(T::schema_name().as_ref());
        let mut schema = original.cloned().unwrap_or_default();
        change(&mut schema);
        self.derived.insert(name.to_owned(), schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// Keeps a response under a name that says all of it.
    pub(super) fn response(&mut self, name: &str, response: Value) -> Value {
        self.responses.insert(name.to_owned(), response);
        json!({"$ref": format!("#/components/responses/{name}")})
    }

    /// All schemas and all responses by name.
    pub(super) fn into_components(mut self) -> (Map<String, Value>, Map<String, Value>) {
        let mut components = self.asked.take_definitions(true);
        for (name, schema) in self
            .answered
            .take_definitions(true)
            .into_iter()
            .chain(self.derived)
        {
            components.entry(name).or_insert(schema);
        }
        components.sort_keys();
        self.responses.sort_keys();
        (components, self.responses)
    }
}
