//! Every numeric field of each dialect: what its refusal says is its range is what it takes, save where TGI's own words are kept.

use agentlm_server::V1Dialect;

use crate::client::post;
use crate::fixture::{Fixture, Setup};

/// Values of a share or a factor, on both sides of every border.
const FLOATS: &[&str] = &[
    "-1e39", "-3", "-2.1", "-2", "-1", "-0.5", "0", "1e-300", "1e-44", "1e-15", "0.5", "1", "1.5", "2",
    "2.1", "1e15", "1e39",
];
/// Values of a signed integer.
const SIGNED: &[&str] = &["-3", "-2", "-1", "0", "1", "50"];
/// Values of a count; below 0 it is none.
const COUNTS: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "100"];
/// Around the longest prompt, 199 tokens.
const LENGTHS: &[&str] = &["0", "1", "198", "199", "200"];

/// A field, the values that it is given, and those that are taken although its text says otherwise.
struct Field(&'static str, &'static [&'static str], &'static [&'static str]);

const NATIVE: &[Field] = &[
    Field("temperature", FLOATS, &[]),
    Field("repetition_penalty", FLOATS, &[]),
    Field("frequency_penalty", FLOATS, &[]),
    Field("presence_penalty", FLOATS, &[]),
    Field("top_p", FLOATS, &["1"]),
    Field("typical_p", FLOATS, &["1"]),
    Field("min_p", FLOATS, &[]),
    Field("top_k", SIGNED, &[]),
    Field("best_of", COUNTS, &["0"]),
    Field("max_new_tokens", COUNTS, &[]),
    Field("min_new_tokens", COUNTS, &[]),
    Field("top_n_tokens", COUNTS, &[]),
    Field("truncate", LENGTHS, &["199"]),
];

const V1: &[Field] = &[
    Field("temperature", FLOATS, &[]),
    Field("repetition_penalty", FLOATS, &[]),
    Field("frequency_penalty", FLOATS, &[]),
    Field("presence_penalty", FLOATS, &[]),
    Field("top_p", FLOATS, &[]),
    Field("typical_p", FLOATS, &[]),
    Field("min_p", FLOATS, &[]),
    Field("top_k", SIGNED, &[]),
    Field("n", COUNTS, &[]),
    Field("max_tokens", COUNTS, &[]),
    Field("min_tokens", COUNTS, &[]),
];

/// TGI refuses these three by texts that are narrower than what its clients may send here.
const V1_AS_TGI: &[Field] = &[
    Field("temperature", FLOATS, &["0"]),
    Field("top_p", FLOATS, &["0", "1"]),
    Field("typical_p", FLOATS, &["1"]),
];

/// A request that takes a field in place of its `?`.
struct Form {
    path: &'static str,
    body: &'static str,
    dialect: V1Dialect,
    fields: &'static [&'static [Field]],
}

const COMPLETION: &str = r#"{"prompt":"hi","max_tokens":3,"?":0}"#;
const CHAT: &str = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":3,"logprobs":true,"?":0}"#;

const FORMS: [Form; 5] = [
    Form {
        path: "/generate",
        body: r#"{"inputs":"hi","parameters":{"do_sample":true,"max_new_tokens":3,"?":0}}"#,
        dialect: V1Dialect::OpenAi,
        fields: &[NATIVE],
    },
    Form {
        path: "/v1/completions",
        body: COMPLETION,
        dialect: V1Dialect::OpenAi,
        fields: &[
            V1,
            &[Field("best_of", COUNTS, &[]), Field("logprobs", COUNTS, &[])],
        ],
    },
    Form {
        path: "/v1/chat/completions",
        body: CHAT,
        dialect: V1Dialect::OpenAi,
        fields: &[
            V1,
            &[
                Field("top_logprobs", COUNTS, &[]),
                Field("max_completion_tokens", COUNTS, &[]),
            ],
        ],
    },
    Form {
        path: "/v1/completions",
        body: COMPLETION,
        dialect: V1Dialect::Tgi,
        fields: &[V1_AS_TGI],
    },
    Form {
        path: "/v1/chat/completions",
        body: CHAT,
        dialect: V1Dialect::Tgi,
        fields: &[V1_AS_TGI],
    },
];

/// Whether a value lies in the range that a refusal tells.
fn lies_within(value: f64, text: &str) -> bool {
    let (_, range) = text
        .split_once(" must be ")
        .unwrap_or_else(|| panic!("no range: {text}"));
    let (range, _) = range.split_once(". Given: ").unwrap_or((range, ""));
    let range = match range.strip_prefix("0.0, or ") {
        Some(_) if value == 0.0 => return true,
        Some(others) => others,
        None => range,
    };
    range.split(" and ").all(|border| {
        let (sign, bound) = border.rsplit_once(' ').unwrap();
        // The bodies' own limit of tokens.
        let bound = if bound.starts_with('`') { "3" } else { bound };
        let bound: f64 = match sign {
            "strictly" => 0.0,
            _ => bound
                .parse()
                .unwrap_or_else(|_| panic!("no bound in {border:?}: {text}")),
        };
        match sign {
            ">" | "strictly" => value > bound,
            ">=" => value >= bound,
            "<" | "less than" => value < bound,
            "<=" => value <= bound,
            _ => panic!("no sign in {border:?}: {text}"),
        }
    })
}

/// The text with which a value is refused, if it is.
fn refusal(server: &Fixture, form: &Form, name: &str, value: &str) -> Option<String> {
    let body = ["max_new_tokens", "max_tokens"]
        .into_iter()
        .filter(|limit| *limit == name)
        .fold(form.body.to_owned(), |body, limit| {
            body.replace(&format!("\"{limit}\":3,"), "")
        });
    let body = body.replace("\"?\":0", &format!("\"{name}\":{value}"));
    let reply = post(server.address, form.path, &body);
    if reply.status == 200 {
        return None;
    }
    assert_eq!(reply.status, 422, "{} {name}: {value}: {}", form.path, reply.body);
    let error = reply.json()["error"].clone();
    let text = error["message"].as_str().or(error.as_str()).unwrap();
    Some(
        text.strip_prefix("Input validation error: ")
            .unwrap_or(text)
            .to_owned(),
    )
}

#[test]
fn a_refusal_tells_the_range_that_is_taken() {
    for form in FORMS {
        let mut setup = Setup::default();
        setup.config.v1_dialect = form.dialect;
        let server = setup.start();
        for Field(name, values, beyond) in form.fields.iter().copied().flatten() {
            let told: Vec<_> = values
                .iter()
                .map(|value| (*value, refusal(&server, &form, name, value)))
                .collect();
            // There may be two: TGI's, and one for what TGI takes but cannot compute.
            let texts: Vec<&String> = told.iter().filter_map(|(_, refusal)| refusal.as_ref()).collect();
            assert!(!texts.is_empty(), "{} {name} takes everything", form.path);
            for (value, refusal) in &told {
                let number = value.parse().unwrap();
                let within = texts.iter().all(|text| lies_within(number, text));
                assert_eq!(
                    refusal.is_none(),
                    within || beyond.contains(value),
                    "{} {:?} {name}: {value}: {texts:?}",
                    form.path,
                    form.dialect
                );
                if let Some(text) = refusal {
                    assert!(
                        !lies_within(number, text),
                        "{} {name}: {value}: {text}",
                        form.path
                    );
                }
                assert!(
                    !(within && beyond.contains(value)),
                    "{name}: {value} is no exception"
                );
            }
        }
        server.wait_idle();
    }
}

#[test]
fn seeds_of_openais_clients_may_be_negative() {
    let server = Setup::default().start();
    for form in FORMS {
        for seed in ["-9223372036854775808", "-1", "0", "18446744073709551615"] {
            let body = form
                .body
                .replace("\"?\":0", &format!("\"seed\":{seed},\"temperature\":0.5"));
            let reply = post(server.address, form.path, &body);
            let refused = form.path == "/generate" && seed.starts_with('-');
            let expected = if refused { 422 } else { 200 };
            assert_eq!(reply.status, expected, "{} {seed}: {}", form.path, reply.body);
        }
    }
}
