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
    assert_eq!(
        heard.recv_timeout(PATIENCE).unwrap().unwrap().generated_tokens,
        20
    );
    assert_eq!(engine.wait_ended(PATIENCE), Health::Closed);
    let (ends, _) = channel();
    let submission = Submission {
        prompt: vec![1],
        params: SamplingParams::default(),
        keep_stop: false,
        adapter: AdapterRef::default(),
        grammar: None,
        sink: Box::new(Ends(ends)),
    };
    assert!(engine.submit(submission).is_err());
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
