//! What the overlaps found mean for each sample, and the text in which they stand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::ScanError;
use crate::index::joined;
use crate::matcher::Best;
use crate::pieces;
use crate::scan::{Scan, parse, running_text, texts};
use crate::settings::Form;
use crate::words::{Token, UNKNOWN};

/// Bytes of training text shown before and behind an overlap.
const CONTEXT: usize = 160;

/// One sample.
#[derive(Clone, Debug, Serialize)]
pub struct SampleReport {
    /// Its place in the evaluation set.
    pub sample: usize,
    /// Its tokens, but for shared ones.
    pub tokens: usize,
    /// Tokens that its set's samples share, and that were asked to be left out.
    pub shared: usize,
    /// Where they stand, as in `regions`.
    pub shared_regions: Vec<(usize, usize, usize)>,
    /// Tokens of its longest text: one of at most `ngram` can hold no overlap.
    pub longest: usize,
    /// Of its tokens, those that lie in an overlap.
    pub contaminated: usize,
    /// Stretches of contaminated tokens: text, first character, character behind the last.
    pub regions: Vec<(usize, usize, usize)>,
    /// Overlaps that together cover the most, the longest first.
    pub overlaps: Vec<Overlap>,
    /// Further overlaps that would cover more.
    pub more: usize,
}

/// A stretch of a sample that stands in the training text.
#[derive(Clone, Debug, Serialize)]
pub struct Overlap {
    /// Which of the sample's texts.
    pub part: usize,
    /// First character of that text.
    pub start: usize,
    /// Character behind the last.
    pub end: usize,
    /// Tokens, skipped ones included.
    pub tokens: usize,
    /// Tokens that differ.
    pub skipped: usize,
    /// The sample's side, cut where equal and skipped tokens meet.
    pub evaluation: Vec<(bool, String)>,
    /// Where it stands in the training text.
    pub place: Place,
    /// The training text's side.
    pub training: Excerpt,
}

/// A place in the training text.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// Which text of a JSON line.
    pub part: Option<String>,
    /// The record's `id`.
    pub id: Option<String>,
    /// The record's `source`.
    pub source: Option<String>,
}

/// Training text around an overlap.
#[derive(Clone, Debug, Serialize)]
pub struct Excerpt {
    /// What stands before it.
    pub before: String,
    /// The overlap, cut where equal and skipped tokens meet: whether its tokens are equal, text.
    pub overlap: Vec<(bool, String)>,
    /// What stands behind it.
    pub after: String,
}

/// An overlap that was chosen to be shown.
#[derive(Clone, Copy)]
struct Chosen {
    at: u32,
    best: Best,
}

pub(crate) fn report(scan: &Scan, most: usize) -> Result<Vec<SampleReport>, ScanError> {
    let mut reports: Vec<SampleReport> = (0..scan.samples.len()).map(empty).collect();
    let mut found: Vec<Vec<Chosen>> = vec![Vec::new(); reports.len()];
    for (&at, &best) in &scan.overlaps {
        let text = scan.index.texts[scan.index.text_at(at)];
        found[text.sample as usize].push(Chosen { at, best });
    }
    let mut part = 0;
    for (place, text) in scan.index.texts.iter().enumerate() {
        let first_of_sample = place == 0 || scan.index.texts[place - 1].sample != text.sample;
        part = if first_of_sample { 0 } else { part + 1 };
        let report = &mut reports[text.sample as usize];
        let length = (text.end - text.first) as usize;
        let shared = within(&scan.shared, text.first, text.end);
        report.tokens += length - tokens_in(shared);
        report.shared += tokens_in(shared);
        report.longest = report.longest.max(length);
        let mut overlaps: Vec<_> = found[text.sample as usize]
            .iter()
            .filter(|overlap| (text.first..text.end).contains(&overlap.at))
            .map(|overlap| (overlap.at, overlap.best.end))
            .collect();
        overlaps.sort_unstable();
        let contaminated = without(&joined(&overlaps), shared);
        report.contaminated += tokens_in(&contaminated);
        let string = &scan.samples[text.sample as usize][part];
        let region = |&(first, end): &(u32, u32)| {
            let tokens = &scan.index.tokens[first as usize..end as usize];
            let (start, end) = characters(string, tokens[0].start, tokens[tokens.len() - 1].end);
            (part, start, end)
        };
        report.regions.extend(contaminated.iter().map(region));
        report.shared_regions.extend(shared.iter().map(region));
    }
    // By line or piece, so that each is read once: sample, rank among its overlaps, overlap.
    let mut chosen: BTreeMap<_, Vec<(usize, usize, Chosen)>> = BTreeMap::new();
    for (sample, overlaps) in found.into_iter().enumerate() {
        let (shown, more) = choose(overlaps, &scan.shared, most);
        reports[sample].more = more;
        for (rank, overlap) in shown.into_iter().enumerate() {
            let origin = overlap.best.origin;
            chosen
                .entry((origin.file, origin.offset))
                .or_default()
                .push((sample, rank, overlap));
        }
    }
    let mut overlaps: Vec<(usize, usize, Overlap)> = Vec::new();
    for ((file, offset), wanted) in chosen {
        let reader = Reader::open(scan, file, offset, &wanted[0].2.best)?;
        for (sample, rank, overlap) in wanted {
            overlaps.push((sample, rank, reader.overlap(scan, overlap)?));
        }
    }
    overlaps.sort_by_key(|&(sample, rank, _)| (sample, rank));
    for (sample, _, overlap) in overlaps {
        reports[sample].overlaps.push(overlap);
    }
    Ok(reports)
}

fn empty(sample: usize) -> SampleReport {
    SampleReport {
        sample,
        tokens: 0,
        shared: 0,
        shared_regions: Vec::new(),
        longest: 0,
        contaminated: 0,
        regions: Vec::new(),
        overlaps: Vec::new(),
        more: 0,
    }
}

/// What of `ranges` does not lie in `taken`; both in order and disjoint.
fn without(ranges: &[(u32, u32)], taken: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut left = Vec::new();
    for &(mut first, end) in ranges {
        let from = taken.partition_point(|range| range.1 <= first);
        for &(start, stop) in &taken[from..] {
            if start >= end {
                break;
            }
            if first < start {
                left.push((first, start));
            }
            first = first.max(stop);
        }
        if first < end {
            left.push((first, end));
        }
    }
    left
}

/// The ranges that lie in a text: no range crosses from one text into the next.
fn within(ranges: &[(u32, u32)], first: u32, end: u32) -> &[(u32, u32)] {
    let from = ranges.partition_point(|range| range.0 < first);
    let to = ranges.partition_point(|range| range.0 < end);
    &ranges[from..to]
}

/// The longest overlaps of which each covers a token that neither those before it do nor the samples share, and how many more
/// there would be.
fn choose(mut overlaps: Vec<Chosen>, shared: &[(u32, u32)], most: usize) -> (Vec<Chosen>, usize) {
    overlaps.sort_unstable_by_key(|overlap| (overlap.at.wrapping_sub(overlap.best.end), overlap.at));
    let mut covered: Vec<(u32, u32)> = Vec::new();
    let mut shown = Vec::new();
    let mut more = 0;
    for overlap in overlaps {
        let range = (overlap.at, overlap.best.end);
        let first = shared.partition_point(|known| known.1 <= range.0);
        let last = shared.partition_point(|known| known.0 < range.1);
        if without(&without(&[range], &covered), &shared[first..last]).is_empty() {
            continue;
        }
        covered.push(range);
        covered.sort_unstable();
        covered = joined(&covered);
        if shown.len() < most {
            shown.push(overlap);
        } else {
            more += 1;
        }
    }
    (shown, more)
}

fn tokens_in(ranges: &[(u32, u32)]) -> usize {
    ranges.iter().map(|&(first, end)| (end - first) as usize).sum()
}

/// Characters of a range of bytes.
fn characters(text: &str, start: u32, end: u32) -> (usize, usize) {
    let start_at = text[..start as usize].chars().count();
    (
        start_at,
        start_at + text[start as usize..end as usize].chars().count(),
    )
}

/// A training line or piece, read again.
struct Reader {
    path: PathBuf,
    data: Vec<u8>,
    record: Option<Map<String, Value>>,
    line: u64,
}

impl Reader {
    fn open(scan: &Scan, file: u32, offset: u64, best: &Best) -> Result<Self, ScanError> {
        let source = &scan.sources[file as usize];
        let data = pieces::again(&source.path, source.form, offset, scan.cut)?;
        let record = match source.form {
            Form::JsonLines => parse(&data, &source.path, best.line)?,
            Form::Text => None,
        };
        Ok(Self {
            path: source.path.clone(),
            data,
            record,
            line: best.line,
        })
    }

    fn overlap(&self, scan: &Scan, overlap: Chosen) -> Result<Overlap, ScanError> {
        let text_id = |name| {
            let value = self.record.as_ref().and_then(|record| record.get(name))?;
            Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let mut place = Place {
            path: self.path.clone(),
            line: self.line,
            part: None,
            id: text_id("id"),
            source: text_id("source"),
        };
        let Some(record) = &self.record else {
            let text = running_text(
                &self.data[..pieces::whole_characters(&self.data)],
                &self.path,
                self.line,
            )?;
            return self.of_text(scan, overlap, text, 0..text.len(), place);
        };
        let parts = texts(record, &scan.fields, &self.path, self.line)?;
        let part = parts
            .get(overlap.best.origin.part as usize)
            .ok_or_else(|| self.changed())?;
        place.part = Some(part.name.to_string());
        let window = scan
            .cut
            .windows(&part.text)
            .nth(overlap.best.origin.window as usize)
            .ok_or_else(|| self.changed())?;
        self.of_text(scan, overlap, &part.text, window.start..window.end, place)
    }

    fn changed(&self) -> ScanError {
        ScanError::Changed {
            path: self.path.clone(),
        }
    }

    /// `window` is what was tokenised of the text.
    fn of_text(
        &self,
        scan: &Scan,
        overlap: Chosen,
        text: &str,
        window: Range<usize>,
        mut place: Place,
    ) -> Result<Overlap, ScanError> {
        let mut tokens = Vec::new();
        let shift = window.start as u32;
        scan.tokens.split(&text[window], &mut Vec::new(), &mut tokens)?;
        for token in &mut tokens {
            token.start += shift;
            token.end += shift;
        }
        let length = (overlap.best.end - overlap.at) as usize;
        let first = overlap.best.token as usize;
        let training = tokens.get(first..first + length).ok_or_else(|| self.changed())?;
        let evaluation = &scan.index.tokens[overlap.at as usize..overlap.best.end as usize];
        let equal: Vec<bool> = (0..length)
            .map(|k| evaluation[k].id == training[k].id && training[k].id != UNKNOWN)
            .collect();
        let skipped = equal.iter().filter(|equal| !**equal).count();
        if !equal[..scan.index.ngram].iter().all(|equal| *equal) || !equal[length - 1] {
            return Err(self.changed());
        }
        let (start, end) = (training[0].start as usize, training[length - 1].end as usize);
        if self.record.is_none() {
            place.line += memchr::memchr_iter(b'\n', &text.as_bytes()[..start]).count() as u64;
        }
        let text_index = scan.index.text_at(overlap.at);
        let sample = scan.index.texts[text_index].sample;
        let part = text_index - scan.index.texts.partition_point(|text| text.sample < sample);
        let string = &scan.samples[sample as usize][part];
        let (from, to) = characters(string, evaluation[0].start, evaluation[length - 1].end);
        Ok(Overlap {
            part,
            start: from,
            end: to,
            tokens: length,
            skipped,
            evaluation: runs(string, evaluation, &equal),
            place,
            training: Excerpt {
                before: text[boundary(text, start.saturating_sub(CONTEXT))..start].to_owned(),
                overlap: runs(text, training, &equal),
                after: text[end..boundary(text, (end + CONTEXT).min(text.len()))].to_owned(),
            },
        })
    }
}

/// The nearest character's beginning at or before a byte.
fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// An overlap's text, cut where equal and skipped tokens meet. What stands between two tokens belongs to the former.
fn runs(text: &str, tokens: &[Token], equal: &[bool]) -> Vec<(bool, String)> {
    let mut runs: Vec<(bool, String)> = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let end = tokens
            .get(place + 1)
            .map_or(token.end, |next| next.start.max(token.start));
        let piece = text.get(token.start as usize..end as usize).unwrap_or_default();
        match runs.last_mut() {
            Some((kind, run)) if *kind == equal[place] => run.push_str(piece),
            _ => runs.push((equal[place], piece.to_owned())),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_cut_out_of_ranges() {
        let ranges = [(0, 10), (20, 30)];
        assert_eq!(without(&ranges, &[]), ranges);
        assert_eq!(without(&ranges, &[(0, 30)]), []);
        assert_eq!(
            without(&ranges, &[(2, 4), (9, 21), (30, 40)]),
            [(0, 2), (4, 9), (21, 30)]
        );
        assert_eq!(without(&ranges, &[(10, 20)]), ranges);
    }
}
