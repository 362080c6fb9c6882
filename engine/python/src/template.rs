//! Chat templates and the renderer as Python sees them.

use std::path::PathBuf;
use std::sync::Arc;

use agentlm_server::TemplateInput;
use agentlm_text::{ChatInput, Renderer, TemplateSource};
use pyo3::prelude::*;
use serde_json::Value;

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

    /// Text and token ids of a conversation, given as a JSON list of messages; `tools` are a JSON list, too. The template is
    /// given both as they are.
    #[pyo3(signature = (messages, tools=None, *, add_generation_prompt=true))]
    fn prompt(
        &self,
        py: Python<'_>,
        messages: &str,
        tools: Option<&str>,
        add_generation_prompt: bool,
    ) -> PyResult<(String, Vec<u32>)> {
        py.detach(|| {
            let messages = parse(messages, "messages")?;
            let tools = tools.map(|tools| parse(tools, "tools")).transpose()?;
            let input = ChatInput {
                messages: &messages,
                tools: tools.as_deref(),
                add_generation_prompt,
                ..ChatInput::default()
            };
            let prompt = self.renderer.prompt(&input).map_err(refused)?;
            Ok((prompt.text, prompt.ids))
        })
    }

    /// Text, token ids and loss mask of a finished conversation, given as a JSON list of messages; `tools` are a JSON list,
    /// too. Both are read as the server reads a request.
    #[pyo3(signature = (messages, tools=None))]
    fn conversation(
        &self,
        py: Python<'_>,
        messages: &str,
        tools: Option<&str>,
    ) -> PyResult<(String, Vec<u32>, Vec<bool>)> {
        py.detach(|| {
            let read = self.read(messages, tools)?;
            let rendered = self
                .renderer
                .conversation(&read.as_chat_input())
                .map_err(refused)?;
            Ok((rendered.text, rendered.ids, rendered.trained))
        })
    }

    /// Messages and tools, as JSON, as the server gives them to the template: in words where it knows no tools.
    #[pyo3(signature = (messages, tools=None))]
    fn template_input(
        &self,
        py: Python<'_>,
        messages: &str,
        tools: Option<&str>,
    ) -> PyResult<(String, Option<String>)> {
        py.detach(|| {
            let read = self.read(messages, tools)?;
            Ok((
                Value::from(read.messages).to_string(),
                read.tools.map(|tools| Value::from(tools).to_string()),
            ))
        })
    }
}

impl ChatTemplate {
    /// Reads a conversation as the server reads a request.
    fn read(&self, messages: &str, tools: Option<&str>) -> PyResult<TemplateInput> {
        let messages = parse(messages, "messages")?;
        let tools = tools.map(|tools| parse(tools, "tools")).transpose()?;
        TemplateInput::read(self.renderer.template(), messages, tools).map_err(refused)
    }
}

fn refused(error: impl std::fmt::Display) -> PyErr {
    errors::raise("ChatTemplateError", error)
}

fn parse(list: &str, name: &str) -> PyResult<Vec<Value>> {
    serde_json::from_str(list).map_err(|error| refused(format!("{name} must be a list of objects: {error}")))
}
