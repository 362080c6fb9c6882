//! One training text against the index: which evaluation places have a longer overlap than was known.
//!
//! Only an overlap whose left neighbours differ is looked at: one that could begin a token earlier ends at the same place when
//! it does. What is kept is the longest overlap of each place, the earliest in the training text among equals, so that the
//! outcome does not depend on which thread saw what.

use rustc_hash::FxHashMap;

use crate::Settings;
use crate::index::{Index, Rolling};
use crate::words::{BORDER, Token, UNKNOWN};

/// Where a training text stands: file, first byte of its line or piece, part of the record, window of the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub file: u32,
    pub offset: u64,
    pub part: u32,
    pub window: u32,
}

/// The longest overlap known that begins at a place of the evaluation set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Best {
    /// Place behind its last token.
    pub end: u32,
    /// The first token that differed, or where the comparison stopped: up to there all were equal.
    equal_until: u32,
    pub origin: Origin,
    /// Line of the origin, from 1.
    pub line: u64,
    /// The overlap's first token in the training text.
    pub token: u32,
}

/// Overlaps by the place at which they begin.
pub(crate) type Overlaps = FxHashMap<u32, Best>;

/// Keeps the better of two overlaps: the longer one, then the one that stands earlier in the training text.
pub(crate) fn merge(into: &mut Overlaps, from: Overlaps) {
    for (at, overlap) in from {
        into.entry(at)
            .and_modify(|known| {
                let earlier = (overlap.origin, overlap.token) < (known.origin, known.token);
                if overlap.end > known.end || (overlap.end == known.end && earlier) {
                    *known = overlap;
                }
            })
            .or_insert(overlap);
    }
}

/// What a worker keeps while it goes through its share of the training text.
pub(crate) struct Matcher<'a> {
    index: &'a Index,
    settings: Settings,
    pub overlaps: Overlaps,
}

impl<'a> Matcher<'a> {
    pub fn new(index: &'a Index, settings: Settings) -> Self {
        Self {
            index,
            settings,
            overlaps: Overlaps::default(),
        }
    }

    /// Takes in a training text. Texts must come in the order of their origins. Overlaps begin before token `own`; what follows
    /// may only be run into.
    pub fn take(&mut self, tokens: &[Token], own: usize, origin: Origin, line: u64) {
        let ngram = self.index.ngram;
        let mut hash = Rolling::new(ngram);
        let mut known = 0;
        for (place, token) in tokens.iter().enumerate() {
            if token.id == UNKNOWN {
                known = 0;
                hash.reset();
                continue;
            }
            if known < ngram {
                hash.push(token.id);
                known += 1;
                if known < ngram {
                    continue;
                }
            } else {
                hash.roll(tokens[place - ngram].id, token.id);
            }
            let first = place + 1 - ngram;
            if first >= own {
                return;
            }
            if self.index.may_hold(hash.value()) {
                self.at_gram(tokens, first, hash.value(), origin, line);
            }
        }
    }

    fn at_gram(&mut self, tokens: &[Token], first: usize, hash: u64, origin: Origin, line: u64) {
        let index = self.index;
        let grams = index.grams(hash);
        // At a training text's beginning nothing stands to the left, which equals no evaluation token.
        let left = if first == 0 { UNKNOWN } else { tokens[first - 1].id };
        let same = grams.partition_point(|gram| gram.left < left);
        let end = same + grams[same..].partition_point(|gram| gram.left == left);
        for gram in grams[..same].iter().chain(&grams[end..]) {
            let at = gram.at as usize;
            let equal = (0..index.ngram).all(|k| index.tokens[at + k].id == tokens[first + k].id);
            if equal {
                self.extend(tokens, first, gram.at, origin, line);
            }
        }
    }

    fn extend(&mut self, tokens: &[Token], first: usize, at: u32, origin: Origin, line: u64) {
        if let Some(known) = self.overlaps.get(&at) {
            // Were all tokens equal up to where the known overlap first differed, could this one become longer? Text that many
            // records share is refused here after a few comparisons, however long it is.
            let (end, _) = self.compare(tokens, first, at, known.equal_until - at);
            if end <= known.end {
                return;
            }
        }
        let (end, equal_until) = self.compare(tokens, first, at, self.index.ngram as u32);
        if end as usize <= at as usize + self.index.ngram {
            return;
        }
        let overlap = Best {
            end,
            equal_until,
            origin,
            line,
            token: first as u32,
        };
        match self.overlaps.get_mut(&at) {
            Some(known) if known.end >= end => {}
            Some(known) => *known = overlap,
            None => {
                self.overlaps.insert(at, overlap);
            }
        }
    }

    /// Where an overlap from `at` ends, its first `from` tokens taken as equal, and up to where all were equal.
    fn compare(&self, tokens: &[Token], first: usize, at: u32, from: u32) -> (u32, u32) {
        let evaluation = &self.index.tokens[at as usize..];
        let training = &tokens[first..];
        let mut end = from;
        let mut differ = 0;
        let mut equal_until = None;
        let mut place = from;
        loop {
            let wanted = evaluation[place as usize].id;
            let Some(found) = training.get(place as usize) else {
                break;
            };
            if wanted == BORDER {
                break;
            }
            if wanted == found.id {
                end = place + 1;
            } else {
                equal_until.get_or_insert(place);
                if differ == self.settings.skip_budget {
                    break;
                }
                differ += 1;
            }
            place += 1;
        }
        (at + end, at + equal_until.unwrap_or(place))
    }
}
