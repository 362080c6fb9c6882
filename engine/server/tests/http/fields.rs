//! Every field of the three requests: absent and null are the same, and a value of another type is a 422 that names it.

use crate::client::{Reply, post};
use crate::fixture::start;

/// What a plain field never takes.
const WRONG: &str = r#"{"wrong":1}"#;

/// Fields by what serde says that they are.
type Plain = &'static [(&'static str, &'static [&'static str])];
/// A field, a value that it does not take, and what the refusal says.
type Other = &'static [(&'static str, &'static str, &'static str)];

const PARAMETERS: Plain = &[
    ("a string", &["adapter_id"]),
    (
        "a boolean",
        &[
            "decoder_input_details",
            "details",
            "do_sample",
            "ignore_eos",
            "return_full_text",
            "watermark",
        ],
    ),
    (
        "f32",
        &[
            "frequency_penalty",
            "min_p",
            "presence_penalty",
            "repetition_penalty",
            "temperature",
            "top_p",
            "typical_p",
        ],
    ),
    ("i32", &["top_k"]),
    ("u32", &["max_new_tokens", "min_new_tokens", "top_n_tokens"]),
    ("u64", &["best_of", "seed", "truncate"]),
    ("a string or a sequence of strings", &["stop"]),
];

const OTHER_PARAMETERS: Other = &[
    (
        "grammar",
        WRONG,
        "`grammar.type` must be one of json, json_object, json_schema, regex, grammar. Given: none",
    ),
    (
        "logit_bias",
        WRONG,
        "`logit_bias` keys must be token ids. Given: wrong",
    ),
    (
        "seed",
        "-1",
        "parameters.seed: invalid value: integer `-1`, expected u64",
    ),
    (
        "stop",
        "[7]",
        "parameters.stop[0]: invalid type: integer `7`, expected a string",
    ),
    (
        "top_k",
        "1.5",
        "parameters.top_k: invalid type: floating point `1.5`, expected i32",
    ),
];

const NATIVE: Plain = &[("a boolean", &["stream"])];

const OTHER_NATIVE: Other = &[(
    "parameters",
    "7",
    "parameters: invalid type: integer `7`, expected struct GenerateParameters",
)];

/// Of both `/v1` routes.
const V1: Plain = &[
    ("a string", &["model"]),
    ("a boolean", &["ignore_eos", "stream"]),
    (
        "f32",
        &[
            "frequency_penalty",
            "min_p",
            "presence_penalty",
            "repetition_penalty",
            "temperature",
            "top_p",
            "typical_p",
        ],
    ),
    ("i32", &["top_k"]),
    ("u32", &["max_tokens", "min_tokens", "n"]),
    ("an integer of 64 bits", &["seed"]),
    ("a string or a sequence of strings", &["stop"]),
];

const OTHER_V1: Other = &[
    (
        "guided_choice",
        WRONG,
        "a choice must be a list of strings, but is an object",
    ),
    (
        "guided_grammar",
        WRONG,
        "a context-free grammar must be a string, but is an object",
    ),
    (
        "guided_json",
        "7",
        "grammar is not valid: a schema must be an object, a boolean or a string that holds one, but is a number",
    ),
    (
        "guided_regex",
        WRONG,
        "a regex must be a string, but is an object",
    ),
    (
        "logit_bias",
        "7",
        "`logit_bias` must be a map of token ids to numbers or a list of such pairs. Given: 7",
    ),
    (
        "response_format",
        WRONG,
        "`response_format.type` must be one of text, json_object, ",
    ),
    (
        "response_format",
        "7",
        "`response_format` must be an object with `type`, one of ",
    ),
    (
        "stream_options",
        "7",
        "stream_options: invalid type: integer `7`, expected struct StreamOptions",
    ),
    (
        "stream_options",
        r#"{"include_usage":7}"#,
        "stream_options.include_usage: invalid type: integer `7`, expected a boolean",
    ),
    (
        "structured_outputs",
        WRONG,
        "`structured_outputs` must have one of json, regex, choice, grammar, json_object",
    ),
];

const COMPLETIONS: Plain = &[("a boolean", &["echo"]), ("u32", &["best_of", "logprobs"])];

const OTHER_COMPLETIONS: Other = &[("suffix", WRONG, "Suffix is not supported")];

const CHAT: Plain = &[
    ("a string", &["tool_prompt"]),
    (
        "a boolean",
        &[
            "add_generation_prompt",
            "continue_final_message",
            "logprobs",
            "parallel_tool_calls",
        ],
    ),
    ("u32", &["max_completion_tokens", "top_logprobs"]),
];

const OTHER_CHAT: Other = &[
    (
        "chat_template_kwargs",
        "7",
        "chat_template_kwargs: invalid type: integer `7`, expected a map",
    ),
    (
        "function_call",
        WRONG,
        "`functions` and `function_call` are not supported",
    ),
    (
        "functions",
        WRONG,
        "`functions` and `function_call` are not supported",
    ),
    (
        "tool_choice",
        "7",
        "`tool_choice` must be \"auto\", \"none\", \"required\", a tool's name or ",
    ),
    ("tools", "7", "`tools` must be a list. Given: 7"),
];

/// One request that takes the fields in place of its `?`.
struct Form {
    path: &'static str,
    body: &'static str,
    /// What comes before a field's name in messages.
    within: &'static str,
    plain: &'static [Plain],
    other: &'static [Other],
}

const FORMS: [Form; 4] = [
    Form {
        path: "/generate",
        body: r#"{"inputs":"hi","parameters":{"max_new_tokens":1,"?":0}}"#,
        within: "parameters.",
        plain: &[PARAMETERS],
        other: &[OTHER_PARAMETERS],
    },
    Form {
        path: "/",
        body: r#"{"inputs":"hi","?":0,"parameters":{"max_new_tokens":1}}"#,
        within: "",
        plain: &[NATIVE],
        other: &[OTHER_NATIVE],
    },
    Form {
        path: "/v1/completions",
        body: r#"{"prompt":"hi","max_tokens":1,"?":0}"#,
        within: "",
        plain: &[V1, COMPLETIONS],
        other: &[OTHER_V1, OTHER_COMPLETIONS],
    },
    Form {
        path: "/v1/chat/completions",
        body: r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"?":0}"#,
        within: "",
        plain: &[V1, CHAT],
        other: &[OTHER_V1, OTHER_CHAT],
    },
];

impl Form {
    /// The body with a field of this value; any other of that name is left out.
    fn with(&self, name: &str, value: &str) -> String {
        let body = self.body.replace(&format!("\"{name}\":1,\"?\":0"), "\"?\":0");
        let body = match name {
            "parameters" => body.replace(r#","parameters":{"max_new_tokens":1}"#, ""),
            _ => body,
        };
        body.replace("\"?\":0", &format!("\"{name}\":{value}"))
    }

    /// Each field with a value that it does not take and what the refusal says.
    fn fields(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut fields = Vec::new();
        for &(expected, names) in self.plain.iter().copied().flatten() {
            for name in names {
                let text = format!(
                    "{}{name}: invalid type: map, expected {expected} at line 1 ",
                    self.within
                );
                fields.push((*name, WRONG, text));
            }
        }
        let other = self.other.iter().copied().flatten();
        fields.extend(other.map(|&(name, value, text)| (name, value, text.to_owned())));
        fields
    }
}

/// The text of a refusal in either form.
fn error(reply: &Reply) -> String {
    let error = reply.json()["error"].clone();
    let text = error["message"].as_str().or(error.as_str());
    assert_eq!(reply.status, 422, "{}", reply.body);
    text.unwrap_or_else(|| panic!("no text: {}", reply.body))
        .to_owned()
}

#[test]
fn null_is_absence() {
    let server = start();
    for form in FORMS {
        let absent = post(server.address, form.path, form.body);
        assert_eq!(absent.status, 200, "{}: {}", form.path, absent.body);
        for (name, ..) in form.fields() {
            let reply = post(server.address, form.path, &form.with(name, "null"));
            assert_eq!(reply.status, 200, "{} {name}: {}", form.path, reply.body);
        }
    }
    server.wait_idle();
}

#[test]
fn another_type_is_refused_by_name() {
    let server = start();
    for form in FORMS {
        for (name, value, text) in form.fields() {
            let told = error(&post(server.address, form.path, &form.with(name, value)));
            assert!(told.contains(&text), "{} {name}: {told}", form.path);
        }
    }
    server.wait_idle();
}

#[test]
fn what_is_needed_is_neither_absent_nor_null() {
    let server = start();
    let shape = "Failed to deserialize the JSON body into the target type: ";
    let prompts = "a string, a sequence of strings, token ids or sequences of token ids";
    for (path, name, expected) in [
        ("/generate", "inputs", "a string"),
        ("/v1/completions", "prompt", prompts),
        ("/v1/chat/completions", "messages", "a sequence"),
    ] {
        let absent = error(&post(server.address, path, "{}"));
        assert_eq!(
            absent,
            format!("{shape}missing field `{name}` at line 1 column 2")
        );
        for (value, given) in [("null", "null"), ("7", "integer `7`")] {
            let told = error(&post(server.address, path, &format!("{{\"{name}\":{value}}}")));
            let text = format!("{shape}{name}: invalid type: {given}, expected {expected} at line 1 ");
            assert!(told.starts_with(&text), "{path} {value}: {told}");
        }
    }
}
