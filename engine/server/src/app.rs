//! What all handlers share, and which path leads to which.

use std::sync::Arc;

use agentlm_host::EngineHandle;
use agentlm_text::{GrammarCompiler, Renderer, Tokenizer};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state, map_request_with_state};
use axum::routing::{delete, get, post};

use crate::access;
use crate::body_timeout;
use crate::config::ServerConfig;
use crate::gate::Gate;
use crate::metrics;
use crate::metrics::Metrics;
use crate::request_log::{self, Log};
use crate::routes::{
    chat, compat, completions, generate, health, info, invocations, models, operate, tokenize, vertex,
};
use crate::seed::Seeds;

/// One server's shared state.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) engine: EngineHandle,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) renderer: Option<Arc<Renderer>>,
    /// None: grammars are switched off.
    pub(crate) grammars: Option<Arc<GrammarCompiler>>,
    pub(crate) gate: Gate,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) seeds: Seeds,
    pub(crate) log: Arc<Log>,
    /// `system_fingerprint`.
    pub(crate) fingerprint: String,
}

impl App {
    pub(crate) fn new(
        config: ServerConfig,
        engine: EngineHandle,
        tokenizer: Arc<Tokenizer>,
        renderer: Option<Arc<Renderer>>,
        log: Arc<Log>,
    ) -> Self {
        let grammars = (!config.disable_grammar_support).then(|| {
            let core = engine.core_config();
            let (eos, vocab_size) = (core.eos_token_ids.clone(), core.vocab_size as usize);
            Arc::new(GrammarCompiler::new(tokenizer.clone(), eos, vocab_size))
        });
        Self {
            gate: Gate::new(config.max_concurrent_requests),
            metrics: Arc::new(Metrics::new(engine.limits())),
            seeds: Seeds::new(),
            log,
            fingerprint: config.fingerprint(),
            config,
            engine,
            tokenizer,
            renderer,
            grammars,
        }
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/", post(compat::generate))
        .route("/generate", post(generate::handler::generate))
        .route("/generate_stream", post(generate::handler::generate_stream))
        .route("/invocations", post(invocations::invocations))
        .route("/vertex", post(vertex::vertex))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/chat_tokenize", post(tokenize::chat_tokenize))
        .route("/v1/chat/completions", post(chat::handler::chat_completions))
        .route("/v1/completions", post(completions::handler::completions))
        .route_layer(from_fn_with_state(app.clone(), access::require_key));
    let operate = Router::new()
        .route(
            "/adapters",
            get(operate::list_adapters).post(operate::load_adapter),
        )
        .route("/adapters/{name}", delete(operate::unload_adapter))
        .route("/weights/reload", post(operate::reload_weights))
        .route("/sleep", post(operate::sleep))
        .route("/wake", post(operate::wake))
        .route_layer(from_fn_with_state(app.clone(), operate::require_configured_key))
        .route_layer(from_fn_with_state(app.clone(), access::require_key));
    let open = Router::new()
        .route("/", get(health::health))
        .route("/health", get(health::health))
        .route("/ping", get(health::health))
        .route("/info", get(info::info))
        .route("/metrics", get(metrics::render))
        .route("/v1/models", get(models::models));
    guarded
        .merge(operate)
        .merge(open)
        .fallback(access::not_found)
        .layer(map_request_with_state(app.clone(), body_timeout::watch))
        .layer(from_fn(access::catch_panic))
        .layer(from_fn_with_state(app.clone(), access::cors))
        .layer(from_fn_with_state(app.clone(), request_log::observe))
        .with_state(app)
}

/// What the second port answers.
pub(crate) fn metrics_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::render))
        .fallback(access::not_found)
        .with_state(app)
}
