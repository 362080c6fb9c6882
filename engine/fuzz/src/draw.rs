//! Choices that follow from a number: a walk that an input fixes. Refuses to know what they are for.

/// Choices that follow from a number.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// Starts at `seed`.
    #[must_use]
    pub fn new(seed: u8) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}
