//! What the operator chose, once, before the server starts. It reads no environment and no file.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use agentlm_text::ToolFormat;
use thiserror::Error;

use crate::traces;

/// Most threads that read and write sockets.
const MAX_HTTP_WORKERS: usize = 256;

/// How the `/v1` routes phrase their answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum V1Dialect {
    /// OpenAI's: `finish_reason` is `"stop"` for a stop string and the string is cut; errors are objects with a real
    /// status before the first byte; `role` comes in the first delta only; ids are set.
    #[default]
    OpenAi,
    /// TGI's: `finish_reason` may be `"stop_sequence"` and the string is kept; errors are strings, and those of a
    /// stream come inside it under status 200; `role` comes in every delta; `id` is empty.
    Tgi,
}

impl FromStr for V1Dialect {
    type Err = ConfigError;

    /// The dialect of a name that settings use.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name {
            "openai" => Ok(Self::OpenAi),
            "tgi" => Ok(Self::Tgi),
            _ => Err(ConfigError::Dialect(name.to_owned())),
        }
    }
}

/// Which requests the log tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// None.
    #[default]
    Off,
    /// Those that failed by a fault of the server's or the engine's.
    Error,
    /// Those that were refused, too.
    Warn,
    /// Every one, save looks at the server itself that went well.
    Info,
    /// Every one.
    Debug,
}

impl LogLevel {
    /// As log lines show it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }
}

impl FromStr for LogLevel {
    type Err = ConfigError;

    /// The level of a name that settings use. `trace` tells no more than `debug`.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" | "trace" => Ok(Self::Debug),
            _ => Err(ConfigError::LogLevel(name.to_owned())),
        }
    }
}

/// What is logged, and how. Lines go to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Which requests.
    pub level: LogLevel,
    /// Lines are JSON objects rather than text.
    pub json: bool,
    /// Lines hold the request's body, prompt and all.
    pub prompts: bool,
}

/// Where the server's certificate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM; it may be the same file.
    pub key: PathBuf,
}

/// A server's settings. Limits on a request's lengths belong to the engine and are read from its handle.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Name or address to listen on.
    pub hostname: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Name under which the model is served.
    pub model_id: String,
    /// Revision of the model, if known.
    pub model_sha: Option<String>,
    /// The hub's pipeline tag. Unless it is known and not `text-generation`, `POST /` returns the prompt with the text.
    pub model_pipeline_tag: Option<String>,
    /// Other names than `model_id` are answered 404 on `/v1` instead of being served.
    pub strict_model: bool,
    /// Runs in flight; more are answered 429.
    pub max_concurrent_requests: usize,
    /// Most prompts in one `/v1/completions` request.
    pub max_client_batch_size: usize,
    /// Largest request body, in bytes.
    pub payload_limit: usize,
    /// Keys that are accepted as `Authorization: Bearer …`; none means open.
    pub api_keys: Vec<String>,
    /// Origins that browsers may call from; none, or `*` among them, means any.
    pub cors_allow_origin: Vec<String>,
    /// Threads that tokenise and validate.
    pub validation_workers: usize,
    /// Threads that read and write sockets.
    pub http_workers: usize,
    /// Version string of `/info` and of `system_fingerprint`.
    pub version: String,
    /// Source revision of the build, if known.
    pub sha: Option<String>,
    /// Label of the container image, if any.
    pub docker_label: Option<String>,
    /// `x-compute-type` of each answer.
    pub compute_type: String,
    /// Wording of the `/v1` routes.
    pub v1_dialect: V1Dialect,
    /// The form in which the model writes tool calls; none: its chat template tells.
    pub tool_call_parser: Option<ToolFormat>,
    /// A request that asks for a grammar is refused.
    pub disable_grammar_support: bool,
    /// A client has this long to send a request's head, on a kept connection from the last answer on; and each further
    /// part of its body.
    pub read_timeout: Duration,
    /// A client that has something to read may take nothing for this long; then its connection is closed, which aborts its
    /// requests.
    pub write_timeout: Duration,
    /// Certificate and key; none means plain HTTP.
    pub tls: Option<TlsFiles>,
    /// A second port, for `/metrics` alone.
    pub prometheus_port: Option<u16>,
    /// What is logged.
    pub log: LogConfig,
    /// A collector of OpenTelemetry traces, as `http://host:port`; none means that there are no traces.
    pub otlp_endpoint: Option<String>,
    /// The name of this server in them.
    pub otlp_service_name: String,
}

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A count that must be at least one.
    #[error("`{0}` must be at least 1, but is 0")]
    Zero(&'static str),
    /// More threads than there is work for.
    #[error(
        "`http_workers` must be at most {MAX_HTTP_WORKERS}, but is {0}; 2 to 4 are enough for thousands of connections"
    )]
    HttpWorkers(usize),
    /// A text that must not be empty.
    #[error("`{0}` must not be empty")]
    Empty(&'static str),
    /// A text that goes into a header and holds something a header cannot.
    #[error("`{0}` must be printable ASCII, but is {1:?}")]
    NotAHeader(&'static str, String),
    /// A time that must not be zero.
    #[error("`{0}` must be more than 0 seconds")]
    NoTime(&'static str),
    /// No log level has this name.
    #[error(
        "`log_level` must be \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", but is {0:?}"
    )]
    LogLevel(String),
    /// No address of a collector.
    #[error(
        "`otlp_endpoint` must be http://HOST:PORT, where a collector takes OTLP over HTTP (port 4318 as a rule; gRPC's, 4317, \
         is another), but is {0:?}"
    )]
    OtlpEndpoint(String),
    /// No dialect has this name.
    #[error("`api_dialect` must be \"openai\" or \"tgi\", but is {0:?}")]
    Dialect(String),
}

impl ServerConfig {
    /// TGI's defaults for a model.
    #[must_use]
    pub fn new(model_id: impl Into<String>) -> Self {
        Self {
            hostname: "0.0.0.0".to_owned(),
            port: 3000,
            model_id: model_id.into(),
            model_sha: None,
            model_pipeline_tag: None,
            strict_model: false,
            max_concurrent_requests: 128,
            max_client_batch_size: 4,
            payload_limit: 2_000_000,
            api_keys: Vec::new(),
            cors_allow_origin: Vec::new(),
            validation_workers: 2,
            http_workers: 2,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sha: None,
            docker_label: None,
            compute_type: "cpu".to_owned(),
            v1_dialect: V1Dialect::default(),
            tool_call_parser: None,
            disable_grammar_support: false,
            // Longer than the 60 seconds after which proxies give up an idle connection, so that it is never closed under a
            // request of theirs.
            read_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(120),
            tls: None,
            prometheus_port: None,
            log: LogConfig::default(),
            otlp_endpoint: None,
            // TGI's, so that what looks for it finds it.
            otlp_service_name: "text-generation-inference.router".to_owned(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first one that cannot be served.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (name, value) in [
            ("max_concurrent_requests", self.max_concurrent_requests),
            ("max_client_batch_size", self.max_client_batch_size),
            ("payload_limit", self.payload_limit),
            ("validation_workers", self.validation_workers),
            ("http_workers", self.http_workers),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero(name));
            }
        }
        if self.http_workers > MAX_HTTP_WORKERS {
            return Err(ConfigError::HttpWorkers(self.http_workers));
        }
        for (name, time) in [
            ("read_timeout", self.read_timeout),
            ("write_timeout", self.write_timeout),
        ] {
            if time.is_zero() {
                return Err(ConfigError::NoTime(name));
            }
        }
        if self.hostname.is_empty() {
            return Err(ConfigError::Empty("hostname"));
        }
        if self.model_id.is_empty() {
            return Err(ConfigError::Empty("model_id"));
        }
        if self.api_keys.iter().any(String::is_empty) {
            return Err(ConfigError::Empty("api_key"));
        }
        if let Some(given) = &self.otlp_endpoint {
            traces::endpoint(given)?;
        }
        let texts = self
            .cors_allow_origin
            .iter()
            .map(|origin| ("cors_allow_origin", origin));
        for (name, text) in texts.chain([("compute_type", &self.compute_type)]) {
            if text.is_empty() || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
                return Err(ConfigError::NotAHeader(name, text.clone()));
            }
        }
        Ok(())
    }

    /// `<version>-<docker label or "native">`, as TGI writes it.
    pub(crate) fn fingerprint(&self) -> String {
        format!(
            "{}-{}",
            self.version,
            self.docker_label.as_deref().unwrap_or("native")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_have_names() {
        assert_eq!("openai".parse(), Ok(V1Dialect::OpenAi));
        assert_eq!("tgi".parse(), Ok(V1Dialect::Tgi));
        let error = "TGI".parse::<V1Dialect>().unwrap_err();
        let text = r#"`api_dialect` must be "openai" or "tgi", but is "TGI""#;
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn log_levels_have_names_and_an_order() {
        let names = ["off", "error", "warn", "info", "debug"];
        let levels = names.map(|name| name.parse::<LogLevel>().unwrap());
        assert!(levels.is_sorted() && levels[0] == LogLevel::Off && levels[4] == LogLevel::Debug);
        assert_eq!("INFO".parse(), Ok(LogLevel::Info));
        assert_eq!("trace".parse(), Ok(LogLevel::Debug));
        let error = "loud".parse::<LogLevel>().unwrap_err().to_string();
        assert!(error.ends_with(r#""debug" or "trace", but is "loud""#), "{error}");
    }

    #[test]
    fn threads_are_counted() {
        for (workers, text) in [
            (0, Some("`http_workers` must be at least 1, but is 0")),
            (1, None),
            (MAX_HTTP_WORKERS, None),
            (257, Some("`http_workers` must be at most 256, but is 257;")),
        ] {
            let config = ServerConfig {
                http_workers: workers,
                ..ServerConfig::new("m")
            };
            let told = config.validate().err().map(|error| error.to_string());
            let fits = match (&told, text) {
                (Some(told), Some(text)) => told.starts_with(text),
                (told, text) => told.is_none() && text.is_none(),
            };
            assert!(fits, "{workers}: {told:?}");
        }
    }

    #[test]
    fn a_time_of_nothing_is_refused() {
        let config = ServerConfig {
            write_timeout: Duration::ZERO,
            ..ServerConfig::new("m")
        };
        let text = "`write_timeout` must be more than 0 seconds";
        assert_eq!(config.validate().unwrap_err().to_string(), text);
    }
}
