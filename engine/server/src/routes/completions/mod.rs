//! `/v1/completions`: raw prompts, several at once, as text or as token ids.

pub(crate) mod convert;
pub(crate) mod echo;
pub(crate) mod handler;
mod prompt_only;
pub(crate) mod types;
pub(crate) mod validate;
