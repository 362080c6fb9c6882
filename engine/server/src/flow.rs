//! The way of a validated request through the engine, common to all routes: submit, hold, collect.

use std::sync::Arc;

use agentlm_core::params::SamplingParams;
use agentlm_host::{AdapterRef, Finished, PromptToken, RequestError, RequestHandle, Sink, Submission, Token};
use agentlm_text::GrammarState;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue};
use tokio::sync::oneshot;

use crate::app::App;
use crate::error::ApiError;
use crate::gate::Places;
use crate::metrics::{Account, Meter};

/// One generation, ready for the engine.
pub(crate) struct Run {
    pub(crate) prompt: Vec<u32>,
    pub(crate) params: SamplingParams,
    /// Whether a stop string stays in the text that it ends.
    pub(crate) keep_stop: bool,
    /// What the text must follow, if anything.
    pub(crate) grammar: Option<GrammarState>,
}

impl Run {
    /// Tokens of the prompt, and the most that come after it.
    pub(crate) fn lengths(&self) -> (usize, u32) {
        (self.prompt.len(), self.params.max_new_tokens.unwrap_or(0))
    }
}

/// What keeps a request alive. Dropping it aborts the runs that have not ended and gives the places back.
#[derive(Default)]
pub(crate) struct Running {
    adapter: AdapterRef,
    handles: Vec<RequestHandle>,
    _places: Option<Places>,
}

impl Running {
    /// Nothing submitted yet, but the places are taken.
    pub(crate) fn holding(places: Places) -> Self {
        Self {
            adapter: AdapterRef::default(),
            handles: Vec::new(),
            _places: Some(places),
        }
    }

    /// Runs submitted from now on use this adapter.
    pub(crate) fn adapt(&mut self, adapter: AdapterRef) {
        self.adapter = adapter;
    }

    /// Submits one run. On an error the runs before it are aborted when `self` is dropped.
    pub(crate) fn submit(&mut self, app: &App, run: Run, sink: impl Sink + 'static) -> Result<(), ApiError> {
        let Run {
            prompt,
            params,
            keep_stop,
            grammar,
        } = run;
        let submission = Submission {
            prompt,
            params,
            keep_stop,
            adapter: self.adapter,
            grammar,
            sink: Box::new(sink),
        };
        self.handles.push(app.engine.submit(submission)?);
        Ok(())
    }
}

/// One generated token, kept for a whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenRecord {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Visible text that it released.
    pub(crate) delta: String,
    pub(crate) logprob: f32,
    pub(crate) special: bool,
    /// Ids and log-probabilities of the most likely tokens.
    pub(crate) top: Vec<(u32, f32)>,
}

/// One run's whole output.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The prompt's tokens, if they were to be scored.
    pub(crate) prompt: Vec<PromptToken>,
    /// Empty unless the collector was told to keep them.
    pub(crate) tokens: Vec<TokenRecord>,
    /// Sum of the tokens' log-probabilities.
    pub(crate) logprob: f64,
    pub(crate) finished: Finished,
}

impl Output {
    /// Mean log-probability of a token.
    pub(crate) fn mean_logprob(&self) -> f64 {
        self.logprob / f64::from(self.finished.generated_tokens.max(1))
    }
}

/// A sink that waits for the end.
pub(crate) struct Collector {
    keep_tokens: bool,
    prompt: Vec<PromptToken>,
    tokens: Vec<TokenRecord>,
    logprob: f64,
    done: Option<oneshot::Sender<Result<Output, RequestError>>>,
}

/// The other end of a [`Collector`].
pub(crate) struct Collected {
    output: oneshot::Receiver<Result<Output, RequestError>>,
}

impl Collector {
    /// A collector that keeps each token if `keep_tokens`.
    pub(crate) fn new(keep_tokens: bool) -> (Self, Collected) {
        let (done, output) = oneshot::channel();
        (
            Self {
                keep_tokens,
                prompt: Vec::new(),
                tokens: Vec::new(),
                logprob: 0.0,
                done: Some(done),
            },
            Collected { output },
        )
    }
}

impl Collected {
    /// Waits for the run's end.
    pub(crate) async fn output(self) -> Result<Output, ApiError> {
        match self.output.await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(ApiError::from(&error)),
            Err(_) => Err(ApiError::Incomplete),
        }
    }
}

impl Sink for Collector {
    fn prompt(&mut self, prompt: &[PromptToken]) {
        self.prompt = prompt.to_vec();
    }

    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>) {
        self.logprob += f64::from(token.logprob);
        if self.keep_tokens {
            self.tokens.push(TokenRecord {
                id: token.id,
                text: token.text.to_owned(),
                delta: token.delta.to_owned(),
                logprob: token.logprob,
                special: token.special,
                top: token.top.iter().map(|top| (top.id, top.logprob)).collect(),
            });
        }
        if let (Some(finished), Some(done)) = (end, self.done.take_if(|_| end.is_some())) {
            let tokens = std::mem::take(&mut self.tokens);
            // A receiver that is gone has stopped caring.
            let _ = done.send(Ok(Output {
                prompt: std::mem::take(&mut self.prompt),
                tokens,
                logprob: self.logprob,
                finished: finished.clone(),
            }));
        }
    }

    fn fail(&mut self, error: &RequestError) {
        if let Some(done) = self.done.take() {
            // As above.
            let _ = done.send(Err(error.clone()));
        }
    }
}

/// Settles the account of a whole answer, `n` runs of each prompt in a row, and gives its `x-…` headers. Tokens are sums,
/// times the slowest run's: TGI adds up those of several prompts, which here run side by side.
pub(crate) fn settle(app: &App, meter: &Meter, characters: usize, outputs: &[Output], n: u32) -> HeaderMap {
    let Some(slowest) = outputs.iter().max_by_key(|output| output.finished.timing.total) else {
        return HeaderMap::new();
    };
    let timing = slowest.finished.timing;
    let generated: u32 = outputs
        .iter()
        .map(|output| output.finished.generated_tokens)
        .sum();
    let prompt: u32 = outputs
        .iter()
        .step_by(n.max(1) as usize)
        .map(|output| output.finished.prompt_tokens)
        .sum();
    meter.succeeded(&Account {
        timing,
        prompt_tokens: prompt,
        generated_tokens: generated,
        reason: slowest.finished.reason,
    });
    let total = meter.total_time();
    let inference = timing.total.saturating_sub(timing.queue);
    let mut headers = HeaderMap::new();
    if let Ok(kind) = HeaderValue::from_str(&app.config.compute_type) {
        headers.insert("x-compute-type", kind);
    }
    if let Ok(seconds) = HeaderValue::from_str(&total.as_secs_f64().to_string()) {
        headers.insert("x-compute-time", seconds);
    }
    let integers = [
        ("x-compute-characters", characters as u128),
        ("x-total-time", total.as_millis()),
        ("x-validation-time", meter.validation_time().as_millis()),
        ("x-queue-time", timing.queue.as_millis()),
        ("x-inference-time", inference.as_millis()),
        (
            "x-time-per-token",
            (inference / slowest.finished.generated_tokens.max(1)).as_millis(),
        ),
        ("x-prompt-tokens", u128::from(prompt)),
        ("x-generated-tokens", u128::from(generated)),
    ];
    for (name, value) in integers {
        headers.insert(name, HeaderValue::from(u64::try_from(value).unwrap_or(u64::MAX)));
    }
    headers
}

/// One account per HTTP request; its record tells the log how it went.
pub(crate) fn meter(app: &App, request: &Request) -> Arc<Meter> {
    let record = request.extensions().get().cloned();
    Arc::new(Meter::new(app.metrics.clone(), record))
}
