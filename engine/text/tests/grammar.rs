//! Texts sampled at random under a grammar's masks follow it, to the end and not beyond.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, LazyLock};

use agentlm_text::{
    Grammar, GrammarCompiler, GrammarError, GrammarState, Piece, StreamOptions, TextStream, Tokenizer,
};
use common::{byte_level, general, metaspace, sentencepiece};
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

/// Whether a value is what its schema asks for.
type Fits = fn(&Value) -> bool;

/// A tokenizer, its compiler and the ids that end a text.
struct Model {
    tokenizer: Arc<Tokenizer>,
    compiler: GrammarCompiler,
    eos: Vec<u32>,
    vocab_size: usize,
}

impl Model {
    /// The model's head is wider than the tokenizer, as padded checkpoints have it.
    fn new(tokenizer: Arc<Tokenizer>, ends: &[&str]) -> Self {
        let eos: Vec<u32> = ends
            .iter()
            .map(|text| tokenizer.token_to_id(text).unwrap())
            .collect();
        let vocab_size = tokenizer.vocab_size() + 45;
        Self {
            compiler: GrammarCompiler::new(tokenizer.clone(), eos.clone(), vocab_size),
            tokenizer,
            eos,
            vocab_size,
        }
    }

    fn start(&self, grammar: &Grammar) -> GrammarState {
        self.compiler.start(grammar).unwrap()
    }

    fn words(&self, state: &mut GrammarState) -> Vec<u32> {
        let mut mask = vec![0; self.vocab_size.div_ceil(32)];
        state.fill_mask(&mut mask).unwrap();
        mask
    }

    fn allowed(&self, state: &mut GrammarState) -> Vec<u32> {
        let mask = self.words(state);
        (0..u32::try_from(mask.len() * 32).unwrap())
            .filter(|&id| mask[(id / 32) as usize] & (1 << (id % 32)) != 0)
            .collect()
    }

    fn only_ends(&self, allowed: &[u32]) -> bool {
        let mut eos = self.eos.clone();
        eos.sort_unstable();
        allowed == eos
    }

    /// A text sampled at random. After some tokens it closes what it can close, so that it comes to an end.
    fn walk(&self, state: &mut GrammarState, seed: u64) -> String {
        let prompt = self.tokenizer.encode("a", false).unwrap().ids;
        let mut stream = TextStream::new(self.tokenizer.clone(), &prompt, StreamOptions::default());
        let mut piece = Piece::default();
        let mut random = Random(seed);
        for step in 0..20_000 {
            let allowed = self.allowed(state);
            let ends = self.eos.iter().filter(|id| allowed.contains(id)).count();
            assert!(
                ends == 0 || ends == self.eos.len(),
                "{ends} of the ends are allowed"
            );
            for &id in &allowed {
                assert!(
                    (id as usize) < self.tokenizer.vocab_size(),
                    "{id} is beyond the vocabulary"
                );
                assert!(
                    self.eos.contains(&id) || !self.tokenizer.is_special(id),
                    "{id} is special"
                );
            }
            let id = self.pick(&allowed, step > 30, &mut random);
            state.advance(id).unwrap();
            if self.eos.contains(&id) {
                assert!(self.only_ends(&self.allowed(state)));
                stream.finish(&mut piece.delta);
                return stream.text().to_owned();
            }
            stream.push(id, &mut piece);
        }
        panic!("a text without end: {}", stream.text());
    }

    fn pick(&self, allowed: &[u32], closing: bool, random: &mut Random) -> u32 {
        assert!(!allowed.is_empty());
        if closing {
            if let Some(end) = self.eos.iter().find(|id| allowed.contains(id)) {
                return *end;
            }
            let mut closers = ["}", "]", "\""];
            closers.rotate_left(random.below(3));
            for closer in closers {
                let found = allowed
                    .iter()
                    .find(|&&id| self.tokenizer.token_text(id) == closer);
                if let Some(&id) = found {
                    return id;
                }
            }
        }
        allowed[random.below(allowed.len())]
    }
}

/// Knuth's generator: the same texts in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

static MODELS: LazyLock<[Model; 4]> = LazyLock::new(|| {
    let llama3 = ["<|eot_id|>", "<|end_of_text|>"];
    [
        Model::new(byte_level(), &llama3),
        Model::new(sentencepiece(), &["</s>"]),
        Model::new(metaspace(), &["</s>"]),
        Model::new(general(), &llama3),
    ]
});

/// Byte-level, with two ends.
fn model() -> &'static Model {
    &MODELS[0]
}

fn regex(text: &str) -> Grammar {
    Grammar::Regex(text.to_owned())
}

fn choices(texts: &[&str]) -> Grammar {
    Grammar::Choice(texts.iter().map(|&text| text.to_owned()).collect())
}

fn pet() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "kind": {"enum": ["cat", "dog", 3, null]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 3},
            "weight": {"type": "number", "minimum": -10, "maximum": 10},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "home": {
                "type": "object",
                "properties": {"inside": {"type": "boolean"}},
                "required": ["inside"],
                "additionalProperties": false
            }
        },
        "required": ["name", "kind", "tags", "weight", "age", "home"],
        "additionalProperties": false
    })
}

fn is_pet(value: &Value) -> bool {
    let length = |value: &Value| value.as_str().map(|text| text.chars().count());
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    let tags = value["tags"].as_array().unwrap();
    keys == ["name", "kind", "tags", "weight", "age", "home"]
        && length(&value["name"]).unwrap() <= 8
        && [json!("cat"), json!("dog"), json!(3), json!(null)].contains(&value["kind"])
        && tags.len() <= 3
        && tags.iter().all(|tag| length(tag).unwrap() <= 3)
        && (-10.0..=10.0).contains(&value["weight"].as_f64().unwrap())
        && (0..=120).contains(&value["age"].as_i64().unwrap())
        && value["home"]["inside"].is_boolean()
        && value["home"].as_object().unwrap().len() == 1
}

/// A list of digits, linked.
fn chain() -> Value {
    json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {
            "type": "object",
            "properties": {
                "digit": {"type": "integer", "minimum": 0, "maximum": 9},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
            },
            "required": ["digit", "next"],
            "additionalProperties": false
        }}
    })
}

fn is_chain(value: &Value) -> bool {
    let mut node = value;
    while !node.is_null() {
        if !(0..=9).contains(&node["digit"].as_i64().unwrap()) || node.as_object().unwrap().len() != 2 {
            return false;
        }
        node = &node["next"];
    }
    !value.is_null()
}

fn is_three_digits(value: &Value) -> bool {
    let digits = value.as_array().unwrap();
    digits.len() == 3
        && digits
            .iter()
            .all(|digit| (0..=9).contains(&digit.as_i64().unwrap()))
}

#[test]
fn texts_fit_their_schema() {
    let digits = json!({
        "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 3, "maxItems": 3
    });
    let one_of = json!({"oneOf": [{"type": "boolean"}, {"enum": ["maybe"]}]});
    let cases: [(Value, Fits); 5] = [
        (pet(), is_pet),
        (chain(), is_chain),
        (digits, is_three_digits),
        (one_of, |value| value.is_boolean() || value == "maybe"),
        (json!({"const": {"a": [1, "x"]}}), |value| {
            *value == json!({"a": [1, "x"]})
        }),
    ];
    for model in &*MODELS {
        for (schema, fits) in &cases {
            let grammar = Grammar::JsonSchema(schema.clone());
            for seed in 0..8 {
                let text = model.walk(&mut model.start(&grammar), seed);
                let value: Value =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
                assert!(fits(&value), "{text}");
            }
        }
    }
}

#[test]
fn spaces_are_single() {
    let grammar = Grammar::JsonSchema(json!({
        "type": "array", "items": {"enum": [true]}, "minItems": 2, "maxItems": 4
    }));
    for seed in 0..30 {
        let text = model().walk(&mut model().start(&grammar), seed);
        assert!(
            !text.contains("  ") && !text.contains(['\n', '\t', '\r']),
            "{text:?}"
        );
        assert!(!text.starts_with(' '), "{text:?}");
    }
}

#[test]
fn an_object_may_have_many_optional_properties_but_not_any_number() {
    let object = |count: usize, required: &[&str]| {
        let property = |at: usize| (format!("p{at}"), json!({"type": "integer"}));
        let properties: Map<String, Value> = (0..count).map(property).collect();
        json!({"type": "object", "properties": properties, "required": required})
    };
    let within = |schema: Value| json!({"type": "array", "items": schema, "minItems": 1});
    let refusal = "an object has 1001 optional properties in a row, but may have at most 1000: name some in `required`, or \
                   divide it";
    for (schema, told) in [
        (object(520, &[]), None),
        (object(1000, &[]), None),
        (within(object(1000, &[])), None),
        (object(1800, &["p900"]), None),
        (object(1001, &[]), Some(refusal)),
        (within(object(1001, &[])), Some(refusal)),
    ] {
        match model().compiler.start(&Grammar::JsonSchema(schema)) {
            Ok(mut state) => {
                assert_eq!(told, None);
                let text = model().walk(&mut state, 1);
                assert!(serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{text}");
            }
            Err(error) => assert_eq!(told, Some(error.to_string().as_str())),
        }
    }
}

#[test]
fn any_object_is_an_object() {
    for model in &*MODELS {
        for seed in 0..8 {
            let text = model.walk(&mut model.start(&Grammar::JsonObject), seed);
            assert!(text.starts_with('{'), "{text}");
            // Numbers may be larger than any that is kept.
            serde_json::from_str::<IgnoredAny>(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}

#[test]
fn any_schema_is_a_schema() {
    for schema in [json!(true), json!({}), json!({"description": "anything"})] {
        let grammar = Grammar::JsonSchema(schema);
        let text = model().walk(&mut model().start(&grammar), 1);
        serde_json::from_str::<IgnoredAny>(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn texts_match_their_regex_from_end_to_end() {
    let plain = |text: &str| {
        let (word, number) = text.split_once('-').unwrap();
        (2..=4).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_lowercase())
            && number.len() == 3
            && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    for model in &*MODELS {
        for text in ["[a-z]{2,4}-[0-9]{3}", "^[a-z]{2,4}-[0-9]{3}$"] {
            for seed in 0..8 {
                let found = model.walk(&mut model.start(&regex(text)), seed);
                assert!(plain(&found), "{text}: {found}");
            }
        }
    }
    for seed in 0..8 {
        let found = model().walk(&mut model().start(&regex("a/b|c\\\\\\n?")), seed);
        assert!(["a/b", "c\\", "c\\\n"].contains(&found.as_str()), "{found:?}");
    }
}

#[test]
fn characters_of_many_bytes_are_whole() {
    // The general way sees no parts of characters, and so only ASCII here.
    for model in &MODELS[..3] {
        for seed in 0..8 {
            let found = model.walk(&mut model.start(&regex("[é€😀]{3}")), seed);
            assert_eq!(found.chars().count(), 3, "{found}");
            assert!(found.chars().all(|c| "é€😀".contains(c)), "{found}");
        }
        let grammar = Grammar::JsonSchema(json!({"const": "é😀"}));
        let found = model.walk(&mut model.start(&grammar), 0);
        assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), "é😀");
    }
}

#[test]
fn every_choice_is_reached_and_no_other_text() {
    let texts = ["yes", "no", "now", "", "\"quoted\"", "a\\b\n", "é😀", "//", "<s>"];
    for model in &MODELS[..3] {
        let mut found: Vec<String> = (0..400)
            .map(|seed| model.walk(&mut model.start(&choices(&texts)), seed))
            .collect();
        found.sort_unstable();
        found.dedup();
        let mut expected = texts.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
    for empty in [choices(&[""]), choices(&["", ""]), regex("")] {
        assert_eq!(model().walk(&mut model().start(&empty), 0), "");
    }
}

#[test]
fn context_free_grammars_are_followed() {
    let lark = "start: sum\nsum: NUMBER (\"+\" NUMBER)*\nNUMBER: /[1-9]/\n";
    let gbnf = "root ::= sum # a sum\nsum ::= Number (\"+\" Number)*\nNumber ::= [1-9]\n";
    for text in [lark, gbnf] {
        for seed in 0..8 {
            let found = model().walk(&mut model().start(&Grammar::Lark(text.to_owned())), seed);
            assert!(
                found
                    .split('+')
                    .all(|digit| digit.len() == 1 && ("1"..="9").contains(&digit)),
                "{found}"
            );
        }
    }
}

#[test]
fn the_ends_are_allowed_where_the_text_may_end_and_nothing_else_after() {
    let model = model();
    let mut state = model.start(&regex("ab?"));
    let id = |text: &str| model.tokenizer.token_to_id(text).unwrap();
    let ends = |allowed: &[u32]| model.eos.iter().filter(|id| allowed.contains(id)).count();

    let allowed = model.allowed(&mut state);
    assert!(allowed.contains(&id("a")) && ends(&allowed) == 0);
    state.advance(id("a")).unwrap();
    let allowed = model.allowed(&mut state);
    assert!(allowed.contains(&id("b")) && ends(&allowed) == model.eos.len());
    state.advance(id("b")).unwrap();
    assert!(model.only_ends(&model.allowed(&mut state)));
    // Either end, again and again.
    for end in [model.eos[1], model.eos[0], model.eos[1]] {
        state.advance(end).unwrap();
        assert!(model.only_ends(&model.allowed(&mut state)));
    }
    let error = state.advance(id("a")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("token {} cannot follow: the text has ended", id("a"))
    );
}

#[test]
fn what_the_mask_does_not_allow_is_refused() {
    let model = model();
    let beyond = u32::try_from(model.vocab_size).unwrap();
    for token in [
        model.tokenizer.token_to_id("b").unwrap(),
        model.eos[0],
        model.tokenizer.token_to_id("<|im_start|>").unwrap(),
        beyond - 1,
        beyond,
        u32::MAX,
    ] {
        let error = model.start(&regex("a+")).advance(token).unwrap_err();
        assert!(
            matches!(error, GrammarError::Token { token: named, .. } if named == token),
            "{error}"
        );
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn masks_are_of_the_vocabulary_s_length() {
    let model = model();
    let words = model.vocab_size.div_ceil(32);
    for given in [0, words - 1, words + 1] {
        let error = model
            .start(&regex("a"))
            .fill_mask(&mut vec![0; given])
            .unwrap_err();
        assert_eq!(error, GrammarError::MaskLength { words, given });
    }
    // What was there before is gone.
    let mut mask = vec![u32::MAX; words];
    model.start(&regex("a")).fill_mask(&mut mask).unwrap();
    assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
}

#[test]
fn states_of_one_grammar_are_independent() {
    let model = model();
    let grammar = Grammar::JsonSchema(pet());
    let mut first = model.start(&grammar);
    let fresh = model.words(&mut first);
    let text = model.walk(&mut first, 3);
    let mut second = model.start(&grammar);
    assert_eq!(model.words(&mut second), fresh);
    assert_eq!(model.walk(&mut second, 3), text);
    // One that went wrong takes no other with it.
    let mut wrong = model.start(&grammar);
    wrong.advance(model.eos[0]).unwrap_err();
    assert_eq!(model.walk(&mut model.start(&grammar), 3), text);
}

#[test]
fn threads_may_start_the_same_grammar_at_once() {
    let model = Model::new(byte_level(), &["<|eot_id|>"]);
    let grammar = Grammar::JsonSchema(pet());
    let texts: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| model.walk(&mut model.start(&grammar), 5)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(texts.iter().all(|text| *text == texts[0]));
}

#[test]
fn grammars_that_make_no_sense_are_refused_in_one_line() {
    let schema = Grammar::JsonSchema;
    let lark = |text: &str| Grammar::Lark(text.to_owned());
    let cases = [
        (
            schema(json!(7)),
            "a schema must be an object or a boolean, but is a number",
        ),
        (
            schema(json!([])),
            "a schema must be an object or a boolean, but is an array",
        ),
        (schema(json!(false)), "the schema `false` allows nothing"),
        (schema(json!({"type": "no such type"})), "no such type"),
        (schema(json!({"type": "object", "properties": 7})), "properties"),
        (schema(json!({"$ref": "#/$defs/missing"})), "missing"),
        (
            schema(json!({"$ref": "https://example.com/schema"})),
            "example.com",
        ),
        (schema(json!({"not": {"type": "string"}})), "not"),
        (regex("(a"), "unclosed group"),
        (regex("a\\"), "incomplete escape"),
        (regex("(?=a)b"), "look-around"),
        (choices(&[]), "there must be at least one text to choose"),
        (lark("start: missing"), "missing"),
        (lark("begin: \"a\""), "start"),
        (lark("root ::= missing"), "there is no rule `missing`"),
        (lark(""), "start"),
        (
            regex(&"a".repeat(300_000)),
            "it has 300000 bytes, but may have at most 262144",
        ),
        (
            lark(&"a".repeat(70_000)),
            "it has 70000 bytes, but may have at most 65536",
        ),
    ];
    for (grammar, why) in cases {
        let error = model().compiler.start(&grammar).unwrap_err().to_string();
        assert!(error.contains(why), "{why:?} is not in {error:?}");
        assert!(!error.contains('\n') && error.chars().count() < 600, "{error}");
        // A kept refusal is the same.
        assert_eq!(model().compiler.start(&grammar).unwrap_err().to_string(), error);
    }
}

#[test]
fn a_model_needs_an_end() {
    for eos in [vec![], vec![1_000_000]] {
        let compiler = GrammarCompiler::new(byte_level(), eos, 600);
        assert_eq!(compiler.start(&regex("a")).unwrap_err(), GrammarError::NoEnd);
    }
}

#[test]
fn an_end_is_no_text_even_where_the_tokenizer_thinks_so() {
    let tokenizer = byte_level();
    let end = tokenizer.token_to_id("he").unwrap();
    let compiler = GrammarCompiler::new(tokenizer.clone(), vec![end], tokenizer.vocab_size());
    let mut state = compiler.start(&regex("hehe")).unwrap();
    let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
    for letter in ["h", "e", "h", "e"] {
        state.fill_mask(&mut mask).unwrap();
        assert_eq!(mask[(end / 32) as usize] & (1 << (end % 32)), 0);
        state.advance(tokenizer.token_to_id(letter).unwrap()).unwrap();
    }
    state.fill_mask(&mut mask).unwrap();
    assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
    state.advance(end).unwrap();
}

#[test]
fn a_text_that_no_token_begins_is_found_out_at_the_start() {
    // The general way has no token for a part of a character.
    let error = MODELS[3].compiler.start(&regex("😀")).unwrap_err();
    assert_eq!(error, GrammarError::DeadEnd);
}

#[test]
fn long_chains_end_in_an_answer() {
    // Each reference and each rule is one level deeper.
    let definitions: serde_json::Map<String, Value> = (0..5000)
        .map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)})))
        .chain([("d5000".to_owned(), json!({"enum": [1]}))])
        .collect();
    let schema = Grammar::JsonSchema(json!({"$ref": "#/$defs/d0", "$defs": definitions}));
    let chain = |name: &str| {
        let links: String = (0..3500)
            .map(|i| format!("{name}{i}: {name}{}\n", i + 1))
            .collect();
        Grammar::Lark(format!("start: {name}0\n{links}{name}3500: \"x\"\n"))
    };
    for grammar in [schema, chain("r"), chain("T")] {
        match model().compiler.start(&grammar) {
            Ok(mut state) => assert!(!model().allowed(&mut state).is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert_eq!(model().walk(&mut model().start(&choices(&["x"])), 0), "x");
}
