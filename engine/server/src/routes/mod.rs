//! One folder a route that generates: types / validate / convert / handler / stream. The small ones are one file.

pub(crate) mod adapter;
pub(crate) mod chat;
pub(crate) mod compat;
pub(crate) mod completions;
pub(crate) mod docs;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod info;
pub(crate) mod invocations;
pub(crate) mod models;
pub(crate) mod openai;
pub(crate) mod operate;
pub(crate) mod tokenize;
pub(crate) mod vertex;

/// The caps of the tests.
#[cfg(test)]
const LIMITS: agentlm_core::params::Limits = agentlm_core::params::Limits {
    max_input_tokens: 100,
    max_total_tokens: 200,
    max_stop_sequences: 4,
    max_top_n_tokens: 5,
    max_best_of: 2,
};
