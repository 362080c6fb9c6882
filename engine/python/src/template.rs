//! Chat templates and the renderer as Python sees them.

use std::path::PathBuf;
use std::sync::Arc;

use agentlm_text::{ChatInput, Renderer, TemplateSource};
use pyo3::prelude::*;

use crate::errors;
use crate::tokenizer::Tokenizer;

/// A checkpoint's chat template with its tokenizer: messages in, token ids out.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct ChatTemplate {
    pub(crate) renderer: Arc<Renderer>,
}

#[pymethods]
impl ChatTemplate {
    /// Finds the checkpoint's template, or reads the file given.
    #[new]
    #[pyo3(signature = (directory, tokenizer, explicit=None))]
    fn new(directory: PathBuf, tokenizer: &Tokenizer, explicit: Option<PathBuf>) -> PyResult<Self> {
        let template = agentlm_text::ChatTemplate::load(&directory, explicit.as_deref(), &tokenizer.inner)
            .map_err(|error| errors::raise("ChatTemplateError", error))?;
        let renderer = Renderer::new(tokenizer.inner.clone(), Arc::new(template));
        Ok(Self {
            renderer: Arc::new(renderer),
        })
    }

    /// Where the template comes from, in words.
    #[getter]
    fn source(&self) -> String {
        match self.renderer.template().source() {
            TemplateSource::Explicit(file) => format!("the file {file}"),
            TemplateSource::Checkpoint(file) => format!("the checkpoint's {file}"),
            TemplateSource::BuiltInLlama2 => {
                "Llama-2's own, built in, because the tokenizer is Llama-2's".to_owned()
            }
        }
    }

    /// Text and token ids of a conversation, given as a JSON list of messages.
    #[pyo3(signature = (messages, *, add_generation_prompt=true))]
    fn prompt(
        &self,
        py: Python<'_>,
        messages: &str,
        add_generation_prompt: bool,
    ) -> PyResult<(String, Vec<u32>)> {
        py.detach(|| {
            let messages = parse(messages)?;
            let input = ChatInput {
                messages: &messages,
                add_generation_prompt,
                ..ChatInput::default()
            };
            let prompt = self
                .renderer
                .prompt(&input)
                .map_err(|error| errors::raise("ChatTemplateError", error))?;
            Ok((prompt.text, prompt.ids))
        })
    }

    /// Text, token ids and loss mask of a finished conversation, given as a JSON list of messages.
    fn conversation(&self, py: Python<'_>, messages: &str) -> PyResult<(String, Vec<u32>, Vec<bool>)> {
        py.detach(|| {
            let messages = parse(messages)?;
            let input = ChatInput {
                messages: &messages,
                ..ChatInput::default()
            };
            let rendered = self
                .renderer
                .conversation(&input)
                .map_err(|error| errors::raise("ChatTemplateError", error))?;
            Ok((rendered.text, rendered.ids, rendered.trained))
        })
    }
}

fn parse(messages: &str) -> PyResult<Vec<serde_json::Value>> {
    serde_json::from_str(messages).map_err(|error| {
        errors::raise(
            "ChatTemplateError",
            format!("messages must be a list of objects: {error}"),
        )
    })
}
