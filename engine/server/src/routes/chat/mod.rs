//! `/v1/chat/completions`: conversations, tools among them. Images are refused.

pub(crate) mod convert;
pub(crate) mod handler;
mod messages;
pub(crate) mod render;
mod tools;
pub(crate) mod types;
pub(crate) mod validate;
pub(crate) mod whole;
