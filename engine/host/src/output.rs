//! The output thread: turns committed tokens into text and events, and finds the ends that only text can show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use agentlm_core::{FinishReason, RequestId, Updates};
use agentlm_text::{Piece, TextStream};
use crossbeam_channel::Sender;
use rustc_hash::FxHashMap;

use crate::event::{Finished, PromptToken, RequestError, Sink, Timing, Token};
use crate::handle::{Command, Shared};
use crate::queue::Receiver;
use crate::waiting::Waiting;

/// What reaches the output thread, in order.
pub(crate) enum OutputMessage {
    /// A request is on its way to the engine.
    Open(RequestId, Box<Stream>),
    /// One step's committed tokens; the buffer goes back by the recycling channel.
    Batch {
        /// What the step brought.
        updates: Box<Updates>,
        /// When it was planned.
        planned: Instant,
    },
    /// A request ended without an answer.
    End(RequestId, RequestError),
    /// Every request ends without an answer.
    EndAll(RequestError),
    /// The engine is closed; the thread ends.
    Stop,
}

/// One request on the output side.
pub(crate) struct Stream {
    text: TextStream,
    sink: Box<dyn Sink>,
    ended: Arc<AtomicBool>,
    prompt_tokens: u32,
    cached_tokens: u32,
    generated: u32,
    /// The prompt's tokens as far as they are scored, if they are to be told.
    prompt: Option<Vec<PromptToken>>,
    submitted: Instant,
    /// A step has included it.
    started: bool,
    timing: Timing,
}

impl Stream {
    /// `scored` is the first token of a prompt that is to be scored.
    pub fn new(
        text: TextStream,
        sink: Box<dyn Sink>,
        prompt_tokens: u32,
        scored: Option<u32>,
        ended: Arc<AtomicBool>,
    ) -> Self {
        let first = |id| PromptToken {
            id,
            logprob: None,
            top: Vec::new(),
        };
        Self {
            prompt: scored.map(|id| vec![first(id)]),
            text,
            sink,
            ended,
            prompt_tokens,
            cached_tokens: 0,
            generated: 0,
            submitted: Instant::now(),
            started: false,
            timing: Timing::default(),
        }
    }

    fn finished(&mut self, reason: FinishReason, stop: Option<usize>) -> Finished {
        self.timing.total = self.submitted.elapsed();
        Finished {
            reason,
            generated_tokens: self.generated,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            text: self.text.text().to_owned(),
            stop,
            timing: self.timing,
        }
    }
}

impl Drop for Stream {
    /// An opening that nobody took any more.
    fn drop(&mut self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.sink.fail(&RequestError::Closed);
        }
    }
}

/// The thread's own state.
pub(crate) struct OutputStage {
    streams: FxHashMap<RequestId, Box<Stream>>,
    waiting: Waiting,
    shared: Arc<Shared>,
    recycle: Sender<Box<Updates>>,
    piece: Piece,
    tail: String,
    /// Set when the engine has failed or was closed: whoever comes later hears the same.
    failed: Option<RequestError>,
}

impl OutputStage {
    pub fn new(shared: Arc<Shared>, recycle: Sender<Box<Updates>>) -> Self {
        Self {
            streams: FxHashMap::default(),
            waiting: Waiting::default(),
            shared,
            recycle,
            piece: Piece::default(),
            tail: String::new(),
            failed: None,
        }
    }

    /// Serves messages until [`OutputMessage::Stop`].
    pub fn run(mut self, messages: &Receiver<OutputMessage>) {
        loop {
            match messages.recv() {
                OutputMessage::Open(id, stream) => match &self.failed {
                    None => {
                        self.waiting.push(id, stream.submitted);
                        self.streams.insert(id, stream);
                    }
                    Some(error) => self.close(stream, error),
                },
                OutputMessage::Batch {
                    updates: batch,
                    planned,
                } => {
                    self.deliver(&batch, planned);
                    // A closed channel only means that the engine thread has ended.
                    let _ = self.recycle.send(batch);
                }
                OutputMessage::End(id, error) => {
                    if let Some(stream) = self.streams.remove(&id) {
                        self.close(stream, &error);
                    }
                }
                OutputMessage::EndAll(error) => {
                    self.end_all(&error);
                    self.failed = Some(error);
                }
                OutputMessage::Stop => break,
            }
            self.publish_waiting();
        }
        let error = self.failed.take().unwrap_or(RequestError::Closed);
        self.end_all(&error);
        // Streams whose opening was still on its way end too.
        while let Some(message) = messages.try_recv() {
            if let OutputMessage::Open(_, stream) = message {
                self.close(stream, &error);
            }
        }
    }

    /// Tells since when the oldest request without a first step has waited.
    fn publish_waiting(&mut self) {
        let waits = |request: RequestId| {
            let stream = self.streams.get(&request);
            stream.is_some_and(|stream| !stream.started)
        };
        let since = self.waiting.since(waits).map_or(0, |submitted| {
            let since = submitted.saturating_duration_since(self.shared.epoch);
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1) + 1
        });
        self.shared.oldest_waiting.store(since, Ordering::Relaxed);
    }

    fn end_all(&mut self, error: &RequestError) {
        for (_, stream) in std::mem::take(&mut self.streams) {
            self.close(stream, error);
        }
    }

    fn close(&self, mut stream: Box<Stream>, error: &RequestError) {
        stream.ended.store(true, Ordering::Release);
        self.shared.unfinished.fetch_sub(1, Ordering::AcqRel);
        stream.sink.fail(error);
    }

    fn deliver(&mut self, batch: &Updates, planned: Instant) {
        for start in &batch.started {
            if let Some(stream) = self.streams.get_mut(&start.request) {
                stream.timing.queue = planned.saturating_duration_since(stream.submitted);
                stream.started = true;
                stream.cached_tokens = start.cached_tokens;
            }
        }
        for score in &batch.scores {
            if let Some(stream) = self.streams.get_mut(&score.request)
                && let Some(prompt) = &mut stream.prompt
            {
                prompt.push(PromptToken {
                    id: score.token,
                    logprob: Some(score.logprob),
                    top: batch.score_top(score).to_vec(),
                });
            }
        }
        for update in &batch.tokens {
            // Tokens past a stop string, or past an abort, have no stream any more.
            let Some(stream) = self.streams.get_mut(&update.request) else {
                continue;
            };
            stream.generated += 1;
            if stream.generated == 1 {
                stream.timing.first_token = stream.submitted.elapsed();
                if let Some(prompt) = stream.prompt.take() {
                    stream.sink.prompt(&prompt);
                }
            }
            let hit = stream.text.push(update.token, &mut self.piece);
            // As in TGI, the length and the end of sequence come first; the core has counted them.
            let reason = update.finish.or(hit.as_ref().map(|_| FinishReason::StopSequence));
            let stop = hit.as_ref().map(|hit| hit.index);
            if reason.is_some() && hit.is_none() {
                self.tail.clear();
                stream.text.finish(&mut self.tail);
                self.piece.delta.push_str(&self.tail);
            }
            let token = Token {
                index: stream.generated,
                id: update.token,
                text: &self.piece.token_text,
                delta: &self.piece.delta,
                logprob: update.logprob,
                special: self.shared.tokenizer.is_special(update.token),
                top: batch.top(update),
            };
            let Some(reason) = reason else {
                stream.sink.token(&token, None);
                continue;
            };
            if hit.is_some() && update.finish.is_none() {
                let finish = Command::Finish {
                    id: update.request,
                    at_token: stream.generated,
                };
                // The engine thread may have ended already; then the request has too.
                let _ = self.shared.commands.send(finish);
            }
            let finished = stream.finished(reason, stop);
            // Whoever hears of the end may look at the counters at once, so they are set first.
            if let Some(mut stream) = self.streams.remove(&update.request) {
                stream.ended.store(true, Ordering::Release);
                self.shared.unfinished.fetch_sub(1, Ordering::AcqRel);
                stream.sink.token(&token, Some(&finished));
            }
        }
        for request in &batch.failed {
            if let Some(stream) = self.streams.remove(request) {
                let why = "the model's logits for this request hold no finite number";
                self.close(stream, &RequestError::Generation(why.to_owned()));
            }
        }
    }
}
