//! What the scan finds, beside the definition carried out word by word.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's")]

use std::fs;
use std::path::PathBuf;

use agentlm_contamination::{Form, SampleReport, Scan, Settings, Source, TokenKind};
use proptest::prelude::*;

/// Contaminated words of a sample: for every pair of places, the definition as it stands.
fn by_definition(sample: &[&str], training: &[Vec<&str>], settings: Settings) -> Vec<bool> {
    let mut found = vec![false; sample.len()];
    let n = settings.ngram;
    for text in training {
        for at in 0..sample.len() {
            for place in 0..text.len() {
                let mut differ = 0;
                let mut length = 0;
                while at + length < sample.len() && place + length < text.len() {
                    if sample[at + length] != text[place + length] {
                        differ += 1;
                        if length < n || differ > settings.skip_budget {
                            break;
                        }
                    } else if length + 1 > n {
                        // An overlap of length + 1 tokens, longer than n, whose last token is equal.
                        found[at..=at + length].fill(true);
                    }
                    length += 1;
                }
            }
        }
    }
    found
}

fn scan(
    samples: &[Vec<String>],
    files: &[(PathBuf, Form)],
    settings: Settings,
    threads: usize,
) -> Vec<SampleReport> {
    let mut scan = Scan::of_words(samples.to_vec(), TokenKind::Whitespace, settings).unwrap();
    let sources = files
        .iter()
        .map(|(path, form)| Source {
            path: path.clone(),
            form: *form,
        })
        .collect();
    scan.read(sources, Vec::new(), threads, &mut |_| true).unwrap();
    scan.report(1000).unwrap()
}

/// Which words of a text lie in the regions of a report.
fn marked(text: &str, part: usize, report: &SampleReport) -> Vec<bool> {
    let inside = |at: usize| {
        let at = text[..at].chars().count();
        report
            .regions
            .iter()
            .any(|&(of, start, end)| of == part && (start..end).contains(&at))
    };
    text.split_whitespace()
        .map(|word| inside(word.as_ptr() as usize - text.as_ptr() as usize))
        .collect()
}

/// Texts over few words, so that they share much, with stretches copied from one into the other.
fn texts(words: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<Vec<&'static str>>> {
    prop::collection::vec(prop::collection::vec(prop::sample::select(words), 0..60), 1..most)
}

const WORDS: &[&str] = &["a", "b", "é", "dd"];

fn settings() -> impl Strategy<Value = Settings> {
    (2_usize..6, 0_usize..4).prop_map(|(ngram, skip_budget)| Settings { ngram, skip_budget })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_scan_marks_what_the_definition_marks(
        samples in texts(WORDS, 5),
        mut training in texts(WORDS, 6),
        copies in prop::collection::vec((0_usize..5, 0_usize..6, 0_usize..60), 0..4),
        settings in settings(),
    ) {
        for (from, to, at) in copies {
            let text: Vec<_> = samples[from % samples.len()].clone();
            let into = to % training.len();
            let at = at.min(training[into].len());
            training[into].splice(at..at, text);
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("training.jsonl");
        let lines: Vec<_> = training
            .iter()
            .map(|text| serde_json::json!({"messages": [{"role": "user", "content": text.join("  ")}]}).to_string())
            .collect();
        fs::write(&file, lines.join("\n")).unwrap();
        // A sample's second text is its first one backwards: texts are compared one by one.
        let given: Vec<Vec<String>> = samples
            .iter()
            .map(|words| vec![words.join(" "), words.iter().rev().copied().collect::<Vec<_>>().join(" ")])
            .collect();
        let one = scan(&given, &[(file.clone(), Form::JsonLines)], settings, 1);
        let two = scan(&given, &[(file, Form::JsonLines)], settings, 2);
        prop_assert_eq!(format!("{one:?}"), format!("{two:?}"), "threads changed the outcome");
        for (sample, report) in given.iter().zip(&one) {
            let mut contaminated = 0;
            for (part, text) in sample.iter().enumerate() {
                let words: Vec<_> = text.split_whitespace().collect();
                let wanted = by_definition(&words, &training, settings);
                prop_assert_eq!(&marked(text, part, report), &wanted, "{:?} of {:?}", text, training);
                contaminated += wanted.iter().filter(|marked| **marked).count();
            }
            prop_assert_eq!(report.contaminated, contaminated);
            prop_assert_eq!(report.more, 0);
            for overlap in &report.overlaps {
                check_overlap(overlap, sample, settings);
            }
        }
    }
}

/// An overlap's two sides say the same words where they are said to be equal, and others where not.
fn check_overlap(overlap: &agentlm_contamination::Overlap, sample: &[String], settings: Settings) {
    let evaluation: String = overlap.evaluation.iter().map(|(_, text)| text.as_str()).collect();
    let stands: String = sample[overlap.part]
        .chars()
        .skip(overlap.start)
        .take(overlap.end - overlap.start)
        .collect();
    assert_eq!(evaluation, stands);
    assert!(overlap.tokens > settings.ngram && overlap.skipped <= settings.skip_budget);
    assert_eq!(overlap.evaluation.len(), overlap.training.overlap.len());
    let mut tokens = 0;
    for ((equal, ours), (also, theirs)) in overlap.evaluation.iter().zip(&overlap.training.overlap) {
        assert_eq!(equal, also);
        let (ours, theirs): (Vec<_>, Vec<_>) = (
            ours.split_whitespace().collect(),
            theirs.split_whitespace().collect(),
        );
        assert_eq!(ours.len(), theirs.len());
        for (a, b) in ours.iter().zip(&theirs) {
            assert_eq!(a == b, *equal);
        }
        tokens += ours.len();
    }
    assert_eq!(tokens, overlap.tokens);
}
