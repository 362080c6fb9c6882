//! The evaluation set, indexed by its n-grams.

use rustc_hash::FxHashMap;

use crate::words::{BORDER, Token, Tokens};
use crate::{ScanError, Settings};

/// The rolling hash's base: odd, so that it is a unit modulo 2^64.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
/// Spreads small ids over 64 bits.
const SPREAD: u64 = 0xD6E8_FEB8_6659_FD93;

/// A token's share in a hash.
#[inline]
pub(crate) fn share(id: u32) -> u64 {
    let mixed = (u64::from(id) + 1).wrapping_mul(SPREAD);
    mixed ^ (mixed >> 29)
}

/// Hash of the last n tokens of a sequence.
pub(crate) struct Rolling {
    value: u64,
    oldest: u64,
}

impl Rolling {
    pub fn new(ngram: usize) -> Self {
        let oldest = (1..ngram).fold(1_u64, |power, _| power.wrapping_mul(BASE));
        Self { value: 0, oldest }
    }

    /// Takes in a token while there are fewer than n.
    #[inline]
    pub fn push(&mut self, id: u32) {
        self.value = self.value.wrapping_mul(BASE).wrapping_add(share(id));
    }

    /// Takes in a token and lets the one n places before it go.
    #[inline]
    pub fn roll(&mut self, gone: u32, id: u32) {
        self.value = self.value.wrapping_sub(share(gone).wrapping_mul(self.oldest));
        self.push(id);
    }

    #[inline]
    pub fn value(&self) -> u64 {
        self.value
    }

    pub fn reset(&mut self) {
        self.value = 0;
    }
}

/// Where an n-gram stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gram {
    /// The token before it; `BORDER` at a text's beginning.
    pub left: u32,
    /// Its first token's place in the flat list.
    pub at: u32,
}

/// A text of a sample: where its tokens lie in the flat list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub sample: u32,
    pub first: u32,
    pub end: u32,
}

/// The evaluation set: its texts' tokens one after the other, a border behind each, and where each n-gram stands.
pub(crate) struct Index {
    pub tokens: Vec<Token>,
    pub texts: Vec<Text>,
    pub ngram: usize,
    /// One bit a hash, so that most n-grams of the training text cost one look.
    filter: Vec<u64>,
    filter_shift: u32,
    ranges: FxHashMap<u64, (u32, u32)>,
    /// In the order of (hash, left, at).
    grams: Vec<Gram>,
    /// Tokens of the longest text.
    pub longest: usize,
}

impl Index {
    /// `samples[i]` are the texts of sample i, compared one by one: an overlap never crosses from one into the next.
    pub fn new<S: AsRef<str>>(
        samples: &[Vec<S>],
        tokens: &mut Tokens,
        settings: Settings,
    ) -> Result<Self, ScanError> {
        let border = Token {
            id: BORDER,
            start: 0,
            end: 0,
        };
        let mut flat = vec![border];
        let mut texts = Vec::new();
        for (sample, parts) in samples.iter().enumerate() {
            for part in parts {
                let first = flat.len();
                tokens.learn(part.as_ref(), &mut flat)?;
                if flat.len() >= BORDER as usize {
                    return Err(ScanError::TooManyTokens { limit: BORDER });
                }
                texts.push(Text {
                    sample: sample as u32,
                    first: first as u32,
                    end: flat.len() as u32,
                });
                flat.push(border);
            }
        }
        let mut index = Self {
            tokens: flat,
            texts,
            ngram: settings.ngram,
            filter: Vec::new(),
            filter_shift: 0,
            ranges: FxHashMap::default(),
            grams: Vec::new(),
            longest: 0,
        };
        index.fill();
        Ok(index)
    }

    fn fill(&mut self) {
        let mut found: Vec<(u64, Gram)> = Vec::new();
        for text in &self.texts {
            let tokens = &self.tokens[text.first as usize..text.end as usize];
            self.longest = self.longest.max(tokens.len());
            // A text of n tokens holds no overlap: an overlap is longer than n.
            if tokens.len() <= self.ngram {
                continue;
            }
            let mut hash = Rolling::new(self.ngram);
            for (place, token) in tokens.iter().enumerate() {
                if place < self.ngram {
                    hash.push(token.id);
                } else {
                    hash.roll(tokens[place - self.ngram].id, token.id);
                }
                if place + 1 >= self.ngram {
                    let at = text.first + (place + 1 - self.ngram) as u32;
                    let left = self.tokens[at as usize - 1].id;
                    found.push((hash.value(), Gram { left, at }));
                }
            }
        }
        found.sort_unstable();
        let bits = (found.len() * 16).next_power_of_two().max(1 << 12);
        self.filter = vec![0; bits / 64];
        self.filter_shift = 64 - bits.trailing_zeros();
        self.grams = found.iter().map(|&(_, gram)| gram).collect();
        let mut first = 0;
        for group in found.chunk_by(|a, b| a.0 == b.0) {
            let hash = group[0].0;
            let bit = self.bit(hash);
            self.filter[bit / 64] |= 1 << (bit % 64);
            let end = first + group.len() as u32;
            self.ranges.insert(hash, (first, end));
            first = end;
        }
    }

    #[inline]
    fn bit(&self, hash: u64) -> usize {
        (hash.wrapping_mul(SPREAD) >> self.filter_shift) as usize
    }

    /// Whether any n-gram could have this hash.
    #[inline]
    pub fn may_hold(&self, hash: u64) -> bool {
        let bit = self.bit(hash);
        self.filter[bit / 64] >> (bit % 64) & 1 != 0
    }

    /// The n-grams of this hash, sorted by their left neighbours.
    pub fn grams(&self, hash: u64) -> &[Gram] {
        match self.ranges.get(&hash) {
            Some(&(first, end)) => &self.grams[first as usize..end as usize],
            None => &[],
        }
    }

    /// The text that a place of the flat list belongs to.
    pub fn text_at(&self, at: u32) -> usize {
        self.texts.partition_point(|text| text.end <= at)
    }

    /// Stretches of the flat list that lie in n-grams which more than `share` of the samples of their own set hold: a task's
    /// template. `sets` has each sample's set.
    pub fn shared(&self, sets: &[u32], share: f64) -> Vec<(u32, u32)> {
        let mut sizes: FxHashMap<u32, usize> = FxHashMap::default();
        for &set in sets {
            *sizes.entry(set).or_default() += 1;
        }
        let mut stretches = Vec::new();
        let mut holders: Vec<(u32, u32, u32)> = Vec::new();
        for &(first, end) in self.ranges.values() {
            holders.clear();
            for gram in &self.grams[first as usize..end as usize] {
                let sample = self.texts[self.text_at(gram.at)].sample;
                holders.push((sets[sample as usize], sample, gram.at));
            }
            holders.sort_unstable();
            for of_set in holders.chunk_by(|a, b| a.0 == b.0) {
                let samples = of_set.chunk_by(|a, b| a.1 == b.1).count();
                let size = sizes.get(&of_set[0].0).copied().unwrap_or_default();
                if samples > 1 && samples as f64 > share * size as f64 {
                    let end = |at: u32| at + self.ngram as u32;
                    stretches.extend(of_set.iter().map(|&(_, _, at)| (at, end(at))));
                }
            }
        }
        stretches.sort_unstable();
        joined(&stretches)
    }
}

/// Ranges in order, those that overlap or touch as one.
pub(crate) fn joined(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for &(first, end) in ranges {
        match joined.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((first, end)),
        }
    }
    joined
}
