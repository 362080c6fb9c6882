//! The watermark of Kirchenbauer et al. ("A watermark for large language models", 2023), as TGI offers it: the token before picks a
//! share of the vocabulary, whose logits are raised.
//!
//! Which ids are picked is a pure function of the token before: those whose [`Noise`] word under the seed
//! `15485863 * token` is below `gamma * 2^32`. TGI draws them with its device's own generator, so a detector must know this
//! function, not TGI's.

use agentlm_core::arena::flag;

use super::SamplerConfig;
use super::noise::{CHUNK, Noise};
use crate::rows::SamplingRecord;

/// TGI's hash key.
const HASH_KEY: u64 = 15_485_863;

/// Raises the picked logits; tells whether the record asks for it.
pub(super) fn favour(
    config: &SamplerConfig,
    record: &SamplingRecord,
    history: &[u32],
    logits: &mut [f32],
) -> bool {
    let Some(&before) = history.last().filter(|_| record.has(flag::WATERMARK)) else {
        return false;
    };
    let noise = Noise {
        seed: HASH_KEY.wrapping_mul(u64::from(before)),
        position: 0,
        sample_index: 0,
    };
    let below = f64::from(config.watermark_gamma) * f64::from(u32::MAX);
    let mut words = [0; CHUNK];
    for (chunk, logits) in logits.chunks_mut(CHUNK).enumerate() {
        noise.words((chunk * CHUNK) as u32, &mut words);
        for (logit, &word) in logits.iter_mut().zip(&words) {
            if f64::from(word) < below {
                *logit += config.watermark_delta;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(before: u32, flags: u32) -> Vec<f32> {
        let config = SamplerConfig {
            eos_ids: Vec::new(),
            vocab: 5000,
            watermark_gamma: 0.25,
            watermark_delta: 2.0,
        };
        let record = SamplingRecord {
            flags,
            ..SamplingRecord::default()
        };
        let mut logits = vec![0.0; 5000];
        let done = favour(&config, &record, &[7, before], &mut logits);
        assert_eq!(done, flags != 0);
        logits
    }

    #[test]
    fn the_token_before_picks_a_share() {
        let (a, again, b) = (
            marked(3, flag::WATERMARK),
            marked(3, flag::WATERMARK),
            marked(4, flag::WATERMARK),
        );
        assert_eq!(a, again);
        assert_ne!(a, b);
        for logits in [&a, &b] {
            let raised = logits.iter().filter(|&&x| x == 2.0).count();
            assert!((1100..1400).contains(&raised), "{raised} of 5000");
            assert!(logits.iter().all(|&x| x == 0.0 || x == 2.0));
        }
        assert!(marked(3, 0).iter().all(|&x| x == 0.0));
    }
}
