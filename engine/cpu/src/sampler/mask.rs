//! Masks of allowed ids, which a grammar makes while the step runs. Refuses to know grammars.

/// Where a step finds the masks of its constrained rows.
pub trait Masks: Sync {
    /// The mask of a sample: bit `id % 32` of word `id / 32` says whether the id may be sampled; ids past its end may not.
    /// Waits until it is made.
    fn of_sample(&self, index: usize) -> &[u32];
}

/// For a host whose requests are never constrained: nothing is allowed.
#[derive(Clone, Copy, Debug)]
pub struct NoMasks;

impl Masks for NoMasks {
    fn of_sample(&self, _index: usize) -> &[u32] {
        &[]
    }
}

/// Sets the logits of ids that are not allowed to minus infinity; tells whether nothing but ends of sequence is left.
pub(super) fn apply(mask: &[u32], eos_ids: &[u32], logits: &mut [f32]) -> bool {
    let mut allowed = 0;
    for (word, logits) in logits.chunks_mut(32).enumerate() {
        let bits = mask.get(word).copied().unwrap_or(0);
        let kept = if logits.len() < 32 {
            bits & ((1 << logits.len()) - 1)
        } else {
            bits
        };
        allowed += kept.count_ones();
        if kept == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if kept >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    let is_set = |id: u32| {
        mask.get(id as usize / 32)
            .is_some_and(|word| word >> (id % 32) & 1 == 1)
    };
    let ends = eos_ids.iter().filter(|&&id| is_set(id)).count();
    allowed as usize <= ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_minus_infinity() {
        for n in [1, 31, 32, 33, 70] {
            let mask = [0xA5A5_5A5A, 0xFFFF_FFFF];
            let mut logits = vec![1.0; n];
            let ends = apply(&mask, &[], &mut logits);
            for (id, &logit) in logits.iter().enumerate() {
                let allowed = id < 64 && mask[id / 32] >> (id % 32) & 1 == 1;
                assert_eq!(logit == 1.0, allowed, "{n}: {id}");
            }
            assert_eq!(
                ends,
                n == 1,
                "bit 0 of the mask is not set: with one logit nothing is left"
            );
        }
    }

    #[test]
    fn it_is_told_when_only_the_end_is_left() {
        assert!(apply(&[0b0110], &[1, 2], &mut [0.0; 8]));
        assert!(!apply(&[0b1110], &[1, 2], &mut [0.0; 8]));
        assert!(!apply(&[0b1000], &[1], &mut [0.0; 8]), "the end is not allowed");
    }
}
