//! What the operator chose, once, before the server starts. It reads no environment and no file.

use std::str::FromStr;

use thiserror::Error;

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
    /// Prefix-cache seed of the served weights.
    pub cache_seed: u64,
}

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A count that must be at least one.
    #[error("`{0}` must be at least 1, but is 0")]
    Zero(&'static str),
    /// A text that must not be empty.
    #[error("`{0}` must not be empty")]
    Empty(&'static str),
    /// A text that goes into a header and holds something a header cannot.
    #[error("`{0}` must be printable ASCII, but is {1:?}")]
    NotAHeader(&'static str, String),
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
            cache_seed: 0,
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
        if self.hostname.is_empty() {
            return Err(ConfigError::Empty("hostname"));
        }
        if self.model_id.is_empty() {
            return Err(ConfigError::Empty("model_id"));
        }
        if self.api_keys.iter().any(String::is_empty) {
            return Err(ConfigError::Empty("api_key"));
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
}
