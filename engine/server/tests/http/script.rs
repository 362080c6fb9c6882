//! A mock runner that says what a test wrote down.

use std::sync::Arc;

use agentlm_core::arena::{View, flag};
use agentlm_host::{EngineConfig, EngineHandle, MockConfig, MockRunner, Next, StepSource, build};
use agentlm_text::Tokenizer;

use crate::fixture::EOS;

/// An engine whose every answer without a grammar is `script`, and then the end; under a grammar it is the mock's.
pub fn spawn(
    config: EngineConfig,
    mock: MockConfig,
    tokenizer: Arc<Tokenizer>,
    script: Vec<u32>,
) -> EngineHandle {
    let (handle, source) = build(config, tokenizer).unwrap();
    let runner = MockRunner::new(mock, source.arena_layout(), source.results_layout());
    std::thread::spawn(move || drive(source, runner, &script));
    handle
}

fn drive(mut source: StepSource, mut runner: MockRunner, script: &[u32]) {
    let layout = source.arena_layout();
    // By row: the prompt's length, and whether a grammar binds the answer.
    let mut rows = vec![(0, false); layout.max_rows as usize];
    loop {
        match source.next_step() {
            Next::Step { id, slot } => {
                // SAFETY: the step is planned, not committed, and this thread is the only runner.
                let (words, results) = unsafe { (source.arena_slot(slot), source.results_slot(slot)) };
                runner.run(words, results, source.masks(slot)).unwrap();
                let view = View::new(words, layout).unwrap();
                for init in view.inits() {
                    rows[init.row as usize] = (init.n_prompt, init.flags & flag::CONSTRAINED != 0);
                }
                for entry in view.entries() {
                    let (prompt, bound) = rows[entry.row as usize];
                    if let (Some(index), false) = (entry.sample_index, bound) {
                        let said = (entry.sample_position - prompt) as usize;
                        results[index as usize] = script.get(said).copied().unwrap_or(EOS);
                    }
                }
                source.commit(id);
            }
            Next::Control => source.finish_control(Ok(())),
            Next::Wait | Next::Shutdown => return,
        }
    }
}
