//! Sampled ids become text: whole characters, stop strings found anywhere and first, nothing shown that is taken back.

use std::sync::Arc;

use agentlm_text::{Piece, StopHit, StreamOptions, TextStream, Tokenizer};

use crate::input::Input;
use crate::tokenizers;

const MOST_IDS: usize = 80;
/// A model's vocabulary may be larger than its tokenizer's.
const BEYOND: usize = 3;

/// Tokenizer, whether stops are kept, prompt, stop strings, ids.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let tokenizer = &tokenizers::ALL[input.below(4)];
    let keep_stop = input.byte() & 1 == 1;
    let id = |input: &mut Input| {
        let wide = usize::from(input.byte()) << 8 | usize::from(input.byte());
        u32::try_from(wide % (tokenizer.vocab_size() + BEYOND)).expect("a small vocabulary")
    };
    let prompt: Vec<u32> = (0..input.below(6)).map(|_| id(&mut input)).collect();
    let stops: Vec<String> = (0..input.below(5)).map(|_| input.line()).collect();
    let bits = input.byte();
    let mut ids = Vec::new();
    let mut rest = Input::new(input.bytes());
    let count = data.len().min(MOST_IDS);
    ids.extend((0..count / 2).map(|_| id(&mut rest)));
    let whole = run(tokenizer, &prompt, &ids, StreamOptions::default());
    assert_eq!(whole.hit, None);
    // Half of the time one stop is a part of the text, so that stops are met.
    let mut stops = stops;
    if bits & 1 == 1
        && let Some(stop) = stops.first_mut()
    {
        let characters: Vec<char> = whole.text.chars().collect();
        let start = usize::from(bits >> 1) % characters.len().max(1);
        *stop = characters
            .iter()
            .skip(start)
            .take(1 + usize::from(bits >> 5))
            .collect();
    }
    let options = StreamOptions {
        stop: stops,
        keep_stop,
    };
    let found = run(tokenizer, &prompt, &ids, options.clone());
    let (text, hit) = expected(tokenizer, &prompt, &ids, &options, &whole);
    assert_eq!(
        (found.text.as_str(), found.hit),
        (text.as_str(), hit),
        "{options:?}"
    );
}

struct Run {
    /// The visible text before each id was taken, and after the last one: no stops, so nothing is held back.
    lengths: Vec<usize>,
    text: String,
    hit: Option<StopHit>,
}

fn run(tokenizer: &Arc<Tokenizer>, prompt: &[u32], ids: &[u32], options: StreamOptions) -> Run {
    let mut stream = TextStream::new(tokenizer.clone(), prompt, options);
    let (mut shown, mut lengths, mut hit) = (String::new(), vec![0], None);
    let mut piece = Piece::default();
    for &id in ids {
        hit = stream.push(id, &mut piece);
        shown.push_str(&piece.delta);
        assert_eq!(shown, stream.text());
        lengths.push(shown.len());
        if hit.is_some() {
            break;
        }
    }
    stream.finish(&mut piece.delta);
    assert!(hit.is_none_or(|_| piece.delta.is_empty()), "text after a stop");
    shown.push_str(&piece.delta);
    assert_eq!(shown, stream.text());
    assert_eq!(stream.push(0, &mut piece), None);
    assert!(
        piece.delta.is_empty() && piece.token_text.is_empty(),
        "text after the end"
    );
    Run {
        lengths,
        text: shown,
        hit,
    }
}

/// What the stops make of a text, by looking at all of it after each id.
fn expected(
    tokenizer: &Arc<Tokenizer>,
    prompt: &[u32],
    ids: &[u32],
    options: &StreamOptions,
    whole: &Run,
) -> (String, Option<StopHit>) {
    for (step, &id) in ids.iter().enumerate() {
        let is_stop = |stop: &String| tokenizer.is_special(id) && tokenizer.token_to_id(stop) == Some(id);
        if let Some(index) = options.stop.iter().position(is_stop) {
            let ended = run(tokenizer, prompt, &ids[..=step], StreamOptions::default());
            return (ended.text, Some(StopHit { index }));
        }
        let (before, text) = (whole.lengths[step], &whole.text[..whole.lengths[step + 1]]);
        let stops = options
            .stop
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.is_empty());
        let ends = stops.filter_map(|(index, stop)| {
            let end = ends(text, stop).find(|&end| end > before)?;
            Some((end, std::cmp::Reverse(stop.len()), index))
        });
        // The first that is complete wins, and of those that end together the longest.
        if let Some((end, len, index)) = ends.min() {
            let end = if options.keep_stop { end } else { end - len.0 };
            return (text[..end].to_owned(), Some(StopHit { index }));
        }
    }
    (whole.text.clone(), None)
}

/// Where the occurrences of `stop` end, those that overlap an earlier one too.
fn ends<'a>(text: &'a str, stop: &'a str) -> impl Iterator<Item = usize> + 'a {
    let fits = move |&at: &usize| text.as_bytes()[at..].starts_with(stop.as_bytes());
    (0..text.len()).filter(fits).map(|at| at + stop.len())
}
