//! The tokenizers of the text crate's tests: byte-level, and with byte fallback in its two forms.

use std::sync::{Arc, LazyLock};

use agentlm_text::{SpecialTokens, Tokenizer};
use serde_json::{Value, json};

const BYTE_LEVEL: &str = include_str!("../../text/tests/fixtures/byte_level.json");
const SENTENCEPIECE: &str = include_str!("../../text/tests/fixtures/sentencepiece.json");

fn build(json: &Value, bos: &str, eos: &str) -> Arc<Tokenizer> {
    let special = SpecialTokens {
        named: vec![("bos_token".into(), bos.into()), ("eos_token".into(), eos.into())],
        ..SpecialTokens::default()
    };
    Arc::new(Tokenizer::from_json(json.to_string().as_bytes(), special).expect("the fixture is valid"))
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).expect("the fixture is valid")
}

/// Byte-level, sentencepiece, Metaspace, and byte-level behind a decoder without a table.
pub(crate) static ALL: LazyLock<[Arc<Tokenizer>; 4]> = LazyLock::new(|| {
    let byte_level = parsed(BYTE_LEVEL);
    let sentencepiece = parsed(SENTENCEPIECE);
    let mut metaspace = sentencepiece.clone();
    metaspace["normalizer"] = Value::Null;
    metaspace["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    let mut general = byte_level.clone();
    general["decoder"] = json!({"type": "Sequence", "decoders": [byte_level["decoder"], {"type": "Fuse"}]});
    [
        build(&byte_level, "<|begin_of_text|>", "<|eot_id|>"),
        build(&sentencepiece, "<s>", "</s>"),
        build(&metaspace, "<s>", "</s>"),
        build(&general, "<|begin_of_text|>", "<|eot_id|>"),
    ]
});
