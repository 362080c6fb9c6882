//! One operation described: its body, its answers, and every error that it may end with.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::failures::{self, Wording};
use super::{Access, Schemas};
use crate::config::{ServerConfig, V1Dialect};
use crate::error::ApiError;

/// What an operation answers when all goes well.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// JSON of this schema.
    Json(Value),
    /// Server-sent events whose data are of this schema.
    Events(Value),
    /// Text of this media type.
    Text(&'static str),
}

/// An operation, but for its path.
#[derive(Debug)]
pub(crate) struct Operation {
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    body: Option<Value>,
    answers: Vec<Answer>,
    parameters: Vec<Value>,
    failures: Vec<ApiError>,
    /// Statuses and kinds of errors that no other operation has.
    others: Vec<(u16, &'static str)>,
    wordings: Vec<Wording>,
}

impl Operation {
    /// One that has no body, answers nothing but the status, and never fails.
    pub(crate) fn new(tag: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            tag,
            summary,
            body: None,
            answers: Vec::new(),
            parameters: Vec::new(),
            failures: Vec::new(),
            others: Vec::new(),
            wordings: vec![Wording::Native],
        }
    }

    /// Takes a JSON body of this schema, of which this is an example.
    pub(crate) fn takes(mut self, schema: &Value, example: &Value) -> Self {
        let media = json!({"schema": schema, "example": example});
        self.body = Some(json!({"required": true, "content": {"application/json": media}}));
        self.failing(failures::body())
    }

    /// As [`Operation::takes`], but the body may be left out.
    pub(crate) fn may_take(self, schema: &Value, example: &Value) -> Self {
        let mut operation = self.takes(schema, example);
        if let Some(body) = &mut operation.body {
            body["required"] = Value::from(false);
        }
        operation
    }

    /// Has a part of the path as a parameter.
    pub(crate) fn named(mut self, name: &str, description: &str) -> Self {
        self.parameters.push(json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": description,
            "schema": {"type": "string", "minLength": 1},
        }));
        self
    }

    /// May answer this.
    pub(crate) fn answering(mut self, answer: Answer) -> Self {
        self.answers.push(answer);
        self
    }

    /// May end with one of these.
    pub(crate) fn failing(mut self, failures: impl IntoIterator<Item = ApiError>) -> Self {
        self.failures.extend(failures);
        self
    }

    /// May end with an error of this kind, in the native wording, that no other operation has.
    pub(crate) fn failing_as(mut self, status: u16, kind: &'static str) -> Self {
        self.others.push((status, kind));
        self
    }

    /// Words its errors so rather than natively.
    pub(crate) fn wording(mut self, wordings: &[Wording]) -> Self {
        self.wordings = wordings.to_vec();
        self
    }

    /// The operation in OpenAPI's form.
    pub(super) fn document(mut self, schemas: &mut Schemas, access: Access, config: &ServerConfig) -> Value {
        self.failures.extend(access.failures());
        if config.v1_dialect == V1Dialect::Tgi {
            self.wordings = vec![Wording::Native];
        }
        let mut responses = self.responses(schemas);
        responses.insert("200".to_owned(), well(&self.answers));
        responses.sort_keys();
        let mut document = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "security": access.security(config),
            "responses": responses,
        });
        if !self.parameters.is_empty() {
            document["parameters"] = Value::from(self.parameters);
        }
        if let Some(body) = self.body {
            document["requestBody"] = body;
        }
        document
    }

    /// The errors, one response a status.
    fn responses(&self, schemas: &mut Schemas) -> Map<String, Value> {
        let mut by_status: BTreeMap<u16, Vec<&ApiError>> = BTreeMap::new();
        for failure in &self.failures {
            by_status
                .entry(failure.status().as_u16())
                .or_default()
                .push(failure);
        }
        let response = |(status, failures): (u16, Vec<&ApiError>)| {
            let others = self.others.iter().filter(|(other, _)| *other == status);
            let others: Vec<_> = others.map(|(_, kind)| *kind).collect();
            let response = failures::response(schemas, &failures, &others, &self.wordings);
            (status.to_string(), response)
        };
        by_status.into_iter().map(response).collect()
    }
}

/// The response of status 200.
fn well(answers: &[Answer]) -> Value {
    let mut content = Map::new();
    for answer in answers {
        let (media, schema) = match answer {
            Answer::Json(schema) => ("application/json", schema.clone()),
            Answer::Events(schema) => ("text/event-stream", schema.clone()),
            Answer::Text(media) => (*media, json!({"type": "string"})),
        };
        content.insert(media.to_owned(), json!({"schema": schema}));
    }
    let description = match answers {
        [] => "Well; the body is empty.",
        [Answer::Events(_)] => "Events; the schema is that of the data of each.",
        [Answer::Json(_), Answer::Events(_)] => {
            "The answer, or events if `stream` is set; then the schema is that of the data of each, save the `[DONE]` that ends a \
             stream of `/v1`."
        }
        _ => "The answer.",
    };
    let mut response = json!({"description": description, "headers": having(&["x-request-id"])});
    if !content.is_empty() {
        response["content"] = Value::from(content);
    }
    response
}

/// Headers by name.
pub(super) fn headers() -> Value {
    json!({
        "x-request-id": {"description": "The request's own, or a new one.", "schema": {"type": "string"}},
        "retry-after": {
            "description": "Seconds after which to come again.",
            "schema": {"type": "integer", "minimum": 1},
        },
    })
}

/// Those that an answer has.
pub(super) fn having(names: &[&str]) -> Value {
    let one = |name: &&str| {
        (
            (*name).to_owned(),
            json!({"$ref": format!("#/components/headers/{name}")}),
        )
    };
    Value::Object(names.iter().map(one).collect())
}
