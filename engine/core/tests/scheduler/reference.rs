//! What a request's output must be, computed alone and without blocks, rows or steps.

use agentlm_core::FinishReason;
use agentlm_core::params::SamplingParams;

/// Small, so that end-of-sequence is common.
pub const VOCAB: u32 = 16;
/// The end-of-sequence id.
pub const EOS: u32 = 0;

/// The KV value of one token at one position under one cache seed.
pub fn kv(token: u32, position: u32, cache_seed: u32) -> u64 {
    scramble(u64::from(token) << 40 ^ u64::from(position) << 8 ^ u64::from(cache_seed))
}

/// Folds the next position's KV into the context.
pub fn absorb(context: u64, kv: u64) -> u64 {
    scramble(context.rotate_left(7) ^ kv)
}

/// The token sampled after a context, at `position`, by the row with these parameters.
pub fn sample(context: u64, seed: u64, position: u32, n_prompt: u32, min_new_tokens: u32) -> u32 {
    let draw = scramble(context ^ seed) >> 33;
    let masked = position - n_prompt < min_new_tokens;
    let id = if masked {
        1 + draw % u64::from(VOCAB - 1)
    } else {
        draw % u64::from(VOCAB)
    };
    u32::try_from(id).expect("below the vocabulary")
}

/// The log-probability that the model runner reports for a token at a position.
pub fn logprob(token: u32, position: u32) -> f32 {
    -(token as f32) - position as f32 / 1024.0
}

/// `params.seed` carries the cache seed in its high half: the arena has no other way to tell the device.
pub fn cache_seed(seed: u64) -> u32 {
    u32::try_from(seed >> 32).expect("a half")
}

/// The whole output and how it ends.
pub fn output(prompt: &[u32], params: &SamplingParams, max_len: usize) -> (Vec<u32>, FinishReason) {
    let mut known = prompt.to_vec();
    let n_prompt = u32::try_from(prompt.len()).expect("short");
    let (mut context, mut absorbed) = (0, 0);
    loop {
        for (position, &token) in known.iter().enumerate().skip(absorbed) {
            let position = u32::try_from(position).expect("short");
            context = absorb(context, kv(token, position, cache_seed(params.seed)));
        }
        absorbed = known.len();
        let position = u32::try_from(known.len()).expect("short");
        let token = sample(context, params.seed, position, n_prompt, params.min_new_tokens);
        known.push(token);
        let generated = known.len() - prompt.len();
        if known.len() >= max_len {
            return (known.split_off(prompt.len()), FinishReason::Length);
        }
        if token == EOS && !params.ignore_eos && generated >= params.min_new_tokens as usize {
            return (known.split_off(prompt.len()), FinishReason::EosToken);
        }
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014).
fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
