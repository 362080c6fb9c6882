//! Chat forms that are known by heart: Llama-2, Llama-3, ChatML and Mistral, each with the variants in use.
//!
//! A form writes a conversation and says exactly what of it the model writes. Which form a template is, is found by
//! comparing renderings, never by looking at its source; and a form's text counts only where it equals the
//! template's. Knows no ids.

use std::ops::Range;

use serde_json::{Value as Json, json};

use crate::special_tokens::SpecialTokens;
use crate::template::{ChatInput, ChatTemplate};

/// A conversation written by a form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Composed {
    pub(crate) text: String,
    /// For each assistant message: its place in the list, and what the model writes, turn end included.
    pub(crate) spans: Vec<(usize, Range<usize>)>,
}

/// A chat form with all its variants decided.
#[derive(Clone, Debug)]
pub(crate) struct NativeForm {
    name: &'static str,
    trim: Trim,
    bos: String,
    style: Style,
}

/// Which contents are written without the white space around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trim {
    None,
    All,
    /// The assistant's only.
    Answers,
}

impl Trim {
    fn apply<'a>(self, role: &str, content: &'a str) -> &'a str {
        match self {
            Self::All => content.trim(),
            Self::Answers if role == "assistant" => content.trim(),
            _ => content,
        }
    }
}

#[derive(Clone, Debug)]
enum Style {
    /// Every message has a header with its role.
    Headers {
        open: &'static str,
        after_role: &'static str,
        close: &'static str,
        after_close: &'static str,
        /// Written as a system message where there is none.
        default_system: Option<String>,
    },
    /// User messages in brackets, assistant messages after them.
    Brackets {
        user: (&'static str, &'static str),
        before_answer: &'static str,
        close: String,
        after_close: &'static str,
        bos_each_turn: bool,
        system: System,
    },
}

/// Where a bracket form puts the system message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Refused,
    /// In `<<SYS>>` brackets in the first user message.
    Tagged,
    /// Before the first user message's content, with an empty line between.
    First,
    /// Before the last message's content, if that is the user's.
    Last,
}

impl NativeForm {
    /// The form of a template, or `None` when it is none of the known ones.
    pub(crate) fn recognise(template: &ChatTemplate, special: &SpecialTokens) -> Option<Self> {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let (system, user) = (message("system", " Sy\n"), message("user", " u1 "));
        let (answer, again) = (message("assistant", "\na1 "), message("user", "u2"));
        let probes = [
            (vec![user.clone()], true),
            (vec![user.clone(), answer.clone()], false),
            (vec![user.clone(), answer.clone(), again.clone()], true),
            (vec![system.clone(), user.clone(), answer.clone(), again], false),
            (vec![system, user, answer], false),
        ];
        let rendered: Vec<(ChatInput<'_>, Option<String>)> = probes
            .iter()
            .map(|(messages, prompt)| {
                let input = ChatInput {
                    messages,
                    add_generation_prompt: *prompt,
                    ..ChatInput::default()
                };
                (input, template.render(&input).ok())
            })
            .collect();
        let default_system = rendered
            .first()
            .and_then(|(_, text)| chatml_default_system(text.as_deref()?));
        candidates(special, default_system).into_iter().find(|form| {
            rendered
                .iter()
                .all(|(input, text)| form.compose(input).map(|composed| composed.text) == *text)
        })
    }

    /// The form's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Writes a conversation; `None` for what the form does not know (other roles, contents that are no strings).
    pub(crate) fn compose(&self, input: &ChatInput<'_>) -> Option<Composed> {
        let messages: Vec<(&str, &str)> = input
            .messages
            .iter()
            .map(|message| {
                let text = |key: &str| message.get(key).and_then(Json::as_str);
                Some((text("role")?, text("content")?))
            })
            .collect::<Option<_>>()?;
        match &self.style {
            Style::Headers { .. } => self.headers(&messages, input.add_generation_prompt),
            Style::Brackets { .. } => self.brackets(&messages),
        }
    }

    fn headers(&self, messages: &[(&str, &str)], generation_prompt: bool) -> Option<Composed> {
        let Style::Headers {
            open,
            after_role,
            close,
            after_close,
            default_system,
        } = &self.style
        else {
            return None;
        };
        let mut composed = Composed {
            text: self.bos.clone(),
            spans: Vec::new(),
        };
        if let Some(system) = default_system
            && messages.first().is_some_and(|(role, _)| *role != "system")
        {
            composed
                .text
                .extend([open, "system", after_role, system, close, after_close]);
        }
        for (index, (role, content)) in messages.iter().enumerate() {
            composed.text.extend([open, *role, after_role]);
            let start = composed.text.len();
            composed.text.extend([self.trim.apply(role, content), *close]);
            if *role == "assistant" {
                composed.spans.push((index, start..composed.text.len()));
            }
            composed.text.push_str(after_close);
        }
        if generation_prompt {
            composed.text.extend([open, "assistant", after_role]);
        }
        Some(composed)
    }

    fn brackets(&self, messages: &[(&str, &str)]) -> Option<Composed> {
        let Style::Brackets {
            user,
            before_answer,
            close,
            after_close,
            bos_each_turn,
            system,
        } = &self.style
        else {
            return None;
        };
        let (system_text, turns) = match messages.split_first() {
            Some((("system", content), rest)) => {
                (Some(*content).filter(|_| *system != System::Refused)?, rest)
            }
            _ => ("", messages),
        };
        let has_system = turns.len() < messages.len();
        let first = messages.len() - turns.len();
        let mut composed = Composed {
            text: if *bos_each_turn {
                String::new()
            } else {
                self.bos.clone()
            },
            spans: Vec::new(),
        };
        for (turn, (role, content)) in turns.iter().enumerate() {
            if *role != (if turn % 2 == 0 { "user" } else { "assistant" }) {
                return None;
            }
            if turn % 2 == 1 {
                let start = composed.text.len();
                composed
                    .text
                    .extend([before_answer, self.trim.apply(role, content), close.as_str()]);
                composed.spans.push((first + turn, start..composed.text.len()));
                composed.text.push_str(after_close);
                continue;
            }
            if *bos_each_turn {
                composed.text.push_str(&self.bos);
            }
            let here = has_system
                && match system {
                    System::Refused => false,
                    System::Tagged | System::First => turn == 0,
                    System::Last => turn + 1 == turns.len(),
                };
            let content = match (here, *system) {
                (true, System::Tagged) => format!("<<SYS>>\n{system_text}\n<</SYS>>\n\n{content}"),
                (true, _) => format!("{system_text}\n\n{content}"),
                (false, _) => (*content).to_owned(),
            };
            // System text and content are trimmed as one.
            composed
                .text
                .extend([user.0, self.trim.apply(role, &content), user.1]);
        }
        Some(composed)
    }
}

/// The system message that a ChatML template adds by itself, from its rendering of a lone user message.
fn chatml_default_system(text: &str) -> Option<String> {
    let (_, system) = text.split_once("<|im_start|>system\n")?;
    system
        .split_once("<|im_end|>\n<|im_start|>user\n")
        .map(|(content, _)| content.to_owned())
}

/// Every variant of every form.
fn candidates(special: &SpecialTokens, default_system: Option<String>) -> Vec<NativeForm> {
    let bos = special.get("bos_token").unwrap_or_default().to_owned();
    let eos = special.get("eos_token").unwrap_or("</s>").to_owned();
    let mut forms = Vec::new();
    for trim in [Trim::None, Trim::All, Trim::Answers] {
        for bos in [bos.clone(), String::new()] {
            let mut headers = |name, open, after_role, close, after_close, default_system| {
                let style = Style::Headers {
                    open,
                    after_role,
                    close,
                    after_close,
                    default_system,
                };
                forms.push(NativeForm {
                    name,
                    trim,
                    bos: bos.clone(),
                    style,
                });
            };
            headers(
                "Llama-3",
                "<|start_header_id|>",
                "<|end_header_id|>\n\n",
                "<|eot_id|>",
                "",
                None,
            );
            headers(
                "ChatML",
                "<|im_start|>",
                "\n",
                "<|im_end|>",
                "\n",
                default_system.clone(),
            );
        }
        let llama2 = |system| Style::Brackets {
            user: ("[INST] ", " [/INST]"),
            before_answer: " ",
            close: format!(" {eos}"),
            after_close: "",
            bos_each_turn: true,
            system,
        };
        forms.push(NativeForm {
            name: "Llama-2",
            trim,
            bos: bos.clone(),
            style: llama2(System::Tagged),
        });
        for user in [
            ("[INST] ", " [/INST]"),
            (" [INST] ", " [/INST]"),
            ("[INST]", "[/INST]"),
            ("[INST] ", "[/INST]"),
        ] {
            for (before_answer, after_close) in [("", ""), (" ", ""), ("", " "), (" ", " ")] {
                for system in [System::Refused, System::First, System::Last] {
                    let close = eos.clone();
                    let style = Style::Brackets {
                        user,
                        before_answer,
                        close,
                        after_close,
                        bos_each_turn: false,
                        system,
                    };
                    forms.push(NativeForm {
                        name: "Mistral",
                        trim,
                        bos: bos.clone(),
                        style,
                    });
                }
            }
        }
    }
    forms
}
