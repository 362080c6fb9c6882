//! From collected runs to the completion answer.

use super::echo::Echo;
use super::types::{Completion, CompletionChoice};
use super::validate::Valid;
use crate::app::App;
use crate::flow::Output;
use crate::routes::openai::answer::{Identity, Usage, finish_reason};
use crate::routes::openai::logprobs;

/// The answer from `outputs`: all runs of each prompt in a row, in the order of the prompts and of their `echoes`.
pub(crate) fn response(
    app: &App,
    identity: Identity,
    valid: &Valid,
    echoes: &[Echo],
    outputs: Vec<Output>,
) -> Completion {
    let dialect = app.config.v1_dialect;
    let usage = Usage::of(dialect, &outputs, valid.best_of);
    let mut outputs = outputs.into_iter();
    let mut choices = Vec::with_capacity(echoes.len() * valid.sampling.n as usize);
    for (echo, index) in echoes.iter().zip((0..).step_by(valid.sampling.n as usize)) {
        let runs = outputs.by_ref().take(valid.best_of as usize).collect();
        let choice = |(index, output): (u32, Output)| CompletionChoice {
            index,
            text: format!("{}{}", echo.text, output.finished.text),
            logprobs: valid
                .logprobs
                .then(|| logprobs::completion(&app.tokenizer, &output, echo)),
            finish_reason: finish_reason(dialect, &output.finished),
        };
        choices.extend((index..).zip(best(runs, valid.sampling.n)).map(choice));
    }
    Completion {
        object: "text_completion",
        id: identity.id,
        created: identity.created,
        model: identity.model,
        system_fingerprint: identity.fingerprint,
        choices,
        usage,
    }
}

/// The `n` runs whose tokens are likeliest on average, best first; all of them as they are if there are no more.
fn best(mut runs: Vec<Output>, n: u32) -> Vec<Output> {
    if runs.len() > n as usize {
        runs.sort_by(|one, other| other.mean_logprob().total_cmp(&one.mean_logprob()));
        runs.truncate(n as usize);
    }
    runs
}

#[cfg(test)]
mod tests {
    use agentlm_core::FinishReason;
    use agentlm_host::{Finished, Timing};

    use super::*;

    fn run(text: &str, logprob: f64, tokens: u32) -> Output {
        Output {
            prompt: Vec::new(),
            tokens: Vec::new(),
            logprob,
            finished: Finished {
                reason: FinishReason::Length,
                generated_tokens: tokens,
                prompt_tokens: 1,
                cached_tokens: 0,
                text: text.to_owned(),
                stop: None,
                timing: Timing::default(),
            },
        }
    }

    #[test]
    fn the_likeliest_runs_are_chosen_by_their_mean() {
        let runs = vec![run("a", -4.0, 2), run("b", -3.0, 3), run("c", -1.5, 1)];
        let texts = |n| -> Vec<String> {
            let runs = best(runs.clone(), n).into_iter();
            runs.map(|run| run.finished.text).collect()
        };
        assert_eq!(texts(1), ["b"]);
        assert_eq!(texts(2), ["b", "c"]);
        assert_eq!(texts(3), ["a", "b", "c"], "nothing to choose");
    }
}
