//! The HTTP server as Python sees it.

use std::time::Duration;

use agentlm_server::{LogConfig, LogLevel, RunningServer, ServerConfig, TlsFiles, V1Dialect};
use agentlm_text::ToolFormat;
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// A server that answers from its construction on.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct Server {
    running: RunningServer,
}

#[pymethods]
impl Server {
    /// Binds and starts to answer. Without a template the chat route refuses with the reason. `api_dialect` is the
    /// wording of the /v1 routes: "openai" or "tgi"; another raises `ConfigError`. Timeouts are in seconds. The key may lie in
    /// the certificate's file. A second port that cannot be had is told by `metrics_refusal`.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    #[pyo3(signature = (engine, tokenizer, template, *, hostname, port, model_id, model_sha,
                        max_concurrent_requests, max_client_batch_size, payload_limit, api_keys, cors_allow_origin,
                        validation_workers, http_workers, compute_type, api_dialect="openai",
                        strict_model=false,
                        disable_grammar_support=false, tool_call_parser="auto", read_timeout=75.0, write_timeout=120.0, ssl_certfile=None,
                        ssl_keyfile=None, prometheus_port=None, log_level="off", json_output=false, log_prompts=false,
                        otlp_endpoint=None, otlp_service_name=None))]
    fn new(
        py: Python<'_>,
        engine: &Engine,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        hostname: String,
        port: u16,
        model_id: String,
        model_sha: Option<String>,
        max_concurrent_requests: usize,
        max_client_batch_size: usize,
        payload_limit: usize,
        api_keys: Vec<String>,
        cors_allow_origin: Vec<String>,
        validation_workers: usize,
        http_workers: usize,
        compute_type: String,
        api_dialect: &str,
        strict_model: bool,
        disable_grammar_support: bool,
        tool_call_parser: &str,
        read_timeout: f64,
        write_timeout: f64,
        ssl_certfile: Option<String>,
        ssl_keyfile: Option<String>,
        prometheus_port: Option<u16>,
        log_level: &str,
        json_output: bool,
        log_prompts: bool,
        otlp_endpoint: Option<String>,
        otlp_service_name: Option<String>,
    ) -> PyResult<Self> {
        let v1_dialect = api_dialect
            .parse::<V1Dialect>()
            .map_err(|error| errors::raise("ConfigError", error))?;
        let log = LogConfig {
            level: log_level
                .parse::<LogLevel>()
                .map_err(|error| errors::raise("ConfigError", error))?,
            json: json_output,
            prompts: log_prompts,
        };
        let defaults = ServerConfig::new(model_id);
        let config = ServerConfig {
            hostname,
            port,
            model_sha,
            max_concurrent_requests,
            max_client_batch_size,
            payload_limit,
            api_keys,
            cors_allow_origin,
            validation_workers,
            http_workers,
            compute_type,
            v1_dialect,
            strict_model,
            read_timeout: seconds("read_timeout", read_timeout)?,
            write_timeout: seconds("write_timeout", write_timeout)?,
            tls: tls_files(ssl_certfile, ssl_keyfile)?,
            prometheus_port,
            log,
            disable_grammar_support,
            tool_call_parser: ToolFormat::from_setting(tool_call_parser)
                .map_err(|error| errors::raise("ConfigError", error))?,
            otlp_endpoint,
            otlp_service_name: otlp_service_name.unwrap_or_else(|| defaults.otlp_service_name.clone()),
            ..defaults
        };
        let renderer = template.map(|template| template.renderer.clone());
        let (handle, tokenizer) = (engine.handle().clone(), tokenizer.inner.clone());
        let running = py
            .detach(|| agentlm_server::serve(config, handle, tokenizer, renderer))
            .map_err(|error| errors::raise("ServerError", error))?;
        Ok(Self { running })
    }

    /// Raises `ServerError` when the address cannot be had now; takes nothing.
    #[staticmethod]
    fn check_address(hostname: &str, port: u16) -> PyResult<()> {
        agentlm_server::check_address(hostname, port).map_err(|error| errors::raise("ServerError", error))
    }

    /// Raises `ConfigError` when no collector of traces can have this address.
    #[staticmethod]
    fn check_otlp_endpoint(endpoint: &str) -> PyResult<()> {
        agentlm_server::check_otlp_endpoint(endpoint).map_err(|error| errors::raise("ConfigError", error))
    }

    /// Raises `ServerError` when the certificate and its key cannot be served, `ConfigError` for a key without one.
    #[staticmethod]
    fn check_tls(ssl_certfile: Option<String>, ssl_keyfile: Option<String>) -> PyResult<()> {
        match tls_files(ssl_certfile, ssl_keyfile)? {
            Some(files) => {
                agentlm_server::check_tls(&files).map_err(|error| errors::raise("ServerError", error))
            }
            None => Ok(()),
        }
    }

    /// The address that answers /metrics alone, as "host:port"; None if there is none.
    #[getter]
    fn metrics_address(&self) -> Option<String> {
        let address = self.running.metrics_addr().ok().flatten();
        address.map(|address| address.to_string())
    }

    /// Why the port for /metrics alone cannot be had; None if it can or was not asked for.
    #[getter]
    fn metrics_refusal(&self) -> Option<String> {
        self.running.metrics_addr().err().map(ToString::to_string)
    }

    /// The address that is listened on, as "host:port".
    #[getter]
    fn address(&self) -> String {
        self.running.local_addr().to_string()
    }

    /// Stops accepting; requests in flight have `grace` seconds to finish, none if that is below 0. Raises `ConfigError` for
    /// what is no number.
    fn begin_shutdown(&self, grace: f64) -> PyResult<()> {
        if grace.is_nan() {
            return Err(errors::raise(
                "ConfigError",
                "`grace` must be seconds. Given: NaN",
            ));
        }
        let grace = Duration::try_from_secs_f64(grace.max(0.0)).unwrap_or(Duration::from_secs(1 << 30));
        self.running.begin_shutdown(grace);
        Ok(())
    }

    /// Blocks until the server is closed, after `begin_shutdown`.
    fn wait(&self, py: Python<'_>) {
        py.detach(|| self.running.wait());
    }
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        let text = format!("`{name}` must be a number of seconds, but is {value}");
        errors::raise("ConfigError", text)
    })
}

fn tls_files(certificate: Option<String>, key: Option<String>) -> PyResult<Option<TlsFiles>> {
    match (certificate, key) {
        (Some(certificate), key) => Ok(Some(TlsFiles {
            key: key.unwrap_or_else(|| certificate.clone()).into(),
            certificate: certificate.into(),
        })),
        (None, Some(key)) => {
            let text = format!("`ssl_keyfile` is {key:?}, so `ssl_certfile` must name its certificate");
            Err(errors::raise("ConfigError", text))
        }
        (None, None) => Ok(None),
    }
}
