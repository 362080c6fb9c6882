//! The text of a stream of ids: whole characters, stop strings, hold-back.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use std::sync::Arc;

use agentlm_text::{Piece, StopHit, StreamOptions, TextStream, Tokenizer};
use common::{all, byte_level, general, metaspace, sentencepiece};
use proptest::prelude::*;

/// What a whole run of a stream gives.
#[derive(Debug, PartialEq)]
struct Run {
    deltas: Vec<String>,
    token_texts: Vec<String>,
    text: String,
    hit: Option<StopHit>,
}

fn run(tokenizer: &Arc<Tokenizer>, prompt: &[u32], ids: &[u32], options: StreamOptions) -> Run {
    let mut stream = TextStream::new(tokenizer.clone(), prompt, options);
    let mut result = Run {
        deltas: Vec::new(),
        token_texts: Vec::new(),
        text: String::new(),
        hit: None,
    };
    let mut piece = Piece::default();
    for &id in ids {
        result.hit = stream.push(id, &mut piece);
        result.deltas.push(piece.delta.clone());
        result.token_texts.push(piece.token_text.clone());
        assert_eq!(result.deltas.concat(), stream.text());
        if result.hit.is_some() {
            break;
        }
    }
    stream.finish(&mut piece.delta);
    result.deltas.push(piece.delta.clone());
    result.text = stream.text().to_owned();
    assert_eq!(result.deltas.concat(), result.text);
    result
}

fn stop(stop: &[&str]) -> StreamOptions {
    StreamOptions {
        stop: stop.iter().map(|&s| s.to_owned()).collect(),
        keep_stop: false,
    }
}

/// The prompt "a" and the ids of `text` as its continuation, so that no space is prepended to it.
fn continuation(tokenizer: &Tokenizer, text: &str) -> (Vec<u32>, Vec<u32>) {
    let encoding = tokenizer.encode(&format!("a{text}"), false).unwrap();
    let border = encoding
        .offsets
        .iter()
        .position(|offset| offset.0 == 1)
        .expect("a token starts after the prompt");
    (encoding.ids[..border].to_vec(), encoding.ids[border..].to_vec())
}

fn ids_of_bytes(tokenizer: &Tokenizer, bytes: &[u8]) -> Vec<u32> {
    bytes
        .iter()
        .map(|byte| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap())
        .collect()
}

#[test]
fn the_first_token_keeps_its_space_after_a_prompt() {
    for tokenizer in [sentencepiece(), metaspace()] {
        let prompt = tokenizer.encode("The", false).unwrap().ids;
        let ids = tokenizer.encode("cat", false).unwrap().ids;
        let result = run(&tokenizer, &prompt, &ids, StreamOptions::default());
        assert_eq!(result.text, " cat");
        assert_eq!(result.token_texts.concat(), " cat");
    }
}

#[test]
fn without_a_prompt_the_text_is_the_librarys() {
    for tokenizer in all() {
        let ids = tokenizer.encode("The cat and the 你好", false).unwrap().ids;
        let result = run(&tokenizer, &[], &ids, StreamOptions::default());
        assert_eq!(result.text, tokenizer.decode(&ids, true).unwrap());
        assert_eq!(result.text, "The cat and the 你好");
    }
}

#[test]
fn special_tokens_show_in_the_token_text_only() {
    let tokenizer = byte_level();
    let (prompt, mut ids) = continuation(&tokenizer, " cat");
    ids.push(tokenizer.token_to_id("<|eot_id|>").unwrap());
    let result = run(&tokenizer, &prompt, &ids, StreamOptions::default());
    assert_eq!(result.text, " cat");
    assert_eq!(result.token_texts.last().unwrap(), "<|eot_id|>");
    assert_eq!(result.token_texts.concat(), " cat<|eot_id|>");
}

#[test]
fn a_token_of_an_unfinished_character_has_no_text() {
    let tokenizer = sentencepiece();
    let ids = ids_of_bytes(&tokenizer, "😀".as_bytes());
    let result = run(&tokenizer, &[5], &ids, StreamOptions::default());
    assert_eq!(result.token_texts, ["", "", "", "😀"]);
    assert_eq!(result.deltas, ["", "", "", "😀", ""]);
}

#[test]
fn an_unfinished_character_becomes_a_replacement_at_the_end() {
    let tokenizer = sentencepiece();
    let ids = ids_of_bytes(&tokenizer, &"😀".as_bytes()[..3]);
    let result = run(&tokenizer, &[5], &ids, StreamOptions::default());
    assert_eq!(result.deltas, ["", "", "", "\u{FFFD}\u{FFFD}\u{FFFD}"]);
    assert_eq!(result.text, tokenizer.decode(&ids, true).unwrap());
}

#[test]
fn a_broken_character_is_replaced_as_the_library_does() {
    let tokenizer = sentencepiece();
    let mut ids = ids_of_bytes(&tokenizer, &"😀".as_bytes()[..2]);
    ids.extend(tokenizer.encode("cat", false).unwrap().ids);
    let result = run(&tokenizer, &[5], &ids, StreamOptions::default());
    assert_eq!(result.text, "\u{FFFD}\u{FFFD} cat");
    assert_eq!(result.text, tokenizer.decode(&ids, true).unwrap());
    assert_eq!(result.token_texts.concat(), result.text);
}

#[test]
fn a_character_that_the_prompt_began_is_completed() {
    let tokenizer = sentencepiece();
    let bytes = ids_of_bytes(&tokenizer, "你".as_bytes());
    let result = run(&tokenizer, &bytes[..2], &bytes[2..], StreamOptions::default());
    assert_eq!(
        (result.text.as_str(), result.token_texts.concat().as_str()),
        ("你", "你")
    );
    // The prompt's broken end is the prompt's: it does not show in the output.
    let cat = tokenizer.encode("cat", false).unwrap().ids;
    assert_eq!(
        run(&tokenizer, &bytes[..2], &cat, StreamOptions::default()).text,
        " cat"
    );
}

#[test]
fn a_special_token_between_two_halves_of_a_character() {
    let tokenizer = sentencepiece();
    let mut ids = ids_of_bytes(&tokenizer, "é".as_bytes());
    ids.insert(1, tokenizer.token_to_id("</s>").unwrap());
    let result = run(&tokenizer, &[5], &ids, StreamOptions::default());
    assert_eq!(result.text, "é");
    assert_eq!(result.token_texts, ["", "\u{FFFD}</s>", "\u{FFFD}"]);
}

#[test]
fn unknown_ids_add_nothing() {
    for tokenizer in all() {
        let result = run(&tokenizer, &[5], &[1_000_000, u32::MAX], StreamOptions::default());
        assert_eq!(result.text, "");
    }
}

#[test]
fn a_stop_string_inside_a_token_ends_the_text() {
    let tokenizer = byte_level();
    let (prompt, ids) = continuation(&tokenizer, " assistant");
    assert_eq!(ids.len(), 1, "the fixture has the word as one token");
    let result = run(&tokenizer, &prompt, &ids, stop(&["sist"]));
    assert_eq!(
        (result.text.as_str(), result.hit),
        (" as", Some(StopHit { index: 0 }))
    );
    let keep = StreamOptions {
        keep_stop: true,
        ..stop(&["sist"])
    };
    assert_eq!(run(&tokenizer, &prompt, &ids, keep).text, " assist");
}

#[test]
fn a_possible_stop_is_held_back_and_released_when_it_is_none() {
    let tokenizer = sentencepiece();
    let ids = ids_of_bytes(&tokenizer, b"a\nObx\nObs:");
    let result = run(&tokenizer, &[5], &ids, stop(&["\nObs"]));
    assert_eq!(result.deltas, ["a", "", "", "", "\nObx", "", "", "", "", ""]);
    assert_eq!(result.text, "a\nObx");
    let keep = StreamOptions {
        keep_stop: true,
        ..stop(&["\nObs"])
    };
    let result = run(&tokenizer, &[5], &ids, keep);
    assert!(
        result.deltas.iter().take(9).all(|delta| delta.len() == 1),
        "nothing is held: {:?}",
        result.deltas
    );
    assert_eq!(result.text, "a\nObx\nObs");
}

#[test]
fn held_back_text_is_released_at_the_end() {
    let tokenizer = sentencepiece();
    let ids = ids_of_bytes(&tokenizer, b"ab</");
    let result = run(&tokenizer, &[5], &ids, stop(&["</done>"]));
    assert_eq!(result.deltas, ["a", "b", "", "", "</"]);
}

#[test]
fn overlapping_stops_the_first_complete_one_wins() {
    let tokenizer = sentencepiece();
    let text = |stops: &[&str], input: &[u8]| {
        let result = run(&tokenizer, &[5], &ids_of_bytes(&tokenizer, input), stop(stops));
        (result.text, result.hit.map(|hit| hit.index))
    };
    assert_eq!(text(&["abcd", "bc"], b"xabcd"), ("xa".into(), Some(1)));
    assert_eq!(text(&["c", "abc"], b"xabcd"), ("x".into(), Some(1)));
    assert_eq!(text(&["aab"], b"aaaab"), ("aa".into(), Some(0)));
    assert_eq!(text(&["abab!", "ba?"], b"ababa?"), ("aba".into(), Some(1)));
    assert_eq!(text(&["zz"], b"abz"), ("abz".into(), None));
}

#[test]
fn a_special_tokens_text_as_stop_string_ends_the_stream() {
    let tokenizer = byte_level();
    let (prompt, mut ids) = continuation(&tokenizer, " cat");
    ids.push(tokenizer.token_to_id("<|im_end|>").unwrap());
    ids.extend(tokenizer.encode(" more", false).unwrap().ids);
    let result = run(&tokenizer, &prompt, &ids, stop(&["END", "<|im_end|>"]));
    assert_eq!(
        (result.text.as_str(), result.hit),
        (" cat", Some(StopHit { index: 1 }))
    );
}

#[test]
fn after_a_stop_nothing_is_added() {
    let tokenizer = sentencepiece();
    let ids = ids_of_bytes(&tokenizer, b"ab");
    let mut stream = TextStream::new(tokenizer, &[5], stop(&["a"]));
    let mut piece = Piece::default();
    assert!(stream.push(ids[0], &mut piece).is_some());
    assert_eq!(stream.push(ids[1], &mut piece), None);
    assert_eq!(piece, Piece::default());
    stream.finish(&mut piece.delta);
    assert_eq!((stream.text(), piece.delta.as_str()), ("", ""));
}

#[test]
fn the_real_checkpoint_streams_what_it_decodes() {
    let Some(dir) = common::dreams() else { return };
    let tokenizer = Arc::new(Tokenizer::from_dir(dir).unwrap());
    assert_eq!(tokenizer.eos_token_ids(), [2]);
    assert_eq!(
        (tokenizer.bos_token(), tokenizer.vocab_size()),
        (Some("<s>"), 512)
    );
    let ids = tokenizer
        .encode("A gentle hum of probability unfolds — 你好 😀", true)
        .unwrap()
        .ids;
    assert_eq!(ids[0], 1);
    let result = run(&tokenizer, &ids[..1], &ids[1..], StreamOptions::default());
    assert_eq!(result.text, " A gentle hum of probability unfolds — 你好 😀");
}

/// The reference for stop strings: the text up to the stop string that is complete first.
fn cut(text: &str, stops: &[String], keep: bool) -> (String, bool) {
    let found = stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start)))
        .min();
    match found {
        Some((end, start)) => (text[..if keep { end } else { start }].to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// Text with what splits badly: emoji with modifiers, CJK, combining marks, and many repeats for overlapping stops.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[ab ]{0,6}",
        2 => "\\PC{0,8}",
        1 => Just("👩‍👩‍👧‍👦".to_owned()),
        1 => Just("e\u{301}\u{327}".to_owned()),
        1 => Just("日本語 the cat".to_owned()),
        1 => Just("\n\u{FFFD}".to_owned()),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_streamed_text_is_the_text(text in text()) {
        for tokenizer in all() {
            let ids = tokenizer.encode(&text, false).unwrap().ids;
            let expected = tokenizer.decode(&[&[300][..], &ids].concat(), true).unwrap();
            let first = tokenizer.decode(&[300], true).unwrap();
            let result = run(&tokenizer, &[300], &ids, StreamOptions::default());
            prop_assert_eq!(&result.text, &expected[first.len()..]);
            // The general way cannot tell a U+FFFD of the text from the beginning of a character at its end.
            if !text.ends_with('\u{FFFD}') {
                prop_assert_eq!(result.token_texts.concat(), result.text);
            }
        }
    }

    #[test]
    fn random_ids_never_break_and_the_two_ways_agree(ids in prop::collection::vec(0u32..620, 0..40)) {
        let table = run(&byte_level(), &[300], &ids, StreamOptions::default());
        let window = run(&general(), &[300], &ids, StreamOptions::default());
        let decoded = byte_level().decode(&[&[300][..], &ids].concat(), true).unwrap();
        let first = byte_level().decode(&[300], true).unwrap();
        prop_assert_eq!(&table.text, &decoded[first.len()..]);
        prop_assert_eq!(table.text.chars().filter(|&c| c != '\u{FFFD}').collect::<String>(),
            window.text.chars().filter(|&c| c != '\u{FFFD}').collect::<String>());
        run(&sentencepiece(), &[5], &ids, StreamOptions::default());
    }

    #[test]
    fn stops_are_found_wherever_tokens_are_cut(
        text in text(), stops in prop::collection::vec("[ab ]{1,4}|[語👩\u{301}]", 1..4), keep in any::<bool>()
    ) {
        let options = StreamOptions { stop: stops.clone(), keep_stop: keep };
        for tokenizer in all() {
            let ids = tokenizer.encode(&text, false).unwrap().ids;
            let whole = run(&tokenizer, &[300], &ids, StreamOptions::default()).text;
            let result = run(&tokenizer, &[300], &ids, options.clone());
            let (expected, hit) = cut(&whole, &stops, keep);
            prop_assert_eq!(&result.text, &expected);
            prop_assert_eq!(result.hit.is_some(), hit);
        }
        // Byte by byte: the finest cut there is.
        let tokenizer = sentencepiece();
        let result = run(&tokenizer, &[5], &ids_of_bytes(&tokenizer, text.as_bytes()), options);
        prop_assert_eq!(result.text, cut(&text, &stops, keep).0);
    }
}
