//! Reads `agentlm.SamplingParams` from Python.

use std::collections::BTreeMap;

use agentlm_core::params::{SamplingParams, narrow};
use pyo3::prelude::*;

/// The attributes of the Python class, read by name.
#[derive(FromPyObject)]
pub struct PySamplingParams {
    max_new_tokens: Option<u32>,
    min_new_tokens: u32,
    ignore_eos: bool,
    temperature: f64,
    top_k: Option<u32>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    typical_p: Option<f64>,
    repetition_penalty: f64,
    frequency_penalty: f64,
    presence_penalty: f64,
    seed: Option<u64>,
    stop: Vec<String>,
    logprobs: bool,
    top_n_tokens: u32,
    logit_bias: Option<BTreeMap<u32, f32>>,
    watermark: bool,
    prompt_logprobs: bool,
}

impl PySamplingParams {
    /// The core's parameters; `seed` stands in where none was given.
    pub fn into_params(self, seed: u64, sample_index: u32) -> SamplingParams {
        SamplingParams {
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            ignore_eos: self.ignore_eos,
            temperature: narrow(self.temperature),
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p.map_or(1.0, narrow),
            min_p: self.min_p.map_or(0.0, narrow),
            typical_p: self.typical_p.map_or(1.0, narrow),
            repetition_penalty: narrow(self.repetition_penalty),
            frequency_penalty: narrow(self.frequency_penalty),
            presence_penalty: narrow(self.presence_penalty),
            openai_penalties: true,
            seed: self.seed.unwrap_or(seed),
            sample_index,
            stop: self.stop,
            logprobs: self.logprobs || self.top_n_tokens > 0,
            raw_logprobs: true,
            top_n_tokens: self.top_n_tokens,
            logit_bias: self.logit_bias.unwrap_or_default().into_iter().collect(),
            watermark: self.watermark,
            prompt_logprobs: self.prompt_logprobs,
        }
    }

    /// Whether the caller wants a log-probability with each token.
    pub fn wants_logprobs(&self) -> bool {
        self.logprobs || self.top_n_tokens > 0
    }
}
