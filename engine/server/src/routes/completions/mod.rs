//! `/v1/completions`: raw prompts, several at once, as text or as token ids.

pub(crate) mod convert;
pub(crate) mod handler;
pub(crate) mod types;
pub(crate) mod validate;
