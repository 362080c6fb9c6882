//! The sampling noise: a pure function of (seed, parallel sample, position, token id).
//!
//! **Formula**, which every backend repeats. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011) with key `(seed low word, seed high word)` and counter `(id / 4, position, sample index, 0)` gives four
//! words; word `id % 4` is `x`. Then in f32
//!
//! ```text
//! u = ((x >> 9) + 0.5) * 2^-23        exactly representable, in (0, 1)
//! g = -ln(-ln(u))                     standard Gumbel noise, -2.81 < g < 16.64
//! ```
//!
//! and the sampled token is the one with the largest `(logit - largest logit) / temperature + g` among those that the
//! filters keep; of equal ones the lowest id. Refuses to know logits.

/// No noise is larger: `-ln(-ln(1 - 2^-24))`.
pub(super) const LARGEST: f32 = 16.64;
/// Ids whose words are made together.
pub(super) const CHUNK: usize = 64;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One draw's key and counter, without the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// The request's seed.
    pub seed: u64,
    /// Position of the sampled token in the request.
    pub position: u32,
    /// Which parallel sample of a prompt.
    pub sample_index: u32,
}

impl Noise {
    /// The noise of one token.
    #[must_use]
    pub fn gumbel(&self, id: u32) -> f32 {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let words = philox4x32_10([id / 4, self.position, self.sample_index, 0], key);
        gumbel(words[id as usize % 4])
    }

    /// The words of `CHUNK` ids from `first` on, a multiple of 4.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "one lane of four arrays; this form is vectorised"
    )]
    pub(super) fn words(&self, first: u32, out: &mut [u32; CHUNK]) {
        const LANES: usize = CHUNK / 4;
        let mut c: [[u32; LANES]; 4] = [
            std::array::from_fn(|i| first / 4 + i as u32),
            [self.position; LANES],
            [self.sample_index; LANES],
            [0; LANES],
        ];
        let mut key = [self.seed as u32, (self.seed >> 32) as u32];
        for _ in 0..10 {
            for i in 0..LANES {
                let a = u64::from(MULTIPLIERS[0]) * u64::from(c[0][i]);
                let b = u64::from(MULTIPLIERS[1]) * u64::from(c[2][i]);
                c[0][i] = (b >> 32) as u32 ^ c[1][i] ^ key[0];
                c[1][i] = b as u32;
                c[2][i] = (a >> 32) as u32 ^ c[3][i] ^ key[1];
                c[3][i] = a as u32;
            }
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        for (i, out) in out.chunks_exact_mut(4).enumerate() {
            for (word, lanes) in out.iter_mut().zip(&c) {
                *word = lanes[i];
            }
        }
    }
}

/// The uniform number of a word.
#[inline(always)]
pub(super) fn uniform(x: u32) -> f32 {
    ((x >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// The noise of a word.
pub(super) fn gumbel(x: u32) -> f32 {
    -(-uniform(x).ln()).ln()
}

/// Ten rounds of Philox4x32.
fn philox4x32_10(mut c: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [
            (b >> 32) as u32 ^ c[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ c[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers that the authors of Philox publish with their implementation (Random123, `kat_vectors`).
    #[test]
    fn philox_gives_the_published_answers() {
        let ones = u32::MAX;
        for (counter, key, expected) in [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [ones; 4],
                [ones; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn chunks_of_words_are_the_words_of_their_ids() {
        let noise = Noise {
            seed: 0x1234_5678_9abc_def0,
            position: 77,
            sample_index: 3,
        };
        let mut words = [0; CHUNK];
        noise.words(128, &mut words);
        for (i, &word) in words.iter().enumerate() {
            assert_eq!(gumbel(word).to_bits(), noise.gumbel(128 + i as u32).to_bits());
        }
    }

    #[test]
    fn the_ends_of_the_noise_are_finite_and_bounded() {
        assert!(gumbel(u32::MAX) > 16.6 && gumbel(u32::MAX) < LARGEST);
        assert!(gumbel(0) > -2.82 && gumbel(0) < -2.7);
        assert!(uniform(u32::MAX) < 1.0 && uniform(0) > 0.0);
    }
}
