//! The events of a `/v1` stream: one sink a choice, one group a request. Written on the output thread.

use std::sync::Arc;

use agentlm_host::{Finished, PromptToken, RequestError, Sink, Timing, Token};
use agentlm_text::Tokenizer;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::answer::{Identity, Usage, finish_reason};
use super::logprobs::Form;
use super::names::{Sent, worded};
use crate::config::V1Dialect;
use crate::error::ApiError;
use crate::metrics::{Account, Meter};
use crate::stream::Pipe;
use crate::wire;

/// Which of the two routes an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Chat,
    Completions,
}

/// What the choices of one request share.
pub(crate) struct Group {
    route: Route,
    dialect: V1Dialect,
    identity: Identity,
    include_usage: bool,
    pipe: Pipe,
    meter: Arc<Meter>,
    tokenizer: Arc<Tokenizer>,
    sums: Mutex<Sums>,
}

/// Grows as choices end.
struct Sums {
    unfinished: usize,
    prompt: u32,
    completion: u32,
    cached: u32,
    slowest: Timing,
}

/// One choice's sink.
pub(crate) struct ChoiceStream {
    group: Arc<Group>,
    index: u32,
    /// The prompt counts for usage with its first choice.
    counts_prompt: bool,
    logprobs: Form,
    /// The fixed bytes before the text: of the first event, of the later ones.
    first: Option<Bytes>,
    later: Bytes,
    /// What the first event says before its text.
    echo: String,
    /// The fixed bytes after `finish_reason`.
    tail: Bytes,
}

impl Group {
    pub(crate) fn new(
        (route, dialect, identity): (Route, V1Dialect, Identity),
        include_usage: bool,
        choices: usize,
        pipe: Pipe,
        meter: Arc<Meter>,
        tokenizer: Arc<Tokenizer>,
    ) -> Arc<Self> {
        let sums = Sums {
            unfinished: choices,
            prompt: 0,
            completion: 0,
            cached: 0,
            slowest: Timing::default(),
        };
        Arc::new(Self {
            route,
            dialect,
            identity,
            include_usage,
            pipe,
            meter,
            tokenizer,
            sums: Mutex::new(sums),
        })
    }

    /// The sink of choice `index`. `echo` comes before its text.
    pub(crate) fn choice(
        self: &Arc<Self>,
        index: u32,
        counts_prompt: bool,
        logprobs: Form,
        echo: &str,
    ) -> ChoiceStream {
        let (mut first, mut later, mut tail) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        for (out, is_first) in [(&mut first, true), (&mut later, false)] {
            self.write_choice(out, index);
            match self.route {
                Route::Chat => {
                    // OpenAI names the role once; TGI's own client wants it in each event.
                    if is_first || self.dialect == V1Dialect::Tgi {
                        out.extend_from_slice(b"\"role\":\"assistant\",");
                    }
                    out.extend_from_slice(b"\"content\":\"");
                }
                Route::Completions => out.extend_from_slice(b",\"text\":\""),
            }
            if is_first {
                wire::escaped(out, echo);
            }
        }
        match self.route {
            Route::Chat => tail.extend_from_slice(b"}],\"usage\":null}\n\n"),
            Route::Completions => {
                tail.extend_from_slice(b"}]");
                self.write_origin(&mut tail);
                if self.include_usage {
                    tail.extend_from_slice(b",\"usage\":null");
                }
                tail.extend_from_slice(b"}\n\n");
            }
        }
        ChoiceStream {
            group: self.clone(),
            index,
            counts_prompt,
            logprobs,
            first: Some(first.freeze()),
            later: later.freeze(),
            echo: echo.to_owned(),
            tail: tail.freeze(),
        }
    }

    /// The wording of the events.
    pub(crate) fn dialect(&self) -> V1Dialect {
        self.dialect
    }

    /// What tells likely tokens' texts.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Lets `write` write a token's events; after the last token of the last choice the stream's end follows. `end`
    /// counts a choice as ended.
    pub(crate) fn emit(
        &self,
        end: Option<&Finished>,
        counts_prompt: bool,
        write: impl FnOnce(&mut BytesMut),
    ) {
        let over = end.and_then(|finished| self.ended(finished, counts_prompt));
        // Before the client can know of it.
        if let (Some((usage, slowest)), Some(finished)) = (&over, end) {
            self.meter.succeeded(&Account {
                timing: *slowest,
                prompt_tokens: usage.prompt_tokens,
                generated_tokens: usage.completion_tokens,
                reason: finished.reason,
            });
        }
        self.pipe.write(over.is_some(), |out| {
            write(out);
            if let Some((usage, _)) = &over {
                self.write_end(out, usage);
            }
        });
    }

    /// Ends the stream with an error.
    pub(crate) fn fail(&self, error: &RequestError) {
        self.meter.ended(error);
        let error = worded(ApiError::from(error), self.route, self.dialect, Sent::default());
        self.pipe
            .write(true, |out| error.write_v1_event(out, self.dialect));
    }

    /// An event up to what a choice says; in chat, up to the inside of its delta.
    pub(crate) fn write_choice(&self, out: &mut BytesMut, index: u32) {
        self.write_head(out);
        out.extend_from_slice(b",\"choices\":[{\"index\":");
        wire::integer(out, index);
        if self.route == Route::Chat {
            out.extend_from_slice(b",\"delta\":{");
        }
    }

    /// `data: {"object":…,"id":…,"created":…`, and for chat the model too: TGI orders the two routes differently.
    fn write_head(&self, out: &mut BytesMut) {
        out.extend_from_slice(match self.route {
            Route::Chat => b"data: {\"object\":\"chat.completion.chunk\",\"id\":",
            Route::Completions => b"data: {\"object\":\"text_completion\",\"id\":",
        });
        wire::string(out, &self.identity.id);
        out.extend_from_slice(b",\"created\":");
        wire::integer(out, self.identity.created);
        if self.route == Route::Chat {
            self.write_origin(out);
        }
    }

    fn write_origin(&self, out: &mut BytesMut) {
        out.extend_from_slice(b",\"model\":");
        wire::string(out, &self.identity.model);
        out.extend_from_slice(b",\"system_fingerprint\":");
        wire::string(out, &self.identity.fingerprint);
    }

    /// What follows the last choice's last event.
    fn write_end(&self, out: &mut BytesMut, usage: &Usage) {
        if self.include_usage {
            self.write_head(out);
            if self.route == Route::Completions {
                self.write_origin(out);
            }
            out.extend_from_slice(b",\"choices\":[],\"usage\":");
            usage.write(out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// Counts an ended choice; the whole request's usage and slowest choice when it was the last.
    fn ended(&self, finished: &Finished, counts_prompt: bool) -> Option<(Usage, Timing)> {
        let mut sums = self.sums.lock();
        sums.unfinished = sums.unfinished.saturating_sub(1);
        sums.completion += finished.generated_tokens;
        if counts_prompt {
            sums.prompt += finished.prompt_tokens;
            sums.cached += finished.cached_tokens;
        }
        if finished.timing.total > sums.slowest.total {
            sums.slowest = finished.timing;
        }
        let usage = Usage::new(self.dialect, sums.prompt, sums.completion, sums.cached);
        (sums.unfinished == 0).then_some((usage, sums.slowest))
    }
}

impl ChoiceStream {
    /// TGI's last event of a prompt of `/v1/completions`: other order, the raw reason, the prompt's own usage.
    fn write_tgi_completion_end(&mut self, out: &mut BytesMut, token: &Token<'_>, finished: &Finished) {
        self.group.write_head(out);
        self.group.write_origin(out);
        out.extend_from_slice(b",\"choices\":[{\"index\":");
        wire::integer(out, self.index);
        out.extend_from_slice(b",\"text\":\"");
        if self.first.take().is_some() {
            wire::escaped(out, &self.echo);
        }
        wire::escaped(out, token.text);
        out.extend_from_slice(b"\",\"logprobs\":");
        self.logprobs
            .write(out, V1Dialect::Tgi, &self.group.tokenizer, token);
        out.extend_from_slice(b",\"finish_reason\":");
        wire::string(
            out,
            crate::routes::generate::convert::finish_reason(finished.reason),
        );
        out.extend_from_slice(b"}],\"usage\":");
        let usage = Usage::new(
            V1Dialect::Tgi,
            finished.prompt_tokens,
            finished.generated_tokens,
            0,
        );
        usage.write(out);
        out.extend_from_slice(b"}\n\n");
    }

    fn write_event(&mut self, out: &mut BytesMut, text: &str, token: &Token<'_>, end: Option<&Finished>) {
        let (route, dialect) = (self.group.route, self.group.dialect);
        let head = self.first.take();
        out.extend_from_slice(head.as_ref().unwrap_or(&self.later));
        wire::escaped(out, text);
        out.extend_from_slice(match route {
            Route::Chat => b"\"},\"logprobs\":",
            Route::Completions => b"\",\"logprobs\":",
        });
        match &mut self.logprobs {
            Form::Off => out.extend_from_slice(b"null"),
            form => form.write(out, dialect, &self.group.tokenizer, token),
        }
        out.extend_from_slice(b",\"finish_reason\":");
        match end {
            Some(finished) => wire::string(out, finish_reason(dialect, finished)),
            None if route == Route::Completions && dialect == V1Dialect::Tgi => wire::string(out, ""),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(&self.tail);
    }
}

impl Sink for ChoiceStream {
    fn prompt(&mut self, prompt: &[PromptToken]) {
        self.logprobs.prompt(&self.group.tokenizer, prompt);
    }

    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>) {
        let group = self.group.clone();
        let tgi_completion = group.route == Route::Completions && group.dialect == V1Dialect::Tgi;
        // TGI's completions show special tokens too.
        let text = if tgi_completion { token.text } else { token.delta };
        let silent = text.is_empty() && end.is_none();
        if silent && group.dialect == V1Dialect::OpenAi && matches!(self.logprobs, Form::Off) {
            return;
        }
        group.emit(end, self.counts_prompt, |out| match end {
            Some(finished) if tgi_completion => self.write_tgi_completion_end(out, token, finished),
            _ => self.write_event(out, text, token, end),
        });
    }

    fn fail(&mut self, error: &RequestError) {
        self.group.fail(error);
    }
}
