//! The API described: one OpenAPI document, made from the types that requests are read into and answers are written from, and
//! from the table of routes. It knows no handler.

mod caps;
pub(crate) mod failures;
mod operation;
mod routes;
mod schemas;
pub(crate) mod shapes;

use agentlm_core::params::Limits;
use serde_json::{Map, Value, json};

use crate::app;
use crate::config::ServerConfig;
pub(crate) use operation::{Answer, Operation};
pub(crate) use routes::{Access, Routes};
pub(crate) use schemas::Schemas;

/// Where the document is served.
pub(crate) const PATH: &str = "/api-doc/openapi.json";

/// The document of a server with this configuration and these limits.
#[must_use]
pub fn openapi(config: &ServerConfig, limits: &Limits) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for (access, entry) in app::tables().iter().flat_map(Routes::entries) {
        let operation = (entry.describe)(&mut schemas);
        let path = paths.entry(entry.path).or_insert_with(|| json!({}));
        path[entry.method] = operation.document(&mut schemas, access, config);
    }
    let (schemas, responses) = schemas.into_components();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "agentlm",
            "description": "TGI's protocol on the native routes, OpenAI's on `/v1`. Unknown fields are ignored, and null stands for \
                a field that is left out.",
            "version": config.version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": tags(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "headers": operation::headers(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of the keys of `--api-key`.",
                },
            },
        },
    });
    caps::resolve(&mut document, config, limits);
    document
}

/// Groups of operations, in the order of the page.
fn tags() -> Value {
    json!([
        {"name": "generation", "description": "TGI's own routes."},
        {"name": "openai", "description": "Routes for OpenAI's clients."},
        {"name": "clouds", "description": "The one path that a cloud's hosting knows."},
        {"name": "server", "description": "What the server is and how it fares."},
        {"name": "operator", "description": "Adapters, other weights, sleep; always behind an API key."},
    ])
}
