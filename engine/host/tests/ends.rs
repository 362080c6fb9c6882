//! How requests end: what their sinks hear, and when.

#![expect(clippy::expect_used, reason = "a failed expectation is a failed test")]

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use agentlm_core::FinishReason;
use agentlm_core::params::SamplingParams;
use agentlm_host::{
    AdapterRef, EngineConfig, EngineHandle, Finished, Health, MockConfig, RequestError, RequestHandle, Sink,
    Submission, Token, spawn_mock,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Tells a request's end to a test.
struct Ends(Sender<Result<Finished, RequestError>>);

impl Sink for Ends {
    fn token(&mut self, _: &Token<'_>, end: Option<&Finished>) {
        if let Some(finished) = end {
            self.0.send(Ok(finished.clone())).expect("the test listens");
        }
    }

    fn fail(&mut self, error: &RequestError) {
        self.0.send(Err(error.clone())).expect("the test listens");
    }
}

/// An engine that says "a", a step at a time.
fn engine(step_time: Duration) -> EngineHandle {
    let tokenizer = common::tokenizer();
    let says = tokenizer.encode("a", false).expect("a letter").ids;
    let core = common::core(&tokenizer, 99, 100);
    let config = EngineConfig {
        core,
        max_unfinished: 8,
        step_timeout: None,
    };
    let mock = MockConfig {
        step_time,
        token_ids: says,
        ends: agentlm_host::Ends::default(),
    };
    spawn_mock(config, mock, tokenizer).expect("the settings are valid")
}

fn submit(
    engine: &EngineHandle,
    max_new_tokens: u32,
    stop: &[&str],
) -> (RequestHandle, Receiver<Result<Finished, RequestError>>) {
    let (ends, heard) = channel();
    let submission = Submission {
        prompt: vec![1, 2, 3],
        params: SamplingParams {
            max_new_tokens: Some(max_new_tokens),
            stop: stop.iter().map(|&stop| stop.to_owned()).collect(),
            ..SamplingParams::default()
        },
        keep_stop: false,
        adapter: AdapterRef::default(),
        grammar: None,
        sink: Box::new(Ends(ends)),
    };
    (engine.submit(submission).expect("the engine is open"), heard)
}

/// What one more request is turned away with, if it is.
fn refusal(engine: &EngineHandle) -> Option<String> {
    let (ends, _) = channel();
    let submission = Submission {
        prompt: vec![1],
        params: SamplingParams::default(),
        keep_stop: false,
        adapter: AdapterRef::default(),
        grammar: None,
        sink: Box::new(Ends(ends)),
    };
    engine.submit(submission).err().map(|error| error.to_string())
}

#[test]
fn a_stop_string_comes_after_the_length() {
    let engine = engine(Duration::ZERO);
    for (max_new_tokens, reason) in [(9, FinishReason::StopSequence), (3, FinishReason::Length)] {
        let (_handle, heard) = submit(&engine, max_new_tokens, &["b", "aaa"]);
        let finished = heard.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(
            (finished.reason, finished.stop, finished.text.as_str()),
            (reason, Some(1), "")
        );
        assert_eq!(finished.generated_tokens, 3);
    }
    engine.shutdown(true);
}

#[test]
fn what_was_held_back_for_a_stop_string_comes_at_the_end() {
    let engine = engine(Duration::ZERO);
    let (_handle, heard) = submit(&engine, 3, &["aaaa"]);
    let finished = heard.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((finished.stop, finished.text.as_str()), (None, "aaa"));
}

/// Hears of tokens more slowly than the engine makes them.
struct Slow(Ends);

impl Sink for Slow {
    fn token(&mut self, token: &Token<'_>, end: Option<&Finished>) {
        std::thread::sleep(Duration::from_millis(30));
        self.0.token(token, end);
    }

    fn fail(&mut self, error: &RequestError) {
        self.0.fail(error);
    }
}

#[test]
fn what_came_after_a_stop_string_ends_with_it_and_is_not_cached() {
    let engine = engine(Duration::ZERO);
    let says = engine.tokenizer().encode("a", false).expect("a letter").ids[0];
    let ask = |prompt: Vec<u32>, stop: Vec<String>, max_new_tokens| {
        let (ends, heard) = channel();
        let submission = Submission {
            prompt,
            params: SamplingParams {
                max_new_tokens: Some(max_new_tokens),
                stop,
                ..SamplingParams::default()
            },
            keep_stop: false,
            adapter: AdapterRef::default(),
            grammar: None,
            sink: Box::new(Slow(Ends(ends))),
        };
        let _handle = engine.submit(submission).expect("the engine is open");
        heard.recv_timeout(PATIENCE).unwrap().unwrap()
    };
    let prompt = vec![3; 12];
    // Its text ends inside the first block; by then the engine is some tokens further.
    let stopped = ask(prompt.clone(), vec!["aaa".to_owned()], 80);
    assert_eq!(
        (stopped.reason, stopped.generated_tokens),
        (FinishReason::StopSequence, 3)
    );
    // The engine thread takes the end in before what is submitted after it.
    let again = ask([prompt, vec![says; 8]].concat(), Vec::new(), 1);
    assert_eq!(again.cached_tokens, 0);
    let counts = engine.snapshot().core;
    assert_eq!((counts.finished_stop, counts.running), (1, 0));
    assert!((5..40).contains(&counts.tokens_generated), "{counts:?}");
}

#[test]
fn closing_is_heard_while_a_long_step_runs() {
    let engine = engine(Duration::from_secs(5));
    let (_handle, heard) = submit(&engine, 50, &[]);
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    engine.shutdown(false);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Err(RequestError::Closed));
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(engine.wait_ended(PATIENCE), Health::Closed);
}

#[test]
fn draining_finishes_what_there_is_and_takes_nothing_new() {
    let engine = engine(Duration::from_millis(1));
    let (_handle, heard) = submit(&engine, 20, &[]);
    engine.shutdown(true);
    assert_eq!(refusal(&engine).as_deref(), Some("the engine is shutting down"));
    assert_eq!(
        heard.recv_timeout(PATIENCE).unwrap().unwrap().generated_tokens,
        20
    );
    assert_eq!(engine.wait_ended(PATIENCE), Health::Closed);
    assert_eq!(refusal(&engine).as_deref(), Some("the engine is closed"));
}

#[test]
fn every_request_hears_the_failure() {
    let engine = engine(Duration::from_millis(1));
    let running: Vec<_> = (0..4).map(|_| submit(&engine, 90, &[])).collect();
    engine.fail("it broke");
    for (_, heard) in &running {
        let failed = RequestError::EngineFailed("it broke".to_owned());
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Err(failed));
    }
    assert_eq!(engine.snapshot().unfinished, 0);
}

#[test]
fn who_drops_the_handle_is_told_and_holds_nothing() {
    let engine = engine(Duration::from_millis(20));
    let (handle, heard) = submit(&engine, 90, &[]);
    drop(handle);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Err(RequestError::Aborted));
    // Whoever comes next finds it gone: the engine thread takes both in order.
    let (_handle, heard) = submit(&engine, 2, &[]);
    assert!(heard.recv_timeout(PATIENCE).unwrap().is_ok());
    let counts = engine.snapshot().core;
    assert_eq!((counts.aborted, counts.running, counts.blocks.held), (1, 0, 0));
}

#[test]
fn no_more_requests_are_taken_than_there_are_places() {
    let engine = engine(Duration::from_millis(20));
    let taken: Vec<_> = (0..8).map(|_| submit(&engine, 90, &[])).collect();
    assert!(refusal(&engine).is_some());
    assert_eq!(engine.snapshot().unfinished, 8);
    engine.shutdown(false);
    for (_handle, heard) in &taken {
        assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Err(RequestError::Closed));
    }
}
