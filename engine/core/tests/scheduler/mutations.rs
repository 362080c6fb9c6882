//! The property check must fail under each seeded mistake; a check that cannot fail proves nothing.

use agentlm_core::{Core, Mutation};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::properties::{configs, ops, run};

/// Runs the property under a mutation, from a fixed seed; returns how it failed, if it did.
fn failure(mutation: Option<Mutation>, cases: u32) -> Option<String> {
    let settings = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(settings, rng).run(&(configs(), ops()), |(config, ops)| {
        let core = Core::with_mutation(config, mutation).expect("a valid configuration");
        run(core, &ops).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(reason, _)) => Some(reason.to_string()),
        Err(TestError::Abort(reason)) => panic!("the check itself gave up: {reason}"),
    }
}

#[test]
fn without_a_mutation_the_property_holds() {
    assert_eq!(failure(None, 100), None);
}

#[test]
fn every_mutation_is_caught() {
    let missed: Vec<Mutation> = Mutation::ALL
        .into_iter()
        .filter(|&mutation| match failure(Some(mutation), 300) {
            Some(how) => {
                println!("{mutation:?}: {how}");
                false
            }
            None => true,
        })
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
