//! The HTTP server as Python sees it.

use std::time::Duration;

use agentlm_server::{RunningServer, ServerConfig, V1Dialect};
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
    /// wording of the /v1 routes: "openai" or "tgi"; another raises `ConfigError`.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    #[pyo3(signature = (engine, tokenizer, template, *, hostname, port, model_id, model_sha,
                        max_concurrent_requests, max_client_batch_size, payload_limit, api_keys, cors_allow_origin,
                        validation_workers, http_workers, compute_type, api_dialect="openai"))]
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
    ) -> PyResult<Self> {
        let v1_dialect = api_dialect
            .parse::<V1Dialect>()
            .map_err(|error| errors::raise("ConfigError", error))?;
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
            ..ServerConfig::new(model_id)
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

    /// The address that is listened on, as "host:port".
    #[getter]
    fn address(&self) -> String {
        self.running.local_addr().to_string()
    }

    /// Stops accepting; requests in flight have `grace` seconds to finish.
    fn begin_shutdown(&self, grace: f64) {
        let grace = Duration::try_from_secs_f64(grace.max(0.0)).unwrap_or(Duration::from_secs(1 << 30));
        self.running.begin_shutdown(grace);
    }

    /// Blocks until the server is closed, after `begin_shutdown`.
    fn wait(&self, py: Python<'_>) {
        py.detach(|| self.running.wait());
    }
}
