//! What a caller may ask of the sampler and of a request's end, validated here and nowhere else.
//!
//! Error texts are TGI's where TGI has one: clients match them.

use thiserror::Error;

/// Server-wide caps on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest prompt, in tokens.
    pub max_input_tokens: u32,
    /// Longest prompt + output, in tokens.
    pub max_total_tokens: u32,
    /// Most stop strings.
    pub max_stop_sequences: u32,
    /// Most top-n log-probabilities.
    pub max_top_n_tokens: u32,
    /// Most runs of one request (`best_of`, `n`).
    pub max_best_of: u32,
}

/// How one request is sampled and when it ends. Plain data; [`SamplingParams::validate`] checks it once.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Most tokens to generate; `None` fills up to `max_total_tokens`.
    pub max_new_tokens: Option<u32>,
    /// End-of-sequence is not sampled before this many tokens.
    pub min_new_tokens: u32,
    /// An end-of-sequence id does not end the request.
    pub ignore_eos: bool,
    /// 0 is greedy; otherwise in [[`SMALLEST_FACTOR`], [`LARGEST_FACTOR`]].
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// In (0, 1]; 1 is off.
    pub top_p: f32,
    /// In [0, 1); 0 is off.
    pub min_p: f32,
    /// In (0, 1]; 1 is off.
    pub typical_p: f32,
    /// In [[`SMALLEST_FACTOR`], [`LARGEST_FACTOR`]]; 1 is off.
    pub repetition_penalty: f32,
    /// In [-2, 2]; 0 is off.
    pub frequency_penalty: f32,
    /// In [-2, 2]; 0 is off.
    pub presence_penalty: f32,
    /// Penalties by OpenAI's formulas (`/v1`, Python) rather than TGI's.
    pub openai_penalties: bool,
    /// Seed of the sampling noise.
    pub seed: u64,
    /// Which of several runs of one prompt this is; part of the noise.
    pub sample_index: u32,
    /// Strings that end the request wherever they appear in the text.
    pub stop: Vec<String>,
    /// Report the log-probability of each token.
    pub logprobs: bool,
    /// Log-probabilities from raw logits rather than after processing.
    pub raw_logprobs: bool,
    /// Report this many most likely tokens at each position.
    pub top_n_tokens: u32,
    /// Added to the logits of these ids: at most [`MAX_LOGIT_BIAS`] of them, each in [-100, 100].
    pub logit_bias: Vec<(u32, f32)>,
    /// Favour a pseudo-random half of the vocabulary, chosen anew by each token, so that the text can be recognised.
    pub watermark: bool,
    /// Report the log-probability (from raw logits) of each prompt token, and the most likely tokens there. The prefix
    /// cache is not asked then.
    pub prompt_logprobs: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            max_new_tokens: None,
            min_new_tokens: 0,
            ignore_eos: false,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            openai_penalties: false,
            seed: 0,
            sample_index: 0,
            stop: Vec::new(),
            logprobs: false,
            raw_logprobs: false,
            top_n_tokens: 0,
            logit_bias: Vec::new(),
            watermark: false,
            prompt_logprobs: false,
        }
    }
}

/// Smallest `temperature` that is not greedy, and smallest `repetition_penalty`. Logits are divided by both and multiplied by the
/// latter: within these bounds they stay finite in 32 bits, whatever the two are together.
pub const SMALLEST_FACTOR: f32 = 1e-15;
/// Largest of them.
pub const LARGEST_FACTOR: f32 = 1e15;

/// A number, rounded to what 32 bits hold. One that is too small for them is the smallest there is rather than zero, and one that is
/// too large the largest rather than infinity: where those mean something of their own, nobody gets them without having said so.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the rounding is what it is for")]
pub fn narrow(value: f64) -> f32 {
    let rounded = value as f32;
    if rounded == 0.0 && value != 0.0 {
        f32::from_bits(1).copysign(rounded)
    } else if value.is_finite() {
        rounded.clamp(f32::MIN, f32::MAX)
    } else {
        rounded
    }
}

/// Longest stop string, in bytes: far beyond what TGI can find, which looks at the last few hundred characters.
pub const MAX_STOP_BYTES: usize = 1024;

/// Most entries of `logit_bias`.
pub const MAX_LOGIT_BIAS: usize = 1024;
/// Largest value of a `logit_bias`, either way; OpenAI's.
pub const LARGEST_LOGIT_BIAS: f32 = 100.0;

/// A parameter outside its range. The texts are TGI's wire texts without the prefix `Input validation error: `.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ParamError {
    /// Negative or not a number.
    #[error("`temperature` must be strictly positive")]
    Temperature,
    /// So small or large that logits would not stay finite.
    #[error("`temperature` must be >= {SMALLEST_FACTOR:e} and <= {LARGEST_FACTOR:e}")]
    TemperatureRange,
    /// Not > 0.
    #[error("`repetition_penalty` must be strictly positive")]
    RepetitionPenalty,
    /// As of the temperature.
    #[error("`repetition_penalty` must be >= {SMALLEST_FACTOR:e} and <= {LARGEST_FACTOR:e}")]
    RepetitionPenaltyRange,
    /// Outside [-2, 2].
    #[error("`frequency_penalty` must be >= -2.0 and <= 2.0")]
    FrequencyPenalty,
    /// Outside [-2, 2].
    #[error("`presence_penalty` must be >= -2.0 and <= 2.0")]
    PresencePenalty,
    /// Outside (0, 1].
    #[error("`top_p` must be > 0.0 and < 1.0")]
    TopP,
    /// Outside (0, 1].
    #[error("`typical_p` must be > 0.0 and < 1.0")]
    TypicalP,
    /// Outside [0, 1).
    #[error("`min_p` must be >= 0.0 and < 1.0")]
    MinP,
    /// Zero.
    #[error("`max_new_tokens` must be strictly positive")]
    MaxNewTokens,
    /// Larger than `max_new_tokens`.
    #[error("`min_new_tokens` must be <= `max_new_tokens`. Given: {min} and {max}")]
    MinNewTokens {
        /// Given minimum.
        min: u32,
        /// Given maximum.
        max: u32,
    },
    /// Too many stop strings.
    #[error("`stop` supports up to {max} stop sequences. Given: {given}")]
    StopCount {
        /// The cap.
        max: u32,
        /// Given count.
        given: usize,
    },
    /// An empty stop string would match everywhere.
    #[error("`stop` sequences cannot be empty")]
    EmptyStop,
    /// A stop string that would take memory for nothing.
    #[error("`stop` sequences must have at most {MAX_STOP_BYTES} bytes. Given: {given}")]
    StopLength {
        /// Bytes given.
        given: usize,
    },
    /// Too many top-n tokens.
    #[error("`top_n_tokens` must be >= 0 and <= {max}. Given: {given}")]
    TopNTokens {
        /// The cap.
        max: u32,
        /// Given value.
        given: u32,
    },
    /// Too many biases.
    #[error("`logit_bias` supports up to {MAX_LOGIT_BIAS} token ids. Given: {given}")]
    LogitBiasCount {
        /// Given count.
        given: usize,
    },
    /// A bias outside [-100, 100].
    #[error(
        "`logit_bias` values must be >= -{LARGEST_LOGIT_BIAS:.1} and <= {LARGEST_LOGIT_BIAS:.1}. Given: {given} for token {id}"
    )]
    LogitBiasValue {
        /// The token.
        id: u32,
        /// Given value.
        given: f32,
    },
}

impl SamplingParams {
    /// Checks every field against its range and the caps, in TGI's order.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self, limits: &Limits) -> Result<(), ParamError> {
        let check = |ok: bool, error: ParamError| if ok { Ok(()) } else { Err(error) };
        let fits = |factor: f32| (SMALLEST_FACTOR..=LARGEST_FACTOR).contains(&factor);
        check(self.temperature >= 0.0, ParamError::Temperature)?;
        check(
            self.temperature == 0.0 || fits(self.temperature),
            ParamError::TemperatureRange,
        )?;
        check(self.repetition_penalty > 0.0, ParamError::RepetitionPenalty)?;
        check(fits(self.repetition_penalty), ParamError::RepetitionPenaltyRange)?;
        check(
            (-2.0..=2.0).contains(&self.frequency_penalty),
            ParamError::FrequencyPenalty,
        )?;
        check(
            (-2.0..=2.0).contains(&self.presence_penalty),
            ParamError::PresencePenalty,
        )?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, ParamError::TopP)?;
        check(
            self.typical_p > 0.0 && self.typical_p <= 1.0,
            ParamError::TypicalP,
        )?;
        check((0.0..1.0).contains(&self.min_p), ParamError::MinP)?;
        if let Some(max) = self.max_new_tokens {
            check(max > 0, ParamError::MaxNewTokens)?;
            check(
                self.min_new_tokens <= max,
                ParamError::MinNewTokens {
                    min: self.min_new_tokens,
                    max,
                },
            )?;
        }
        check(
            self.stop.len() <= limits.max_stop_sequences as usize,
            ParamError::StopCount {
                max: limits.max_stop_sequences,
                given: self.stop.len(),
            },
        )?;
        check(
            self.stop.iter().all(|stop| !stop.is_empty()),
            ParamError::EmptyStop,
        )?;
        if let Some(long) = self.stop.iter().find(|stop| stop.len() > MAX_STOP_BYTES) {
            return Err(ParamError::StopLength { given: long.len() });
        }
        check(
            self.top_n_tokens <= limits.max_top_n_tokens,
            ParamError::TopNTokens {
                max: limits.max_top_n_tokens,
                given: self.top_n_tokens,
            },
        )?;
        let given = self.logit_bias.len();
        check(given <= MAX_LOGIT_BIAS, ParamError::LogitBiasCount { given })?;
        let within = |bias: f32| (-LARGEST_LOGIT_BIAS..=LARGEST_LOGIT_BIAS).contains(&bias);
        match self.logit_bias.iter().find(|(_, bias)| !within(*bias)) {
            Some(&(id, given)) => Err(ParamError::LogitBiasValue { id, given }),
            None => Ok(()),
        }
    }
}
