//! Nanoseconds a token through `TextStream::push`: plain, with four stop strings, and without a token table.
//!
//! `cargo bench -p agentlm-text` uses the tests' byte-level vocabulary.

#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use agentlm_text::{Piece, SpecialTokens, StreamOptions, TextStream, Tokenizer};

const TOKENS: usize = 1024;

fn tokenizer(edit: impl Fn(&mut serde_json::Value)) -> Arc<Tokenizer> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/byte_level.json");
    let bytes = std::fs::read(file).expect("the fixture");
    let mut json = serde_json::from_slice(&bytes).expect("JSON");
    edit(&mut json);
    Arc::new(
        Tokenizer::from_json(json.to_string().as_bytes(), SpecialTokens::default()).expect("a tokenizer"),
    )
}

fn measure(name: &str, tokenizer: &Arc<Tokenizer>, text: &str, stop: &[&str], rounds: usize) {
    let ids = tokenizer.encode(text, false).expect("ids").ids;
    let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
    let mut piece = Piece::default();
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let options = StreamOptions {
            stop: stop.clone(),
            keep_stop: false,
        };
        let mut stream = TextStream::new(tokenizer.clone(), &ids, options);
        let start = Instant::now();
        for &id in ids.iter().cycle().take(TOKENS) {
            black_box(stream.push(id, &mut piece));
        }
        best = best.min(start.elapsed().as_secs_f64());
        black_box(stream.text().len());
    }
    println!("{name}: {:.0} ns a token", best * 1e9 / TOKENS as f64);
}

fn main() {
    let table = tokenizer(|_| ());
    let general = tokenizer(|json| {
        let decoder = json["decoder"].clone();
        json["decoder"] = serde_json::json!({"type": "Sequence", "decoders": [decoder, {"type": "Fuse"}]});
    });
    let text = "The user asks, the assistant answers; open the fridge 1 and say what you see.\n";
    let stops = ["\nObservation:", "</s>", "Human:", "\n\n\n"];
    measure("table", &table, text, &[], 200);
    measure("table, four stop strings", &table, text, &stops, 200);
    measure(
        "table, split characters",
        &table,
        "你好 世界 😀👩‍👩‍👧‍👦 日本語",
        &[],
        200,
    );
    measure("general decoder", &general, text, &stops, 5);
}
