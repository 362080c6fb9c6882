//! Grammars, scored prompts, adapters and other weights, on the mock runner.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation is a failed test"
)]

mod common;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use agentlm_core::params::SamplingParams;
use agentlm_core::{CoreConfig, FinishReason};
use agentlm_host::{
    AdapterRef, Control, ControlError, EngineConfig, EngineHandle, Finished, Health, MockConfig, PromptToken,
    Quiesce, RequestError, RequestHandle, Sink, Submission, Token, spawn_mock,
};
use agentlm_text::{Grammar, GrammarCompiler, Tokenizer};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
/// `<|end_of_text|>` of the fixture.
const EOS: u32 = 568;

#[derive(Debug)]
enum Heard {
    Prompt(Vec<PromptToken>),
    End(Result<Finished, RequestError>),
}

struct Teller(Sender<Heard>);

impl Sink for Teller {
    fn prompt(&mut self, prompt: &[PromptToken]) {
        self.0
            .send(Heard::Prompt(prompt.to_vec()))
            .expect("the test listens");
    }

    fn token(&mut self, _: &Token<'_>, end: Option<&Finished>) {
        if let Some(finished) = end {
            self.0
                .send(Heard::End(Ok(finished.clone())))
                .expect("the test listens");
        }
    }

    fn fail(&mut self, error: &RequestError) {
        // A test that has seen enough is gone.
        let _ = self.0.send(Heard::End(Err(error.clone())));
    }
}

fn engine(tokenizer: &Arc<Tokenizer>, step_time: Duration) -> EngineHandle {
    let core = CoreConfig {
        eos_token_ids: vec![EOS],
        ..common::core(tokenizer, 190, 200)
    };
    let config = EngineConfig {
        core,
        max_unfinished: 8,
        step_timeout: None,
    };
    let mut mock = MockConfig::for_tokenizer(tokenizer, step_time);
    // The fixture itself names no end.
    mock.ends.eos.push(EOS);
    spawn_mock(config, mock, tokenizer.clone()).expect("the settings are valid")
}

fn asking(max_new_tokens: u32) -> (Submission, Receiver<Heard>) {
    let (teller, heard) = channel();
    let submission = Submission {
        prompt: vec![1, 2, 3],
        params: SamplingParams {
            max_new_tokens: Some(max_new_tokens),
            ..SamplingParams::default()
        },
        keep_stop: false,
        adapter: AdapterRef::default(),
        grammar: None,
        sink: Box::new(Teller(teller)),
    };
    (submission, heard)
}

fn end(heard: &Receiver<Heard>) -> Result<Finished, RequestError> {
    match heard.recv_timeout(PATIENCE).expect("an end") {
        Heard::End(end) => end,
        Heard::Prompt(prompt) => panic!("unasked: {prompt:?}"),
    }
}

#[test]
fn constrained_text_follows_its_grammar_beside_others() {
    let tokenizer = common::tokenizer();
    let engine = engine(&tokenizer, Duration::ZERO);
    let compiler = GrammarCompiler::new(tokenizer.clone(), vec![EOS], tokenizer.vocab_size());
    let words = ["yes", "no", "perhaps"].map(str::to_owned).to_vec();
    let mut waiting: Vec<(RequestHandle, Receiver<Heard>, bool)> = Vec::new();
    for i in 0..8 {
        let (mut submission, heard) = asking(30);
        submission.prompt.push(i);
        if i % 2 == 0 {
            submission.grammar = Some(
                compiler
                    .start(&Grammar::Choice(words.clone()))
                    .expect("a grammar"),
            );
        }
        waiting.push((engine.submit(submission).expect("open"), heard, i % 2 == 0));
    }
    for (_handle, heard, constrained) in waiting {
        let finished = end(&heard).expect("an answer");
        if constrained {
            assert!(words.contains(&finished.text), "{:?}", finished.text);
            assert_eq!(finished.reason, FinishReason::EosToken);
        } else {
            assert_eq!(
                (finished.reason, finished.generated_tokens),
                (FinishReason::Length, 30)
            );
        }
    }
    engine.shutdown(true);
}

#[test]
fn a_schema_s_text_is_whole_json_and_short() {
    let tokenizer = common::tokenizer();
    let engine = engine(&tokenizer, Duration::ZERO);
    let compiler = GrammarCompiler::new(tokenizer.clone(), vec![EOS], tokenizer.vocab_size());
    let item = json!({"type": "object", "required": ["name", "sizes"], "properties": {
        "name": {"type": "string", "minLength": 3},
        "sizes": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        "note": {"type": "string"},
    }});
    let cases = [
        (Grammar::JsonObject, 0),
        (Grammar::JsonSchema(json!({"type": "string"})), 0),
        (Grammar::JsonSchema(json!({"type": "number"})), 0),
        (Grammar::JsonSchema(item.clone()), 0),
        (
            Grammar::JsonSchema(json!({"type": "array", "items": item, "minItems": 1})),
            0,
        ),
        // A string may go on for ever: it does so for as long as it has to.
        (Grammar::JsonSchema(json!({"type": "string"})), 40),
    ];
    for (grammar, min_new_tokens) in cases {
        let (mut submission, heard) = asking(120);
        submission.params.min_new_tokens = min_new_tokens;
        submission.grammar = Some(compiler.start(&grammar).expect("a grammar"));
        let _handle = engine.submit(submission).expect("open");
        let finished = end(&heard).expect("an answer");
        assert_eq!(
            finished.reason,
            FinishReason::EosToken,
            "{grammar:?}: {:?}",
            finished.text
        );
        assert!(finished.generated_tokens >= min_new_tokens, "{:?}", finished.text);
        let text = &finished.text;
        assert!(serde_json::from_str::<Value>(text).is_ok(), "{grammar:?}: {text}");
    }
    engine.shutdown(true);
}

#[test]
fn a_grammar_that_cannot_be_followed_ends_its_request_alone() {
    let tokenizer = common::tokenizer();
    let engine = engine(&tokenizer, Duration::ZERO);
    // Made for a larger vocabulary than the engine's: its masks do not fit.
    let other = GrammarCompiler::new(tokenizer.clone(), vec![EOS], tokenizer.vocab_size() + 64);
    let (mut broken, heard_broken) = asking(30);
    broken.grammar = Some(other.start(&Grammar::JsonObject).expect("a grammar"));
    let (whole, heard_whole) = asking(30);
    let _handles = (
        engine.submit(broken).expect("open"),
        engine.submit(whole).expect("open"),
    );
    let error = end(&heard_broken).expect_err("it cannot be followed");
    assert!(
        matches!(&error, RequestError::Generation(why) if why.starts_with("the grammar cannot be followed")),
        "{error:?}"
    );
    assert_eq!(end(&heard_whole).expect("an answer").generated_tokens, 30);
    engine.shutdown(true);
}

#[test]
fn a_prompt_is_scored_before_its_first_token() {
    let tokenizer = common::tokenizer();
    let engine = engine(&tokenizer, Duration::ZERO);
    for n in [1, 2, 33, 100] {
        let (mut submission, heard) = asking(2);
        submission.prompt = (0..n).collect();
        submission.params.prompt_logprobs = true;
        submission.params.top_n_tokens = 2;
        let _handle = engine.submit(submission).expect("open");
        let Heard::Prompt(prompt) = heard.recv_timeout(PATIENCE).expect("the prompt comes first") else {
            panic!("the prompt comes first");
        };
        assert_eq!(
            prompt.iter().map(|token| token.id).collect::<Vec<_>>(),
            (0..n).collect::<Vec<_>>()
        );
        assert!(prompt[0].logprob.is_none() && prompt[0].top.is_empty());
        assert!(
            prompt[1..]
                .iter()
                .all(|token| token.logprob == Some(-1.0) && token.top.len() == 2)
        );
        assert_eq!(end(&heard).expect("an answer").cached_tokens, 0);
    }
    engine.shutdown(true);
}

fn ask(
    engine: &EngineHandle,
    control: Control,
    quiesce: Quiesce,
    patience: Duration,
) -> Result<(), ControlError> {
    let (tell, heard) = channel();
    let done = Box::new(move |outcome| tell.send(outcome).expect("the test listens"));
    engine.control(control, quiesce, patience, done);
    heard.recv_timeout(PATIENCE).expect("an outcome")
}

fn load(name: &str) -> Control {
    Control::LoadAdapter {
        name: name.to_owned(),
        path: "somewhere".to_owned(),
        number: 0,
    }
}

fn unload(name: &str) -> Control {
    Control::UnloadAdapter {
        name: name.to_owned(),
        number: 0,
    }
}

#[test]
fn adapters_come_and_go_and_share_no_cache() {
    let engine = engine(&common::tokenizer(), Duration::from_millis(1));
    let now = Duration::ZERO;
    assert_eq!(ask(&engine, load("a"), Quiesce::Drain, now), Ok(()));
    assert_eq!(
        ask(&engine, load("a"), Quiesce::Drain, now),
        Err(ControlError::AdapterExists("a".into()))
    );
    assert_eq!(ask(&engine, load("b"), Quiesce::Drain, now), Ok(()));
    let names: Vec<String> = engine
        .adapters()
        .into_iter()
        .map(|adapter| adapter.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    let adapter = engine.adapter("a").expect("loaded").adapter;
    let run = |adapter, max_new_tokens| {
        let (mut submission, heard) = asking(max_new_tokens);
        submission.prompt = (0..40).collect();
        submission.adapter = adapter;
        (engine.submit(submission).expect("open"), heard)
    };
    for (adapter, cached) in [(adapter, 0), (adapter, 32), (AdapterRef::default(), 0)] {
        let (_handle, heard) = run(adapter, 2);
        assert_eq!(end(&heard).expect("an answer").cached_tokens, cached);
    }
    // While a request uses it, it stays for that request, and nobody else gets it.
    let (_handle, heard) = run(adapter, 150);
    assert!(matches!(
        ask(&engine, unload("a"), Quiesce::Drain, now),
        Err(ControlError::Timeout { running: 1, .. })
    ));
    assert!(engine.adapter("a").is_some(), "it was not unloaded");
    assert_eq!(ask(&engine, unload("a"), Quiesce::Drain, PATIENCE), Ok(()));
    assert_eq!(end(&heard).expect("an answer").generated_tokens, 150);
    assert_eq!(
        ask(&engine, unload("a"), Quiesce::Drain, now),
        Err(ControlError::UnknownAdapter("a".into()))
    );
    let (_handle, heard) = run(adapter, 2);
    assert_eq!(
        end(&heard),
        Err(RequestError::Refused("the request's adapter was unloaded".into()))
    );
    engine.shutdown(true);
}

#[test]
fn weights_are_exchanged_between_requests() {
    let engine = engine(&common::tokenizer(), Duration::from_millis(1));
    let reload = || Control::ReloadWeights { path: String::new() };
    let run = |max_new_tokens| {
        let (mut submission, heard) = asking(max_new_tokens);
        submission.prompt = (0..40).collect();
        (engine.submit(submission).expect("open"), heard)
    };
    let (_handle, first) = run(100);
    std::thread::sleep(Duration::from_millis(20));
    let timeout = ask(&engine, reload(), Quiesce::Drain, Duration::from_millis(10));
    assert!(
        matches!(timeout, Err(ControlError::Timeout { running: 1, .. })),
        "{timeout:?}"
    );
    assert_eq!(engine.weight_version(), 0);
    assert_eq!(ask(&engine, reload(), Quiesce::Drain, PATIENCE), Ok(()));
    assert_eq!(engine.weight_version(), 1);
    assert_eq!(end(&first).expect("it finished first").generated_tokens, 100);
    let (_handle, second) = run(2);
    assert_eq!(
        end(&second).expect("an answer").cached_tokens,
        0,
        "the cache was forgotten"
    );
    let (_handle, third) = run(150);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(ask(&engine, reload(), Quiesce::Abort, Duration::ZERO), Ok(()));
    let error = end(&third).expect_err("it was aborted");
    assert_eq!(error.to_string(), "the request was aborted by `reload_weights`");
    engine.shutdown(true);
}

#[test]
fn requests_wait_while_it_sleeps() {
    let engine = engine(&common::tokenizer(), Duration::ZERO);
    let now = Duration::ZERO;
    assert_eq!(
        ask(&engine, Control::Wake, Quiesce::Drain, now),
        Ok(()),
        "it is awake already"
    );
    assert_eq!(ask(&engine, Control::Sleep, Quiesce::Drain, PATIENCE), Ok(()));
    assert!(engine.is_asleep());
    assert_eq!(
        ask(&engine, load("a"), Quiesce::Drain, now),
        Err(ControlError::Asleep)
    );
    let (submission, heard) = asking(3);
    let _handle = engine.submit(submission).expect("open");
    assert!(
        heard.recv_timeout(Duration::from_millis(50)).is_err(),
        "nothing runs"
    );
    assert_eq!(ask(&engine, Control::Wake, Quiesce::Drain, now), Ok(()));
    assert_eq!(end(&heard).expect("an answer").generated_tokens, 3);
    engine.shutdown(true);
    let _ = engine.wait_ended(PATIENCE);
    assert_eq!(
        ask(&engine, Control::Sleep, Quiesce::Drain, now),
        Err(ControlError::Closed)
    );
}

#[test]
fn what_waits_for_requests_hears_of_the_end() {
    let engine = engine(&common::tokenizer(), Duration::from_millis(5));
    let (submission, _heard) = asking(150);
    let _handle = engine.submit(submission).expect("open");
    std::thread::sleep(Duration::from_millis(20));
    let (tell, outcome) = channel();
    let done = Box::new(move |result| tell.send(result).expect("the test listens"));
    engine.control(Control::Sleep, Quiesce::Drain, PATIENCE, done);
    let began = Instant::now();
    engine.shutdown(false);
    assert_eq!(
        outcome.recv_timeout(PATIENCE).expect("an outcome"),
        Err(ControlError::Closed)
    );
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn draining_while_it_sleeps_ends_what_waits() {
    let engine = engine(&common::tokenizer(), Duration::ZERO);
    assert_eq!(ask(&engine, Control::Sleep, Quiesce::Drain, PATIENCE), Ok(()));
    let (submission, heard) = asking(2);
    let _handle = engine.submit(submission).expect("open");
    // Nobody may wake a server that drains, so that nothing could ever finish it.
    engine.shutdown(true);
    assert_eq!(end(&heard), Err(RequestError::Closed));
    assert_eq!(engine.wait_ended(PATIENCE), Health::Closed);
}

#[test]
fn what_was_asked_for_can_be_taken_back_until_it_begins() {
    let engine = engine(&common::tokenizer(), Duration::from_millis(2));
    let (submission, heard) = asking(150);
    let _handle = engine.submit(submission).expect("open");
    std::thread::sleep(Duration::from_millis(20));
    let (tell, outcome) = channel();
    let done = Box::new(move |result| tell.send(result).expect("the test listens"));
    let asked = engine.control(Control::Sleep, Quiesce::Drain, PATIENCE, done);
    // Held back by what was asked for, and let in once it was taken back.
    let (submission, later) = asking(2);
    let _later = engine.submit(submission).expect("open");
    assert!(later.recv_timeout(Duration::from_millis(50)).is_err());
    asked.withdraw();
    let told = outcome.recv_timeout(PATIENCE).expect("an outcome");
    assert!(
        matches!(told, Err(ControlError::Timeout { running: 1, .. })),
        "{told:?}"
    );
    assert_eq!(end(&later).expect("an answer").generated_tokens, 2);
    assert_eq!(end(&heard).expect("an answer").generated_tokens, 150);
    assert!(!engine.is_asleep());
    asked.withdraw();
    engine.shutdown(true);
}
