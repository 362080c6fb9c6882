//! The mock runner as Python sees it.

use std::time::Duration;

use agentlm_host::MockConfig;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors;
use crate::tokenizer::Tokenizer;

/// Runs steps without a model: deterministic tokens at a set pace.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct MockRunner {
    engine: Py<Engine>,
    runner: Mutex<agentlm_host::MockRunner>,
}

#[pymethods]
impl MockRunner {
    /// `step_time` is in seconds.
    #[new]
    fn new(engine: Py<Engine>, tokenizer: &Tokenizer, step_time: f64) -> PyResult<Self> {
        let step_time = Duration::try_from_secs_f64(step_time).map_err(|_| {
            errors::raise(
                "ConfigError",
                format!("`mock_step_time` must be seconds >= 0. Given: {step_time}"),
            )
        })?;
        let config = MockConfig::for_tokenizer(&tokenizer.inner, step_time);
        let core = engine.get().handle().core_config();
        let runner = agentlm_host::MockRunner::new(config, core.arena_layout(), core.results_layout());
        Ok(Self {
            engine,
            runner: Mutex::new(runner),
        })
    }

    /// Runs the step planned in `slot`, with the GIL released.
    fn run(&self, py: Python<'_>, slot: usize) -> PyResult<()> {
        let engine = self.engine.get();
        py.detach(|| {
            let mut runner = self.runner.lock();
            engine
                .with_slot(slot, |arena, results, masks| runner.run(arena, results, masks))?
                .map_err(|error| errors::raise("EngineFailedError", error))
        })
    }
}
