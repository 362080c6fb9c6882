//! One native stream's events, written on the output thread.

use std::sync::Arc;

use agentlm_host::{Finished, RequestError, Sink, Token};
use agentlm_text::Tokenizer;
use bytes::BytesMut;

use super::convert::finish_reason;
use crate::error::ApiError;
use crate::metrics::{Account, Meter};
use crate::stream::Pipe;
use crate::wire;

/// A sink that writes TGI's `StreamResponse` events.
pub(crate) struct NativeStream {
    pub(crate) pipe: Pipe,
    pub(crate) meter: Arc<Meter>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Comes before the final text: the prompt, if the full text was asked for.
    pub(crate) before: String,
    /// The final event has details.
    pub(crate) details: bool,
    /// The seed, if it is sampled.
    pub(crate) seed: Option<u64>,
}

impl Sink for NativeStream {
    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>) {
        // Before the client can know of it.
        if let Some(finished) = end {
            self.meter.succeeded(&Account::from(finished));
        }
        self.pipe.write(end.is_some(), |out| {
            out.extend_from_slice(b"data: {\"index\":");
            wire::integer(out, token.index);
            out.extend_from_slice(b",\"token\":");
            write_token(out, token.id, token.text, token.logprob, token.special);
            if !token.top.is_empty() {
                self.write_top(out, token);
            }
            match end {
                None => out.extend_from_slice(b",\"generated_text\":null,\"details\":null}\n\n"),
                Some(finished) => self.write_end(out, finished),
            }
        });
    }

    fn fail(&mut self, error: &RequestError) {
        self.meter.ended(error);
        self.pipe
            .write(true, |out| ApiError::from(error).write_native_event(out));
    }
}

impl NativeStream {
    fn write_top(&self, out: &mut BytesMut, token: &Token<'_>) {
        out.extend_from_slice(b",\"top_tokens\":[");
        for (rank, top) in token.top.iter().enumerate() {
            if rank > 0 {
                out.extend_from_slice(b",");
            }
            let text = self.tokenizer.token_text(top.id);
            write_token(out, top.id, &text, top.logprob, self.tokenizer.is_special(top.id));
        }
        out.extend_from_slice(b"]");
    }

    fn write_end(&self, out: &mut BytesMut, finished: &Finished) {
        out.extend_from_slice(b",\"generated_text\":\"");
        wire::escaped(out, &self.before);
        wire::escaped(out, &finished.text);
        out.extend_from_slice(b"\",\"details\":");
        if self.details {
            out.extend_from_slice(b"{\"finish_reason\":");
            wire::string(out, finish_reason(finished.reason));
            out.extend_from_slice(b",\"generated_tokens\":");
            wire::integer(out, finished.generated_tokens);
            out.extend_from_slice(b",\"seed\":");
            match self.seed {
                Some(seed) => wire::integer(out, seed),
                None => out.extend_from_slice(b"null"),
            }
            out.extend_from_slice(b",\"input_length\":");
            wire::integer(out, finished.prompt_tokens);
            out.extend_from_slice(b"}");
        } else {
            out.extend_from_slice(b"null");
        }
        out.extend_from_slice(b"}\n\n");
    }
}

fn write_token(out: &mut BytesMut, id: u32, text: &str, logprob: f32, special: bool) {
    out.extend_from_slice(b"{\"id\":");
    wire::integer(out, id);
    out.extend_from_slice(b",\"text\":");
    wire::string(out, text);
    out.extend_from_slice(b",\"logprob\":");
    wire::float(out, logprob);
    out.extend_from_slice(b",\"special\":");
    wire::boolean(out, special);
    out.extend_from_slice(b"}");
}
