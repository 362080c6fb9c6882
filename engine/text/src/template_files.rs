//! Finds a checkpoint's chat template among the files that may hold it.

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::special_tokens::read_object;
use crate::template::{ChatTemplate, TemplateError, TemplateSource};
use crate::tokenizer::Tokenizer;

/// Llama-2's chat form, for checkpoints that were published before templates were: system text inside the first user
/// turn, every exchange with a bos of its own.
const LLAMA2: &str = "\
{%- set ns = namespace(system='', turn=0) -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' and loop.first -%}
{%- set ns.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' -%}
{%- elif (message['role'] == 'user') != (ns.turn % 2 == 0) -%}
{{- raise_exception('Llama-2 chats alternate user and assistant messages, after at most one system message') -}}
{%- elif message['role'] == 'user' -%}
{%- set content = (ns.system if ns.turn == 0 else '') + message['content'] -%}
{{- bos_token + '[INST] ' + content.strip() + ' [/INST]' -}}
{%- set ns.turn = ns.turn + 1 -%}
{%- elif message['role'] == 'assistant' -%}
{{- ' ' + message['content'].strip() + ' ' + eos_token -}}
{%- set ns.turn = ns.turn + 1 -%}
{%- else -%}
{{- raise_exception('Llama-2 chats know the roles system, user and assistant, not ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
";

impl ChatTemplate {
    /// The template of the checkpoint in `dir`. In this order: the file `explicit`; `chat_template.jinja` (with
    /// `additional_chat_templates/*.jinja`); `tokenizer_config.json`; `chat_template.json`; Llama-2's own form where the
    /// tokenizer is Llama-2's (see [`is_llama2`]; [`ChatTemplate::source`] says so).
    ///
    /// # Errors
    /// [`TemplateError::Missing`] when there is none, and whatever is wrong with the one that is found.
    pub fn load(dir: &Path, explicit: Option<&Path>, tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        let special = tokenizer.special_tokens();
        if let Some(file) = explicit {
            let name = file.display().to_string();
            let templates = if file.extension().is_some_and(|extension| extension == "json") {
                let object = object(file)?.ok_or_else(|| bad_file(file, "it does not exist"))?;
                in_object(&object).ok_or_else(|| bad_file(file, "it has no chat_template"))?
            } else {
                let text =
                    std::fs::read_to_string(file).map_err(|error| bad_file(file, &error.to_string()))?;
                vec![("default".to_owned(), text)]
            };
            return Self::with_names(&templates, special, TemplateSource::Explicit(name));
        }
        let file = dir.join("chat_template.jinja");
        if file.is_file() {
            let text = std::fs::read_to_string(&file).map_err(|error| bad_file(&file, &error.to_string()))?;
            let mut templates = vec![("default".to_owned(), text)];
            templates.extend(additional(&dir.join("additional_chat_templates"))?);
            let source = TemplateSource::Checkpoint("chat_template.jinja".to_owned());
            return Self::with_names(&templates, special, source);
        }
        for name in ["tokenizer_config.json", "chat_template.json"] {
            if let Some(templates) = object(&dir.join(name))?.as_ref().and_then(in_object) {
                return Self::with_names(&templates, special, TemplateSource::Checkpoint(name.to_owned()));
            }
        }
        if is_llama2(tokenizer) {
            return Self::new(LLAMA2, special, TemplateSource::BuiltInLlama2);
        }
        Err(TemplateError::Missing)
    }
}

/// Whether a tokenizer is Llama-2's: its control and byte pieces, its first and last piece of text, no more than a few
/// added tokens, `[INST]` not one of them, and a configuration (where there is one) of the Llama family.
#[must_use]
pub fn is_llama2(tokenizer: &Tokenizer) -> bool {
    const PIECES: [(&str, u32); 6] = [
        ("<unk>", 0),
        ("<s>", 1),
        ("</s>", 2),
        ("<0x0A>", 13),
        ("▁▁", 259),
        ("给", 31999),
    ];
    (32_000..32_064).contains(&tokenizer.vocab_size())
        && PIECES
            .iter()
            .all(|(piece, id)| tokenizer.token_to_id(piece) == Some(*id))
        && tokenizer.token_to_id("[INST]").is_none()
        && tokenizer
            .special_tokens()
            .model_type
            .as_deref()
            .is_none_or(|family| family == "llama")
}

/// The templates of a `chat_template` entry: one string, a list of `{name, template}`, or an object by name.
fn in_object(object: &Map<String, Json>) -> Option<Vec<(String, String)>> {
    match object.get("chat_template")? {
        Json::String(template) => Some(vec![("default".to_owned(), template.clone())]),
        Json::Array(list) => {
            let named = |entry: &Json| {
                let text = |key: &str| entry.get(key).and_then(Json::as_str).map(str::to_owned);
                Some((text("name")?, text("template")?))
            };
            list.iter().map(named).collect()
        }
        Json::Object(map) => map
            .iter()
            .map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())))
            .collect(),
        _ => None,
    }
}

/// `NAME.jinja` files of a folder, by name.
fn additional(dir: &Path) -> Result<Vec<(String, String)>, TemplateError> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut templates = Vec::new();
    for file in entries.flatten().map(|entry| entry.path()) {
        let is_template = file.extension().is_some_and(|extension| extension == "jinja");
        let Some(name) = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .filter(|_| is_template)
        else {
            continue;
        };
        let text = std::fs::read_to_string(&file).map_err(|error| bad_file(&file, &error.to_string()))?;
        templates.push((name.to_owned(), text));
    }
    templates.sort();
    Ok(templates)
}

fn object(file: &Path) -> Result<Option<Map<String, Json>>, TemplateError> {
    read_object(file).map_err(|error| bad_file(file, &error.to_string()))
}

fn bad_file(file: &Path, reason: &str) -> TemplateError {
    TemplateError::File {
        file: file.display().to_string(),
        reason: reason.to_owned(),
    }
}
