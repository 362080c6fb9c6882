//! What all handlers share, and which path leads to which.

use std::sync::Arc;

use agentlm_host::EngineHandle;
use agentlm_text::{ChatInput, Tokenizer};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use thiserror::Error;

use crate::access;
use crate::config::ServerConfig;
use crate::gate::Gate;
use crate::metrics;
use crate::metrics::Metrics;
use crate::routes::{chat, compat, completions, generate, health, info, models, tokenize};
use crate::seed::Seeds;

/// Turns a conversation into a prompt. Called on the validation pool: it may take its time.
pub trait RenderChat: Send + Sync {
    /// Renders a conversation up to where the model goes on. Each message is an object with at least `role` and a
    /// string `content`.
    ///
    /// # Errors
    /// [`RenderError`]: what the template says against the conversation.
    fn render(&self, input: &ChatInput<'_>) -> Result<RenderedChat, RenderError>;
}

/// The renderer of the served checkpoint.
pub type ChatRenderer = Arc<dyn RenderChat>;

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedChat {
    /// The whole text, special tokens included.
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
}

/// Why a conversation cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct RenderError(pub String);

/// One server's shared state.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) engine: EngineHandle,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) renderer: Option<ChatRenderer>,
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
        renderer: Option<ChatRenderer>,
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
