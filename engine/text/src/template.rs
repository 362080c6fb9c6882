//! A chat template: messages to prompt text, as transformers renders it.
//!
//! Knows no files (`template_files.rs`), no ids and no loss masks (`renderer.rs`).

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};
use thiserror::Error as ThisError;

use crate::escape::CONTENT_END;
use crate::python_values::{from_json, strftime_now, tojson};
use crate::special_tokens::SpecialTokens;
use crate::tools::ToolFormat;

/// Encloses what a `{% generation %}` block wrote, while blocks are marked.
pub(crate) const GENERATION_START: char = '\u{FFFF9}';
/// See [`GENERATION_START`].
pub(crate) const GENERATION_END: char = '\u{FFFF8}';
/// The variable that turns the marks on.
const MARK_GENERATION: &str = "__mark_generation__";

/// Instructions of one rendering. A message takes tens of them, so that no request comes near; it is about a second of work.
const MOST_INSTRUCTIONS: u64 = 10_000_000;

/// Why there is no template, or no text from it.
#[derive(Debug, ThisError)]
pub enum TemplateError {
    /// The checkpoint brings none.
    #[error(
        "the checkpoint has no chat template: give one with --chat-template FILE, put a chat_template.jinja beside \
         tokenizer.json, or send raw prompts"
    )]
    Missing,
    /// A file could not be read or holds no template.
    #[error("cannot take a chat template from {file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The template is no Jinja, or uses what is not supported.
    #[error("the chat template cannot be understood: {0}")]
    Syntax(#[source] Error),
    /// Several templates, none of which is the default.
    #[error(
        "the checkpoint has the chat templates {names:?} but none called \"default\": give one with --chat-template FILE"
    )]
    NoDefault {
        /// The names there are.
        names: Vec<String>,
    },
    /// The template called `raise_exception`.
    #[error("{0}")]
    Raised(String),
    /// Rendering failed.
    #[error("{0}")]
    Render(#[source] Error),
    /// Rendering was broken off.
    #[error(
        "the chat template did not come to an end within {MOST_INSTRUCTIONS} instructions: it loops too often"
    )]
    Endless,
    /// The last message is to be continued, but its content is not in the rendered text.
    #[error(
        "the last assistant message cannot be continued: the chat template does not write its content as it is; \
         turn continue_final_message off"
    )]
    CannotContinue,
}

/// What a template is rendered with.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChatInput<'a> {
    /// Messages as JSON objects: `role`, `content`, and whatever else the template reads.
    pub messages: &'a [Json],
    /// Tool definitions.
    pub tools: Option<&'a [Json]>,
    /// Documents for retrieval.
    pub documents: Option<&'a [Json]>,
    /// Ask for the header of an answer at the end.
    pub add_generation_prompt: bool,
    /// If the last message is the assistant's, end the text right after its content (without the white space after it),
    /// so that the model continues it, as TGI does. An empty one asks for the header of an answer.
    pub continue_final_message: bool,
    /// Further variables (`chat_template_kwargs`). They cannot replace the ones above.
    pub extra: Option<&'a Map<String, Json>>,
}

impl<'a> ChatInput<'a> {
    /// The last message, if the text is to end inside it, and those before it.
    fn continued(&self) -> Option<(&'a Json, &'a [Json])> {
        let is_assistant = |last: &Json| last.get("role").and_then(Json::as_str) == Some("assistant");
        self.messages
            .split_last()
            .filter(|(last, _)| self.continue_final_message && is_assistant(last))
    }
}

/// Where a template came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateSource {
    /// A file that the caller named.
    Explicit(String),
    /// A file of the checkpoint.
    Checkpoint(String),
    /// The checkpoint has none; its tokenizer is Llama-2's, so Llama-2's chat form is used. Worth a line in the log.
    BuiltInLlama2,
}

/// A compiled template, or several by name.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Names of the templates, e.g. `default` and `tool_use`.
    names: Vec<String>,
    special: Vec<(String, Value)>,
    source: TemplateSource,
    has_generation_tags: bool,
    uses_tools: bool,
    tool_format: ToolFormat,
}

/// `raise_exception` was called with this.
#[derive(Debug, ThisError)]
#[error("{0}")]
struct RaisedByTemplate(String);

impl ChatTemplate {
    /// Compiles one template.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`].
    pub fn new(
        template: &str,
        special: &SpecialTokens,
        source: TemplateSource,
    ) -> Result<Self, TemplateError> {
        Self::with_names(&[("default".to_owned(), template.to_owned())], special, source)
    }

    /// Compiles named templates; a request with tools uses `tool_use` where there is one, any other `default`.
    ///
    /// # Errors
    /// [`TemplateError::NoDefault`] and [`TemplateError::Syntax`].
    pub fn with_names(
        templates: &[(String, String)],
        special: &SpecialTokens,
        source: TemplateSource,
    ) -> Result<Self, TemplateError> {
        let names: Vec<String> = templates.iter().map(|(name, _)| name.clone()).collect();
        if !names.iter().any(|name| name == "default") {
            return Err(TemplateError::NoDefault { names });
        }
        let mut environment = environment().map_err(TemplateError::Syntax)?;
        let mut has_generation_tags = false;
        for (name, template) in templates {
            let (template, tagged) = rewrite_generation_tags(template);
            has_generation_tags |= tagged && name == "default";
            environment
                .add_template_owned(name.clone(), template)
                .map_err(TemplateError::Syntax)?;
        }
        let (uses_tools, tool_format) = {
            let name = named(&names, "tool_use").unwrap_or("default");
            let template = environment.get_template(name).map_err(TemplateError::Syntax)?;
            let uses_tools = template.undeclared_variables(false).contains("tools");
            (uses_tools, ToolFormat::of_template(template.source()))
        };
        let mut variables: Vec<(String, Value)> = special
            .named
            .iter()
            .map(|(name, text)| (name.clone(), Value::from(text.as_str())))
            .collect();
        if !special.additional.is_empty() {
            let list = special
                .additional
                .iter()
                .map(|text| Value::from(text.as_str()))
                .collect();
            variables.push(("additional_special_tokens".to_owned(), list));
        }
        Ok(Self {
            environment,
            names,
            special: variables,
            source,
            has_generation_tags,
            uses_tools,
            tool_format,
        })
    }

    /// Where the template came from.
    #[must_use]
    pub fn source(&self) -> &TemplateSource {
        &self.source
    }

    /// Whether the default template says by `{% generation %}` tags what the model writes.
    #[must_use]
    pub fn has_generation_tags(&self) -> bool {
        self.has_generation_tags
    }

    /// Whether the template for requests with tools reads them. If it does not, they have to be told another way.
    #[must_use]
    pub fn uses_tools(&self) -> bool {
        self.uses_tools
    }

    /// The form of tool calls that the template for requests with tools asks the model for.
    #[must_use]
    pub fn tool_format(&self) -> ToolFormat {
        self.tool_format
    }

    /// Renders the prompt text.
    ///
    /// # Errors
    /// [`TemplateError::Raised`], [`TemplateError::Render`] and [`TemplateError::CannotContinue`].
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TemplateError> {
        self.render_marked(input, false)
    }

    /// The same, with the output of generation blocks between [`GENERATION_START`] and [`GENERATION_END`].
    pub(crate) fn render_marked(&self, input: &ChatInput<'_>, mark: bool) -> Result<String, TemplateError> {
        let Some((last, before)) = input.continued() else {
            return self.render_whole(input, mark);
        };
        let whole = |messages: &[Json], add_generation_prompt| {
            let input = ChatInput {
                messages,
                add_generation_prompt,
                ..*input
            };
            self.render_whole(&input, mark)
        };
        let plain = whole(input.messages, false)?;
        let Some(marked) = mark_end(last)? else {
            return whole(before, true);
        };
        let marked = whole(&[before, &[marked]].concat(), false)?;
        // The mark shows where the content ends; a template that writes it otherwise than as it is does not keep the mark.
        match marked.split_once(CONTENT_END) {
            Some((start, end)) if plain.strip_prefix(start) == Some(end) => Ok(start.to_owned()),
            _ => Err(TemplateError::CannotContinue),
        }
    }

    fn render_whole(&self, input: &ChatInput<'_>, mark: bool) -> Result<String, TemplateError> {
        let list = |list: &[Json]| list.iter().map(from_json).collect::<Value>();
        let optional = |values: Option<&[Json]>| values.map_or_else(|| Value::from(()), list);
        let mut variables: Vec<(String, Value)> = Vec::new();
        if let Some(extra) = input.extra {
            variables.extend(extra.iter().map(|(name, value)| (name.clone(), from_json(value))));
        }
        variables.extend(self.special.iter().cloned());
        variables.push(("messages".to_owned(), list(input.messages)));
        variables.push(("tools".to_owned(), optional(input.tools)));
        variables.push(("documents".to_owned(), optional(input.documents)));
        let prompt = Value::from(input.add_generation_prompt);
        variables.push(("add_generation_prompt".to_owned(), prompt));
        variables.push((MARK_GENERATION.to_owned(), Value::from(mark)));
        let with_tools = input.tools.is_some_and(|tools| !tools.is_empty());
        let name = named(&self.names, "tool_use").filter(|_| with_tools);
        let template = self
            .environment
            .get_template(name.unwrap_or("default"))
            .map_err(TemplateError::Render)?;
        template
            .render(Value::from_pairs(variables))
            .map_err(render_error)
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("names", &self.names)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The message with a mark at its text's end, before white space: the end of the content itself, or of the last text part
/// of it. `None` when there is nothing to continue.
///
/// # Errors
/// [`TemplateError::CannotContinue`] when it holds something else than text.
fn mark_end(message: &Json) -> Result<Option<Json>, TemplateError> {
    let mut message = message.clone();
    if message.get("tool_calls").is_some_and(|calls| !calls.is_null()) {
        return Err(TemplateError::CannotContinue);
    }
    let text = match message.get_mut("content") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Array(parts)) if parts.is_empty() => return Ok(None),
        Some(Json::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => content,
    };
    let Some(Json::String(text)) = text else {
        return Err(TemplateError::CannotContinue);
    };
    let end = text.trim_end().len();
    text.insert(end, CONTENT_END);
    Ok((end > 0).then_some(message))
}

/// The name, if it is one of the templates'.
fn named<'a>(names: &[String], name: &'a str) -> Option<&'a str> {
    names.iter().any(|known| known == name).then_some(name)
}

/// Jinja as transformers sets it up.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    // A checkpoint's template must not hold a server up for ever.
    environment.set_fuel(Some(MOST_INSTRUCTIONS));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(RaisedByTemplate(message)))
    });
    environment.add_function("strftime_now", |format: &str| strftime_now(format));
    environment.add_filter("__generation__", |state: &State, body: String| {
        if state.lookup(MARK_GENERATION).is_some_and(|mark| mark.is_true()) {
            format!("{GENERATION_START}{body}{GENERATION_END}")
        } else {
            body
        }
    });
    Ok(environment)
}

fn render_error(error: Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::Endless;
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(RaisedByTemplate(message)) = cause.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        source = cause.source();
    }
    TemplateError::Render(error)
}

/// Rewrites `{% generation %}…{% endgeneration %}` to a filter block, which has the same scope and leaves white-space
/// control as it is written. Returns whether there was a tag.
fn rewrite_generation_tags(template: &str) -> (String, bool) {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut tagged = false;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let inner = tag.trim_start_matches(['-', '+']);
        let control = tag.len() - inner.len();
        let word = inner.trim_start();
        for (name, replacement) in [
            ("endgeneration", "endfilter"),
            ("generation", "filter __generation__"),
        ] {
            let Some(after) = word.strip_prefix(name) else {
                continue;
            };
            if after
                .trim_start()
                .trim_start_matches(['-', '+'])
                .starts_with("%}")
            {
                out.push_str(&tag[..control]);
                out.push(' ');
                out.push_str(replacement);
                rest = after;
                tagged = true;
            }
            break;
        }
    }
    out.push_str(rest);
    (out, tagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_keep_their_white_space_control() {
        let (text, tagged) =
            rewrite_generation_tags("a {%- generation +%} b {%endgeneration-%}{% if generation %}");
        assert_eq!(
            text,
            "a {%- filter __generation__ +%} b {% endfilter-%}{% if generation %}"
        );
        assert!(tagged);
    }
}
