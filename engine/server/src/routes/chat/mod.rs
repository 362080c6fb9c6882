//! `/v1/chat/completions`. Tools, structured output and images have their checks here and nothing else yet.

pub(crate) mod convert;
pub(crate) mod handler;
pub(crate) mod types;
pub(crate) mod validate;
