//! The only crate that knows PyO3: builds `agentlm._engine`. Thin: each file mirrors one Rust type for Python.

mod contamination;
mod cpu;
mod engine;
mod errors;
mod grammar;
mod mailbox;
mod mock;
mod params;
mod rings;
mod server;
mod template;
mod tokenizer;

/// The Rust core of agentlm.
#[pyo3::pymodule(gil_used = false)]
mod _engine {
    #[pymodule_export]
    use crate::contamination::ContaminationScan;
    #[pymodule_export]
    use crate::cpu::{CpuBackend, CpuExecutor, Tape, TapeBuilder};
    #[pymodule_export]
    use crate::engine::{Engine, Request};
    #[pymodule_export]
    use crate::mailbox::{EndEvent, ErrorEvent, Mailbox, TokenEvent};
    #[pymodule_export]
    use crate::mock::MockRunner;
    #[pymodule_export]
    use crate::rings::Rings;
    #[pymodule_export]
    use crate::server::Server;
    #[pymodule_export]
    use crate::template::ChatTemplate;
    #[pymodule_export]
    use crate::tokenizer::Tokenizer;
}
