//! The fields that both `/v1` requests have. They stand once, here, and are written into each of the two.

use super::names::Sent;

/// What is asked of a `/v1` request before it is taken apart.
pub(crate) trait V1Request {
    /// Whether it asks for a stream.
    fn streams(&self) -> bool;

    /// What its client calls what it sent.
    fn sent(&self) -> Sent;
}

/// A request of these fields of its own and of all common ones.
macro_rules! v1_request {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        $vis struct $name {
            $($own)*
            /// Name of the model or of an adapter; it is echoed in the answer.
            pub(crate) model: Option<String>,
            /// The text is not ended by the model before it has this many tokens; at most `max_tokens`, and what fits
            /// behind the prompt.
            #[schemars(extend("default" = 0, "x-cap" = {"maximum": "max-total-tokens"}))]
            pub(crate) min_tokens: Option<u32>,
            /// The end-of-sequence token does not end the text.
            #[schemars(extend("default" = false))]
            pub(crate) ignore_eos: Option<bool>,
            /// 0 takes the likeliest token; the larger, the more even the chances. Other than 0, it is at least 1e-15.
            #[schemars(extend("minimum" = 0, "maximum" = 1e15, "default" = 1))]
            pub(crate) temperature: Option<Single>,
            /// Only the likeliest tokens that together have this share are drawn from; 1 is off, 0 takes the likeliest.
            #[schemars(extend("minimum" = 0, "maximum" = 1, "default" = 1))]
            pub(crate) top_p: Option<Single>,
            /// Only so many of the likeliest tokens are drawn from; 0 and -1 are off.
            #[schemars(extend("minimum" = -1, "default" = 0))]
            pub(crate) top_k: Option<i32>,
            /// Tokens below this share of the likeliest one's probability are not drawn; 0 is off.
            #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1, "default" = 0))]
            pub(crate) min_p: Option<Single>,
            /// Locally typical sampling; 1 is off.
            #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1, "default" = 1))]
            pub(crate) typical_p: Option<Single>,
            /// Divides or multiplies the logits of tokens that are there already; 1 is off.
            #[schemars(extend("minimum" = 1e-15, "maximum" = 1e15, "default" = 1))]
            pub(crate) repetition_penalty: Option<Single>,
            /// Taken from a token's logit for each time that it was generated.
            #[schemars(extend("minimum" = -2, "maximum" = 2, "default" = 0))]
            pub(crate) frequency_penalty: Option<Single>,
            /// Taken from the logits of tokens that were generated.
            #[schemars(extend("minimum" = -2, "maximum" = 2, "default" = 0))]
            pub(crate) presence_penalty: Option<Single>,
            #[schemars(with = "Option<shapes::LogitBias>")]
            pub(crate) logit_bias: Option<Value>,
            #[schemars(with = "Option<shapes::StopSequences>")]
            pub(crate) stop: Option<Stop>,
            /// The same seed draws the same tokens; drawn itself if absent.
            pub(crate) seed: Option<Seed>,
            /// Choices a prompt.
            #[schemars(extend("minimum" = 1, "default" = 1, "x-cap" = {"maximum": "max-best-of"}))]
            pub(crate) n: Option<u32>,
            /// The answer is a stream of events.
            #[schemars(extend("default" = false))]
            pub(crate) stream: Option<bool>,
            pub(crate) stream_options: Option<Object<StreamOptions>>,
            #[schemars(with = "Option<shapes::ResponseFormat>")]
            pub(crate) response_format: Option<Value>,
            /// As in vLLM: the text is JSON of this schema.
            #[schemars(with = "Option<shapes::GuidedJson>")]
            pub(crate) guided_json: Option<Value>,
            /// As in vLLM: the text matches this regular expression.
            #[schemars(with = "Option<String>")]
            pub(crate) guided_regex: Option<Value>,
            /// As in vLLM: the text is one of these.
            #[schemars(with = "Option<Vec<String>>", extend("minItems" = 1))]
            pub(crate) guided_choice: Option<Value>,
            /// As in vLLM: the text is one of this context-free grammar's, in Lark's form or GBNF's.
            #[schemars(with = "Option<String>", extend("minLength" = 1))]
            pub(crate) guided_grammar: Option<Value>,
            #[schemars(with = "Option<shapes::StructuredOutputs>")]
            pub(crate) structured_outputs: Option<Value>,
        }

        impl $name {
            /// The first field that binds the text.
            fn grammar_field(&self) -> Option<&'static str> {
                let format = self.response_format.as_ref();
                let fields = [
                    ("response_format", format.filter(|format| format["type"] != "text")),
                    ("guided_json", self.guided_json.as_ref()),
                    ("guided_regex", self.guided_regex.as_ref()),
                    ("guided_choice", self.guided_choice.as_ref()),
                    ("guided_grammar", self.guided_grammar.as_ref()),
                    ("structured_outputs", self.structured_outputs.as_ref()),
                ];
                let said = |(name, value): (_, Option<&Value>)| value.filter(|value| !value.is_null()).map(|_| name);
                fields.into_iter().find_map(said)
            }

            /// Takes out what tells how to sample. Lengths and log-probabilities are the routes' own.
            pub(crate) fn take_fields(&mut self) -> Fields {
                Fields {
                    temperature: self.temperature.map(f32::from),
                    top_p: self.top_p.map(f32::from),
                    top_k: self.top_k,
                    min_p: self.min_p.map(f32::from),
                    typical_p: self.typical_p.map(f32::from),
                    repetition_penalty: self.repetition_penalty.map(f32::from),
                    frequency_penalty: self.frequency_penalty.map(f32::from),
                    presence_penalty: self.presence_penalty.map(f32::from),
                    min_tokens: self.min_tokens,
                    ignore_eos: self.ignore_eos,
                    stop: self.stop.take(),
                    seed: self.seed,
                    n: self.n,
                    logit_bias: self.logit_bias.take(),
                    formats: Formats {
                        response_format: self.response_format.take(),
                        guided_json: self.guided_json.take(),
                        guided_regex: self.guided_regex.take(),
                        guided_choice: self.guided_choice.take(),
                        guided_grammar: self.guided_grammar.take(),
                        structured_outputs: self.structured_outputs.take(),
                    },
                    ..Fields::default()
                }
            }

            /// Whether a stream is to tell its usage.
            pub(crate) fn includes_usage(&self) -> bool {
                self.stream_options
                    .as_ref()
                    .and_then(|Object(options)| options.include_usage)
                    .unwrap_or(false)
            }
        }
    };
}

pub(crate) use v1_request;
