//! A grammar of any kind is compiled or refused in one line; where a mask allows a token, it is taken; what is complete
//! is what the grammar asked for.

use std::sync::LazyLock;

use agentlm_text::{Grammar, GrammarCompiler, GrammarError, GrammarState, Tokenizer};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::draw::Draw;
use crate::input::Input;
use crate::tokenizers;

const LONGEST_WALK: usize = 60;
/// What a model's vocabulary has more than its tokenizer's.
const BEYOND: usize = 5;

static COMPILERS: LazyLock<[GrammarCompiler; 2]> = LazyLock::new(|| {
    [0, 1].map(|which| {
        let tokenizer = tokenizers::ALL[which].clone();
        let (eos, size) = (
            tokenizer.eos_token_ids().to_vec(),
            tokenizer.vocab_size() + BEYOND,
        );
        GrammarCompiler::new(tokenizer, eos, size)
    })
});

/// Kind, tokenizer, the walk's seed, the grammar's text.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, which, seed) = (input.below(5), input.below(2), input.byte());
    let text = input.text();
    let grammar = match kind {
        0 => match serde_json::from_str::<Value>(&text) {
            Ok(schema) => Grammar::JsonSchema(schema),
            Err(_) => return,
        },
        1 => Grammar::Regex(text),
        2 => Grammar::Lark(text),
        3 => Grammar::Choice(text.lines().map(str::to_owned).collect()),
        _ => Grammar::JsonObject,
    };
    match COMPILERS[which].start(&grammar) {
        Ok(state) => walk(&grammar, state, &tokenizers::ALL[which], &mut Draw::new(seed)),
        Err(error) => assert_told(&error),
    }
}

fn walk(grammar: &Grammar, mut state: GrammarState, tokenizer: &Tokenizer, draw: &mut Draw) {
    let size = tokenizer.vocab_size() + BEYOND;
    let mut mask = vec![0; size.div_ceil(32)];
    let eos = tokenizer.eos_token_ids();
    let mut ids = Vec::new();
    for step in 0..LONGEST_WALK {
        if let Err(error) = state.fill_mask(&mut mask) {
            // A text that began can run into a limit on the work for one token, not into a token that no mask forbade.
            return assert_told(&error);
        }
        let allowed: Vec<u32> = (0..32 * mask.len())
            .filter(|id| mask[id / 32] & (1 << (id % 32)) != 0)
            .map(|id| u32::try_from(id).expect("a small vocabulary"))
            .collect();
        assert!(!allowed.is_empty(), "nothing is allowed, and nothing was said");
        assert!(
            allowed.iter().all(|&id| (id as usize) < size),
            "an id beyond the vocabulary"
        );
        let special = |id: &&u32| tokenizer.is_special(**id) && !eos.contains(id);
        assert_eq!(allowed.iter().find(special), None, "a special token is no text");
        let may_end = allowed.iter().any(|id| eos.contains(id));
        if may_end {
            assert!(
                eos.iter().all(|id| allowed.contains(id)),
                "one end is allowed, another is not"
            );
            assert_complete(grammar, &ids, tokenizer);
        }
        if may_end && (step + 10 > LONGEST_WALK || draw.below(4) == 0) {
            state.advance(eos[0]).expect("the end was allowed");
            state
                .fill_mask(&mut mask)
                .expect("a text that has ended goes on with its end");
            let bits: u32 = mask.iter().map(|word| word.count_ones()).sum();
            assert_eq!(bits as usize, eos.len(), "nothing but the end follows the end");
            return;
        }
        let going_on: Vec<u32> = allowed.iter().copied().filter(|id| !eos.contains(id)).collect();
        if going_on.is_empty() {
            return;
        }
        let id = going_on[draw.below(going_on.len())];
        if let Err(error) = state.advance(id) {
            let GrammarError::Token { token, why } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(*token, id);
            // The one reason for which a token may be refused that the mask allowed.
            assert!(is_limit(why), "token {id} after {ids:?}: {why}");
            return;
        }
        ids.push(id);
    }
}

fn is_limit(why: &str) -> bool {
    ["limit", "too many", "too large", "exceeded"]
        .iter()
        .any(|word| why.contains(word))
}

fn assert_told(error: &GrammarError) {
    let text = error.to_string();
    assert!(
        !text.is_empty() && text.lines().count() == 1,
        "not one line: {text:?}"
    );
    assert!(!text.contains("panic"), "{text}");
}

/// Where the text may end it is what was asked for.
fn assert_complete(grammar: &Grammar, ids: &[u32], tokenizer: &Tokenizer) {
    // The tokens' own texts: a decoder would drop the space that begins a text.
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| bytes_of(tokenizer, id)).collect();
    match grammar {
        Grammar::JsonSchema(_) | Grammar::JsonObject => {
            let parsed: Result<IgnoredAny, _> = serde_json::from_slice(&bytes);
            assert!(parsed.is_ok(), "not JSON: {:?}", String::from_utf8_lossy(&bytes));
            if *grammar == Grammar::JsonObject {
                assert_eq!(bytes.first(), Some(&b'{'));
            }
        }
        Grammar::Choice(texts) => {
            assert!(
                texts.iter().any(|text| text.as_bytes() == bytes),
                "no choice: {bytes:?}"
            );
        }
        Grammar::Regex(_) | Grammar::Lark(_) => {}
    }
}

fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Some(token) = tokenizer.id_to_token(id) else {
        return Vec::new();
    };
    if let Some(byte) = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'))
        && let Ok(byte) = u8::from_str_radix(byte, 16)
    {
        return vec![byte];
    }
    if tokenizer.token_to_id("▁").is_some() {
        return token.replace('▁', " ").into_bytes();
    }
    token.chars().map(byte_of).collect()
}

/// GPT-2's characters for bytes, turned back.
fn byte_of(c: char) -> u8 {
    let shown = |byte: &u32| (33..=126).contains(byte) || (161..=172).contains(byte) || *byte >= 174;
    let code = u32::from(c);
    let byte = if code < 256 {
        code
    } else {
        let hidden = (0..256).filter(|byte| !shown(byte));
        hidden
            .clone()
            .nth(code as usize - 256)
            .expect("a byte-level token")
    };
    u8::try_from(byte).expect("below 256")
}
