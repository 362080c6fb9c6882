//! The rings of plans and results as Python sees them: addresses and sizes, for a runner whose device copies slots by itself.

use std::sync::Arc;

use agentlm_core::{arena, results};
use agentlm_host::Ring;
use pyo3::prelude::*;

/// Memory that stays in place while this object lives. A slot may be read (plans) and written (results) between its
/// `next_step` and its `commit`.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct Rings {
    arena: Arc<Ring>,
    results: Arc<Ring>,
    arena_layout: arena::Layout,
    results_layout: results::Layout,
}

impl Rings {
    pub fn new(
        (arena, results): (Arc<Ring>, Arc<Ring>),
        arena_layout: arena::Layout,
        results_layout: results::Layout,
    ) -> Self {
        Self {
            arena,
            results,
            arena_layout,
            results_layout,
        }
    }
}

#[pymethods]
impl Rings {
    /// Slots of either ring.
    #[getter]
    fn n_slots(&self) -> usize {
        self.arena.n_slots()
    }

    /// Address of the first plan.
    #[getter]
    fn arena_address(&self) -> usize {
        self.arena.address()
    }

    /// 32-bit words of one plan.
    #[getter]
    fn arena_words(&self) -> usize {
        self.arena.slot_words()
    }

    /// Address of the first results.
    #[getter]
    fn results_address(&self) -> usize {
        self.results.address()
    }

    /// 32-bit words of one step's results.
    #[getter]
    fn results_words(&self) -> usize {
        self.results.slot_words()
    }

    /// Rows of requests.
    #[getter]
    fn max_rows(&self) -> u32 {
        self.arena_layout.max_rows
    }

    /// Longest prompt and output of one request, in tokens.
    #[getter]
    fn max_model_len(&self) -> u32 {
        self.arena_layout.max_model_len
    }

    /// Most top-n entries of a sample.
    #[getter]
    fn top_cap(&self) -> u32 {
        self.results_layout.top_cap
    }

    /// Most scored positions of a step.
    #[getter]
    fn max_scores(&self) -> u32 {
        self.results_layout.max_scores
    }
}
