//! The sampler: from logits, sampling records and token history to ids and log-probabilities.
//!
//! Order, TGI's: watermark, repetition penalty, frequency (and presence) penalty, bias, mask of a grammar, end-of-sequence mask,
//! temperature, top-k, top-p, min-p, typical-p; then the largest of `logit + noise` (see [`noise`]). Greedy rows take the largest logit, of equal ones the lowest
//! id, and know no temperature and filters. Log-probabilities are the log-softmax after all that, or of the raw logits where
//! the record says so. NaN counts as minus infinity and plus infinity as the largest finite number. A row without any
//! finite logit is *failed*: its id is [`FAILED`].
//!
//! A sampled id depends on the row's logits, record and history only. Refuses to know the model and text.

mod filter;
mod mask;
pub mod noise;
mod scan;
#[cfg(test)]
mod tests;
mod watermark;

use agentlm_core::arena::flag;
use agentlm_core::results::Layout;
use thiserror::Error;

use crate::isa::Isa;
use crate::rows::SamplingRecord;
pub use mask::{Masks, NoMasks};
use noise::Noise;
use scan::{Candidate, descending, exp_sum, extent, index_of, noisy_max, scale, select_top};

/// In place of a sampled id: the row has no finite logit, so its request cannot go on.
pub const FAILED: u32 = agentlm_core::results::FAILED;
/// In unused cells of the top-n ids; their log-probability is minus infinity.
pub const NONE: u32 = u32::MAX;

/// What a sampler needs to know of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Ids that end a sequence.
    pub eos_ids: Vec<u32>,
    /// Ids that can be sampled: logits past them are ignored. At most the logits' width.
    pub vocab: usize,
    /// Share of the ids that a watermark favours, in (0, 1); TGI's default is 0.5.
    pub watermark_gamma: f32,
    /// What it adds to their logits; TGI's default is 2.
    pub watermark_delta: f32,
}

/// A configuration that does not fit the model.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SamplerError {
    /// The vocabulary is empty or wider than the logits.
    #[error("a vocabulary of {given} ids cannot be sampled from {logits} logits; use 1 to {logits}")]
    Vocab {
        /// Ids given.
        given: usize,
        /// Width of the logits.
        logits: usize,
    },
    /// An end-of-sequence id outside the vocabulary.
    #[error("end-of-sequence id {given} does not exist; the vocabulary has {vocab} ids")]
    Eos {
        /// The id given.
        given: u32,
        /// Ids that exist.
        vocab: usize,
    },
}

impl SamplerConfig {
    /// A sampler of `vocab` ids, with TGI's watermark.
    #[must_use]
    pub fn new(eos_ids: Vec<u32>, vocab: usize) -> Self {
        Self {
            eos_ids,
            vocab,
            watermark_gamma: 0.5,
            watermark_delta: 2.0,
        }
    }

    /// Checks the configuration against the width of the logits.
    ///
    /// # Errors
    /// [`SamplerError`] naming the number that does not fit.
    pub fn check(&self, logits: usize) -> Result<(), SamplerError> {
        if self.vocab == 0 || self.vocab > logits {
            return Err(SamplerError::Vocab {
                given: self.vocab,
                logits,
            });
        }
        match self.eos_ids.iter().find(|&&id| id as usize >= self.vocab) {
            Some(&given) => Err(SamplerError::Eos {
                given,
                vocab: self.vocab,
            }),
            None => Ok(()),
        }
    }
}

/// Memory of one worker.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// How often each id occurs; all zero between rows.
    counts: Vec<u32>,
    raw: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Scratch {
    pub(crate) fn new(vocab: usize) -> Self {
        Self {
            counts: vec![0; vocab],
            raw: vec![0.0; vocab],
            candidates: Vec::with_capacity(vocab),
        }
    }
}

/// One row to sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) record: &'a SamplingRecord,
    /// Prompt and output so far; its length is the sampled token's position.
    pub(crate) history: &'a [u32],
    /// What is added to the logits of some ids.
    pub(crate) biases: &'a [(u32, f32)],
    /// One bit an id: whether it may be sampled.
    pub(crate) mask: Option<&'a [u32]>,
}

/// Where one sample's results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    start: *mut u32,
    /// Where the sampled id goes; a score has none.
    id: Option<usize>,
    logprob: usize,
    top_ids: usize,
    top_logprobs: usize,
    cap: usize,
}

// SAFETY: a pointer to a results slot, of which each sample's cells are written by one worker.
unsafe impl Send for Outcome {}
// SAFETY: as above.
unsafe impl Sync for Outcome {}

impl Outcome {
    /// # Safety
    /// `start` holds a slot of the layout, `sample < max_rows`, and nobody else touches the sample's cells.
    pub(crate) unsafe fn of_sample(start: *mut u32, layout: Layout, sample: usize) -> Self {
        let cap = layout.top_cap as usize;
        Self {
            start,
            id: Some(Layout::IDS + sample),
            logprob: layout.logprobs() + sample,
            top_ids: layout.top_ids() + sample * cap,
            top_logprobs: layout.top_logprobs() + sample * cap,
            cap,
        }
    }

    /// # Safety
    /// `start` holds a slot of the layout, `score < max_scores`, and nobody else touches the score's cells.
    pub(crate) unsafe fn of_score(start: *mut u32, layout: Layout, score: usize) -> Self {
        let cap = layout.top_cap as usize;
        Self {
            start,
            id: None,
            logprob: layout.score_logprobs() + score,
            top_ids: layout.score_top_ids() + score * cap,
            top_logprobs: layout.score_top_logprobs() + score * cap,
            cap,
        }
    }

    fn set(&self, at: usize, word: u32) {
        // SAFETY: offsets below come from the layout; the constructors' promise.
        unsafe { *self.start.add(at) = word }
    }

    fn chosen(&self, id: u32, logprob: f32) {
        if let Some(at) = self.id {
            self.set(at, id);
        }
        self.set(self.logprob, logprob.to_bits());
    }

    fn top(&self, n: usize, id: u32, logprob: f32) {
        if n < self.cap {
            self.set(self.top_ids + n, id);
            self.set(self.top_logprobs + n, logprob.to_bits());
        }
    }
}

/// A distribution as log-probabilities need it: `value - base` is a log-probability.
struct Normal {
    base: f64,
}

impl Normal {
    fn logprob(&self, value: f32) -> f32 {
        (f64::from(value) - self.base) as f32
    }
}

/// Samples one row; `logits` are overwritten.
///
/// # Safety
/// `isa` is available, and the config was checked against `logits.len()`.
pub(crate) unsafe fn sample(
    isa: Isa,
    config: &SamplerConfig,
    row: Row<'_>,
    logits: &mut [f32],
    scratch: &mut Scratch,
    out: Outcome,
) {
    let record = row.record;
    let logits = &mut logits[..config.vocab];
    // SAFETY: the caller's promise; the scratch holds a vocabulary.
    unsafe {
        let mut largest = clean(isa, logits);
        let wanted = record.has(flag::LOGPROBS) || record.top_n > 0;
        let raw = wanted && record.has(flag::RAW_LOGPROBS);
        let mut normal = None;
        if raw && largest > f32::NEG_INFINITY {
            scratch.raw.copy_from_slice(logits);
            normal = Some(Normal {
                base: f64::from(largest) + exp_sum(isa, logits, largest).ln(),
            });
        }
        let marked = watermark::favour(config, record, row.history, logits);
        let penalised = penalise(record, row.history, logits, &mut scratch.counts);
        for &(id, bias) in row.biases {
            // Ids past the vocabulary cannot be sampled anyway.
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        // Where a grammar allows nothing but the end, the end comes.
        let must_end = row
            .mask
            .is_some_and(|mask| mask::apply(mask, &config.eos_ids, logits));
        let ended = !must_end && mask_eos(config, record, row.history.len(), logits);
        if marked || penalised || ended || row.mask.is_some() || !row.biases.is_empty() {
            largest = clean(isa, logits);
        }
        let Some(first) = index_of(logits, largest).filter(|_| largest > f32::NEG_INFINITY) else {
            out.chosen(FAILED, f32::NEG_INFINITY);
            top_n(record.top_n, &mut [], &Normal { base: 0.0 }, out);
            return;
        };
        let mut kept = None;
        let id = if record.greedy() {
            first as u32
        } else {
            scale(isa, logits, largest, record.temperature);
            largest = 0.0;
            let start = Candidate {
                value: 0.0,
                id: first as u32,
            };
            let noise = Noise {
                seed: record.seed,
                position: row.history.len() as u32,
                sample_index: record.sample_index,
            };
            if filter::any(record, logits.len()) {
                filter::keep(isa, logits, record, &mut scratch.candidates);
                kept = Some(());
                noisy_of(&scratch.candidates, &noise)
            } else {
                noisy_max(isa, logits, start, &noise)
            }
        };
        if !wanted {
            out.chosen(id, 0.0);
            return;
        }
        let n = record.top_n as usize;
        match (normal, kept) {
            (Some(normal), _) => {
                out.chosen(id, normal.logprob(scratch.raw[id as usize]));
                select_top(isa, &scratch.raw, n, &mut scratch.candidates);
                top_n(record.top_n, &mut scratch.candidates, &normal, out);
            }
            (None, Some(())) => {
                let total: f64 = scratch.candidates.iter().map(|c| f64::from(c.value).exp()).sum();
                let normal = Normal { base: total.ln() };
                out.chosen(id, normal.logprob(logits[id as usize]));
                top_n(record.top_n, &mut scratch.candidates, &normal, out);
            }
            (None, None) => {
                let normal = Normal {
                    base: f64::from(largest) + exp_sum(isa, logits, largest).ln(),
                };
                out.chosen(id, normal.logprob(logits[id as usize]));
                select_top(isa, logits, n, &mut scratch.candidates);
                top_n(record.top_n, &mut scratch.candidates, &normal, out);
            }
        }
    }
}

/// Writes the log-probability of `token` by the model's own logits, and the `wanted` most likely tokens; `logits` are overwritten.
///
/// # Safety
/// As for [`sample`]; `token` is below the logits' width.
pub(crate) unsafe fn score(
    isa: Isa,
    config: &SamplerConfig,
    token: u32,
    wanted: u32,
    logits: &mut [f32],
    scratch: &mut Scratch,
    out: Outcome,
) {
    let logits = &mut logits[..config.vocab];
    // SAFETY: the caller's promise; the scratch holds a vocabulary.
    unsafe {
        let largest = clean(isa, logits);
        let Some(&logit) = logits.get(token as usize).filter(|_| largest > f32::NEG_INFINITY) else {
            out.chosen(token, f32::NAN);
            top_n(wanted, &mut [], &Normal { base: 0.0 }, out);
            return;
        };
        let normal = Normal {
            base: f64::from(largest) + exp_sum(isa, logits, largest).ln(),
        };
        out.chosen(token, normal.logprob(logit));
        select_top(isa, logits, wanted as usize, &mut scratch.candidates);
        top_n(wanted, &mut scratch.candidates, &normal, out);
    }
}

/// Gives the largest logit, after replacing NaN by minus infinity and plus infinity by the largest finite number.
unsafe fn clean(isa: Isa, logits: &mut [f32]) -> f32 {
    // SAFETY: the caller has the instruction set.
    let found = unsafe { extent(isa, logits) };
    if !found.odd {
        return found.largest;
    }
    for x in logits.iter_mut() {
        *x = if x.is_nan() {
            f32::NEG_INFINITY
        } else {
            x.min(f32::MAX)
        };
    }
    // SAFETY: as above.
    unsafe { extent(isa, logits) }.largest
}

/// Applies the penalties; tells whether a logit changed.
fn penalise(record: &SamplingRecord, history: &[u32], logits: &mut [f32], counts: &mut [u32]) -> bool {
    let openai = record.has(flag::OPENAI_PENALTIES);
    let repetition = record.repetition_penalty;
    let frequency = record.frequency_penalty;
    let presence = if openai { record.presence_penalty } else { 0.0 };
    if repetition == 1.0 && frequency == 0.0 && presence == 0.0 {
        return false;
    }
    // Each distinct id once: the count is taken out when it is used, which also leaves the counts zero.
    let mut each = |ids: &[u32], apply: &mut dyn FnMut(&mut f32, f32)| {
        for &id in ids {
            if let Some(count) = counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        for &id in ids {
            if let Some(count) = counts.get_mut(id as usize)
                && *count > 0
            {
                apply(&mut logits[id as usize], *count as f32);
                *count = 0;
            }
        }
    };
    if openai {
        if repetition != 1.0 {
            each(history, &mut |x, _| repeat(x, repetition));
        }
        let generated = &history[(record.n_prompt as usize).min(history.len())..];
        each(generated, &mut |x, count| *x -= frequency * count + presence);
    } else {
        let length = history.len() as f32;
        each(history, &mut |x, count| {
            repeat(x, repetition);
            *x -= frequency * (count / length);
        });
    }
    true
}

fn repeat(x: &mut f32, penalty: f32) {
    *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
}

/// Masks the end-of-sequence ids where the record asks for it; tells whether it did.
fn mask_eos(config: &SamplerConfig, record: &SamplingRecord, position: usize, logits: &mut [f32]) -> bool {
    let generated = position.saturating_sub(record.n_prompt as usize);
    let mask = record.has(flag::BAN_EOS) || generated < record.min_new_tokens as usize;
    if mask {
        for &id in &config.eos_ids {
            logits[id as usize] = f32::NEG_INFINITY;
        }
    }
    mask && !config.eos_ids.is_empty()
}

/// The candidate with the largest value plus noise; of equal ones the lowest id.
fn noisy_of(kept: &[Candidate], noise: &Noise) -> u32 {
    let mut best = Candidate {
        value: f32::NEG_INFINITY,
        id: u32::MAX,
    };
    for candidate in kept.iter().filter(|c| c.value > f32::NEG_INFINITY) {
        if candidate.value + noise::LARGEST < best.value {
            continue;
        }
        let value = candidate.value + noise.gumbel(candidate.id);
        if value > best.value || (value == best.value && candidate.id < best.id) {
            best = Candidate {
                value,
                id: candidate.id,
            };
        }
    }
    best.id
}

/// Writes the `wanted` top-n cells: the largest candidates, then [`NONE`].
fn top_n(wanted: u32, candidates: &mut [Candidate], normal: &Normal, out: Outcome) {
    let n = (wanted as usize).min(candidates.len());
    if n > 0 && n < candidates.len() {
        candidates.select_nth_unstable_by(n - 1, descending);
    }
    candidates[..n].sort_unstable_by(descending);
    for (i, candidate) in candidates[..n].iter().enumerate() {
        out.top(i, candidate.id, normal.logprob(candidate.value));
    }
    for i in n..wanted as usize {
        out.top(i, NONE, f32::NEG_INFINITY);
    }
}
