//! From collected runs to TGI's answer.

use agentlm_core::FinishReason;
use agentlm_host::PromptToken;
use agentlm_text::Tokenizer;

use super::types::{BestOfSequence, Details, GenerateResponse, PrefillToken, TokenDetail};
use crate::flow::{Output, TokenRecord};

/// TGI's name of an end.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::EosToken => "eos_token",
        FinishReason::StopSequence => "stop_sequence",
    }
}

/// How a native answer is put together.
pub(crate) struct Form<'a> {
    /// Comes before each text: the prompt, if the full text was asked for.
    pub(crate) before: &'a str,
    pub(crate) details: bool,
    pub(crate) top_tokens: bool,
    pub(crate) tokenizer: &'a Tokenizer,
}

/// The answer from one or more runs, each with the seed that it was sampled with.
pub(crate) fn response(mut runs: Vec<(Output, Option<u64>)>, form: &Form<'_>) -> Option<GenerateResponse> {
    let several = runs.len() > 1;
    let best = (0..runs.len()).reduce(|best, run| {
        let (found, known) = (runs[run].0.mean_logprob(), runs[best].0.mean_logprob());
        if found > known { run } else { best }
    })?;
    let (best, seed) = runs.remove(best);
    let text = |output: &Output| format!("{}{}", form.before, output.finished.text);
    let generated_text = text(&best);
    let details = form.details.then(|| Details {
        finish_reason: finish_reason(best.finished.reason),
        generated_tokens: best.finished.generated_tokens,
        seed,
        prefill: form.prefill(&best.prompt),
        top_tokens: form.top(&best.tokens),
        tokens: tokens(best.tokens),
        best_of_sequences: several.then(|| {
            let others = runs.into_iter();
            let others = others.map(|(output, seed)| BestOfSequence {
                generated_text: text(&output),
                finish_reason: finish_reason(output.finished.reason),
                generated_tokens: output.finished.generated_tokens,
                seed,
                prefill: form.prefill(&output.prompt),
                top_tokens: form.top(&output.tokens),
                tokens: tokens(output.tokens),
            });
            others.collect()
        }),
    });
    Some(GenerateResponse {
        generated_text,
        details,
    })
}

fn tokens(records: Vec<TokenRecord>) -> Vec<TokenDetail> {
    let detail = |record: TokenRecord| TokenDetail {
        id: record.id,
        text: record.text,
        logprob: record.logprob,
        special: record.special,
    };
    records.into_iter().map(detail).collect()
}

impl Form<'_> {
    /// Each token is decoded alone: one that begins with a space may lose it, as in TGI.
    fn prefill(&self, prompt: &[PromptToken]) -> Vec<PrefillToken> {
        let detail = |token: &PromptToken| PrefillToken {
            id: token.id,
            text: self.tokenizer.decode(&[token.id], false).unwrap_or_default(),
            logprob: token.logprob,
        };
        prompt.iter().map(detail).collect()
    }

    fn top(&self, records: &[TokenRecord]) -> Vec<Vec<TokenDetail>> {
        if !self.top_tokens {
            return Vec::new();
        }
        let detail = |&(id, logprob): &(u32, f32)| TokenDetail {
            id,
            text: self.tokenizer.token_text(id).into_owned(),
            logprob,
            special: self.tokenizer.is_special(id),
        };
        records
            .iter()
            .map(|record| record.top.iter().map(detail).collect())
            .collect()
    }
}
