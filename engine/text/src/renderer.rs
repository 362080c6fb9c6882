//! Messages to token ids, and for each token whether the model is trained on it. Serving and tuning use this one file,
//! so a model is asked exactly what it was taught.
//!
//! What a client writes never becomes a special token (`escape.rs`, `literal.rs`). Which text the model itself writes
//! is decided in this order of trust: a native form whose text equals the template's; the template's own
//! `{% generation %}` tags; markers around contents, if the text without them equals the plain rendering; else the
//! conversation is refused with the reasons. Knows no training data format beyond messages with `role`, `content` and
//! an optional `loss` flag.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use thiserror::Error;

use crate::escape::{Escaped, Restored, SpecialText};
use crate::model_text::Spans;
use crate::native_form::NativeForm;
use crate::template::{ChatInput, ChatTemplate, TemplateError};
use crate::tokenizer::{Encoding, Tokenizer, TokenizerError};

/// Why messages could not be rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    /// The template failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template tears special-token text in a message apart, so it cannot be kept from becoming special.
    #[error(
        "a message holds special-token text (such as \"</s>\") that the chat template takes apart; remove that text \
         from the messages"
    )]
    SpecialTextTorn,
    /// More different special-token texts in one conversation than can be kept apart.
    #[error("the messages hold too many different special-token texts; remove them from the messages")]
    TooMuchSpecialText,
    /// It cannot be said which tokens the model writes.
    #[error(
        "no loss mask can be made for this chat template: {}; use a template with {{% generation %}} tags around what \
         the model writes, its end-of-turn token included",
        reasons.join("; ")
    )]
    NoLossMask {
        /// One for each way that was tried.
        reasons: Vec<String>,
    },
}

/// A rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Its token ids, special tokens of the template included; nothing is added.
    pub ids: Vec<u32>,
}

/// How the trained text was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskSource {
    /// The template is a known chat form, of this name.
    Native(&'static str),
    /// The template's generation tags.
    GenerationTags,
    /// Markers around the contents.
    ContentMarkers,
}

/// What one assistant message became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageSpan {
    /// The message's place in the conversation.
    pub message: usize,
    /// The text that the model writes, turn end included, in bytes.
    pub bytes: Range<usize>,
    /// The tokens that lie wholly inside it.
    pub tokens: Range<usize>,
    /// Whether these tokens are trained: not with `loss: false`.
    pub trained: bool,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
    /// For each token whether it is under the loss.
    pub trained: Vec<bool>,
    /// One for each assistant message.
    pub spans: Vec<MessageSpan>,
    /// How the trained text was found.
    pub source: MaskSource,
}

/// Renders chats for one tokenizer and template.
#[derive(Debug)]
pub struct Renderer {
    tokenizer: Arc<Tokenizer>,
    pub(crate) template: Arc<ChatTemplate>,
    special: SpecialText,
    pub(crate) form: Option<NativeForm>,
    /// White space that the model writes before an answer: between the end of a prompt and the content.
    pub(crate) lead: String,
    /// Texts of the special tokens that end an assistant turn.
    pub(crate) turn_ends: Vec<String>,
}

impl Renderer {
    /// Looks at the template by rendering a few probes.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, template: Arc<ChatTemplate>) -> Self {
        let texts: Vec<String> = tokenizer.special_texts();
        let form = NativeForm::recognise(&template, tokenizer.special_tokens());
        let mut turn_ends: Vec<String> = tokenizer
            .eos_token_ids()
            .iter()
            .filter_map(|&id| tokenizer.id_to_token(id))
            .collect();
        let mut lead = String::new();
        const ANSWER: &str = "Forty-two.";
        let messages = [
            json!({"role": "user", "content": "?"}),
            json!({"role": "assistant", "content": ANSWER}),
        ];
        let input = |messages, prompt| ChatInput {
            messages,
            add_generation_prompt: prompt,
            ..ChatInput::default()
        };
        let prompt = template.render(&input(&messages[..1], true));
        if let Ok(whole) = template.render(&input(&messages, false))
            && let Some(start) = whole.rfind(ANSWER)
        {
            if let Ok(prompt) = prompt
                && whole.starts_with(&prompt)
                && let Some(between) = whole.get(prompt.len()..start)
                && between.trim().is_empty()
            {
                between.clone_into(&mut lead);
            }
            let after = whole[start + ANSWER.len()..].trim_start();
            if let Some(end) = texts
                .iter()
                .filter(|text| after.starts_with(text.as_str()))
                .max_by_key(|text| text.len())
                && !turn_ends.contains(end)
            {
                turn_ends.push(end.clone());
            }
        }
        // The longest first, so that a text that begins another one does not win.
        turn_ends.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self {
            tokenizer,
            template,
            special: SpecialText::new(texts),
            form,
            lead,
            turn_ends,
        }
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The template.
    #[must_use]
    pub fn template(&self) -> &Arc<ChatTemplate> {
        &self.template
    }

    /// The name of the known chat form that the template is, if it is one.
    #[must_use]
    pub fn native_form(&self) -> Option<&'static str> {
        self.form.as_ref().map(NativeForm::name)
    }

    /// Renders and tokenises a prompt.
    ///
    /// # Errors
    /// All of [`RenderError`] but [`RenderError::NoLossMask`].
    pub fn prompt(&self, input: &ChatInput<'_>) -> Result<Prompt, RenderError> {
        let escaped = self
            .special
            .escape(input)
            .ok_or(RenderError::TooMuchSpecialText)?;
        let text = self.template.render(&escaped.input(input))?;
        let restored = escaped.restore(text).ok_or(RenderError::SpecialTextTorn)?;
        let encoding = self
            .tokenizer
            .encode_with_literals(&restored.text, &restored.literals)?;
        Ok(Prompt {
            text: restored.text,
            ids: encoding.ids,
        })
    }

    /// Renders and tokenises a conversation with its loss mask. A token is trained if it lies wholly inside what the
    /// model writes in an assistant message whose `loss` is not `false`; the token that ends the turn is part of that.
    ///
    /// # Errors
    /// All of [`RenderError`].
    pub fn conversation(&self, input: &ChatInput<'_>) -> Result<Rendered, RenderError> {
        let loss: Vec<bool> = input
            .messages
            .iter()
            .map(|message| message.get("loss") != Some(&Json::Bool(false)))
            .collect();
        let messages: Vec<Json> = input.messages.iter().map(without_loss).collect();
        let input = ChatInput {
            messages: &messages,
            continue_final_message: false,
            ..*input
        };
        let escaped = self
            .special
            .escape(&input)
            .ok_or(RenderError::TooMuchSpecialText)?;
        let input = escaped.input(&input);
        let text = self.template.render(&input)?;
        let (spans, source) = self
            .written_by_model(&input, &text)
            .map_err(|reasons| RenderError::NoLossMask { reasons })?;
        self.finish(&escaped, text, spans, &loss, source)
    }

    /// Puts the fragments back, tokenises, and turns text spans into a mask.
    fn finish(
        &self,
        escaped: &Escaped,
        text: String,
        spans: Spans,
        loss: &[bool],
        source: MaskSource,
    ) -> Result<Rendered, RenderError> {
        let restored = escaped.restore(text).ok_or(RenderError::SpecialTextTorn)?;
        let Encoding { ids, offsets } = self
            .tokenizer
            .encode_with_literals(&restored.text, &restored.literals)?;
        let tokens = self.written(&restored, &ids, &offsets);
        let mut trained = vec![false; ids.len()];
        let mut message_spans = Vec::with_capacity(spans.len());
        for (message, span) in spans {
            let bytes = restored.position(span.start)..restored.position(span.end);
            let inside = |token: &Range<usize>| {
                !token.is_empty() && bytes.start <= token.start && token.end <= bytes.end
            };
            // Tokens are in the order of the text, so all from the first inside to the last are.
            let (first, last) = (tokens.iter().position(inside), tokens.iter().rposition(inside));
            let inside = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
            let on = loss.get(message).copied().unwrap_or(true);
            trained[inside.clone()].fill(on);
            message_spans.push(MessageSpan {
                message,
                bytes,
                tokens: inside,
                trained: on,
            });
        }
        Ok(Rendered {
            text: restored.text,
            ids,
            trained,
            spans: message_spans,
            source,
        })
    }

    /// Each token's bytes. A special token that swallows the white space around it is only its own text.
    fn written(&self, restored: &Restored, ids: &[u32], offsets: &[(usize, usize)]) -> Vec<Range<usize>> {
        let own = |(&id, &(start, end)): (&u32, &(usize, usize))| {
            if self.tokenizer.is_special(id)
                && let Some(token) = self.tokenizer.id_to_token(id)
                && let Some(at) = restored.text.get(start..end).and_then(|text| text.find(&token))
            {
                start + at..start + at + token.len()
            } else {
                start..end
            }
        };
        ids.iter().zip(offsets).map(own).collect()
    }
}

/// The flag is ours; a template that prints whole messages must not see it.
fn without_loss(message: &Json) -> Json {
    let mut message = Cow::Borrowed(message);
    if message.get("loss").is_some()
        && let Some(object) = message.to_mut().as_object_mut()
    {
        object.shift_remove("loss");
    }
    message.into_owned()
}
