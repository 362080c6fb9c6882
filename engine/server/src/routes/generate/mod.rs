//! `/generate` and `/generate_stream`: TGI's own formats, to the letter.

pub(crate) mod convert;
pub(crate) mod describe;
pub(crate) mod handler;
pub(crate) mod stream;
pub(crate) mod types;
pub(crate) mod validate;
