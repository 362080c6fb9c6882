//! What the two `/v1` generating routes share: sampling fields, names, usage, log-probabilities, streams.

pub(crate) mod answer;
pub(crate) mod describe;
pub(crate) mod format;
pub(crate) mod logprobs;
pub(crate) mod names;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod sampling;
pub(crate) mod stream;
