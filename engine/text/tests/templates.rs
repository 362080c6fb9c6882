//! Chat templates: equal to Jinja in Python on our conversations, found where checkpoints keep them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use agentlm_text::{
    ChatInput, ChatTemplate, SpecialTokens, TemplateError, TemplateSource, Tokenizer, TokenizerError,
    is_llama2,
};
use common::{fixture, json_fixture};
use serde_json::{Value, json};

fn special() -> SpecialTokens {
    let named = [("bos_token", "<s>"), ("eos_token", "</s>")];
    SpecialTokens {
        named: named.map(|(name, text)| (name.into(), text.into())).into(),
        ..SpecialTokens::default()
    }
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, &special(), TemplateSource::Explicit("test".into())).unwrap()
}

fn render(source: &str, messages: &[Value]) -> Result<String, TemplateError> {
    template(source).render(&ChatInput {
        messages,
        ..ChatInput::default()
    })
}

/// A folder of its own for each test.
fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    for (file, text) in files {
        std::fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
        std::fs::write(dir.join(file), text).unwrap();
    }
    dir
}

#[test]
fn every_feature_renders_as_in_python() {
    let golden = json_fixture("features.json");
    let source = std::fs::read_to_string(fixture("templates/features.jinja")).unwrap();
    let input = ChatInput {
        messages: golden["messages"].as_array().unwrap(),
        tools: Some(golden["tools"].as_array().unwrap()),
        extra: golden["extra"].as_object(),
        ..ChatInput::default()
    };
    assert_eq!(
        template(&source).render(&input).unwrap(),
        golden["text"].as_str().unwrap()
    );
}

#[test]
fn every_conversation_renders_as_in_python() {
    for golden in json_fixture("conversations.json").as_array().unwrap() {
        let form = golden["form"].as_str().unwrap();
        let source = std::fs::read_to_string(fixture(&format!("templates/{form}.jinja"))).unwrap();
        let text = |key: &str| golden[key].as_str().unwrap().to_owned();
        let special = SpecialTokens {
            named: vec![
                ("bos_token".into(), text("bos")),
                ("eos_token".into(), text("eos")),
            ],
            ..SpecialTokens::default()
        };
        let template = ChatTemplate::new(&source, &special, TemplateSource::BuiltInLlama2).unwrap();
        let input = ChatInput {
            messages: golden["messages"].as_array().unwrap(),
            add_generation_prompt: golden["add_generation_prompt"] == true,
            ..ChatInput::default()
        };
        assert_eq!(
            template.render(&input).unwrap(),
            text("text"),
            "{form}, {}",
            golden["case"]
        );
    }
}

#[test]
fn a_template_that_does_not_end_is_broken_off() {
    let endless =
        "{% for a in range(100000) %}{% for b in range(100000) %}{% set c = a %}{% endfor %}{% endfor %}";
    let error = render(endless, &[]).unwrap_err();
    assert!(matches!(error, TemplateError::Endless), "{error:?}");
    let long = "{% for a in range(100000) %}{{ messages[0].content }}{% endfor %}";
    let messages = [json!({"role": "user", "content": "hi"})];
    assert_eq!(render(long, &messages).unwrap().len(), 200_000);
}

#[test]
fn an_exception_of_the_template_is_told_as_it_is() {
    let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
    assert!(
        matches!(&error, TemplateError::Raised(message) if message == "roles must alternate"),
        "{error:?}"
    );
    assert!(matches!(
        render("{{ messages[0].content.nothing() }}", &[]),
        Err(TemplateError::Render(_))
    ));
    let syntax = ChatTemplate::new("{% if %}", &special(), TemplateSource::BuiltInLlama2);
    assert!(matches!(syntax, Err(TemplateError::Syntax(_))));
}

#[test]
fn the_final_assistant_message_is_continued_where_asked() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</e>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let messages = [
        json!({"role": "user", "content": "a b"}),
        json!({"role": "assistant", "content": " a "}),
    ];
    let render = |messages: &[Value], continue_final_message| {
        let input = ChatInput {
            messages,
            add_generation_prompt: true,
            continue_final_message,
            ..ChatInput::default()
        };
        template(source).render(&input)
    };
    assert_eq!(render(&messages, true).unwrap(), "<user>a b</e><assistant> a");
    assert_eq!(
        render(&messages, false).unwrap(),
        "<user>a b</e><assistant> a </e><assistant>"
    );
    assert_eq!(render(&messages[..1], true).unwrap(), "<user>a b</e><assistant>");
    // What the template writes after the content may hold the content again.
    for content in ["e", "<", "/e>", "</e>"] {
        let messages = [json!({"role": "assistant", "content": content})];
        assert_eq!(render(&messages, true).unwrap(), format!("<assistant>{content}"));
    }
    // Nothing to continue: the answer begins.
    for content in [json!(""), json!(" \n"), json!(null), json!([])] {
        let messages = [
            messages[0].clone(),
            json!({"role": "assistant", "content": content}),
        ];
        let found = render(&messages, true);
        assert_eq!(found.unwrap(), "<user>a b</e><assistant>", "{content}");
    }
    let calls = [json!({"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]})];
    assert!(matches!(render(&calls, true), Err(TemplateError::CannotContinue)));
    let parts = [json!({"role": "assistant", "content": [{"type": "text", "text": "not written"}]})];
    let input = ChatInput {
        messages: &parts,
        continue_final_message: true,
        ..ChatInput::default()
    };
    assert!(matches!(
        template("x").render(&input),
        Err(TemplateError::CannotContinue)
    ));
}

#[test]
fn extra_variables_reach_the_template_but_replace_nothing() {
    let extra = json!({"enable_thinking": false, "messages": "gone", "bos_token": "gone"});
    let input = ChatInput {
        extra: extra.as_object(),
        ..ChatInput::default()
    };
    let text = template("{{ enable_thinking }}{{ messages }}{{ bos_token }}")
        .render(&input)
        .unwrap();
    assert_eq!(text, "False[]<s>");
}

#[test]
fn requests_with_tools_use_the_tool_template() {
    let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let both = [
        named("default", "plain"),
        named("tool_use", "{{ tools | length }} tools"),
    ];
    let template = ChatTemplate::with_names(&both, &special(), TemplateSource::BuiltInLlama2).unwrap();
    let tools = [json!({})];
    let input = ChatInput {
        tools: Some(&tools),
        ..ChatInput::default()
    };
    assert_eq!(template.render(&input).unwrap(), "1 tools");
    assert_eq!(
        template
            .render(&ChatInput {
                tools: Some(&[]),
                ..input
            })
            .unwrap(),
        "plain"
    );
    assert!(template.uses_tools());
    let other = ChatTemplate::with_names(&[named("rag", "x")], &special(), TemplateSource::BuiltInLlama2);
    assert!(matches!(other, Err(TemplateError::NoDefault { names }) if names == ["rag"]));
}

#[test]
fn templates_are_found_in_the_order_of_trust() {
    let tokenizer = common::sentencepiece();
    let load = |dir: &Path, explicit: Option<&Path>| {
        let template = ChatTemplate::load(dir, explicit, &tokenizer)?;
        Ok::<_, TemplateError>((template.render(&ChatInput::default())?, template.source().clone()))
    };
    let from = |file: &str| TemplateSource::Checkpoint(file.to_owned());
    let config =
        r#"{"chat_template": [{"name": "default", "template": "config"}, {"name": "rag", "template": "x"}]}"#;
    let old = r#"{"chat_template": "old"}"#;
    let dir = folder(
        "templates-order",
        &[
            ("chat_template.jinja", "jinja"),
            ("tokenizer_config.json", config),
            ("chat_template.json", old),
        ],
    );
    assert_eq!(
        load(&dir, None).unwrap(),
        ("jinja".into(), from("chat_template.jinja"))
    );
    let explicit = dir.join("chat_template.json");
    assert_eq!(load(&dir, Some(&explicit)).unwrap().0, "old");
    std::fs::remove_file(dir.join("chat_template.jinja")).unwrap();
    assert_eq!(
        load(&dir, None).unwrap(),
        ("config".into(), from("tokenizer_config.json"))
    );
    std::fs::write(dir.join("tokenizer_config.json"), "{}").unwrap();
    assert_eq!(
        load(&dir, None).unwrap(),
        ("old".into(), from("chat_template.json"))
    );
    std::fs::remove_file(dir.join("chat_template.json")).unwrap();
    assert!(matches!(load(&dir, None), Err(TemplateError::Missing)));
    assert!(matches!(
        load(&dir, Some(&dir.join("absent"))),
        Err(TemplateError::File { .. })
    ));
}

/// A vocabulary with Llama-2's pieces where they are looked for, and nothing between them.
fn llama2_tokenizer(last: &str, model_type: &str, extra: bool) -> Tokenizer {
    let mut json = json_fixture("sentencepiece.json");
    let known = [("<unk>", 0), ("<s>", 1), ("</s>", 2), ("▁▁", 259), (last, 31_999)];
    let mut vocab = serde_json::Map::new();
    for id in 0..32_000 {
        let piece = match known.iter().find(|(_, known)| *known == id) {
            Some((piece, _)) => (*piece).to_owned(),
            None if (3..259).contains(&id) => format!("<0x{:02X}>", id - 3),
            None => format!("filler{id}"),
        };
        vocab.insert(piece, id.into());
    }
    json["model"]["vocab"] = vocab.into();
    json["model"]["merges"] = json!([]);
    if extra {
        let mut token = json["added_tokens"][0].clone();
        token["id"] = json!(32_000);
        token["content"] = json!("[INST]");
        json["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let special = SpecialTokens {
        model_type: Some(model_type.into()),
        ..special()
    };
    Tokenizer::from_json(json.to_string().as_bytes(), special).unwrap()
}

#[test]
fn llama2_is_recognised_by_its_pieces() {
    assert!(is_llama2(&llama2_tokenizer("给", "llama", false)));
    assert!(!is_llama2(&llama2_tokenizer("给", "mistral", false)));
    assert!(!is_llama2(&llama2_tokenizer("another", "llama", false)));
    assert!(!is_llama2(&llama2_tokenizer("给", "llama", true)));
    assert!(!is_llama2(&common::sentencepiece()));
}

#[test]
fn llama2_checkpoints_without_a_template_get_theirs() {
    let dir = folder("templates-llama2", &[]);
    let template = ChatTemplate::load(&dir, None, &llama2_tokenizer("给", "llama", false)).unwrap();
    assert_eq!(*template.source(), TemplateSource::BuiltInLlama2);
    for golden in json_fixture("conversations.json").as_array().unwrap() {
        if golden["form"] != "llama2" {
            continue;
        }
        let messages = golden["messages"].as_array().unwrap();
        let text = template
            .render(&ChatInput {
                messages,
                ..ChatInput::default()
            })
            .unwrap();
        assert_eq!(text, golden["text"].as_str().unwrap(), "{}", golden["case"]);
    }
    let twice = [
        json!({"role": "user", "content": "a"}),
        json!({"role": "user", "content": "b"}),
    ];
    let error = template.render(&ChatInput {
        messages: &twice,
        ..ChatInput::default()
    });
    assert!(matches!(error, Err(TemplateError::Raised(_))));
}

#[test]
fn a_folder_without_a_tokenizer_says_what_to_do() {
    let dir = folder("templates-none", &[]);
    let error = Tokenizer::from_dir(&dir).unwrap_err();
    assert!(matches!(error, TokenizerError::Missing { .. }), "{error}");
    let dir = folder("templates-model-only", &[("tokenizer.model", "")]);
    let error = Tokenizer::from_dir(&dir).unwrap_err();
    assert!(
        matches!(
            error,
            TokenizerError::NeedsConversion {
                file: "tokenizer.model",
                ..
            }
        ),
        "{error}"
    );
    let dir = folder("templates-broken", &[("tokenizer.json", "{")]);
    assert!(matches!(
        Tokenizer::from_dir(&dir),
        Err(TokenizerError::Parse { .. })
    ));
}

#[test]
fn companions_name_the_special_tokens() {
    let tokenizer = std::fs::read_to_string(fixture("byte_level.json")).unwrap();
    let dir = folder(
        "templates-companions",
        &[
            ("tokenizer.json", &tokenizer),
            (
                "tokenizer_config.json",
                r#"{"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": null}"#,
            ),
            (
                "special_tokens_map.json",
                r#"{"eos_token": "<|eot_id|>", "bos_token": "x"}"#,
            ),
            ("generation_config.json", r#"{"eos_token_id": [3, 4]}"#),
            ("config.json", r#"{"eos_token_id": 9, "model_type": "llama"}"#),
        ],
    );
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    assert_eq!(
        (tokenizer.bos_token(), tokenizer.eos_token()),
        (Some("<|begin_of_text|>"), Some("<|eot_id|>"))
    );
    let eot = tokenizer.token_to_id("<|eot_id|>").unwrap();
    assert_eq!(tokenizer.eos_token_ids(), [3, 4, eot]);
    assert!(tokenizer.is_special(eot) && !tokenizer.is_special(0));
    assert_eq!(tokenizer.special_tokens().model_type.as_deref(), Some("llama"));
}
