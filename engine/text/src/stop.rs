//! Finds stop strings in text that arrives in pieces, and says how much of its end may still become one.
//!
//! One Knuth–Morris–Pratt automaton a stop string: constant memory, constant work a byte on average.

/// A stop string that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Bytes of the fed piece up to and including the stop string's last one.
    pub(crate) end: usize,
    /// The stop string's length in bytes.
    pub(crate) len: usize,
    /// Which stop string.
    pub(crate) index: usize,
}

struct Automaton {
    pattern: Box<[u8]>,
    /// `failure[n]`: the longest proper prefix of the pattern that ends its first `n + 1` bytes.
    failure: Box<[usize]>,
    /// How many bytes of the pattern end the text so far.
    matched: usize,
    index: usize,
}

impl Automaton {
    fn new(pattern: &str, index: usize) -> Self {
        let pattern: Box<[u8]> = pattern.as_bytes().into();
        let mut failure = vec![0; pattern.len()].into_boxed_slice();
        let mut matched = 0;
        for at in 1..pattern.len() {
            while matched > 0 && pattern[at] != pattern[matched] {
                matched = failure[matched - 1];
            }
            matched += usize::from(pattern[at] == pattern[matched]);
            failure[at] = matched;
        }
        Self {
            pattern,
            failure,
            matched: 0,
            index,
        }
    }

    /// Takes one byte; true when the pattern is complete. Must not be called after that.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.pattern[self.matched] != byte {
            self.matched = self.failure[self.matched - 1];
        }
        self.matched += usize::from(self.pattern[self.matched] == byte);
        self.matched == self.pattern.len()
    }
}

/// A request's stop strings. Empty ones match nothing.
pub(crate) struct StopMatcher {
    automata: Vec<Automaton>,
}

impl StopMatcher {
    pub(crate) fn new(stops: &[String]) -> Self {
        let automata = stops
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.is_empty())
            .map(|(index, stop)| Automaton::new(stop, index))
            .collect();
        Self { automata }
    }

    /// Takes the next bytes. The stop string that is complete first wins, so that the result does not depend on how
    /// the text is cut; of several that end together the longest wins. Must not be called again after a find.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<Found> {
        if self.automata.is_empty() {
            return None;
        }
        for (at, &byte) in bytes.iter().enumerate() {
            let mut found: Option<Found> = None;
            for automaton in &mut self.automata {
                let len = automaton.pattern.len();
                if automaton.step(byte) && found.is_none_or(|other| other.len < len) {
                    found = Some(Found {
                        end: at + 1,
                        len,
                        index: automaton.index,
                    });
                }
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// How many bytes at the text's end may still become a stop string.
    pub(crate) fn held(&self) -> usize {
        self.automata
            .iter()
            .map(|automaton| automaton.matched)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every text of these letters with as many of them.
    fn texts(length: usize) -> impl Iterator<Item = String> {
        (0..1_usize << length).map(move |bits| {
            (0..length)
                .map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' })
                .collect()
        })
    }

    #[test]
    fn a_stop_string_is_found_where_it_first_ends_also_where_it_overlaps_itself() {
        for stop in (1..=5).flat_map(texts) {
            for text in texts(9) {
                let mut matcher = StopMatcher::new(std::slice::from_ref(&stop));
                let found = matcher.feed(text.as_bytes()).map(|found| (found.end, found.len));
                let expected = text.find(&stop).map(|at| (at + stop.len(), stop.len()));
                assert_eq!(found, expected, "{stop} in {text}");
                if expected.is_none() {
                    let may_become = |n: &usize| stop.starts_with(&text[text.len() - n..]);
                    let held = (0..stop.len()).rev().find(may_become);
                    assert_eq!(Some(matcher.held()), held, "{stop} after {text}");
                }
            }
        }
    }
}
