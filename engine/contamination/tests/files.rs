//! Files as people have them: where an overlap stands, what is refused, running text in pieces.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's")]

use std::fs;
use std::path::{Path, PathBuf};

use agentlm_contamination::{Form, Progress, SampleReport, Scan, ScanError, Settings, Source, TokenKind};

fn words(from: usize, count: usize) -> String {
    let words: Vec<_> = (from..from + count).map(|k| format!("w{k}")).collect();
    words.join(" ")
}

fn scanned(
    sample: &str,
    path: &Path,
    form: Form,
    fields: &[&str],
) -> Result<(SampleReport, Progress), ScanError> {
    let settings = Settings::default();
    let mut scan = Scan::of_words(vec![vec![sample.to_owned()]], TokenKind::Words, settings)?;
    let sources = vec![Source {
        path: path.to_owned(),
        form,
    }];
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    let progress = scan.read(sources, fields, 2, &mut |_| true)?;
    Ok((scan.report(3)?.remove(0), progress))
}

fn file(directory: &tempfile::TempDir, name: &str, content: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn an_overlap_is_longer_than_ten_tokens_and_skips_at_most_four() {
    let directory = tempfile::tempdir().unwrap();
    let sample = words(0, 40);
    let text = |words: String| serde_json::json!({ "text": words }).to_string();
    let contaminated = |content: String| {
        let path = file(&directory, "t.jsonl", &text(content));
        scanned(&sample, &path, Form::JsonLines, &[])
            .unwrap()
            .0
            .contaminated
    };
    assert_eq!(contaminated(words(5, 10)), 0);
    assert_eq!(contaminated(words(5, 11)), 11);
    assert_eq!(contaminated(format!("x {} x x", words(5, 11))), 11);
    // Ten equal, four others, one equal: fifteen tokens. Five others: none.
    assert_eq!(
        contaminated(format!("{} x x x x {}", words(0, 10), words(14, 1))),
        15
    );
    assert_eq!(
        contaminated(format!("{} x x x x x {}", words(0, 10), words(15, 9))),
        0
    );
    // A word left out moves everything behind it: tokens may differ, not be missing.
    assert_eq!(contaminated(format!("{} {}", words(0, 11), words(12, 9))), 11);
}

#[test]
fn an_overlap_says_where_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    let record = serde_json::json!({
        "id": "chat-7", "source": "sharegpt",
        "messages": [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": null, "tool_calls": [
                {"function": {"name": "f", "arguments": {"text": format!("Oh! {}, yes", words(3, 12))}}}]},
        ],
    });
    let path = file(
        &directory,
        "t.jsonl",
        &format!("\u{feff}{{\"text\": \"nothing\"}}\n\n{record}\n"),
    );
    let (report, progress) = scanned(&words(0, 20), &path, Form::JsonLines, &[]).unwrap();
    assert_eq!((report.tokens, report.contaminated, report.more), (20, 12, 0));
    let overlap = &report.overlaps[0];
    assert_eq!(overlap.place.line, 3);
    assert_eq!(overlap.place.part.as_deref(), Some("message 1, tool call 0"));
    assert_eq!(overlap.place.id.as_deref(), Some("chat-7"));
    assert_eq!(overlap.place.source.as_deref(), Some("sharegpt"));
    assert_eq!(overlap.evaluation, [(true, words(3, 12))]);
    assert!(overlap.training.before.ends_with("Oh! ") && overlap.training.after.starts_with(", yes"));
    assert_eq!(progress.records, 2);
    assert_eq!(progress.bytes, fs::metadata(&path).unwrap().len());
}

#[test]
fn running_text_is_found_across_the_borders_of_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let sample = words(0, 400);
    // 1 MiB is a piece: the sample lies across its border, whatever stands before it, with lines and without.
    for (filler, before) in [
        ("lorem ipsum\n", (1 << 20) - 700),
        ("lorem ", (1 << 20) - 9),
        ("語", (1 << 20) - 10),
    ] {
        let mut content = filler.repeat(before / filler.len() + 1);
        content.push(' ');
        let line = 1 + content.matches('\n').count() as u64;
        content.push_str(&sample);
        content.push_str(&" dolor\n".repeat(1 << 18));
        let path = file(&directory, "t.txt", &content);
        let (report, progress) = scanned(&sample, &path, Form::Text, &[]).unwrap();
        assert_eq!(report.contaminated, 400, "after {before} bytes of {filler:?}");
        assert_eq!(report.overlaps[0].place.line, line);
        assert_eq!(progress.bytes, content.len() as u64);
    }
}

#[test]
fn named_fields_are_what_is_compared() {
    let directory = tempfile::tempdir().unwrap();
    let record = serde_json::json!({"text": "nothing", "a": {"b": ["x", words(0, 12)]}});
    let path = file(&directory, "t.jsonl", &record.to_string());
    let of = |fields: &[&str]| scanned(&words(0, 12), &path, Form::JsonLines, fields);
    assert_eq!(of(&[]).unwrap().0.contaminated, 0);
    let (report, _) = of(&["a.b"]).unwrap();
    assert_eq!(report.contaminated, 12);
    assert_eq!(report.overlaps[0].place.part.as_deref(), Some("field a.b"));
    let error = of(&["a.c"]).unwrap_err().to_string();
    assert!(
        error.contains("t.jsonl:1") && error.contains("`a.c`") && error.contains("`text`"),
        "{error}"
    );
}

#[test]
fn a_line_longer_than_a_piece_is_read_whole() {
    let directory = tempfile::tempdir().unwrap();
    let record = serde_json::json!({"text": format!("{} {}", "lorem ipsum ".repeat(1 << 18), words(0, 20))});
    let path = file(
        &directory,
        "t.jsonl",
        &format!("{{\"text\": \"a\"}}\n{record}\n{{\"text\": \"b\"}}"),
    );
    let (report, progress) = scanned(&words(0, 20), &path, Form::JsonLines, &[]).unwrap();
    assert_eq!((report.contaminated, progress.records), (20, 3));
    assert_eq!(report.overlaps[0].place.line, 2);
}

#[test]
fn what_cannot_be_read_is_refused_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |name: &str, content: &[u8], form| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        scanned(&words(0, 20), &path, form, &[]).unwrap_err().to_string()
    };
    let broken = refused("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": ", Form::JsonLines);
    assert!(broken.contains("broken.jsonl:2 is not a JSON object"), "{broken}");
    let list = refused("list.jsonl", b"[1, 2]\n", Form::JsonLines);
    assert!(list.contains("list.jsonl:1 is not a JSON object"), "{list}");
    let none = refused("none.jsonl", b"{\"prompt\": \"a\"}\n", Form::JsonLines);
    assert!(
        none.contains("none.jsonl:1 has neither `messages` nor `text`, `content`"),
        "{none}"
    );
    let bytes = refused("bytes.txt", b"one\ntwo \xff three", Form::Text);
    assert!(bytes.contains("bytes.txt:2 is not UTF-8"), "{bytes}");
    let cut = refused("cut.txt", "one\né".as_bytes().split_last().unwrap().1, Form::Text);
    assert!(cut.contains("cut.txt:2 is not UTF-8"), "{cut}");
    let missing = scanned("a", &directory.path().join("missing"), Form::Text, &[]).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read "), "{missing}");
}

#[test]
fn settings_without_meaning_are_refused() {
    let settings = Settings {
        ngram: 1,
        skip_budget: 4,
    };
    let error = Scan::of_words(Vec::new(), TokenKind::Words, settings)
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "ngram is 1; it must lie between 2 and 1024");
}

#[test]
fn a_scan_stops_when_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "t.txt", &words(0, 1000).repeat(2000));
    let mut scan = Scan::of_words(vec![vec![words(0, 20)]], TokenKind::Words, Settings::default()).unwrap();
    let sources = vec![Source {
        path,
        form: Form::Text,
    }];
    let stopped = scan.read(sources, Vec::new(), 1, &mut |_| false).unwrap_err();
    assert!(matches!(stopped, ScanError::Stopped));
}

#[test]
fn what_a_sets_samples_share_can_be_left_out_of_the_count() {
    let directory = tempfile::tempdir().unwrap();
    let template = words(0, 30);
    // Two sets of the same two samples: a template and words of their own, of which the training text has the first sample's.
    let own = |sample: usize| words(100 * (sample % 2 + 1), 20);
    let samples: Vec<_> = (0..4).map(|k| vec![format!("{template} {}", own(k))]).collect();
    let record = serde_json::json!({"text": format!("{template} {}", own(0))});
    let path = file(&directory, "t.jsonl", &record.to_string());
    let mut scan = Scan::of_words(samples, TokenKind::Words, Settings::default()).unwrap();
    let sources = vec![Source {
        path,
        form: Form::JsonLines,
    }];
    scan.read(sources, Vec::new(), 1, &mut |_| true).unwrap();
    let counts = |scan: &Scan| -> Vec<_> {
        let reports = scan.report(3).unwrap();
        reports
            .iter()
            .map(|report| (report.contaminated, report.tokens, report.overlaps.len()))
            .collect()
    };
    assert_eq!(
        counts(&scan),
        [(50, 50, 1), (30, 50, 1), (50, 50, 1), (30, 50, 1)]
    );
    // The template is in both samples of each set; without it nothing of the second is left.
    scan.ignore_shared(&[7, 7, 8, 8], 0.5).unwrap();
    assert_eq!(counts(&scan), [(20, 20, 1), (0, 20, 0), (20, 20, 1), (0, 20, 0)]);
    let report = &scan.report(3).unwrap()[0];
    assert_eq!((report.shared, report.shared_regions.len()), (30, 1));
    assert_eq!(report.regions[0].1, template.len() + 1);
    // Each text is alone in its set: nothing is shared.
    scan.ignore_shared(&[1, 2, 3, 4], 0.5).unwrap();
    assert_eq!(counts(&scan)[1], (30, 50, 1));
    // In one set of all four, half hold each sample's own words: that is not more than a half.
    scan.ignore_shared(&[0; 4], 0.5).unwrap();
    assert_eq!(counts(&scan)[0], (20, 20, 1));
    scan.ignore_shared(&[0; 4], 0.4).unwrap();
    assert_eq!(counts(&scan)[0], (0, 0, 0));
    assert!(scan.ignore_shared(&[0; 3], 0.4).is_err());
    assert!(scan.ignore_shared(&[0; 4], 1.5).is_err());
}

#[test]
fn words_whose_hashes_collide_are_no_overlap() {
    let directory = tempfile::tempdir().unwrap();
    // Thue and Morse's sequence and its complement: 1024 of them have one value modulo 2^64 as polynomials of any odd base.
    let sequence = |flipped: bool| {
        let words = (0..1024_u32).map(|k| {
            if (k.count_ones() % 2 == 1) == flipped {
                "a"
            } else {
                "b"
            }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let settings = Settings {
        ngram: 1024,
        skip_budget: 4,
    };
    let tail = words(0, 20);
    let sample = format!("{} {tail}", sequence(false));
    for (flipped, contaminated) in [(false, 1044), (true, 0)] {
        let record = serde_json::json!({"text": format!("{} {tail}", sequence(flipped))});
        let sources = vec![Source {
            path: file(&directory, "t.jsonl", &record.to_string()),
            form: Form::JsonLines,
        }];
        let mut scan = Scan::of_words(vec![vec![sample.clone()]], TokenKind::Words, settings).unwrap();
        scan.read(sources, Vec::new(), 1, &mut |_| true).unwrap();
        assert_eq!(scan.report(3).unwrap()[0].contaminated, contaminated);
    }
}

#[test]
fn the_longest_overlaps_are_shown_from_where_they_stand_first() {
    let directory = tempfile::tempdir().unwrap();
    let record = |from, count| serde_json::json!({"text": words(from, count)}).to_string();
    let content = format!("{}\n{}\n{}", record(0, 12), record(20, 14), record(40, 13));
    // So many files that no thread gets them all.
    let sources = (0..64)
        .map(|k| Source {
            path: file(&directory, &format!("{k}.jsonl"), &content),
            form: Form::JsonLines,
        })
        .collect();
    let mut scan = Scan::of_words(vec![vec![words(0, 60)]], TokenKind::Words, Settings::default()).unwrap();
    scan.read(sources, Vec::new(), 4, &mut |_| true).unwrap();
    for most in 0..4 {
        let report = scan.report(most).unwrap().remove(0);
        let shown: Vec<_> = report
            .overlaps
            .iter()
            .map(|overlap| {
                (
                    overlap.place.path.file_stem().unwrap().to_str().unwrap(),
                    overlap.place.line,
                )
            })
            .collect();
        assert_eq!(shown, [("0", 2), ("0", 3), ("0", 1)][..most]);
        assert_eq!(report.more, 3 - most);
    }
}
