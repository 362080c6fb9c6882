//! The only crate that knows PyO3: builds agentlm._engine.
