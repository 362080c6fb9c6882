//! From a prompt's text to its token ids, on the validation pool, and the checks of its length; and from a grammar to the
//! states that its runs begin in, on the part of the pool that prompts leave.

use std::sync::Arc;

use agentlm_core::params::Limits;
use agentlm_text::{Encoding, Grammar, GrammarState, Tokenizer};

use crate::app::App;
use crate::error::ApiError;

/// TGI reserves at most this many new tokens at admission; a larger `max_new_tokens` ends with the context.
const RESERVED_NEW_TOKENS: u32 = 1024;

/// A prompt that the engine takes.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) ids: Vec<u32>,
    /// Unicode characters of the text.
    pub(crate) characters: usize,
    /// Most tokens that will be generated: what was asked for, or up to the context's end.
    pub(crate) max_new_tokens: u32,
}

/// Runs `work` on the validation pool.
pub(crate) async fn on_pool<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(ApiError::Internal))
}

/// As [`on_pool`], for what prompts must not wait for: a grammar may take a second to compile, and a text that is only to be
/// tokenised has no place that a full server could refuse it. At most half the pool is at such work; a request that is given up
/// keeps its turn until its work has ended.
pub(crate) async fn aside<T: Send + 'static>(
    app: &App,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let turn = app.aside.clone().acquire_owned().await;
    let turn = turn.map_err(|_| ApiError::Closing)?;
    on_pool(move || {
        let _turn = turn;
        work()
    })
    .await
}

/// Tokenises `text` with the tokenizer's own special tokens around it, keeps the last `truncate` tokens, and checks
/// the length.
pub(crate) async fn from_text(
    app: &Arc<App>,
    text: String,
    truncate: Option<u64>,
    max_new_tokens: Option<u32>,
) -> Result<Prompt, ApiError> {
    let tokenizer = app.tokenizer.clone();
    let limits = *app.engine.limits();
    on_pool(move || {
        let characters = text.chars().count();
        let encoding = encode(&tokenizer, &text, true)?;
        let ids = match truncate {
            Some(keep) => keep_last(encoding, usize::try_from(keep).unwrap_or(usize::MAX), &tokenizer),
            None => encoding.ids,
        };
        from_ids(&limits, ids, characters, max_new_tokens)
    })
    .await
}

/// Checks the ids of a prompt that came as such.
pub(crate) fn check_ids(app: &App, ids: &[u32]) -> Result<(), ApiError> {
    let known = u32::try_from(app.tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let vocabulary = known.min(app.engine.core_config().vocab_size);
    match ids.iter().find(|id| **id >= vocabulary) {
        Some(id) => Err(ApiError::Validation(format!(
            "`inputs` token ids must be below {vocabulary}. Given: {id}"
        ))),
        None => Ok(()),
    }
}

/// The states in which `n` runs under a grammar begin.
pub(crate) async fn start_grammar(
    app: &Arc<App>,
    grammar: Option<Grammar>,
    n: u32,
) -> Result<Vec<Option<GrammarState>>, ApiError> {
    let Some(grammar) = grammar else {
        return Ok((0..n).map(|_| None).collect());
    };
    let Some(compiler) = app.grammars.clone() else {
        return Err(ApiError::Validation("grammar is not supported".to_owned()));
    };
    aside(app, move || {
        let start = |_| compiler.start(&grammar).map(Some);
        (0..n)
            .map(start)
            .collect::<Result<_, _>>()
            .map_err(|error| ApiError::Validation(format!("grammar is not valid: {error}")))
    })
    .await
}

/// Checks the length of a tokenised prompt.
pub(crate) fn from_ids(
    limits: &Limits,
    ids: Vec<u32>,
    characters: usize,
    max_new_tokens: Option<u32>,
) -> Result<Prompt, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::Validation("`inputs` cannot be empty".to_owned()));
    }
    let max_new_tokens = new_tokens(limits, ids.len(), max_new_tokens)?;
    Ok(Prompt {
        ids,
        characters,
        max_new_tokens,
    })
}

/// Tokenises, with the library's refusal as a validation error.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Result<Encoding, ApiError> {
    tokenizer
        .encode(text, add_special)
        .map_err(|error| ApiError::Validation(format!("tokenizer error {error}")))
}

/// The last `keep` tokens; special tokens that the tokenizer put before the text stay before it.
fn keep_last(encoding: Encoding, keep: usize, tokenizer: &Tokenizer) -> Vec<u32> {
    let Encoding { ids, offsets } = encoding;
    if ids.len() <= keep {
        return ids;
    }
    let added = ids
        .iter()
        .zip(&offsets)
        .take_while(|&(&id, &offset)| offset == (0, 0) && tokenizer.is_special(id))
        .count()
        .min(keep);
    let mut kept = ids[..added].to_vec();
    kept.extend_from_slice(&ids[ids.len() - (keep - added)..]);
    kept
}

/// How many tokens may be generated after a prompt of `input` tokens.
fn new_tokens(limits: &Limits, input: usize, asked: Option<u32>) -> Result<u32, ApiError> {
    let total = limits.max_total_tokens;
    let input = u32::try_from(input).unwrap_or(u32::MAX);
    let room = total.saturating_sub(input);
    let reserved = asked.unwrap_or(room).min(RESERVED_NEW_TOKENS);
    if input.saturating_add(reserved) > total {
        return Err(ApiError::Validation(format!(
            "`inputs` tokens + `max_new_tokens` must be <= {total}. Given: {input} `inputs` tokens and \
             {reserved} `max_new_tokens`"
        )));
    }
    if input > limits.max_input_tokens {
        return Err(ApiError::Validation(format!(
            "`inputs` must have less than {} tokens. Given: {input}",
            limits.max_input_tokens
        )));
    }
    Ok(asked.unwrap_or(room).min(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_as_tgi_does() {
        let limits = Limits {
            max_input_tokens: 3000,
            max_total_tokens: 4096,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_best_of: 2,
        };
        let sum = |input, new| {
            Err(format!(
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: {input} `inputs` \
                 tokens and {new} `max_new_tokens`"
            ))
        };
        let long =
            Err("Input validation error: `inputs` must have less than 3000 tokens. Given: 3001".to_owned());
        let cases = [
            (10, None, Ok(4086)),
            (10, Some(20), Ok(20)),
            // More than fits is allowed while the reserved 1024 fit, and ends with the context.
            (3000, Some(1_000_000), Ok(1096)),
            (3073, Some(1_000_000), sum(3073, 1024)),
            (3001, Some(5), long),
            (4090, Some(7), sum(4090, 7)),
            (5000, None, sum(5000, 0)),
        ];
        for (input, asked, expected) in cases {
            let found = new_tokens(&limits, input, asked).map_err(|error| error.to_string());
            assert_eq!(found, expected, "{input} {asked:?}");
        }
    }
}
