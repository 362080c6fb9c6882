//! agentlm-server: the HTTP face of one engine, in TGI's and OpenAI's formats.
//!
//! [`serve`] binds, answers on its own tokio runtime and never installs a signal handler. It knows no Python, no
//! kernel and no scheduling: a request is parsed, validated, tokenised, submitted through
//! [`agentlm_host::EngineHandle`], and its events become bytes.
//!
//! Native routes (`/`, `/generate`, `/generate_stream`, `/tokenize`) answer as TGI does, byte for byte. The `/v1`
//! routes follow [`V1Dialect`].

mod access;
mod app;
mod body;
mod body_timeout;
mod config;
mod connection;
mod error;
mod flow;
mod gate;
mod metrics;
mod number;
mod object;
mod openapi;
mod prompt;
mod request_id;
mod request_log;
mod routes;
mod seed;
mod serve;
mod stream;
mod tls;
mod traces;
mod wire;

pub use config::{ConfigError, LogConfig, LogLevel, ServerConfig, TlsFiles, V1Dialect};
pub use openapi::openapi;
pub use routes::chat::whole::{ConversationError, TemplateInput};
pub use serve::{RunningServer, ServeError, check_address, check_otlp_endpoint, check_tls, serve};
pub use tls::TlsError;
