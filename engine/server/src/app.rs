//! What all handlers share, and which path leads to which.

use std::sync::{Arc, OnceLock};

use agentlm_host::EngineHandle;
use agentlm_text::{GrammarCompiler, Renderer, Tokenizer};
use axum::Router;
use axum::middleware::{from_fn_with_state, map_request_with_state};
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::access;
use crate::body_timeout;
use crate::config::ServerConfig;
use crate::gate::Gate;
use crate::metrics;
use crate::metrics::Metrics;
use crate::openapi::{self, Access, Routes};
use crate::request_log::{self, Log};
use crate::routes::openai::describe;
use crate::routes::{
    chat, compat, completions, docs, generate, health, info, invocations, models, operate, tokenize, vertex,
};
use crate::seed::Seeds;
use crate::traces::Exporter;

/// One server's shared state.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) engine: EngineHandle,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) renderer: Option<Arc<Renderer>>,
    /// None: grammars are switched off.
    pub(crate) grammars: Option<Arc<GrammarCompiler>>,
    /// Turns for what is done beside prompts: see [`crate::prompt::aside`].
    pub(crate) aside: Arc<Semaphore>,
    pub(crate) gate: Gate,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) seeds: Seeds,
    pub(crate) log: Arc<Log>,
    /// Where traces go, if anywhere.
    pub(crate) spans: Option<Arc<Exporter>>,
    /// `system_fingerprint`.
    pub(crate) fingerprint: String,
    /// Made when it is first asked for.
    document: OnceLock<Bytes>,
}

impl App {
    pub(crate) fn new(
        config: ServerConfig,
        engine: EngineHandle,
        tokenizer: Arc<Tokenizer>,
        renderer: Option<Arc<Renderer>>,
        log: Arc<Log>,
        spans: Option<Arc<Exporter>>,
    ) -> Self {
        let grammars = (!config.disable_grammar_support).then(|| engine.grammars().clone());
        Self {
            gate: Gate::new(config.max_concurrent_requests),
            aside: Arc::new(Semaphore::new(config.validation_workers)),
            metrics: Arc::new(Metrics::new(engine.limits())),
            seeds: Seeds::new(),
            log,
            spans,
            fingerprint: config.fingerprint(),
            config,
            engine,
            tokenizer,
            renderer,
            grammars,
            document: OnceLock::new(),
        }
    }

    /// The API's document, as JSON.
    pub(crate) fn document(&self) -> Bytes {
        let make = || {
            openapi::openapi(&self.config, self.engine.limits())
                .to_string()
                .into()
        };
        self.document.get_or_init(make).clone()
    }
}

/// All routes, by who may call them.
pub(crate) fn tables() -> [Routes; 3] {
    let guarded = Routes::new(Access::Key)
        .post(
            "/generate",
            generate::handler::generate,
            generate::describe::generate,
        )
        .post(
            "/generate_stream",
            generate::handler::generate_stream,
            generate::describe::generate_stream,
        )
        .post("/", compat::generate, generate::describe::either)
        .post(
            "/v1/chat/completions",
            chat::handler::chat_completions,
            describe::chat,
        )
        .post(
            "/v1/completions",
            completions::handler::completions,
            describe::completions,
        )
        .post("/invocations", invocations::invocations, describe::invocations)
        .post("/vertex", vertex::vertex, describe::vertex)
        .post("/tokenize", tokenize::tokenize, tokenize::describe)
        .post("/chat_tokenize", tokenize::chat_tokenize, tokenize::describe_chat);
    let operate = Routes::new(Access::Operator)
        .get("/adapters", operate::list_adapters, operate::describe_list)
        .post("/adapters", operate::load_adapter, operate::describe_load)
        .delete(
            "/adapters/{name}",
            operate::unload_adapter,
            operate::describe_unload,
        )
        .post(
            "/weights/reload",
            operate::reload_weights,
            operate::describe_reload,
        )
        .post("/sleep", operate::sleep, operate::describe_sleep)
        .post("/wake", operate::wake, operate::describe_wake);
    let open = Routes::new(Access::Open)
        .get("/health", health::health, health::describe)
        .get("/ping", health::health, health::describe_ping)
        .get("/", health::health, health::describe_root)
        .get("/info", info::info, info::describe)
        .get("/metrics", metrics::render, metrics::describe)
        .get("/v1/models", models::models, models::describe)
        .get(openapi::PATH, docs::document, docs::describe_document)
        .get("/docs", docs::page, docs::describe_page)
        .get("/docs/", docs::page, docs::describe_slash);
    [guarded, operate, open]
}

/// All routes, and what stands before them.
pub(crate) fn router(app: Arc<App>) -> Router {
    let [guarded, operate, open] = tables().map(Routes::into_router);
    let key = || from_fn_with_state(app.clone(), access::require_key);
    let configured = from_fn_with_state(app.clone(), operate::require_configured_key);
    guarded
        .route_layer(key())
        .merge(operate.route_layer(configured).route_layer(key()))
        .merge(open)
        .fallback(access::not_found)
        .layer(map_request_with_state(app.clone(), body_timeout::watch))
        .layer(from_fn_with_state(app.config.v1_dialect, access::catch_panic))
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
