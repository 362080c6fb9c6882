//! The tokenizer as Python sees it.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::errors;

/// A checkpoint's tokenizer.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct Tokenizer {
    pub(crate) inner: Arc<agentlm_text::Tokenizer>,
}

#[pymethods]
impl Tokenizer {
    /// Reads `tokenizer.json` and its companions from a checkpoint directory.
    #[new]
    fn new(py: Python<'_>, directory: PathBuf) -> PyResult<Self> {
        let inner = py
            .detach(|| agentlm_text::Tokenizer::from_dir(&directory))
            .map_err(|error| errors::raise("TokenizerError", error))?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Token ids of a text.
    #[pyo3(signature = (text, add_special_tokens=true))]
    fn encode(&self, py: Python<'_>, text: &str, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        py.detach(|| self.inner.encode(text, add_special_tokens))
            .map(|encoding| encoding.ids)
            .map_err(|error| errors::raise("TokenizerError", error))
    }

    /// Text of token ids.
    #[pyo3(signature = (ids, skip_special_tokens=true))]
    fn decode(&self, py: Python<'_>, ids: Vec<u32>, skip_special_tokens: bool) -> PyResult<String> {
        py.detach(|| self.inner.decode(&ids, skip_special_tokens))
            .map_err(|error| errors::raise("TokenizerError", error))
    }

    /// Entries of the vocabulary, added tokens included.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    /// Ids that end a sequence.
    #[getter]
    fn eos_token_ids(&self) -> Vec<u32> {
        self.inner.eos_token_ids().to_vec()
    }
}
