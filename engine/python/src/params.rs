//! Reads `agentlm.SamplingParams` from Python.

use std::collections::BTreeMap;

use agentlm_core::params::SamplingParams;
use pyo3::prelude::*;

/// The attributes of the Python class, read by name.
#[derive(FromPyObject)]
pub struct PySamplingParams {
    max_new_tokens: Option<u32>,
    min_new_tokens: u32,
    ignore_eos: bool,
    temperature: f32,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
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
            temperature: self.temperature,
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            typical_p: self.typical_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
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
