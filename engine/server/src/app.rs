//! What all handlers share, and which path leads to which.

use std::sync::Arc;

use agentlm_host::EngineHandle;
use agentlm_text::{Renderer, Tokenizer};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::access;
use crate::config::ServerConfig;
use crate::gate::Gate;
use crate::metrics;
use crate::metrics::Metrics;
use crate::routes::{chat, compat, completions, generate, health, info, models, tokenize};
use crate::seed::Seeds;

/// One server's shared state.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) engine: EngineHandle,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) renderer: Option<Arc<Renderer>>,
    pub(crate) gate: Gate,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) seeds: Seeds,
    /// `system_fingerprint`.
    pub(crate) fingerprint: String,
}

impl App {
    pub(crate) fn new(
        config: ServerConfig,
        engine: EngineHandle,
        tokenizer: Arc<Tokenizer>,
        renderer: Option<Arc<Renderer>>,
    ) -> Self {
        Self {
            gate: Gate::new(config.max_concurrent_requests),
            metrics: Arc::new(Metrics::new(engine.limits())),
            seeds: Seeds::new(),
            fingerprint: config.fingerprint(),
            config,
            engine,
            tokenizer,
            renderer,
        }
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/", post(compat::generate))
        .route("/generate", post(generate::handler::generate))
        .route("/generate_stream", post(generate::handler::generate_stream))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/chat_tokenize", post(tokenize::chat_tokenize))
        .route("/v1/chat/completions", post(chat::handler::chat_completions))
        .route("/v1/completions", post(completions::handler::completions))
        .route_layer(from_fn_with_state(app.clone(), access::require_key));
    let open = Router::new()
        .route("/", get(health::health))
        .route("/health", get(health::health))
        .route("/ping", get(health::health))
        .route("/info", get(info::info))
        .route("/metrics", get(metrics::render))
        .route("/v1/models", get(models::models));
    guarded
        .merge(open)
        .fallback(access::not_found)
        .layer(from_fn(access::catch_panic))
        .layer(from_fn_with_state(app.clone(), access::cors))
        .with_state(app)
}
