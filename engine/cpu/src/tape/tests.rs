//! Shape checks and the reuse of memory.

use super::*;
use crate::dtype::Dtype;
use crate::pool::Pool;
use crate::weight::Source;

fn weight(n: usize, k: usize) -> Arc<PackedWeight> {
    let bytes = vec![0; n * k * 4];
    let source = Source {
        bytes: &bytes,
        dtype: Dtype::F32,
        n,
    };
    Arc::new(PackedWeight::pack(&Pool::new(1).unwrap(), &[source], k, Dtype::F32, None).unwrap())
}

fn ones(n: usize) -> Arc<[f32]> {
    vec![1.0; n].into()
}

fn config(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionConfig {
    AttentionConfig {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0,
        window: None,
        norm_eps: 1e-6,
    }
}

/// A tape with an embedding of 32 values.
fn start() -> (TapeBuilder, BufferId) {
    let mut tape = TapeBuilder::new();
    let x = tape
        .embed(EmbeddingTable::from_values(&[0.0; 10 * 32], 32).unwrap())
        .unwrap();
    (tape, x)
}

#[test]
fn released_memory_is_used_again_and_live_memory_is_not() {
    let (mut tape, x) = start();
    let narrow = tape.buffer(8, Axis::Tokens);
    tape.release(narrow).unwrap();
    let wide = tape.buffer(64, Axis::Tokens);
    assert_eq!(
        tape.buffers[wide.0 as usize].place,
        tape.buffers[narrow.0 as usize].place
    );
    assert_ne!(
        tape.buffers[wide.0 as usize].place,
        tape.buffers[x.0 as usize].place
    );
    let sample = tape.buffer(64, Axis::Samples);
    assert_ne!(
        tape.buffers[sample.0 as usize].place,
        tape.buffers[wide.0 as usize].place
    );
    let tape = tape.finish(sample).unwrap();
    assert_eq!(tape.workspace_bytes(), ((32 + 64) * 4, 64 * 4));
}

#[test]
fn calls_that_do_not_fit_are_refused_with_given_and_expected_numbers() {
    let (mut tape, x) = start();
    let rows = tape.sample_rows(x).unwrap();
    let gone = tape.buffer(32, Axis::Tokens);
    tape.release(gone).unwrap();
    let mut other = start().0;
    let foreign = (0..9).map(|_| other.buffer(1, Axis::Tokens)).last().unwrap();
    let odd = tape.buffer(33, Axis::Tokens);
    let qkv = tape.buffer(32 + 2 * 16, Axis::Tokens);
    tape.attention(qkv, 0, config(4, 2, 8), None, None).unwrap();
    let errors = [
        (tape.rms_norm(x, ones(31), 1e-5), "31 values; 32"),
        (tape.rms_norm(x, ones(32), f32::NAN), "NaN"),
        (tape.add_rms_norm(x, odd, ones(32), 1e-5), "33 values; 32"),
        (tape.add_rms_norm(x, rows, ones(32), 1e-5), "Samples; Tokens"),
        (tape.add_rms_norm(x, x, ones(32), 1e-5), "both operands"),
        (tape.linear(x, weight(5, 16)), "32 values; 16"),
        (tape.swiglu(odd), "33 values; 32"),
        (tape.sample_rows(rows), "Samples; Tokens"),
        (tape.attention(x, 0, config(4, 2, 8), None, None), "32 values; 64"),
        (tape.attention(qkv, 0, config(4, 2, 12), None, None), "head of 12"),
        (
            tape.attention(qkv, 0, config(4, 2, 8), Some(ones(9)), None),
            "9 values; 8",
        ),
        (tape.attention(qkv, 1, config(2, 1, 16), None, None), "layer 1"),
        (tape.swiglu(gone), "released"),
        (tape.swiglu(foreign), "not one of this tape's"),
    ];
    for (result, expected) in errors {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message} does not say {expected}");
    }
    assert!(tape.finish(x).unwrap_err().to_string().contains("logits"));
    let mut empty = TapeBuilder::new();
    let logits = empty.buffer(4, Axis::Samples);
    assert_eq!(empty.finish(logits).unwrap_err(), TapeError::NoEmbedding);
}
