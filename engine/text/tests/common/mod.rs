//! The tokenizers of the tests.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of it"
)]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use agentlm_text::{SpecialTokens, Tokenizer};
use serde_json::{Value, json};

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub fn json_fixture(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

pub fn build(json: &Value, bos: &str, eos: &str) -> Arc<Tokenizer> {
    let special = SpecialTokens {
        named: vec![("bos_token".into(), bos.into()), ("eos_token".into(), eos.into())],
        ..SpecialTokens::default()
    };
    Arc::new(Tokenizer::from_json(json.to_string().as_bytes(), special).unwrap())
}

/// Byte-level BPE with Llama-3's and ChatML's special tokens.
pub fn byte_level() -> Arc<Tokenizer> {
    static SHARED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        build(
            &json_fixture("byte_level.json"),
            "<|begin_of_text|>",
            "<|eot_id|>",
        )
    });
    SHARED.clone()
}

/// BPE with byte fallback, every stretch of text prepended with a space: Llama-2's older form.
pub fn sentencepiece() -> Arc<Tokenizer> {
    static SHARED: LazyLock<Arc<Tokenizer>> =
        LazyLock::new(|| build(&json_fixture("sentencepiece.json"), "<s>", "</s>"));
    SHARED.clone()
}

/// The same vocabulary with Metaspace, prepended at the text's start only: Llama-2's newer form.
pub fn metaspace() -> Arc<Tokenizer> {
    static SHARED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let mut json = json_fixture("sentencepiece.json");
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
        build(&json, "<s>", "</s>")
    });
    SHARED.clone()
}

/// The byte-level vocabulary behind a decoder that has no precomputed table.
pub fn general() -> Arc<Tokenizer> {
    static SHARED: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let mut json = json_fixture("byte_level.json");
        let byte_level = json["decoder"].clone();
        json["decoder"] = json!({"type": "Sequence", "decoders": [byte_level, {"type": "Fuse"}]});
        build(&json, "<|begin_of_text|>", "<|eot_id|>")
    });
    SHARED.clone()
}

pub fn all() -> [Arc<Tokenizer>; 4] {
    [byte_level(), sentencepiece(), metaspace(), general()]
}

/// The real small checkpoint's folder, or a note on why the test is skipped.
pub fn dreams() -> Option<PathBuf> {
    match std::env::var_os("AGENTLM_DATA") {
        Some(data) => Some(PathBuf::from(data).join("models/dreams-260k")),
        None => {
            println!("skipped: AGENTLM_DATA is not set");
            None
        }
    }
}
